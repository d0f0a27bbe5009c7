//! What became of the requests since the gateway started: a few numbers, however many requests there were.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tessera_api::gateway::Timings;
use tessera_api::proto::inference as proto;

use super::model::{Model, VERSION};

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Statistics(Mutex<Totals>);

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    success: Total,
    fail: Total,
    queue: Total,
    input: Total,
    infer: Total,
    output: Total,
    last: Option<SystemTime>,
}

/// How often, and how long altogether.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    count: u64,
    time: Duration,
}

/// A request that is in progress. One that is dropped before it succeeded has failed.
#[derive(Debug)]
pub(super) struct Measured {
    statistics: Arc<Statistics>,
    began: Instant,
    succeeded: bool,
}

impl Measured {
    /// A request that begins now.
    pub(super) fn start(statistics: &Arc<Statistics>) -> Self {
        Self { statistics: Arc::clone(statistics), began: Instant::now(), succeeded: false }
    }

    /// Counts the end of its answer.
    pub(super) fn succeed(&mut self, timings: &Timings) {
        if std::mem::replace(&mut self.succeeded, true) {
            return;
        }
        let time = self.began.elapsed();
        let (input, infer) = (timings.prepare + timings.encode, timings.prefill + timings.decode);
        self.statistics.change(|totals| {
            totals.success.add(time);
            totals.queue.add(timings.queue);
            totals.input.add(input);
            totals.infer.add(infer);
            // Images are encoded while their text is prefilled, so the parts may be more than the whole.
            totals.output.add(time.saturating_sub(input + infer + timings.queue));
            totals.last = Some(SystemTime::now());
        });
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if !self.succeeded {
            let time = self.began.elapsed();
            self.statistics.change(|totals| totals.fail.add(time));
        }
    }
}

impl Statistics {
    fn change(&self, change: impl FnOnce(&mut Totals)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What there is to tell.
    pub(super) fn of(&self, model: &Model) -> proto::ModelStatistics {
        let totals = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since_1970 = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        proto::ModelStatistics {
            name: model.name.clone(),
            version: VERSION.into(),
            last_inference: totals.last.map_or(0, |at| u64::try_from(since_1970(at).as_millis()).unwrap_or(u64::MAX)),
            inference_count: totals.success.count,
            execution_count: totals.success.count,
            inference_stats: Some(proto::InferStatistics {
                success: totals.success.told(),
                fail: totals.fail.told(),
                queue: totals.queue.told(),
                compute_input: totals.input.told(),
                compute_infer: totals.infer.told(),
                compute_output: totals.output.told(),
                cache_hit: Total::default().told(),
                cache_miss: Total::default().told(),
            }),
            ..Default::default()
        }
    }
}

impl Total {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time = self.time.saturating_add(time);
    }

    fn told(self) -> Option<proto::StatisticDuration> {
        let ns = u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX);
        Some(proto::StatisticDuration { count: self.count, ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_their_end() {
        let statistics = Arc::new(Statistics::default());
        let timings = Timings { queue: Duration::from_nanos(7), decode: Duration::from_nanos(5), ..Timings::default() };
        let mut good = Measured::start(&statistics);
        good.succeed(&timings);
        good.succeed(&timings);
        drop(good);
        drop(Measured::start(&statistics));
        let told = statistics.of(&Model { name: "a".into() });
        assert_eq!((told.inference_count, told.execution_count), (1, 1));
        assert!(told.last_inference > 1_700_000_000_000);
        let stats = told.inference_stats.unwrap();
        let count = |total: Option<proto::StatisticDuration>| total.unwrap().count;
        assert_eq!((count(stats.success), count(stats.fail), count(stats.compute_output)), (1, 1, 1));
        assert_eq!((stats.queue.unwrap().ns, stats.compute_infer.unwrap().ns), (7, 5));
    }
}
