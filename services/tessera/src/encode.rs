//! `tessera encode`: images are encoded ahead of time.
//!
//! `search` finds them, `read` reads them, `flow` sends them and hears what became of each, `report` tells it: a line on
//! standard output, a line in the `manifest`, the bar, the `tally`.

mod flow;
mod line;
mod manifest;
mod read;
mod report;
mod search;
mod tally;

use std::process::ExitCode;

use anyhow::ensure;
use tessera_client::Client;

use crate::cli::Encode;
use crate::cluster::{Addresses, Cluster};
use crate::model::{EMBEDDED_NOTE, Model};
use crate::{INTERRUPTED, access, output};

use flow::{Destination, Flow};
use manifest::Manifest;
use report::Report;

/// Encodes everything that is named.
///
/// # Errors
/// What went wrong, in one line that says what to do. Images that fail are none: the exit code tells of them.
pub(crate) async fn run(encode: Encode) -> anyhow::Result<ExitCode> {
    ensure!(
        encode.server.is_some() || encode.store.is_some(),
        "encoded images would be lost with this process: say where to keep them, with --store STORE (a folder, redis://… \
         or s3://…), or with --server URL at a gateway"
    );
    let manifest = encode.manifest.as_deref().map(Manifest::open).transpose()?;
    if let Some(url) = &encode.server {
        return send(access::connect(url, &encode.access).await?, encode, manifest).await;
    }
    let model = Model::open(encode.model.as_deref())?;
    if model.is_embedded() {
        output::note(EMBEDDED_NOTE);
    }
    let addresses = Addresses::without_language();
    let cluster =
        Cluster::start(model.dir(), &encode.machine, encode.place.settings(encode.store.as_ref()).into(), addresses)
            .await?;
    let gateway = Client::builder(format!("http://{}", cluster.addresses.gateway)).build()?;
    let sent = send(gateway, encode, manifest).await;
    tokio::select! {
        stopped = cluster.stop() => stopped?,
        // For the second time: nothing more is waited for.
        signal = tessera_rpc::interrupted() => signal?,
    }
    sent
}

async fn send(gateway: Client, encode: Encode, manifest: Option<Manifest>) -> anyhow::Result<ExitCode> {
    let report = Report::new(manifest, encode.json);
    let mut flow = Flow::start(
        encode.images,
        &Destination { gateway, lease: encode.lease, ends_with_us: encode.server.is_none() },
        report,
    )?;
    let ended = tokio::select! {
        ended = flow.run() => ended.map(|()| ExitCode::SUCCESS),
        signal = tessera_rpc::interrupted() => signal.map(|()| ExitCode::from(INTERRUPTED)).map_err(Into::into),
    };
    if ended.as_ref().is_err_and(output::reader_left) {
        return ended;
    }
    let tally = flow.into_report().end();
    let code = ended?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    ensure!(tally.done() > 0, "there is no image in what was named");
    Ok(if tally.failed > 0 { ExitCode::FAILURE } else { code })
}
