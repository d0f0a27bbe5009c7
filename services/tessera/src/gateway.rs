//! The gateway that is asked: one that runs elsewhere, or one in this process.

use tessera_client::{Client, ImageUrl};
use tessera_gateway::{Scheme, UrlSettings};

use crate::access;
use crate::cli::ServiceFlags;
use crate::cluster::{Addresses, Cluster, ClusterSettings};
use crate::model::{EMBEDDED_NOTE, Model};
use crate::output;

/// The gateway that is asked.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) client: Client,
    /// In this process.
    own: Option<(Cluster, Model)>,
}

impl Gateway {
    /// Reaches the gateway that the flags name, or starts the services here; these fetch what `urls` allows.
    ///
    /// # Errors
    /// When there is no gateway, or the checkpoint or the device cannot be used.
    pub(crate) async fn open(flags: &ServiceFlags, urls: UrlSettings) -> anyhow::Result<Self> {
        if let Some(url) = &flags.server {
            return Ok(Self { client: access::connect(url, &flags.access).await?, own: None });
        }
        let model = Model::open(flags.model.as_deref())?;
        if model.is_embedded() {
            output::note(EMBEDDED_NOTE);
        }
        let settings = ClusterSettings { urls, ..flags.place.settings(flags.store.as_ref()).into() };
        let cluster = Cluster::start(model.dir(), &flags.machine, settings, Addresses::any()).await?;
        let client = Client::builder(format!("http://{}", cluster.addresses.gateway)).build()?;
        Ok(Self { client, own: Some((cluster, model)) })
    }

    /// Ends what was started here.
    ///
    /// # Errors
    /// What a service failed with.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        match self.own {
            Some((cluster, _model)) => cluster.stop().await,
            None => Ok(()),
        }
    }
}

/// What the gateway in this process may fetch: whoever names a URL on the command line wants it fetched, from wherever on
/// the public network it is.
///
/// # Errors
/// None that a URL can cause.
pub(crate) fn fetching<'a>(named: impl Iterator<Item = &'a ImageUrl>) -> anyhow::Result<UrlSettings> {
    let mut settings = UrlSettings::default();
    for url in named.map(ImageUrl::as_url) {
        if !settings.enabled {
            settings.enabled = true;
            settings.allow.push("*".parse()?);
        }
        if let Some(port) = url.port() {
            settings.allow.push(format!("*:{port}").parse()?);
        }
        if url.scheme() == "http" && !settings.schemes.contains(&Scheme::Http) {
            settings.schemes.push(Scheme::Http);
        }
    }
    Ok(settings)
}
