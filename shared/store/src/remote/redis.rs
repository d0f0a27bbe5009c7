//! Redis or Valkey: a value per artifact, and books of who was used when and how large it is.
//!
//! Every change to the books is one run of a script (`redis.lua`), and an artifact is written in the same transaction, so
//! that no caller and no crash comes between: the bytes of all artifacts never exceed the budget. Whoever was not used for
//! longest goes first, whichever worker used it.
//!
//! The server may drop a value by itself (`maxmemory`, expiry, a human): it leaves the books when somebody reads it, or
//! when its turn comes to go, which is early because nobody uses it any more. If the server drops one of the two books,
//! everything that the other one names is deleted with it. Only if both are lost are there values that nobody counts: each
//! comes back into the books when it is read, and expires by itself when it is not for [`RemoteOptions::idle`].
//!
//! | fault | what a caller sees | counted by the [`Breaker`](super::Breaker) as |
//! |---|---|---|
//! | server away, or killed during a transfer | [`RemoteError::Away`] | failure |
//! | server came back since the last operation | nothing: a stale connection is replaced | hit, miss, done |
//! | server silent or slow | [`RemoteError::Slow`] | failure |
//! | wrong password, no permission, loading, read-only replica | [`RemoteError::Refused`] | failure |
//! | server out of memory | nothing, if giving up twice the artifact's bytes made room; else [`RemoteError::Full`] | done, or refused |
//! | another type of value at the key | [`RemoteError::Foreign`] until somebody puts it again | refused |
//! | value larger than an artifact can be | [`RemoteError::Size`]; one byte more than the limit was read | refused |
//! | value changed | the changed bytes: the caller checks them | hit |

mod connections;

use ::redis::{Pipeline, Value};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tessera_embedding::ImageKey;
use url::Url;

use super::{Remote, RemoteError, RemoteOptions, check_size};
use connections::{Connections, pipeline, refused};

/// The one script that changes the books.
const SCRIPT: &str = include_str!("redis.lua");
/// Start of every key. Braces: a cluster keeps all of them in one place. The number changes with what is kept under them.
const PREFIX: &str = "{tessera:1}:";

/// What the script is asked to do.
#[derive(Clone, Copy)]
enum Change {
    /// Book an artifact that is about to be written; make room for it.
    Put,
    /// Book that an artifact was read, or that it is gone.
    Get,
    /// Delete an artifact.
    Delete,
    /// Delete the least recently used, to give the server memory.
    Shed,
}

/// A Redis or Valkey server.
pub(super) struct Redis {
    connections: Connections,
    budget: u64,
    max_artifact_bytes: u64,
    idle_ms: u64,
}

impl Redis {
    pub(super) fn new(url: &Url, options: &RemoteOptions) -> Result<Self, RemoteError> {
        Ok(Self {
            connections: Connections::new(url, options)?,
            budget: options.bytes,
            max_artifact_bytes: options.max_artifact_bytes,
            idle_ms: u64::try_from(options.idle.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX as u64 / 2),
        })
    }

    /// Adds a run of the script to what is sent.
    fn change(&self, commands: &mut Pipeline, change: Change, key: &ImageKey, bytes: usize) {
        let operation = match change {
            Change::Put => "put",
            Change::Get => "get",
            Change::Delete => "delete",
            Change::Shed => "shed",
        };
        let eval = commands.cmd("EVAL").arg(SCRIPT).arg(2).arg(format!("{PREFIX}used")).arg(format!("{PREFIX}sizes"));
        eval.arg(operation).arg(key.to_string()).arg(bytes).arg(self.budget).arg(value("")).arg(self.idle_ms);
    }

    async fn read(&self, key: &ImageKey) -> Result<Option<Bytes>, RemoteError> {
        let mut commands = pipeline();
        // Never more than a byte too much, however much there is.
        commands.cmd("GETRANGE").arg(value(&key.to_string())).arg(0).arg(self.max_artifact_bytes);
        self.change(&mut commands, Change::Get, key, 0);
        // That the books could not be changed does not matter to who has the artifact.
        match self.connections.run(&commands).await?.into_iter().next() {
            Some(Ok(Value::BulkString(bytes))) if bytes.is_empty() => Ok(None),
            Some(Ok(Value::BulkString(bytes))) => {
                check_size(bytes.len() as u64, self.max_artifact_bytes)?;
                Ok(Some(bytes.into()))
            }
            Some(Err(error)) if error.code() == Some("WRONGTYPE") => Err(RemoteError::Foreign(*key)),
            Some(Err(error)) => Err(refused(error)),
            other => Err(RemoteError::Refused(format!("unexpected answer {other:?}").into())),
        }
    }

    async fn write(&self, key: &ImageKey, artifact: &Bytes) -> Result<(), RemoteError> {
        check_size(artifact.len() as u64, self.max_artifact_bytes)?;
        let mut commands = pipeline();
        commands.atomic();
        self.change(&mut commands, Change::Put, key, artifact.len());
        commands.cmd("SET").arg(value(&key.to_string())).arg(&artifact[..]).arg("PX").arg(self.idle_ms);
        match self.all(&commands).await {
            Err(RemoteError::Full(_)) => {}
            outcome => return outcome.map(|_| ()),
        }
        // The server has less memory than the budget: give up some, and try once more.
        let mut shed = pipeline();
        self.change(&mut shed, Change::Shed, key, artifact.len().saturating_mul(2));
        self.all(&shed).await?;
        self.all(&commands).await.map(|_| ())
    }

    async fn remove(&self, key: &ImageKey) -> Result<bool, RemoteError> {
        let mut commands = pipeline();
        self.change(&mut commands, Change::Delete, key, 0);
        Ok(self.all(&commands).await? == [Value::Int(1)])
    }

    /// Runs commands of which none may fail.
    async fn all(&self, commands: &Pipeline) -> Result<Vec<Value>, RemoteError> {
        self.connections.run(commands).await?.into_iter().map(|answer| answer.map_err(refused)).collect()
    }
}

/// The key of an artifact, or with no name what all of them start with.
fn value(name: &str) -> String {
    format!("{PREFIX}value:{name}")
}

impl Remote for Redis {
    fn get<'a>(&'a self, key: &'a ImageKey) -> BoxFuture<'a, Result<Option<Bytes>, RemoteError>> {
        self.read(key).boxed()
    }

    fn put<'a>(&'a self, key: &'a ImageKey, artifact: Bytes) -> BoxFuture<'a, Result<(), RemoteError>> {
        async move { self.write(key, &artifact).await }.boxed()
    }

    fn delete<'a>(&'a self, key: &'a ImageKey) -> BoxFuture<'a, Result<bool, RemoteError>> {
        self.remove(key).boxed()
    }
}
