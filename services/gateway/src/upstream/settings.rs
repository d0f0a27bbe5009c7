//! Settings of the pools: where workers are listed, when one is left out, how often a call is made twice.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tessera_config::{Problems, Validate, duration};

/// How the lists of workers are kept up to date.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoverySettings {
    /// Time between two looks at names and files.
    #[serde(with = "duration")]
    pub refresh: Duration,
    /// Workers of one pool at most; what is listed beyond is left out.
    pub members: usize,
}

/// When a worker gets no work, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthSettings {
    /// Calls in a row that fail in the transport before a worker that can still be reached is ejected.
    pub failures: usize,
    /// Largest share of a pool that is ejected for failed calls: more is the fault of the gateway's own network.
    pub ejected: f64,
    /// Time before a worker that was lost or ejected is tried again; doubled each time.
    #[serde(with = "duration")]
    pub first_pause: Duration,
    /// The longest of these times.
    #[serde(with = "duration")]
    pub longest_pause: Duration,
}

/// How images are given to vision workers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncodeSettings {
    /// When a second worker is asked for an image that takes long.
    pub hedge: Hedge,
    /// Least time before that.
    #[serde(with = "duration")]
    pub hedge_floor: Duration,
}

/// How many calls may be made again on another worker, hedged ones included.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    /// As a share of all calls.
    pub share: f64,
    /// Besides that, so many a second.
    pub per_second: f64,
}

/// When a second worker is asked as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Hedge {
    /// Never.
    #[default]
    Off,
    /// After the time in which this percentage of the last encodings was done.
    Percentile(u8),
}

/// Why a text is no [`Hedge`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither \"off\" nor a percentile from \"p50\" to \"p99\"")]
pub struct ParseHedgeError(String);

impl Default for DiscoverySettings {
    fn default() -> Self {
        Self { refresh: Duration::from_secs(5), members: 1024 }
    }
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self { failures: 3, ejected: 0.5, first_pause: Duration::from_secs(1), longest_pause: Duration::from_secs(30) }
    }
}

impl Default for EncodeSettings {
    fn default() -> Self {
        Self { hedge: Hedge::Off, hedge_floor: Duration::from_millis(100) }
    }
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { share: 0.2, per_second: 10.0 }
    }
}

impl Validate for DiscoverySettings {
    fn validate(&self, problems: &mut Problems) {
        if self.refresh < Duration::from_millis(100) {
            problems.add("refresh", "must be at least 100ms: write a time such as 5s");
        }
        if self.members == 0 {
            problems.add("members", "must be at least 1");
        }
    }
}

impl Validate for HealthSettings {
    fn validate(&self, problems: &mut Problems) {
        if self.failures == 0 {
            problems.add("failures", "must be at least 1: write how many calls in a row may fail, such as 3");
        }
        if !(0.0..=1.0).contains(&self.ejected) {
            problems.add("ejected", "must be a share from 0.0 (nobody) to 1.0 (everybody): write one such as 0.5");
        }
        if self.first_pause.is_zero() {
            problems.add("first_pause", "must be longer than nothing: write a time such as 1s");
        }
        if self.longest_pause < self.first_pause {
            problems.add("longest_pause", "must not be shorter than first_pause: write a time such as 30s");
        }
    }
}

impl Validate for RetrySettings {
    fn validate(&self, problems: &mut Problems) {
        if !(0.0..=1.0).contains(&self.share) {
            problems.add("share", "must be a share of all calls from 0.0 to 1.0: write one such as 0.2");
        }
        if !(0.0..=1e6).contains(&self.per_second) {
            problems.add("per_second", "must be a number from 0 to 1000000: write one such as 10.0");
        }
    }
}

impl FromStr for Hedge {
    type Err = ParseHedgeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let percentile = || text.strip_prefix('p')?.parse().ok().filter(|percent| (50..=99).contains(percent));
        match text {
            "off" => Ok(Self::Off),
            _ => percentile().map(Self::Percentile).ok_or_else(|| ParseHedgeError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Hedge {
    type Error = ParseHedgeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Hedge> for String {
    fn from(hedge: Hedge) -> Self {
        hedge.to_string()
    }
}

impl fmt::Display for Hedge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Percentile(percent) => write!(f, "p{percent}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hedge_is_off_or_a_percentile() {
        for text in ["off", "p50", "p95", "p99"] {
            assert_eq!(text.parse::<Hedge>().unwrap().to_string(), text);
        }
        for text in ["", "on", "p", "p49", "p100", "95", "p9.5"] {
            let error = text.parse::<Hedge>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{text:?} is neither \"off\" nor a percentile from \"p50\" to \"p99\"")
            );
        }
    }
}
