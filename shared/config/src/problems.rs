//! What is wrong with a configuration, and where it was written.

use std::{fmt, path::PathBuf};

/// Checks that a type alone cannot express.
pub trait Validate {
    /// Adds to `problems` whatever is wrong with these settings, each under its key relative to them.
    fn validate(&self, problems: &mut Problems);
}

/// Collects problems, each under a dotted key.
#[derive(Debug, Default)]
pub struct Problems {
    prefix: String,
    found: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The dotted key; empty for a problem of a whole source.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// Who gave the value.
    pub origin: Origin,
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// This configuration file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// This flag, by its dotted key.
    Flag(String),
}

/// Everything that is wrong with a configuration; there is at least one problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl Problems {
    /// Adds a problem with the value of `key`.
    pub fn add(&mut self, key: &str, message: impl Into<String>) {
        let key = join(&self.prefix, key);
        self.found.push(Problem { key, message: message.into(), origin: Origin::Default });
    }

    /// Validates the settings that stand under `key`.
    pub fn check(&mut self, key: &str, settings: &impl Validate) {
        let inner = join(&self.prefix, key);
        let outer = std::mem::replace(&mut self.prefix, inner);
        settings.validate(self);
        self.prefix = outer;
    }

    /// What was found, each with its origin still to be filled in.
    pub(crate) fn into_found(self) -> Vec<Problem> {
        self.found
    }
}

fn join(prefix: &str, key: &str) -> String {
    match (prefix, key) {
        ("", key) => key.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, key) => format!("{prefix}.{key}"),
    }
}

impl ConfigErrors {
    /// Wraps the problems of a load; `None` if there are none.
    pub(crate) fn from_problems(problems: Vec<Problem>) -> Option<Self> {
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// The problems, in the order of the sources.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.message)?;
        match &self.origin {
            Origin::Default => Ok(()),
            origin => write!(f, " (from {origin})"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(key) => write!(f, "flag {key}"),
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "the configuration has {} problem{plural}:", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}
