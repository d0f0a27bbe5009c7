//! A text that is never shown.

use std::{fmt, fs};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const FILE_PREFIX: &str = "file:";

/// A secret: given as it is (best through the environment) or as `file:PATH`, whose content it then is, without the
/// line end. `Debug` and serde show only whether there is one.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself; take care where it goes.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `presented` is the secret, in a time that tells nothing about how much of it was right. An empty secret
    /// matches nothing.
    pub fn matches(&self, presented: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), presented.as_bytes());
        let same_length = ours.len() == theirs.len();
        let difference = ours.iter().zip(theirs).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(difference) == 0 && same_length && !ours.is_empty()
    }

    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "***" }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

/// Serde's own messages show the value that did not fit, so every kind of value is refused by hand.
struct Visitor;

impl Visitor {
    fn not_a_text<E: de::Error>() -> Result<Secret, E> {
        Err(E::custom("a secret must be a text (its value is not shown)"))
    }
}

impl<'de> de::Visitor<'de> for Visitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Secret, E> {
        let Some(path) = value.strip_prefix(FILE_PREFIX) else { return Ok(Secret::new(value)) };
        let content =
            fs::read_to_string(path).map_err(|error| E::custom(format!("cannot read secret file {path}: {error}")))?;
        let secret = content.strip_suffix('\n').unwrap_or(&content);
        let secret = secret.strip_suffix('\r').unwrap_or(secret);
        if secret.is_empty() {
            return Err(E::custom(format!("secret file {path} is empty")));
        }
        Ok(Secret::new(secret))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        Self::not_a_text()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
        Self::not_a_text()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
        Self::not_a_text()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        Self::not_a_text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Secret, String> {
        serde_json::from_str(json).map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = read("\"hunter2\"").unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(format!("{secret:?} {secret:#?}"), "*** ***");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
        assert_eq!(serde_json::to_string(&Secret::default()).unwrap(), "\"\"");
    }

    #[test]
    fn a_value_of_another_kind_is_refused_without_showing_it() {
        for json in ["12345", "-12345", "123.45", "true"] {
            let message = read(json).unwrap_err();
            assert!(message.starts_with("a secret must be a text"), "{message}");
            assert!(!message.contains("123") && !message.contains("true"), "{message}");
        }
    }

    #[test]
    fn a_secret_file_is_read_without_its_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let given = serde_json::to_string(&format!("file:{}", path.display())).unwrap();
        assert!(read(&given).unwrap_err().contains("cannot read secret file"));
        fs::write(&path, "hunter2\r\n").unwrap();
        assert_eq!(read(&given).unwrap().expose(), "hunter2");
        fs::write(&path, "\n").unwrap();
        assert!(read(&given).unwrap_err().contains("is empty"));
    }

    #[test]
    fn only_the_whole_secret_matches() {
        let secret = Secret::new("hunter2");
        assert!(secret.matches("hunter2"));
        for other in ["", "hunter", "hunter22", "Hunter2"] {
            assert!(!secret.matches(other), "{other}");
        }
        assert!(!Secret::default().matches(""));
    }
}
