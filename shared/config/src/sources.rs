//! Where values are written: a file, the environment, flags. Each is read into what was given, key by key.

use std::{collections::BTreeMap, env, fs, path::Path, path::PathBuf};

use config::{FileFormat, Source};
use serde_json::{Map, Value};

use crate::problems::{Origin, Problem};

/// Separates the levels of a key in the name of an environment variable. Two underscores, because one is part of names
/// and because Kubernetes puts variables such as `TESSERA_GATEWAY_PORT` into every pod.
const LEVEL: &str = "__";

/// The layers over the defaults, from the weakest to the strongest.
#[derive(Clone, Debug)]
pub struct Sources {
    /// A TOML or YAML file, told apart by its extension.
    pub file: Option<PathBuf>,
    /// What the names of the environment variables start with, without the two underscores that follow:
    /// `TESSERA_GATEWAY` reads `TESSERA_GATEWAY__LIMITS__IMAGE_BYTES` as `limits.image_bytes`.
    pub env_prefix: &'static str,
    /// The environment.
    pub env: EnvironmentSource,
    /// Flags: dotted key and value as text.
    pub overrides: Vec<(String, String)>,
}

/// Which environment is read.
#[derive(Clone, Debug)]
pub enum EnvironmentSource {
    /// That of this process.
    Process,
    /// A given one, for tests.
    Given(BTreeMap<String, String>),
}

/// One value as it was given.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// The levels of its key.
    pub(crate) path: Vec<String>,
    pub(crate) input: Input,
    pub(crate) origin: Origin,
}

/// A value of a file has a type; a value of a variable or a flag is text that takes the type of its key.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Typed(Value),
    Text(String),
}

impl Sources {
    /// Nothing but the defaults and the environment of this process under `env_prefix`.
    pub fn new(env_prefix: &'static str) -> Self {
        Self { file: None, env_prefix, env: EnvironmentSource::Process, overrides: Vec::new() }
    }

    /// Everything that was given, weakest first. A typed value may be a whole tree, with an empty path.
    pub(crate) fn given(&self, problems: &mut Vec<Problem>) -> Vec<Given> {
        let mut given = Vec::new();
        if let Some(path) = &self.file {
            let origin = Origin::File(path.clone());
            match read_file(path) {
                Ok(tree) => given.push(Given { path: Vec::new(), input: Input::Typed(Value::Object(tree)), origin }),
                Err(message) => problems.push(Problem { key: String::new(), message, origin }),
            }
        }
        self.environment(&mut given, problems);
        given.extend(self.overrides.iter().map(|(key, text)| Given {
            path: key.split('.').map(str::to_owned).collect(),
            input: Input::Text(text.clone()),
            origin: Origin::Flag(key.clone()),
        }));
        given
    }

    fn environment(&self, given: &mut Vec<Given>, problems: &mut Vec<Problem>) {
        let start = format!("{}{LEVEL}", self.env_prefix);
        let mut add = |name: &str, text: Option<String>| {
            let Some(rest) = name.strip_prefix(&start) else { return };
            let path: Vec<String> = rest.split(LEVEL).map(str::to_ascii_lowercase).collect();
            let origin = Origin::Environment(name.to_owned());
            match text {
                Some(text) => given.push(Given { path, input: Input::Text(text), origin }),
                None => problems.push(Problem { key: path.join("."), message: "value is not UTF-8".into(), origin }),
            }
        };
        match &self.env {
            EnvironmentSource::Process => {
                let mut variables: Vec<_> = env::vars_os().collect();
                variables.sort();
                for (name, text) in variables {
                    add(&name.to_string_lossy(), text.into_string().ok());
                }
            }
            EnvironmentSource::Given(variables) => {
                variables.iter().for_each(|(name, text)| add(name, Some(text.clone())));
            }
        }
    }
}

fn read_file(path: &Path) -> Result<Map<String, Value>, String> {
    let format = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => FileFormat::Toml,
        Some("yaml" | "yml") => FileFormat::Yaml,
        _ => return Err("a configuration file ends in .toml, .yaml or .yml".to_owned()),
    };
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read the file: {error}"))?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Map::new());
    }
    let tree = config::File::from_str(&text, format).collect().map_err(|error| error.to_string())?;
    tree.into_iter()
        .map(|(key, value)| Ok((key, value.try_deserialize().map_err(|error| error.to_string())?)))
        .collect()
}
