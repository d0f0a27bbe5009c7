//! What came of a run, as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::client::Failure;
use crate::load::Record;
use crate::names::Role;
use crate::schedule::{Fault, Kind};
use crate::strike::Struck;

/// An answer took a normal time that took no longer than this many times the median of its question before the first fault,
const NORMAL: u32 = 3;
/// and so much.
const SLACK: Duration = Duration::from_millis(200);

/// A run.
pub(crate) struct Run<'a> {
    pub(crate) struck: &'a [Struck],
    pub(crate) records: &'a [Record],
    /// When the first fault could come.
    pub(crate) began: Instant,
}

/// One row.
#[derive(Default)]
struct Row {
    count: usize,
    touched: usize,
    lost: usize,
    wrong: usize,
    again: usize,
    recoveries: Vec<Duration>,
    /// The longest time that something took which the fault touched.
    longest: Duration,
}

impl Run<'_> {
    pub(crate) fn lost(&self) -> usize {
        self.records.iter().filter(|record| is_lost(record)).count()
    }

    pub(crate) fn wrong(&self) -> usize {
        self.records.iter().filter(|record| is_wrong(record)).count()
    }

    /// The table, and the figures of the load below it.
    pub(crate) fn markdown(&self) -> String {
        let normal = self.normal();
        let mut rows: BTreeMap<Kind, Row> = BTreeMap::new();
        for struck in self.struck {
            let row = rows.entry(struck.fault.kind).or_default();
            row.count += 1;
            for record in self.records.iter().filter(|record| touches(struck, record)) {
                row.touched += 1;
                row.lost += usize::from(is_lost(record));
                row.wrong += usize::from(is_wrong(record));
                row.again += usize::from(record.way.moved + record.way.refused > 0);
                row.longest = row.longest.max(record.took());
            }
            row.recoveries.extend(self.recovery(struck, &normal));
        }
        let mut text = String::from(
            "| fault | count | requests touched | lost | wrong | asked again | recovery: median | p95 | max | longest request |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for (kind, row) in &mut rows {
            row.recoveries.sort_unstable();
            let at = |percent: usize| row.recoveries.get((row.recoveries.len() * percent).div_ceil(100).max(1) - 1);
            let [median, p95, most] =
                [at(50), at(95), at(100)].map(|time| time.map_or("–".into(), |time| seconds(*time)));
            let Row { count, touched, lost, wrong, again, .. } = row;
            let longest = seconds(row.longest);
            let _ = writeln!(
                text,
                "| {kind} | {count} | {touched} | {lost} | {wrong} | {again} | {median} | {p95} | {most} | {longest} |"
            );
        }
        text + &self.figures()
    }

    fn figures(&self) -> String {
        let sum = |of: &dyn Fn(&Record) -> usize| self.records.iter().map(of).sum::<usize>();
        let (asked, lasted) = (self.records.len(), self.lasted());
        let answers = self.records.iter().filter(|record| record.has_answer).count();
        format!(
            "\n{} faults in {:.0} s. {asked} requests ({:.1} a second), of which {answers} were answers: {} lost, {} wrong. \
             Answers went on elsewhere {} times. Asked again: {} times at the other gateway because the first was lost or \
             ended, {} times because no language worker was left, {} times because a queue was full; an image was sent again \
             for a handle {} times.\n",
            self.struck.len(),
            lasted.as_secs_f64(),
            asked as f64 / lasted.as_secs_f64(),
            self.lost(),
            self.wrong(),
            sum(&|record| record.way.continuations),
            sum(&|record| record.way.moved),
            sum(&|record| record.way.refused),
            sum(&|record| record.way.waited),
            sum(&|record| record.resent),
        )
    }

    fn lasted(&self) -> Duration {
        let ends = self.records.iter().map(|record| record.ended);
        ends.max().unwrap_or(self.began) - self.began
    }

    /// The longest normal time of each task: what it took before the first fault, under the same load.
    fn normal(&self) -> BTreeMap<&'static str, Duration> {
        let mut times: BTreeMap<&'static str, Vec<Duration>> = BTreeMap::new();
        for record in self.records.iter().filter(|record| record.ended < self.began) {
            times.entry(record.task).or_default().push(record.took());
        }
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2]
        };
        times.into_iter().map(|(task, times)| (task, median(times) * NORMAL + SLACK)).collect()
    }

    /// From a fault to the first end of something that began after it, needed what it hit, and took a normal time.
    fn recovery(&self, struck: &Struck, normal: &BTreeMap<&'static str, Duration>) -> Option<Duration> {
        let is_normal = |record: &&Record| {
            record.began >= struck.began
                && record.failure.is_none()
                && needs(&struck.fault, record)
                && normal.get(record.task).is_some_and(|normal| record.took() <= *normal)
        };
        self.records.iter().filter(is_normal).map(|record| record.ended - struck.began).min()
    }
}

/// Whether a request was in progress at some moment of a fault.
fn touches(struck: &Struck, record: &Record) -> bool {
    record.began < struck.healed && record.ended > struck.began && needs(&struck.fault, record)
}

/// Whether a request needs what a fault hit: an image the vision pool, an answer the language pool, everything its gateway.
fn needs(fault: &Fault, record: &Record) -> bool {
    let hits = fault.what.hits();
    let needs = |role: Role| match role {
        Role::Gateway => hits.iter().any(|name| name.role == Role::Gateway && name.number == record.gateway),
        Role::Vision => record.has_pictures,
        Role::Language => record.has_answer,
    };
    hits.first().map_or(record.has_pictures, |name| needs(name.role))
}

fn is_lost(record: &Record) -> bool {
    matches!(record.failure, Some(Failure::Lost(_) | Failure::Gone))
}

fn is_wrong(record: &Record) -> bool {
    matches!(record.failure, Some(Failure::Wrong(_)))
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
