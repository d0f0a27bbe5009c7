//! The client of a gateway.

mod access;
mod batch;
mod store;

use tessera_api::gateway::{Event, GenerateRequest};
use tessera_api::proto::gateway::v1::GenerateResponse;
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::{Error, Result};
use tessera_rpc::Deadline;
use tonic::{Status, Streaming};

pub(crate) use access::Access;
pub(crate) use batch::{Image, Outcome, encode_batch};
pub(crate) use store::Store;

/// An answer that is being streamed.
pub(crate) struct Answer {
    stream: Streaming<GenerateResponse>,
}

/// Sends a request to a gateway.
///
/// # Errors
/// The gateway's, or what to do when there is none.
pub(crate) async fn generate(to: &Access, request: GenerateRequest) -> Result<Answer> {
    let mut gateway = GatewayClient::new(to.open()?);
    match gateway.generate(Deadline::default().request(request.into())).await {
        Ok(response) => Ok(Answer { stream: response.into_inner() }),
        Err(status) => Err(explained(&to.url, status)),
    }
}

impl Answer {
    /// Returns the next event; `None` after the last.
    ///
    /// # Errors
    /// The gateway's.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>> {
        self.stream.message().await?.map(Event::try_from).transpose()
    }
}

/// The gateway's error, or what to do when there is no gateway.
fn explained(url: &str, status: Status) -> Error {
    let mut error = Error::from(status);
    match error.reason.as_ref() {
        "UNREACHABLE" => {
            error.message = format!("no gateway at {url} ({}); start one with `tessera up`", error.message);
        }
        "TOKEN_MISSING" => {
            error.message = format!(
                "the gateway at {url} wants to know who asks: give it a token with --token-file FILE, or in the environment as TESSERA_TOKEN"
            );
        }
        _ => {}
    }
    error
}
