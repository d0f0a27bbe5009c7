//! Settings written out, key by key.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

/// Writes settings as one `key = value` line each, in the order of the struct: TOML that [`crate::load`] reads back.
/// Of the defaults it documents a service, of loaded settings it shows what is in force. A key without a value is a
/// comment; secrets are not shown.
///
/// # Panics
/// If the settings cannot be serialised, which for plain structs cannot happen.
pub fn describe(settings: &impl Serialize) -> String {
    let tree = serde_json::to_value(settings).expect("settings are plain structs");
    let mut text = String::new();
    lines("", &tree, &mut text);
    text
}

fn lines(key: &str, value: &Value, text: &mut String) {
    // Writing to a String cannot fail.
    let _ = match value {
        Value::Null => writeln!(text, "# {key} is not set"),
        Value::Object(map) if map.is_empty() => writeln!(text, "{key} = {{}}"),
        Value::Object(map) => {
            for (name, value) in map {
                let name = bare_or_quoted(name);
                lines(&if key.is_empty() { name } else { format!("{key}.{name}") }, value, text);
            }
            Ok(())
        }
        value => writeln!(text, "{key} = {}", inline(value)),
    };
}

/// A value as TOML writes it on one line. JSON's way to escape text is also TOML's.
fn inline(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("[{}]", values.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pairs = map.iter().filter(|(_, value)| !value.is_null());
            let pairs: Vec<_> =
                pairs.map(|(key, value)| format!("{} = {}", bare_or_quoted(key), inline(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

fn bare_or_quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { key.to_owned() } else { Value::from(key).to_string() }
}
