//! The page of limits tells what the services' defaults are, and leaves none of their bounds out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tessera_api::{embedding, gateway, language};
use tessera_config::ByteSize;

use crate::defaults::{self, NOT_SET};
use crate::pages::{self, rows};

/// Settings without a value that bound nothing: an address.
const NO_BOUNDS: [&str; 1] = ["server.health_listen"];

/// The bounds among settings: every number, size and time, and what is not set.
fn bounds(settings: &impl Serialize) -> BTreeMap<String, String> {
    let said = |(key, value): (String, Value)| match value {
        Value::Number(number) => Some((key, number.to_string())),
        Value::Null if NO_BOUNDS.contains(&key.as_str()) => None,
        Value::Null => Some((key, NOT_SET.to_owned())),
        Value::String(text) if is_bound(&text) => Some((key, text)),
        Value::String(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    defaults::flat(settings).into_iter().filter_map(said).collect()
}

fn is_bound(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Time {
        #[serde(rename = "time", with = "tessera_config::duration")]
        _time: Duration,
    }
    text.parse::<ByteSize>().is_ok() || serde_json::from_value::<Time>(serde_json::json!({ "time": text })).is_ok()
}

/// What the page says wrong of a service.
fn problems(page: &str, heading: &str, settings: &impl Serialize) -> Vec<String> {
    let mut missing = bounds(settings);
    assert!(missing.len() > 4, "{heading}: {missing:?}");
    let mut wrong = Vec::new();
    for [key, default, beyond] in rows::<3>(page, heading) {
        match missing.remove(&key) {
            None => wrong.push(format!("{heading}: `{key}` is no bound of its settings, or stands there twice")),
            Some(real) if real != default => wrong.push(format!("{heading}: `{key}` is `{real}`, not `{default}`")),
            Some(_) if beyond.trim().is_empty() => wrong.push(format!("{heading}: nothing is said of `{key}`")),
            Some(_) => {}
        }
    }
    wrong.extend(missing.iter().map(|(key, real)| format!("{heading}: a row is missing: | `{key}` | `{real}` | … |")));
    wrong
}

#[test]
fn every_limit_is_on_the_page_with_its_default() {
    let page = pages::read("deploy/limits.md");
    let mut wrong = problems(&page, "Gateway", &tessera_gateway::Settings::default());
    wrong.extend(problems(&page, "Tenant", &tessera_gateway::TenantSettings::default()));
    wrong.extend(problems(&page, "Vision worker", &tessera_vision::Settings::default()));
    wrong.extend(problems(&page, "Language worker", &tessera_language::Settings::default()));
    let fixed = rows::<3>(&page, "Fixed");
    for (bound, value) in [
        ("bytes of a URL", gateway::MAX_URL_BYTES),
        ("bytes of an id in a batch", gateway::MAX_ID_BYTES),
        ("stop strings", gateway::MAX_STOP_STRINGS),
        ("samples, beams", language::MAX_SAMPLES),
        ("likeliest tokens with their log-probabilities", language::MAX_LOGPROBS),
        ("keys in a request to a store", embedding::MAX_KEYS),
    ] {
        if !fixed.iter().any(|[name, said, _]| name == bound && *said == value.to_string()) {
            wrong.push(format!("Fixed: {bound} is `{value}`"));
        }
    }
    assert!(wrong.is_empty(), "deploy/limits.md:\n{}", wrong.join("\n"));
}

#[test]
fn a_page_that_went_stale_is_found() {
    #[derive(Serialize)]
    struct Group {
        size: ByteSize,
        share: f64,
        tiles: Option<usize>,
    }
    #[derive(Serialize)]
    struct Sample {
        numbers: [u8; 3],
        group: Group,
        more: [Option<u8>; 0],
        name: &'static str,
        a: u8,
        b: u8,
        c: u8,
        d: u8,
        e: u8,
        f: u8,
        #[serde(with = "tessera_config::duration")]
        time: Duration,
    }
    let group = Group { size: ByteSize::mib(2), share: 0.5, tiles: None };
    let time = Duration::from_secs(90);
    let settings = Sample { numbers: [1; 3], group, more: [], name: "auto", a: 1, b: 2, c: 3, d: 4, e: 5, f: 6, time };
    let good = "# Limits\n\n## A\n\n| key | default | beyond it |\n|---|---|---|\n| `a` | `1` | x |\n| `b` | `2` | x |\n\
                | `c` | `3` | x |\n| `d` | `4` | x |\n| `e` | `5` | x |\n| `f` | `6` | x |\n| `group.size` | `2MiB` | x |\n\
                | `group.share` | `0.5` | a | b |\n| `group.tiles` | not set | x |\n| `time` | `1m 30s` | x |\n\n## B\n";
    assert_eq!(problems(good, "A", &settings), [""; 0]);
    for (from, to, expected) in [
        ("| `2MiB` |", "| `3MiB` |", "is `2MiB`, not `3MiB`"),
        ("| `f` | `6` | x |\n", "", "a row is missing: | `f` | `6`"),
        ("`group.share`", "`group.shares`", "`group.shares` is no bound"),
        ("| `1m 30s` | x |", "| `1m 30s` |  |", "nothing is said of `time`"),
    ] {
        let stale = good.replace(from, to);
        let found = problems(&stale, "A", &settings);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:?}");
    }
}
