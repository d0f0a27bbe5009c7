//! How workers are asked what they are, and followed: `Describe`, grpc.health.v1, load reports.

use std::time::Duration;

use tessera_api::proto::language::v1 as language_proto;
use tessera_api::proto::language::v1::language_worker_client::LanguageWorkerClient;
use tessera_api::proto::vision::v1 as vision_proto;
use tessera_api::proto::vision::v1::vision_worker_client::VisionWorkerClient;
use tessera_api::{Error, ErrorKind, Result, language, vision};
use tessera_rpc::Deadline;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::failure;
use super::language::Language;
use super::member::{Kind, Member};
use super::pool::Probe;
use super::vision::Vision;

/// Time between two load reports of a worker.
const INTERVAL: Duration = Duration::from_millis(200);
/// A worker that says nothing for so long, although it should, is lost; one that has nothing to say is asked.
const SILENCE: Duration = Duration::from_secs(5);

/// The workers themselves.
#[derive(Debug)]
pub(super) struct Wire {
    /// Of the gateway's own checkpoint.
    pub(super) image_token_id: u32,
}

impl Probe<Vision> for Wire {
    async fn describe(&self, member: &Member<Vision>) -> Result<vision::Description> {
        let mut client = VisionWorkerClient::new(member.channel.clone());
        let described = client.describe(vision_proto::DescribeRequest {}).await;
        vision::Description::try_from(described.map_err(|status| role::<Vision>(failure(status)))?.into_inner())
    }

    async fn follow(&self, member: &Member<Vision>, tell: &(dyn Fn(bool) + Send + Sync)) -> Error {
        watch(&member.channel, tell).await
    }
}

impl Probe<Language> for Wire {
    async fn describe(&self, member: &Member<Language>) -> Result<language::Description> {
        member.notes.restart();
        let mut client = LanguageWorkerClient::new(member.channel.clone());
        let described = client.describe(language_proto::DescribeRequest {}).await;
        let description = described.map_err(|status| role::<Language>(failure(status)))?.into_inner();
        let description = language::Description::try_from(description)?;
        let (theirs, ours) = (description.image_token_id, self.image_token_id);
        if theirs != ours {
            let message = format!("{} runs another model: its image token is {theirs}, ours {ours}", member.url);
            return Err(Error::new(ErrorKind::Precondition, "MODEL_MISMATCH", message));
        }
        Ok(description)
    }

    async fn follow(&self, member: &Member<Language>, tell: &(dyn Fn(bool) + Send + Sync)) -> Error {
        tokio::select! {
            error = watch(&member.channel, tell) => error,
            error = reports(member) => error,
        }
    }
}

/// Says that a worker has another role, where that is why it does not know the method.
fn role<K: Kind>(error: Error) -> Error {
    if error.kind != ErrorKind::Unsupported {
        return error;
    }
    Error::new(ErrorKind::Precondition, "ROLE_MISMATCH", format!("it is no {} worker", K::POOL))
}

/// Follows what a worker says of its health. One that says nothing is asked now and then, for a machine that is gone
/// says nothing either. Waits for ever where health is not served.
async fn watch(channel: &Channel, tell: &(dyn Fn(bool) + Send + Sync)) -> Error {
    let mut client = HealthClient::new(channel.clone());
    // Of the server as a whole.
    let request = HealthCheckRequest::default;
    let opening = client.watch(request());
    let mut seen = match soon(async { Ok(opening.await.map_err(failure)?.into_inner()) }).await {
        Ok(seen) => seen,
        Err(error) if error.kind == ErrorKind::Unsupported => return std::future::pending().await,
        Err(error) => return error,
    };
    loop {
        match tokio::time::timeout(SILENCE, seen.message()).await {
            Ok(Ok(Some(response))) => tell(response.status == i32::from(ServingStatus::Serving)),
            Ok(Ok(None)) => return ended("it tells no more of its health"),
            Ok(Err(status)) => return failure(status),
            Err(_) => {
                let checking = client.check(request());
                if let Err(error) = soon(async { checking.await.map_err(failure) }).await {
                    return error;
                }
            }
        }
    }
}

/// Takes a worker's load reports for as long as they come. Waits for ever where it makes none.
async fn reports(member: &Member<Language>) -> Error {
    let mut client = LanguageWorkerClient::new(member.channel.clone());
    let interval_milliseconds = u64::try_from(INTERVAL.as_millis()).unwrap_or(0);
    let opening = client.load(language_proto::LoadRequest { interval_milliseconds });
    let mut reports = match soon(async { Ok(opening.await.map_err(failure)?.into_inner()) }).await {
        Ok(reports) => reports,
        Err(error) if error.kind == ErrorKind::Unsupported => return std::future::pending().await,
        Err(error) => return error,
    };
    loop {
        match soon(async { reports.message().await.map_err(failure) }).await {
            Ok(Some(report)) => member.notes.report(report.into()),
            Ok(None) => return ended("it makes no reports any more"),
            Err(error) => return error,
        }
    }
}

fn ended(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "UNREACHABLE", what)
}

/// Waits for what must come soon.
async fn soon<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    Deadline::default().within(SILENCE).bound("a worker was to tell of itself", future).await
}
