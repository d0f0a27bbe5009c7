//! What a part of the proof found: figures and checks, in a file of JSON that the table is made from.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Everything that one part found. The Python side writes the same.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Where it ran, and with what.
    #[serde(default)]
    pub(crate) machine: Vec<String>,
    #[serde(default)]
    pub(crate) figures: Vec<Figure>,
    #[serde(default)]
    pub(crate) checks: Vec<Check>,
}

/// Something that was measured several times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
    pub(crate) runs: usize,
}

/// Something that holds or does not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) holds: bool,
    /// What was found, and what would do.
    pub(crate) found: String,
}

impl Report {
    /// Adds the runs of a measurement.
    pub(crate) fn figure(&mut self, name: &str, unit: &str, mut runs: Vec<f64>) {
        runs.sort_by(f64::total_cmp);
        let (least, median, most) = (runs[0], runs[runs.len() / 2], runs[runs.len() - 1]);
        println!("{name:52} {least:10.3} {median:10.3} {most:10.3} {unit}");
        self.figures.push(Figure { name: name.into(), unit: unit.into(), least, median, most, runs: runs.len() });
    }

    pub(crate) fn check(&mut self, name: &str, holds: bool, found: String) {
        let verdict = if holds { "holds" } else { "FAILS" };
        println!("{name}: {verdict}: {found}");
        self.checks.push(Check { name: name.into(), holds, found });
    }

    /// Whether every check holds.
    pub(crate) fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }

    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(self).expect("a report is JSON");
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Milliseconds of each of `runs` runs, after `warm_up` that do not count.
pub(crate) fn milliseconds(warm_up: usize, runs: usize, mut run: impl FnMut()) -> Vec<f64> {
    let mut timed = || {
        let begun = Instant::now();
        run();
        begun.elapsed().as_secs_f64() * 1e3
    };
    (0..warm_up).for_each(|_| _ = timed());
    (0..runs).map(|_| timed()).collect()
}
