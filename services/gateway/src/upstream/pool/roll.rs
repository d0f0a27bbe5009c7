//! One line of a pool's roll: what is known of one worker.

use std::sync::Arc;
use std::time::Duration;

use tessera_api::Error;
use tokio::time::Instant;

use crate::upstream::health::Health;
use crate::upstream::member::{Kind, Member};

/// A worker that is lost is expected back for so long: until then the pool is not given over to another model because of it.
const EXPECTED: Duration = Duration::from_secs(60);

/// What is known of one worker.
#[derive(Debug)]
pub(super) struct Row<K: Kind> {
    pub(super) member: Arc<Member<K>>,
    pub(super) state: State,
    /// What it said of itself last.
    pub(super) description: Option<K::Description>,
    pub(super) health: Health,
    /// When it was lost, if it is.
    lost: Option<Instant>,
    /// Why it cannot be given work.
    pub(super) error: Option<Error>,
    /// Attempts to ask it what it is: those that began, and those that are over.
    pub(super) begun: u64,
    pub(super) tried: u64,
    /// The models, its own and the pool's, that somebody was told do not fit.
    misfit: Option<(String, String)>,
}

/// Whether a worker can be given work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It was never asked what it is.
    New,
    /// It takes work.
    Serving,
    /// It says that it takes none.
    Refusing,
    /// It could not be reached; it is asked again.
    Lost {
        /// When.
        until: Instant,
        /// Calls to it failed although it can be reached.
        ejected: bool,
    },
}

impl<K: Kind> Row<K> {
    /// Begins with a worker that was never asked.
    pub(super) fn new(member: Arc<Member<K>>) -> Self {
        let (state, health) = (State::New, Health::default());
        Self { member, state, description: None, health, lost: None, error: None, begun: 0, tried: 0, misfit: None }
    }

    /// What it runs, if it ever said so.
    pub(super) fn model(&self) -> Option<K::Model> {
        self.description.as_ref().map(K::model)
    }

    pub(super) fn can_be_reached(&self) -> bool {
        matches!(self.state, State::Serving | State::Refusing)
    }

    /// Whether it can be reached, or could until lately.
    pub(super) fn is_expected(&self) -> bool {
        self.can_be_reached() || self.lost.is_some_and(|lost| lost.elapsed() < EXPECTED)
    }

    pub(super) fn is_ejected(&self) -> bool {
        matches!(self.state, State::Lost { ejected: true, .. })
    }

    /// Whether it can be given work of a pool that runs `model`.
    pub(super) fn may_work(&self, model: Option<&K::Model>) -> bool {
        self.state == State::Serving && self.model().as_ref() == model
    }

    /// Whether it runs something else.
    pub(super) fn is_misfit(&self, model: Option<&K::Model>) -> bool {
        self.can_be_reached() && self.model().as_ref() != model
    }

    /// Gives it no more work, for this reason.
    pub(super) fn leave(&mut self, state: State, error: Option<Error>) {
        if self.can_be_reached() {
            self.lost = Some(Instant::now());
        }
        self.state = state;
        self.error = error.or(self.error.take());
    }

    /// Logs that the worker does not fit the pool: once for each pair of models.
    pub(super) fn tell_misfit(&mut self, model: Option<&K::Model>) {
        let (Some(own), Some(pools)) = (self.model(), model) else { return };
        if own == *pools {
            self.misfit = None;
            return;
        }
        let pair = (own.to_string(), pools.to_string());
        if self.can_be_reached() && self.misfit.as_ref() != Some(&pair) {
            let (worker, own, pools) = (&self.member.url, &pair.0, &pair.1);
            tracing::warn!(pool = K::POOL, %worker, own, pools, "worker runs another model and is kept out");
            self.misfit = Some(pair);
        }
    }
}
