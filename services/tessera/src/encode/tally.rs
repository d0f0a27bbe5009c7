//! What happened so far, in numbers and words.

use std::time::Duration;

use super::line::Failure;

/// Failures that are listed at the end.
const LISTED: usize = 20;

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Images that are stored now.
    pub(super) encoded: u64,
    /// Those of them that were stored before.
    pub(super) stored_before: u64,
    /// Those of them that a restart would lose.
    pub(super) fleeting: u64,
    /// Images that the manifest says are stored.
    pub(super) skipped: u64,
    pub(super) failed: u64,
    /// The first ones that failed.
    failures: Vec<Failure>,
}

impl Tally {
    /// Counts a failure.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        if self.failures.len() < LISTED {
            self.failures.push(failure);
        }
    }

    /// Images of which is known what became of them.
    pub(super) fn done(&self) -> u64 {
        self.encoded + self.skipped + self.failed
    }

    /// For the bar: how many of how many, how fast, how long to go.
    pub(super) fn progress(&self, found: u64, all_found: bool, elapsed: Duration) -> String {
        let (done, per_second) = (self.done(), self.per_second(elapsed));
        if !all_found {
            return format!("{done} of {found} found so far, {per_second:.1} images a second");
        }
        let left = if per_second > 0.0 {
            let seconds = found.saturating_sub(done) as f64 / per_second;
            // A year is as good as for ever.
            format!(", {} left", humantime::format_duration(Duration::from_secs(seconds.min(3e7).ceil() as u64)))
        } else {
            String::new()
        };
        format!("{done} of {found}, {per_second:.1} images a second{left}")
    }

    /// The last line.
    pub(super) fn summary(&self, elapsed: Duration) -> String {
        let Self { encoded, stored_before, skipped, failed, .. } = *self;
        let mut text = format!("encoded {encoded}");
        if stored_before > 0 {
            text += &format!(" ({stored_before} {} stored before)", were(stored_before));
        }
        if skipped > 0 {
            text += &format!(", {skipped} {} done before", were(skipped));
        }
        text += &format!(", {failed} failed, {:.1} s", elapsed.as_secs_f64());
        if encoded > 0 {
            text += &format!(", {:.1} images a second", self.per_second(elapsed));
        }
        text
    }

    /// The failures, one a line, in front of the last line; nothing without any.
    pub(super) fn failures(&self, in_manifest: bool) -> Vec<String> {
        let mut lines: Vec<String> =
            self.failures.iter().map(|failure| format!("{}: {}", failure.path, failure.error)).collect();
        let more = self.failed - lines.len() as u64;
        if more > 0 {
            lines.push(format!("and {more} more{}", if in_manifest { ", see the manifest" } else { "" }));
        }
        lines
    }

    fn per_second(&self, elapsed: Duration) -> f64 {
        let seconds = elapsed.as_secs_f64();
        if seconds > 0.0 { self.encoded as f64 / seconds } else { 0.0 }
    }
}

fn were(count: u64) -> &'static str {
    if count == 1 { "was" } else { "were" }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_last_line_says_what_happened() {
        let mut tally = Tally { encoded: 97, stored_before: 12, ..Tally::default() };
        (0..3).for_each(|n| tally.fail(Failure::new(Path::new("a"), n.to_string(), "R")));
        let elapsed = Duration::from_millis(41_200);
        assert_eq!(tally.summary(elapsed), "encoded 97 (12 were stored before), 3 failed, 41.2 s, 2.4 images a second");
        let again = Tally { skipped: 97, ..Tally::default() };
        assert_eq!(again.summary(Duration::from_millis(300)), "encoded 0, 97 were done before, 0 failed, 0.3 s");
        let one = Tally { encoded: 1, stored_before: 1, skipped: 1, ..Tally::default() };
        let expected = "encoded 1 (1 was stored before), 1 was done before, 0 failed, 2.0 s, 0.5 images a second";
        assert_eq!(one.summary(Duration::from_secs(2)), expected);
    }

    #[test]
    fn the_bar_says_how_long_it_takes_once_that_is_known() {
        let tally = Tally { encoded: 10, skipped: 30, failed: 0, ..Tally::default() };
        let text = |found, all_found, seconds| tally.progress(found, all_found, Duration::from_secs(seconds));
        assert_eq!(text(100, false, 5), "40 of 100 found so far, 2.0 images a second");
        assert_eq!(text(100, true, 5), "40 of 100, 2.0 images a second, 30s left");
        assert_eq!(text(1240, true, 10), "40 of 1240, 1.0 images a second, 20m left");
        assert_eq!(text(100, true, 0), "40 of 100, 0.0 images a second");
    }

    #[test]
    fn twenty_failures_are_listed() {
        let mut tally = Tally::default();
        (0..20).for_each(|n| tally.fail(Failure::new(Path::new(&n.to_string()), "broken".into(), "R")));
        assert_eq!((tally.failures(true).len(), tally.failures(true)[19].as_str()), (20, "19: broken"));
        (0..2).for_each(|_| tally.fail(Failure::new(Path::new("x"), "broken".into(), "R")));
        assert_eq!(tally.failures(true).last().unwrap(), "and 2 more, see the manifest");
        assert_eq!(tally.failures(false)[20], "and 2 more");
    }
}
