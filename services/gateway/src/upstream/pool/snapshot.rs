//! How a pool is at this moment, for people who look at it.

use std::sync::Arc;

use super::Pool;
use super::roll::{Row, State};
use crate::upstream::member::Kind;

/// A pool.
#[derive(Clone, Debug)]
pub(crate) struct PoolSnapshot<L> {
    /// What it runs, once somebody said so.
    pub(crate) model: Option<String>,
    /// Workers that were ejected for failed calls, since the gateway started.
    pub(crate) ejections: u64,
    /// Calls that were made again because one failed.
    pub(crate) retries: u64,
    /// Calls that were made a second time because the first took long.
    pub(crate) hedges: u64,
    /// All who are listed, in the order in which they are.
    pub(crate) workers: Vec<WorkerSnapshot<L>>,
}

/// A worker.
#[derive(Clone, Debug)]
pub(crate) struct WorkerSnapshot<L> {
    pub(crate) url: Arc<str>,
    pub(crate) standing: Standing,
    /// What speaks against it.
    pub(crate) why: Option<String>,
    /// As it said last.
    pub(crate) version: Option<String>,
    /// Calls that it has from this gateway.
    pub(crate) in_flight: usize,
    /// What it reported last; nothing of one that cannot be reached.
    pub(crate) load: Option<L>,
}

/// Whether a worker is given work, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is given work.
    Ready,
    /// It was not asked yet what it is.
    New,
    /// It runs something else than the pool.
    KeptOut,
    /// It says that it takes no work.
    Refusing,
    /// It could not be reached and is asked again.
    Lost,
    /// Calls to it failed in a row; it is asked again after a pause.
    Ejected,
}

impl<K: Kind> Pool<K> {
    /// Says how everybody is.
    pub(in crate::upstream) fn snapshot(&self) -> PoolSnapshot<K::Load> {
        let roll = self.roll();
        PoolSnapshot {
            model: roll.model.as_ref().map(ToString::to_string),
            ejections: self.figures.ejections(),
            retries: self.figures.retries(),
            hedges: self.figures.hedges(),
            workers: roll.rows.iter().map(|row| row.snapshot(roll.model.as_ref())).collect(),
        }
    }
}

impl<K: Kind> Row<K> {
    fn snapshot(&self, model: Option<&K::Model>) -> WorkerSnapshot<K::Load> {
        let standing = self.standing(model);
        let why = match standing {
            Standing::Ready | Standing::New => None,
            Standing::KeptOut => self.model().map(|own| format!("it runs another model: {own}")),
            Standing::Refusing => Some("it says that it takes no work".to_owned()),
            Standing::Lost | Standing::Ejected => self.error.as_ref().map(ToString::to_string),
        };
        WorkerSnapshot {
            url: Arc::clone(&self.member.url),
            standing,
            why,
            version: self.description.as_ref().map(|description| K::version(description).to_owned()),
            in_flight: self.member.in_flight(),
            load: K::load(&self.member.notes).filter(|_| self.can_be_reached()),
        }
    }

    fn standing(&self, model: Option<&K::Model>) -> Standing {
        match self.state {
            State::New => Standing::New,
            State::Lost { ejected, .. } => {
                if ejected {
                    Standing::Ejected
                } else {
                    Standing::Lost
                }
            }
            _ if self.is_misfit(model) => Standing::KeptOut,
            State::Refusing => Standing::Refusing,
            State::Serving => Standing::Ready,
        }
    }
}
