//! Logs: which are written, and how.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt};

/// What is logged, and in which form. Logs go to the standard error stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// A level (`info`), or levels by module (`info,tessera_language=debug`).
    pub filter: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `human` on a terminal, `json` elsewhere.
    #[default]
    Auto,
    /// For people: one line of text, with colours on a terminal.
    Human,
    /// For machines: one JSON object a line.
    Json,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not a list of levels.
    #[error("`{filter}` is not a log filter")]
    Filter {
        /// The filter as it was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Auto }
    }
}

impl LogSettings {
    /// Checks the filter, so that a bad one is found with the rest of the configuration.
    ///
    /// # Errors
    /// If the filter is not a list of levels.
    pub fn check(&self) -> Result<(), TelemetryError> {
        self.parsed_filter().map(drop)
    }

    fn parsed_filter(&self) -> Result<EnvFilter, TelemetryError> {
        EnvFilter::builder()
            .parse(&self.filter)
            .map_err(|source| TelemetryError::Filter { filter: self.filter.clone(), source })
    }
}

/// Starts logging for the whole process. The first call decides; later ones, as in tests, change nothing.
///
/// # Errors
/// If the filter is not a list of levels.
pub fn init(settings: &LogSettings) -> Result<(), TelemetryError> {
    let terminal = io::stderr().is_terminal();
    let lines = fmt().with_env_filter(settings.parsed_filter()?).with_writer(io::stderr).with_ansi(terminal);
    let json = match settings.format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    // The only failure is that somebody was first.
    let _ = if json { lines.json().flatten_event(true).finish().try_init() } else { lines.finish().try_init() };
    Ok(())
}

/// Writes why a program failed to the standard error stream, in the words of the error and its causes, and returns the
/// exit code that says so. For errors that come before there are logs, or that end the program.
pub fn failed(error: impl std::fmt::Display) -> ExitCode {
    // There is nobody left to tell when the stream is closed.
    let _ = writeln!(io::stderr(), "error: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logging_can_be_started_twice() {
        for format in [LogFormat::Json, LogFormat::Human, LogFormat::Auto] {
            assert!(init(&LogSettings { format, ..LogSettings::default() }).is_ok());
        }
        tracing::info!(worker = 1, "still here");
    }

    #[test]
    fn a_bad_filter_is_an_error_that_shows_it() {
        let settings = LogSettings { filter: "info,tessera=loud".into(), ..LogSettings::default() };
        let message = settings.check().unwrap_err().to_string();
        assert!(message.starts_with("`info,tessera=loud` is not a log filter"), "{message}");
        assert!(init(&settings).is_err());
        assert!(LogSettings { filter: "warn,tessera_language=debug".into(), ..LogSettings::default() }.check().is_ok());
    }
}
