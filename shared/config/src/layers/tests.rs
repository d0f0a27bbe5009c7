use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ByteSize, ConfigErrors, EnvironmentSource, Problems, Secret, Sources, Validate, describe, load};

#[derive(Debug, Serialize, Deserialize)]
struct Settings {
    listen: SocketAddr,
    limits: Limits,
    auth: Auth,
    peers: Vec<SocketAddr>,
    names: Vec<String>,
    tls: Option<Tls>,
    labels: BTreeMap<String, String>,
    mode: Mode,
    seed: Option<u64>,
    tag: Option<String>,
    share: f64,
    verbose: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Limits {
    image_bytes: ByteSize,
    requests: u32,
    #[serde(with = "crate::duration")]
    deadline: Duration,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Auth {
    token: Secret,
    more: Vec<Secret>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    depth: Option<u8>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Fast,
    VeryExact,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7400".parse().unwrap(),
            limits: Limits { image_bytes: ByteSize::mib(20), requests: 8, deadline: Duration::from_secs(30) },
            auth: Auth::default(),
            peers: Vec::new(),
            names: vec!["a".into()],
            tls: None,
            labels: BTreeMap::new(),
            mode: Mode::Fast,
            seed: None,
            tag: None,
            share: 0.5,
            verbose: false,
        }
    }
}

impl Validate for Settings {
    fn validate(&self, problems: &mut Problems) {
        problems.check("limits", &self.limits);
        if let Some(tls) = &self.tls {
            problems.check("tls", tls);
        }
        if !(0.0..=1.0).contains(&self.share) {
            problems.add("share", format!("{} is not between 0 and 1", self.share));
        }
    }
}

impl Validate for Limits {
    fn validate(&self, problems: &mut Problems) {
        if self.requests == 0 {
            problems.add("requests", "must be at least 1");
        }
    }
}

impl Validate for Tls {
    fn validate(&self, problems: &mut Problems) {
        if self.depth == Some(0) {
            problems.add("depth", "must be at least 1");
        }
    }
}

/// A load without a file.
fn with(environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Settings, ConfigErrors> {
    load(&sources(None, environment, flags))
}

fn with_file(name: &str, text: &str, environment: &[(&str, &str)]) -> Result<Settings, ConfigErrors> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    load(&sources(Some(path), environment, &[]))
}

fn sources(file: Option<PathBuf>, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
    let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let env = EnvironmentSource::Given(environment.iter().map(pair).collect());
    Sources { file, env_prefix: "TEST", env, overrides: flags.iter().map(pair).collect() }
}

