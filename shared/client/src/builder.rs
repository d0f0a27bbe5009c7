//! How a gateway is reached, and how patiently.

use std::path::PathBuf;
use std::time::Duration;

use tessera_api::{Error, ErrorKind, Result};
use tessera_config::Secret;
use tessera_rpc::{ClientTls, FileError, Tasks, UpstreamTlsSettings, client};
use tonic::transport::Channel;

use crate::Client;
use crate::bearer::Bearer;
use crate::client::Connection;
use crate::retry::Retries;

/// How a gateway is reached, and how patiently. Made by [`Client::builder`]; what is not set has the default that its method
/// names.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    url: String,
    tls: UpstreamTlsSettings,
    token: Option<Token>,
    deadline: Option<Duration>,
    retries: Retries,
    keep_alive: Option<Duration>,
    compresses: bool,
}

/// Where the token is.
#[derive(Clone, Debug)]
enum Token {
    Given(Secret),
    File(PathBuf),
}

impl Builder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            tls: UpstreamTlsSettings::default(),
            token: None,
            deadline: None,
            retries: Retries::default(),
            keep_alive: None,
            compresses: false,
        }
    }

    /// Believes the authorities in this file (PEM) instead of the system's. The file is read again when it changes, as
    /// are those of [`certificate`](Self::certificate).
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.tls.ca = file.into();
        self
    }

    /// Shows this certificate (PEM, with those between it and its authority) to a gateway that asks for one.
    pub fn certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        (self.tls.certificate, self.tls.key) = (certificate.into(), key.into());
        self
    }

    /// Expects this name in the gateway's certificate, where its URL has an IP address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.server_name = name.into();
        self
    }

    /// Says who asks: a bearer token. It goes to the gateway with every request, and is never shown.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Token::Given(Secret::new(token)));
        self
    }

    /// The same, from a file, which is read again when it changes.
    pub fn token_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.token = Some(Token::File(file.into()));
        self
    }

    /// Gives every request so much time, its retries included, unless it has a deadline of its own. A batch gets as much as
    /// it takes. Default: no end but the gateway's own.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = Some(time);
        self
    }

    /// Makes calls again that failed with what passes, so patiently. Default: [`Retries::default`].
    pub fn retries(mut self, retries: Retries) -> Self {
        self.retries = retries;
        self
    }

    /// Asks after so long a silence whether the gateway is still there, and connects anew where it does not say so within
    /// twenty seconds. Default: 20 s.
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = Some(interval);
        self
    }

    /// Compresses (gzip) questions and images on their way to the gateway, and takes compressed answers. Worth it over slow
    /// networks, for images that are not compressed already. Default: nothing is compressed.
    pub fn compress(mut self) -> Self {
        self.compresses = true;
        self
    }

    /// Makes the client, and asks the gateway whether it is there.
    ///
    /// # Errors
    /// Those of [`build`](Self::build), and `Unavailable` (`UNREACHABLE`) or `NotFound` (`NO_GATEWAY`) where there is no
    /// gateway.
    pub async fn connect(self) -> Result<Client> {
        let client = self.build()?;
        client.health().await?;
        Ok(client)
    }

    /// Makes the client, which connects when it is first used: the gateway may come later.
    ///
    /// # Errors
    /// `Invalid` (`URL_INVALID`) when the URL is neither `http://host:port` nor `https://host:port`, `Unauthenticated`
    /// (`TOKEN_MALFORMED`) when the token is no single word of ASCII, `Precondition` (`FILE_UNUSABLE`) when a file cannot be
    /// read or does not hold what it should.
    pub fn build(self) -> Result<Client> {
        let mut endpoint = client::endpoint(&self.url)?;
        if let Some(interval) = self.keep_alive {
            endpoint = endpoint.http2_keep_alive_interval(interval);
        }
        let tasks = Tasks::default();
        let tls = ClientTls::start(&self.tls, &tasks).map_err(|error| unusable(&error))?;
        self.assemble(client::channel_of(&endpoint, &tls), tasks)
    }

    /// Makes the client over a channel of the caller's, who then decides about TLS and keep-alive: for simulations, and for
    /// gateways in the same process.
    ///
    /// # Errors
    /// Those of [`build`](Self::build) that are about the token.
    pub fn build_over(self, channel: Channel) -> Result<Client> {
        self.assemble(channel, Tasks::default())
    }

    fn assemble(self, channel: Channel, tasks: Tasks) -> Result<Client> {
        let bearer = match &self.token {
            None => Bearer::Nobody,
            Some(Token::Given(token)) => Bearer::of(token.expose())?,
            Some(Token::File(file)) => Bearer::from_file(file.clone(), &tasks).map_err(|error| unusable(&error))?,
        };
        let Self { url, deadline, retries, compresses, .. } = self;
        Ok(Client::over(Connection { url, channel, bearer, deadline, retries, compresses, tasks }))
    }
}

fn unusable(error: &FileError) -> Error {
    Error::new(ErrorKind::Precondition, "FILE_UNUSABLE", error.to_string())
}
