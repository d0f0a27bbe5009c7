//! The gateway as a program.

use std::io::Write;

use anyhow::Context;
use clap::Parser;
use tessera_config::{Arguments, Start};
use tessera_gateway::{Service, Settings};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Tessera's gateway.
#[derive(Debug, Parser)]
#[command(name = "tessera-gateway", version, about)]
struct Cli {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().arguments.start("TESSERA_GATEWAY")? {
        Start::Print(text) => Ok(std::io::stdout().write_all(text.as_bytes())?),
        Start::Serve(settings) => serve(settings),
    }
}

#[tokio::main]
async fn serve(settings: Settings) -> anyhow::Result<()> {
    tessera_telemetry::init(&settings.log)?;
    let listen = settings.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let service = Service::build(settings).await?;
    tracing::info!(address = %listener.local_addr()?, "serving");
    let stop = CancellationToken::new();
    let serving = service.run(listener, stop.clone());
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => Ok(served?),
        signal = tessera_rpc::interrupted() => {
            signal?;
            tracing::info!("draining");
            stop.cancel();
            Ok(serving.await?)
        }
    }
}
