//! How workers are asked what they are, and followed: `Describe`, grpc.health.v1, load reports.

use std::convert::Infallible;
use std::time::Duration;

use tessera_api::proto::language::v1 as language_proto;
use tessera_api::proto::language::v1::language_worker_client::LanguageWorkerClient;
use tessera_api::proto::vision::v1 as vision_proto;
use tessera_api::proto::vision::v1::vision_worker_client::VisionWorkerClient;
use tessera_api::{Error, ErrorKind, Result, language, vision};
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
/// A worker that says nothing for so long, although it should, is lost; one that has nothing to say is asked halfway. So is
/// one that should have said something: after a gateway was stopped for a while, all clocks are over before anything is read.
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
        tokio::select! {
            error = watch(member, tell) => error,
            never = vision_reports(member) => match never {},
        }
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
            error = watch(member, tell) => error,
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
async fn watch<K: Kind>(member: &Member<K>, tell: &(dyn Fn(bool) + Send + Sync)) -> Error {
    let mut client = HealthClient::new(member.channel.clone());
    // Of the server as a whole.
    let request = HealthCheckRequest::default;
    let opening = client.watch(request());
    let mut seen = match soon(member, SILENCE, async { Ok(opening.await.map_err(failure)?.into_inner()) }).await {
        Ok(seen) => seen,
        Err(error) if error.kind == ErrorKind::Unsupported => return std::future::pending().await,
        Err(error) => return error,
    };
    loop {
        match tokio::time::timeout(SILENCE / 2, seen.message()).await {
            Ok(Ok(Some(response))) => tell(response.status == i32::from(ServingStatus::Serving)),
            Ok(Ok(None)) => return ended("it tells no more of its health"),
            Ok(Err(status)) => return failure(status),
            Err(_) => {
                let checking = client.check(request());
                if let Err(error) = soon(member, SILENCE / 2, async { checking.await.map_err(failure) }).await {
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
    let mut reports = match soon(member, SILENCE, async { Ok(opening.await.map_err(failure)?.into_inner()) }).await {
        Ok(reports) => reports,
        Err(error) if error.kind == ErrorKind::Unsupported => {
            member.notes.makes_no_reports();
            return std::future::pending().await;
        }
        Err(error) => return error,
    };
    let mut missed = false;
    loop {
        let report = async { reports.message().await.map_err(failure) };
        match tokio::time::timeout(SILENCE / 2, report).await {
            Ok(Ok(Some(report))) => {
                missed = false;
                member.notes.report(report.into());
            }
            Ok(Ok(None)) => return ended("it makes no reports any more"),
            Ok(Err(error)) => return error,
            Err(_) if missed => return silent(member),
            Err(_) => missed = true,
        }
    }
}

/// Takes a vision worker's load reports, for whoever looks at the pool. They decide nothing: whether it is well, its health
/// says. Waits for ever where it makes none.
async fn vision_reports(member: &Member<Vision>) -> Infallible {
    let mut client = VisionWorkerClient::new(member.channel.clone());
    loop {
        match client.load(vision_proto::LoadRequest::default()).await.map_err(failure) {
            Ok(reports) => {
                let mut reports = reports.into_inner();
                while let Ok(Some(report)) = reports.message().await {
                    member.notes.report(Some(report.into()));
                }
            }
            Err(error) if error.kind == ErrorKind::Unsupported => return std::future::pending().await,
            Err(_) => {}
        }
        member.notes.report(None);
        tokio::time::sleep(SILENCE).await;
    }
}

fn ended(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "UNREACHABLE", what)
}

/// The error of a worker that lets others wait. Whoever is told of it may have all the time in the world: it is no deadline
/// that passed.
fn silent<K: Kind>(member: &Member<K>) -> Error {
    member.fall_silent();
    ended("it tells nothing of itself")
}

/// Waits for what must come soon.
async fn soon<K: Kind, T>(member: &Member<K>, time: Duration, future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(time, future).await.unwrap_or_else(|_| Err(silent(member)))
}
