//! Layered configuration: defaults < file < environment < flags, with every problem reported at once.
//!
//! A service describes its settings as a plain serde struct with a `Default`. That default, serialised, is the schema:
//! its keys are the known keys, and each value that somebody gives is tried alone in the place of the default, so that
//! a mistake is reported with its key, its value and where it was written. Cross-checks that types cannot express go
//! into [`Validate`].
//!
//! What the schema cannot show: an `Option` is `null` and a map is empty by default, so what is given below such a key
//! is taken as one value. Put `#[serde(deny_unknown_fields)]` on a struct that stands in an `Option`. Keys that are
//! skipped when serialising are unknown, an enum with fields is best kept in an `Option` for the same reason, and a
//! [`Secret`] is empty by default.

mod arguments;
mod byte_size;
mod describe;
mod layers;
mod memory;
mod problems;
mod secret;
mod sources;

use serde::{Serialize, de::DeserializeOwned};

pub use arguments::{Arguments, Start};
pub use byte_size::{ByteSize, ParseByteSizeError};
pub use describe::describe;
pub use memory::{MemoryBudget, ParseMemoryBudgetError};
pub use problems::{ConfigErrors, Origin, Problem, Problems, Validate};
pub use secret::Secret;
pub use sources::{EnvironmentSource, Sources};

/// Durations as people write them: `#[serde(with = "tessera_config::duration")]` reads and writes `30s` or `1m 30s`.
pub use humantime_serde as duration;

/// Reads the settings of a service: its defaults, overlaid by the file, the environment and the flags of `sources`.
///
/// # Errors
/// Everything that is wrong, at once: an unreadable file, unknown keys, values that do not fit their key, and what
/// [`Validate`] finds in the result.
pub fn load<S>(sources: &Sources) -> Result<S, ConfigErrors>
where
    S: Serialize + DeserializeOwned + Default + Validate,
{
    layers::load(sources)
}
