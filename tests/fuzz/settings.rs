//! Settings files that somebody edited: every mistake is named with its key, and what is taken is what is printed.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tessera_config::{ConfigErrors, EnvironmentSource, Sources, Validate, describe, load};
use tessera_gateway::BuildError;
use tessera_rpc::client;
use tessera_testkit::{damaged, default_cases, family_dir, peak};

/// Values that are of another kind, at the end of a range, or nearly right.
const VALUES: [&str; 40] = [
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999",
    "0.5",
    "-0.5",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "true",
    "\"\"",
    "\"x\"",
    "\"0\"",
    "\"18446744073709551615\"",
    "\"off\"",
    "\"p99\"",
    "\"p100\"",
    "\"0s\"",
    "\"1ns\"",
    "\"584554530years\"",
    "\"9999999999999y\"",
    "\"1h 1h\"",
    "\"0B\"",
    "\"16EiB\"",
    "\"1e30GiB\"",
    "\"50%\"",
    "\"100%\"",
    "\"-1%\"",
    "[]",
    "{}",
    "[[]]",
    "[\"http://a:1\", \"http://a:1\"]",
    "[\"dns://\"]",
    "[\"srv://_a._b.c\", \"file:///\"]",
    "[\"http://[::1]:1\"]",
    "\"[::]:0\"",
    "1979-05-27T07:32:00Z",
];

thread_local! {
    /// Where this thread writes what it tries.
    static FOLDER: TempDir = tempfile::tempdir().unwrap();
}

trait Service: Serialize + DeserializeOwned + Default + Validate {}
impl<S: Serialize + DeserializeOwned + Default + Validate> Service for S {}

fn read<S: Service>(file: &Path) -> Result<S, ConfigErrors> {
    let env = EnvironmentSource::Given(Default::default());
    load(&Sources { file: Some(file.to_owned()), env_prefix: "TEST", env, overrides: Vec::new() })
}

/// Reads a file; returns the settings if they are fine.
fn take<S: Service>(text: &[u8]) -> Option<S> {
    FOLDER.with(|folder| {
        let file = folder.path().join("settings.toml");
        fs::write(&file, text).unwrap();
        let (settings, taken) = peak(|| read::<S>(&file));
        assert!(taken < 200 * text.len() + (4 << 20), "{taken} bytes for {}", text.len());
        match settings {
            Ok(settings) => {
                let printed = describe(&settings);
                fs::write(&file, &printed).unwrap();
                let again: S = read(&file).unwrap_or_else(|errors| panic!("{errors}\n{printed}"));
                assert_eq!(describe(&again), printed);
                Some(settings)
            }
            Err(errors) => {
                let said = errors.to_string();
                assert!(!said.trim().is_empty() && !said.contains("do not read back"), "{said}");
                None
            }
        }
    })
}

fn take_as_all(text: &[u8]) {
    take::<tessera_gateway::Settings>(text);
    take::<tessera_vision::Settings>(text);
    take::<tessera_language::Settings>(text);
}

/// What the three services print, and their examples.
fn corpus() -> Vec<Vec<u8>> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config");
    let files = fs::read_dir(examples).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let printed = [
        describe(&tessera_gateway::Settings::default()),
        describe(&tessera_vision::Settings::default()),
        describe(&tessera_language::Settings::default()),
    ];
    files.chain(printed.map(String::into_bytes)).collect()
}

/// Puts values in the place of those of some keys.
fn edit(text: &[u8], edits: &[(usize, &str)]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let keys: Vec<usize> = (0..lines.len()).filter(|&line| lines[line].contains(" = ")).collect();
    for (which, value) in edits {
        let line = &mut lines[keys[which % keys.len()]];
        *line = format!("{} = {value}", line.split(" = ").next().unwrap_or_default());
    }
    lines.join("\n")
}

/// A configuration of the gateway that can be started, but for these values.
fn of_the_gateway(edits: &[(usize, &str)]) -> String {
    let settings = tessera_gateway::Settings { model: family_dir("mistral"), ..Default::default() };
    edit(describe(&settings).as_bytes(), edits)
}

proptest! {
    #![proptest_config(default_cases(600))]

    #[test]
    fn edited_settings_are_taken_or_refused(
        which: Index, edits in prop::collection::vec((any::<usize>(), select(VALUES.to_vec())), 1..4),
    ) {
        take_as_all(edit(which.get(&corpus()).as_slice(), &edits).as_bytes());
    }

    #[test]
    fn damaged_settings_are_taken_or_refused(text in damaged(corpus())) {
        take_as_all(&text);
    }

    /// What is no address is refused, by the list of workers and by whoever would connect to it.
    #[test]
    fn any_text_is_an_address_or_is_refused(
        scheme in select(vec!["", "http://", "https://", "dns://", "srv://", "file://", "unix:"]), rest in ".{0,40}",
    ) {
        let url = format!("{scheme}{rest}");
        if let Err(error) = client::endpoint(&url) {
            prop_assert_eq!(error.reason, "URL_INVALID");
        }
        let list = format!("model = \"/m\"\nvision = [{:?}]", url);
        take::<tessera_gateway::Settings>(list.as_bytes());
    }
}

/// Whether a gateway can be made of settings, if they are fine, or says that a file that they name cannot be used.
fn starts(text: &str) -> bool {
    let settings = take::<tessera_gateway::Settings>(text.as_bytes());
    let Some(settings) = settings.filter(|settings| settings.model == family_dir("mistral")) else { return true };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let built = runtime.block_on(tessera_gateway::build(settings));
    runtime.shutdown_background();
    matches!(built, Ok(_) | Err(BuildError::Files(_) | BuildError::Urls(_)))
}

#[test]
fn a_gateway_starts_with_the_largest_numbers_that_are_taken() {
    let keys = of_the_gateway(&[]).lines().filter(|line| line.contains(" = ")).count();
    for value in ["9223372036854775807", "\"18446744073709551615\"", "\"16EiB\"", "\"584554530years\""] {
        for key in 0..keys {
            let text = of_the_gateway(&[(key, value)]);
            assert!(starts(&text), "{text}");
        }
    }
}

proptest! {
    #![proptest_config(default_cases(100))]

    /// Whatever is taken can be served with.
    #[test]
    fn a_gateway_starts_with_whatever_is_taken(
        edits in prop::collection::vec((any::<usize>(), select(VALUES.to_vec())), 1..3),
    ) {
        let text = of_the_gateway(&edits);
        prop_assert!(starts(&text), "{text}");
    }
}
