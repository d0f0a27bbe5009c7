//! What is made of the requests of one load.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clients::Told;

/// Figures of one load.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Requests that came in a second.
    came: f64,
    /// Whole answers in time, a second.
    pub(crate) goodput: f64,
    /// Milliseconds of the answers.
    latency: [f64; 2],
    /// Percentage of the requests.
    refused: f64,
    /// Milliseconds until nearly all who were refused knew it.
    refusal: f64,
    /// Percentage of the requests that ended otherwise, and as what.
    otherwise: f64,
    reasons: BTreeMap<String, usize>,
}

impl Figures {
    /// Of these requests, which were due in this time.
    pub(crate) fn of(told: impl Iterator<Item = Told>, time: Duration) -> Self {
        let told: Vec<Told> = told.collect();
        let (count, seconds) = (told.len().max(1) as f64, time.as_secs_f64());
        let took = |of: &dyn Fn(&Told) -> bool| {
            let took = told.iter().filter(|told| of(told)).map(|told| told.took.as_secs_f64() * 1e3);
            let mut took: Vec<f64> = took.collect();
            took.sort_by(f64::total_cmp);
            took
        };
        let (answered, refused) = (took(&|told| told.outcome.is_ok()), took(&|told| told.refusal().is_some()));
        let good = told.iter().filter(|told| told.is_good()).count();
        let mut reasons = BTreeMap::new();
        for error in told.iter().filter_map(|told| told.outcome.as_ref().err()) {
            *reasons.entry(error.reason.to_string()).or_default() += 1;
        }
        Self {
            came: count / seconds,
            goodput: good as f64 / seconds,
            latency: [percentile(&answered, 0.5), percentile(&answered, 0.99)],
            refused: 100.0 * refused.len() as f64 / count,
            refusal: percentile(&refused, 0.99),
            otherwise: 100.0 * (told.len() - answered.len() - refused.len()) as f64 / count,
            reasons,
        }
    }

    /// The head of a table.
    pub(crate) fn head(first: &str) -> String {
        let columns = "came/s | goodput/s | of the peak | p50 ms | p99 ms | refused % | told within ms (p99) | otherwise % | reasons";
        let lines = columns.split('|').map(|_| "---|").collect::<String>();
        format!("| {first} | {columns} |\n|---|{lines}")
    }

    /// A row of it: means over rounds, with the least and the most.
    pub(crate) fn row(first: &str, rounds: &[Self], peak: f64) -> String {
        let of = |figure: &dyn Fn(&Self) -> f64| spread(&rounds.iter().map(figure).collect::<Vec<f64>>());
        let mut reasons = BTreeMap::<&str, usize>::new();
        for (reason, count) in rounds.iter().flat_map(|round| &round.reasons) {
            *reasons.entry(reason).or_default() += count;
        }
        let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let cells = [
            of(&|round| round.came),
            of(&|round| round.goodput),
            format!("{} %", of(&|round| 100.0 * round.goodput / peak)),
            of(&|round| round.latency[0]),
            of(&|round| round.latency[1]),
            of(&|round| round.refused),
            of(&|round| round.refusal),
            of(&|round| round.otherwise),
            reasons.join(", "),
        ];
        format!("| {first} | {} |", cells.join(" | "))
    }
}

/// The mean, and the least and the most in brackets.
pub(crate) fn spread(values: &[f64]) -> String {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (least, most) =
        values.iter().fold((f64::MAX, f64::MIN), |(least, most), &value| (least.min(value), most.max(value)));
    format!("{mean:.1} ({least:.1}–{most:.1})")
}

/// Of sorted values; 0 where there are none.
fn percentile(values: &[f64], part: f64) -> f64 {
    let index = ((values.len() as f64 * part).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(index).copied().unwrap_or(0.0)
}
