//! `tessera up`: the three services in one process.

use tessera_gateway::HttpSettings;

use crate::cli::Up;
use crate::cluster::{Addresses, Cluster, ClusterSettings};
use crate::model::{EMBEDDED_NOTE, Model};
use crate::output;

/// Serves until interrupted, then drains.
///
/// # Errors
/// When a port is taken or the checkpoint cannot be used.
pub(crate) async fn run(up: Up) -> anyhow::Result<()> {
    let model = Model::open(up.model.as_deref())?;
    if model.is_embedded() {
        output::note(EMBEDDED_NOTE);
    }
    let interrupted = tessera_rpc::interrupted();
    tokio::pin!(interrupted);
    let starting = Cluster::start(
        model.dir(),
        &up.machine,
        ClusterSettings {
            http: HttpSettings { page: true, ..HttpSettings::default() },
            model_name: model.name().to_owned(),
            ..up.place.settings(up.store.as_ref()).into()
        },
        Addresses::from(up.host, up.port),
    );
    let cluster = tokio::select! {
        biased;
        signal = &mut interrupted => return Ok(signal?),
        cluster = starting => cluster?,
    };
    let Addresses { gateway, vision, language } = cluster.addresses;
    let language = language.map(|address| format!("language  http://{address}\n")).unwrap_or_default();
    output::text(&format!(
        "gateway   http://{gateway}\nvision    http://{vision}\n{language}\
         page      http://{gateway}/ (open it in a browser)\n\
         ask with: tessera ask --server http://{gateway} --image PATH \"…\"\n"
    ))?;
    interrupted.await?;
    cluster.stop().await
}
