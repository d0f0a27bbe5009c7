//! Where the time of a step goes, by the device's own clock.

use std::time::Duration;

use tessera_model::{ModelError, Phase};

use super::report::Report;

/// Steps that are timed.
const STEPS: usize = 5;

/// The phases, in words.
const NAMES: [(Phase, &str); 7] = [
    (Phase::Copies, "copies to the device and back"),
    (Phase::Embedding, "embedding"),
    (Phase::Pointwise, "norms and gates"),
    (Phase::Products, "products"),
    (Phase::Attention, "attention and cache"),
    (Phase::Head, "head"),
    (Phase::Choice, "choice of tokens"),
];

/// The names of the phases' figures, each with what it is called in the table.
pub(crate) fn figures(what: &str) -> impl Iterator<Item = (String, &'static str)> {
    NAMES.into_iter().map(move |(_, name)| (format!("{what}: {name}"), name))
}

/// Reports the phases of some steps; `step` runs one and returns how long they took.
pub(crate) fn report(
    what: &str,
    report: &mut Report,
    mut step: impl FnMut() -> Result<Vec<(Phase, Duration)>, ModelError>,
) -> Result<(), ModelError> {
    let steps = (0..STEPS).map(|_| step()).collect::<Result<Vec<_>, _>>()?;
    for ((name, _), (phase, _)) in figures(what).zip(NAMES) {
        let of =
            |times: &Vec<(Phase, Duration)>| times.iter().find(|(other, _)| *other == phase).map(|(_, time)| *time);
        let times = steps.iter().filter_map(of).map(|time| time.as_secs_f64() * 1e3).collect();
        report.figure(&name, "ms", times);
    }
    Ok(())
}
