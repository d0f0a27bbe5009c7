//! Connections to one server: each runs one operation at a time, and is closed when anything about it is in doubt.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::io::tcp::TcpSettings;
use ::redis::{AsyncConnectionConfig, Client, ErrorKind, Pipeline, RedisError, RedisResult, TlsCertificates, Value};
use ::redis::{IntoConnectionInfo, ServerErrorKind};
use url::Url;

use crate::remote::{RemoteError, RemoteOptions};

/// Answers to the commands of a pipeline.
type Answers = Vec<RedisResult<Value>>;

/// Connections to one server. Those that nobody uses are kept, up to a bound.
pub(super) struct Connections {
    client: Client,
    config: AsyncConnectionConfig,
    timeout: Duration,
    idle: Mutex<Vec<MultiplexedConnection>>,
    idle_limit: usize,
}

impl Connections {
    pub(super) fn new(url: &Url, options: &RemoteOptions) -> Result<Self, RemoteError> {
        let wrong = |error: RedisError| RemoteError::Options(format!("URL of the shared store: {error}"));
        let info = url.as_str().into_connection_info().map_err(wrong)?;
        // A small request behind a large one must not wait for the large one's receipt.
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let info = match &options.password {
            Some(password) => {
                let settings = info.redis_settings().clone().set_password(password.expose());
                info.set_redis_settings(settings)
            }
            None => info,
        };
        let client = match &options.authorities {
            Some(pem) if url.scheme() == "rediss" => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
                Client::build_with_tls(info, certificates)
            }
            _ => Client::open(info),
        };
        let (client, timeout) = (client.map_err(wrong)?, options.timeout);
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout));
        Ok(Self { client, config, timeout, idle: Mutex::default(), idle_limit: options.idle_connections })
    }

    /// Sends commands, which must be of [`pipeline`], and returns the answer to each. Dropped in the middle, it closes the
    /// connection.
    pub(super) async fn run(&self, pipeline: &Pipeline) -> Result<Answers, RemoteError> {
        let kept = self.idle().pop();
        if let Some(connection) = kept {
            match self.run_on(connection, pipeline).await {
                // The server went away and may be back: the others are as stale as this one, a new one is not.
                Err(RemoteError::Away(_)) => {}
                outcome => return outcome,
            }
        }
        let connection = self.client.get_multiplexed_async_connection_with_config(&self.config).await;
        self.run_on(connection.map_err(|error| self.failed(error))?, pipeline).await
    }

    /// Runs commands on a connection, and keeps it if it is still good.
    async fn run_on(&self, mut connection: MultiplexedConnection, pipeline: &Pipeline) -> Result<Answers, RemoteError> {
        let outcome = pipeline.query_async(&mut connection).await.map_err(|error| self.failed(error));
        let mut idle = self.idle();
        match &outcome {
            Err(RemoteError::Away(_) | RemoteError::Slow(_)) => idle.clear(),
            _ if idle.len() < self.idle_limit => idle.push(connection),
            _ => {}
        }
        outcome
    }

    /// Tells a server that cannot be reached from one that is slow, and from one that answered.
    fn failed(&self, error: RedisError) -> RemoteError {
        if error.is_timeout() {
            return RemoteError::Slow(self.timeout);
        }
        match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => refused(error),
            _ => RemoteError::Away(Box::new(error)),
        }
    }

    /// The list is only ever changed by whole operations, so a panic elsewhere leaves it usable.
    fn idle(&self) -> MutexGuard<'_, Vec<MultiplexedConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commands whose errors are answers like others.
pub(super) fn pipeline() -> Pipeline {
    let mut pipeline = Pipeline::new();
    pipeline.ignore_errors();
    pipeline
}

/// An error that the server answered with.
pub(super) fn refused(error: RedisError) -> RemoteError {
    // A transaction that was not begun for want of memory says so in the answers to its parts.
    let aborted = error.kind() == ErrorKind::Server(ServerErrorKind::ExecAbort);
    let causes = error.clone().into_server_errors();
    let is_out_of_memory = causes.iter().flat_map(|causes| causes.iter()).any(|(_, cause)| cause.code() == "OOM");
    if is_out_of_memory || (aborted && error.to_string().contains("OOM")) {
        return RemoteError::Full(error.to_string());
    }
    RemoteError::Refused(Box::new(error))
}
