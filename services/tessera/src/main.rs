//! Tessera on one machine: the command-line program.

mod access;
mod answers;
mod ask;
mod chat;
mod cli;
mod cluster;
mod encode;
mod files;
mod gateway;
mod inspect;
mod model;
mod output;
mod pages;
mod place;
mod settings;
mod store;
mod up;

use std::process::ExitCode;

use clap::Parser;
use tessera_telemetry::LogSettings;

use crate::cli::{Cli, Command};

/// Ended by a signal, as shells write it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) if output::reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let quiet = if matches!(cli.command, Command::Up(_)) { "info" } else { "error" };
    let filter = cli.log.unwrap_or_else(|| quiet.to_owned());
    tessera_telemetry::init(&LogSettings { filter, ..LogSettings::default() })?;
    match cli.command {
        Command::Ask(ask) => tokio::select! {
            answered = ask::run(*ask) => answered.map(|()| ExitCode::SUCCESS),
            signal = tessera_rpc::interrupted() => {
                signal?;
                Ok(ExitCode::from(INTERRUPTED))
            }
        },
        // It tells signals apart.
        Command::Chat(chat) => chat::run(*chat).await,
        // It tells what is done when it is interrupted, too.
        Command::Encode(encode) => encode::run(encode).await,
        Command::Store(store) => tokio::select! {
            done = store::run(store) => done,
            signal = tessera_rpc::interrupted() => {
                signal?;
                Ok(ExitCode::from(INTERRUPTED))
            }
        },
        Command::Up(up) => up::run(up).await.map(|()| ExitCode::SUCCESS),
        Command::Inspect(inspect) => inspect::run(&inspect).map(|()| ExitCode::SUCCESS),
        Command::Completions(completions) => pages::completions(completions.shell).map(|()| ExitCode::SUCCESS),
        Command::Man(man) => pages::man(man.dir.as_deref()).map(|()| ExitCode::SUCCESS),
    }
}
