//! The language worker as a program.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tessera_config::{Arguments, Start};
use tessera_language::Settings;

/// Tessera's language worker.
#[derive(Debug, Parser)]
#[command(name = "tessera-language", version, about)]
struct Cli {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> ExitCode {
    run().map_or_else(tessera_telemetry::failed, |()| ExitCode::SUCCESS)
}

fn run() -> anyhow::Result<()> {
    match Cli::parse().arguments.start("TESSERA_LANGUAGE")? {
        Start::Print(text) => Ok(std::io::stdout().write_all(text.as_bytes())?),
        Start::Serve(settings) => serve(settings),
    }
}

#[tokio::main]
async fn serve(settings: Settings) -> anyhow::Result<()> {
    tessera_telemetry::init(&settings.log)?;
    let listener = tessera_rpc::listen(settings.listen).await?;
    let service = tessera_language::build(settings, |_| {}).await?;
    Ok(service.run_until_interrupted(listener).await?)
}