/// The problems as `key: message (from …)`.
fn problems(result: Result<Settings, ConfigErrors>) -> Vec<String> {
    result.unwrap_err().problems().iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_given_means_the_defaults() {
    let settings = with(&[], &[]).unwrap();
    assert_eq!(settings.limits.image_bytes, ByteSize::mib(20));
    assert_eq!(settings.limits.deadline, Duration::from_secs(30));
    assert!(settings.tls.is_none());
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let toml = "[limits]\nimage_bytes = '1MiB'\nrequests = 1\ndeadline = '1s'\n";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.toml");
    fs::write(&path, toml).unwrap();
    let environment = [("TEST__LIMITS__REQUESTS", "2"), ("TEST__LIMITS__DEADLINE", "2s")];
    let settings: Settings = load(&sources(Some(path), &environment, &[("limits.deadline", "3s")])).unwrap();
    assert_eq!(settings.limits.image_bytes, ByteSize::mib(1));
    assert_eq!(settings.limits.requests, 2);
    assert_eq!(settings.limits.deadline, Duration::from_secs(3));
    assert_eq!(settings.listen.port(), 7400);
}

#[test]
fn yaml_and_toml_say_the_same() {
    let toml = "share = 1\npeers = ['10.0.0.1:1', '10.0.0.2:2']\nmode = 'very_exact'\n[limits]\nimage_bytes = 4096\n\
                [tls]\ncertificate = 'c'\nkey = 'k'\n[labels]\nZone = 'eu'\n";
    let yaml = "share: 1\npeers: ['10.0.0.1:1', '10.0.0.2:2']\nmode: very_exact\nlimits:\n  image_bytes: 4096\n\
                tls:\n  certificate: c\n  key: k\nlabels:\n  Zone: eu\n";
    for (name, text) in [("a.toml", toml), ("a.yaml", yaml), ("a.yml", yaml)] {
        let settings = with_file(name, text, &[]).unwrap();
        assert!((settings.share - 1.0).abs() < f64::EPSILON);
        assert_eq!(settings.peers.len(), 2);
        assert_eq!(settings.mode, Mode::VeryExact);
        assert_eq!(settings.limits.image_bytes, ByteSize::kib(4));
        assert_eq!(settings.tls.unwrap().key, PathBuf::from("k"));
        assert_eq!(settings.labels["Zone"], "eu");
    }
}

#[test]
fn a_file_of_comments_is_empty() {
    for name in ["a.toml", "a.yaml"] {
        assert!(with_file(name, "# nothing here\n\n  # nor here\n", &[]).is_ok());
    }
}

#[test]
fn text_takes_the_type_of_its_key() {
    let environment = [
        ("TEST__LISTEN", "[::1]:80"),
        ("TEST__LIMITS__REQUESTS", "12"),
        ("TEST__LIMITS__IMAGE_BYTES", "4096"),
        ("TEST__PEERS", "10.0.0.1:1, 10.0.0.2:2"),
        ("TEST__NAMES", "1,two"),
        ("TEST__SEED", "7"),
        ("TEST__TAG", "7"),
        ("TEST__SHARE", "1"),
        ("TEST__VERBOSE", "true"),
        ("TEST__MODE", "very_exact"),
    ];
    let settings = with(&environment, &[]).unwrap();
    assert_eq!(settings.listen, "[::1]:80".parse().unwrap());
    assert_eq!(settings.limits.requests, 12);
    assert_eq!(settings.limits.image_bytes, ByteSize::kib(4));
    assert_eq!(settings.peers, ["10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap()]);
    assert_eq!(settings.names, ["1", "two"]);
    assert_eq!((settings.seed, settings.tag.as_deref()), (Some(7), Some("7")));
    assert!(settings.verbose);
    assert_eq!(settings.mode, Mode::VeryExact);
    assert_eq!(with(&[], &[("names", "[\"x,y\"]")]).unwrap().names, ["x,y"]);
    assert!(with(&[], &[("names", "")]).unwrap().names.is_empty());
}

#[test]
fn what_stands_in_an_option_is_put_together_from_several_sources() {
    let environment = [("TEST__TLS__KEY", "other"), ("TEST__TLS__DEPTH", "3")];
    let tls = with_file("a.toml", "tls = { certificate = 'c', key = 'k' }", &environment).unwrap().tls.unwrap();
    assert_eq!((tls.certificate, tls.key, tls.depth), ("c".into(), "other".into(), Some(3)));
    let labels = with(&[("TEST__LABELS__ZONE", "7")], &[]).unwrap().labels;
    assert_eq!(labels["zone"], "7");
    assert_eq!(
        problems(with(&[("TEST__TLS__KEY", "k")], &[])),
        ["tls: missing field `certificate` (from environment variable TEST__TLS__KEY)"]
    );
    let found = problems(with(&[], &[("tls", r#"{"certificate": "c", "key": "k", "depth": 0}"#)]));
    assert_eq!(found, ["tls.depth: must be at least 1 (from flag tls)"]);
    let found = problems(with(&[("TEST__TLS__KEYS", "k")], &[]));
    assert!(found[0].starts_with("tls: unknown field `keys`, expected one of"), "{found:?}");
}

#[test]
fn every_problem_is_reported_at_once_with_key_value_and_source() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.toml");
    fs::write(&path, "verbos = true\nlisten = 'here'\n[limits]\nrequests = 0\nimage_byte = 3\ndeadline = 30\n")
        .unwrap();
    let environment = [("TEST__SHARE", "2.5"), ("TEST__LIMITS__IMAGE_BYTES", "20 miles"), ("TEST__IMAGE_BYTES", "1")];
    let found = problems(load(&sources(Some(path.clone()), &environment, &[("mode", "slow"), ("limits", "3")])));
    let file = path.display();
    let expected = [
        format!("verbos: unknown key; the nearest known key is `verbose` (from file {file})"),
        format!("limits.image_byte: unknown key; the nearest known key is `limits.image_bytes` (from file {file})"),
        "image_bytes: unknown key; the nearest known key is `limits.image_bytes` \
         (from environment variable TEST__IMAGE_BYTES)"
            .to_owned(),
        "limits: this is a group of keys: image_bytes, requests, deadline (from flag limits)".to_owned(),
        format!("limits.deadline: invalid type: integer `30`, expected a duration (from file {file})"),
        "limits.image_bytes: `20 miles`: `miles` is not a unit of size: use B, kB, MB, GB, TB, KiB, MiB, GiB, TiB or PiB \
         (from environment variable TEST__LIMITS__IMAGE_BYTES)"
            .to_owned(),
        format!("listen: `here`: invalid socket address syntax (from file {file})"),
        "mode: unknown variant `slow`, expected `fast` or `very_exact` (from flag mode)".to_owned(),
        format!("limits.requests: must be at least 1 (from file {file})"),
        "share: 2.5 is not between 0 and 1 (from environment variable TEST__SHARE)".to_owned(),
    ];
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(found), sorted(expected.into()));
}

#[test]
fn a_bad_value_is_reported_even_where_a_stronger_source_overrides_it() {
    let found = problems(with(&[("TEST__LIMITS__REQUESTS", "many")], &[("limits.requests", "3")]));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("limits.requests: invalid type: string \"many\", expected u32"), "{found:?}");
}

#[test]
fn no_problem_is_invented_for_a_value_that_was_already_refused() {
    let found = problems(with_file("a.toml", "share = 'x'\n[limits]\nrequests = -1\n", &[]));
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn only_the_prefix_with_two_underscores_is_ours() {
    let environment =
        [("TEST_LISTEN", "x"), ("TEST_PORT", "tcp://10.0.0.1:80"), ("TESTING__LISTEN", "x"), ("HOME", "/")];
    assert!(with(&environment, &[]).is_ok());
    assert_eq!(
        problems(with(&[("TEST__LISTEN__PORT", "1")], &[])),
        ["listen.port: unknown key; the nearest known key is `listen` (from environment variable TEST__LISTEN__PORT)"]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_of_the_file() {
    let missing = problems(load(&sources(Some("/nowhere/a.toml".into()), &[], &[])));
    assert!(missing[0].starts_with("cannot read the file: "), "{missing:?}");
    assert!(missing[0].ends_with("(from file /nowhere/a.toml)"), "{missing:?}");
    let found = problems(with_file("a.json", "{}", &[]));
    assert!(found[0].starts_with("a configuration file ends in .toml, .yaml or .yml"), "{found:?}");
    let found = problems(with_file("a.toml", "listen = 'x\n", &[]));
    assert!(found[0].contains("line 1"), "{found:?}");
    assert!(!problems(with_file("a.yaml", "a: [1\n", &[])).is_empty());
}

#[test]
fn a_secret_is_not_in_any_message() {
    let environment = [("TEST__AUTH__TOKEN", "hunter2"), ("TEST__AUTH__MORE", "hunter2,hunter3"), ("TEST__SHARE", "9")];
    assert!(!with(&environment, &[]).unwrap_err().to_string().contains("hunter"));
    let settings = with(&environment[..2], &[]).unwrap();
    assert_eq!((settings.auth.token.expose(), settings.auth.more.len()), ("hunter2", 2));
    assert!(!format!("{settings:?}{}", describe(&settings)).contains("hunter"));
    let found = problems(with(&[("TEST__AUTH__TOKEN", "file:")], &[]));
    assert!(found[0].starts_with("auth.token: cannot read secret file"), "{found:?}");
    let found = problems(with_file("a.toml", "auth.more = 'hunter2'\n", &[]));
    assert!(found[0].starts_with("auth.more: this must be a list"), "{found:?}");
    let found = problems(with_file("a.toml", "auth.token = 12345\nauth.more = [12345]\n", &[]));
    assert!(found.len() == 2 && !found.concat().contains("12345"), "{found:?}");
}

#[test]
fn the_description_lists_every_key_and_reads_back() {
    let text = describe(&Settings::default());
    let expected = "listen = \"127.0.0.1:7400\"\n\
                    limits.image_bytes = \"20MiB\"\n\
                    limits.requests = 8\n\
                    limits.deadline = \"30s\"\n\
                    auth.token = \"\"\n\
                    auth.more = []\n\
                    peers = []\n\
                    names = [\"a\"]\n\
                    # tls is not set\n\
                    labels = {}\n\
                    mode = \"fast\"\n\
                    # seed is not set\n\
                    # tag is not set\n\
                    share = 0.5\n\
                    verbose = false\n";
    assert_eq!(text, expected);
    let again = with_file("a.toml", &text, &[]).unwrap();
    assert_eq!(describe(&again), text);
}

#[test]
fn a_set_option_is_described_so_that_it_reads_back() {
    let toml = "tls = { certificate = 'c', key = \"k\\n\" }\nlabels = { 'a b' = 'x' }\n";
    let settings = with_file("a.toml", toml, &[]).unwrap();
    let text = describe(&settings);
    assert!(text.contains("tls.certificate = \"c\"\ntls.key = \"k\\n\"\n# tls.depth is not set\n"), "{text}");
    assert!(text.contains("labels.\"a b\" = \"x\"\n"), "{text}");
    assert_eq!(describe(&with_file("a.toml", &text, &[]).unwrap()), text);
}

#[test]
fn the_environment_of_the_process_is_read_under_the_prefix_only() {
    let settings: Settings = load(&Sources::new("TESSERA_TEST_OF_AN_UNUSED_PREFIX")).unwrap();
    assert_eq!(settings.limits.requests, 8);
}
