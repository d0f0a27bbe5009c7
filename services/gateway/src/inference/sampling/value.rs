//! Values of sampling parameters, be they numbers or strings that spell them.

use std::str::FromStr;

use serde_json::{Map, Value};

use crate::inference::model::shown;

/// What is wrong with a value.
type Result<T> = std::result::Result<T, String>;

/// A whole number that is not negative.
pub(super) fn count<T: FromStr>(value: &Value) -> Result<T> {
    number(value, "a whole number that fits and is not negative")
}

/// A number.
pub(super) fn decimal(value: &Value) -> Result<f32> {
    number(value, "a number")
}

/// A whole number, if it is one.
pub(super) fn integer(value: &Value) -> Option<i64> {
    number(value, "").ok()
}

/// True or false.
pub(super) fn truth(value: &Value) -> Result<bool> {
    match value {
        Value::Bool(truth) => Ok(*truth),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(not(other, "true or false")),
    }
}

/// An object, which may stand in a string.
pub(super) fn object(value: &Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(object) => Ok(object.clone()),
        Value::String(text) => {
            serde_json::from_str(text).map_err(|_| not(value, "an object, nor JSON that spells one"))
        }
        other => Err(not(other, "an object")),
    }
}

/// A string as it is, anything else as JSON.
pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Strings, or one.
pub(super) fn texts(value: &Value) -> Result<Vec<String>> {
    let each = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| not(value, "a string"));
    match value {
        Value::Array(values) => values.iter().map(each).collect(),
        one => Ok(vec![each(one)?]),
    }
}

/// Token ids.
pub(super) fn ids(value: &Value) -> Result<Vec<u32>> {
    list(value)?.iter().map(count).collect()
}

/// Runs of token ids.
pub(super) fn runs(value: &Value) -> Result<Vec<Vec<u32>>> {
    list(value)?.iter().map(|run| ids(run).map_err(|wrong| format!("{wrong}; words are runs of token ids"))).collect()
}

/// Numbers by token id.
pub(super) fn biases(value: &Value) -> Result<Vec<(u32, f32)>> {
    let bias = |(id, bias): (&String, &Value)| {
        let id = id.trim().parse().map_err(|_| format!("{} is no token id", shown(id)))?;
        Ok((id, decimal(bias)?))
    };
    object(value)?.iter().map(bias).collect()
}

fn list(value: &Value) -> Result<&[Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| not(value, "a list"))
}

fn number<T: FromStr>(value: &Value, what: &str) -> Result<T> {
    let text = match value {
        // 5.0 is whole.
        Value::Number(number) => number.to_string().trim_end_matches(".0").to_owned(),
        Value::String(text) => text.trim().to_owned(),
        other => return Err(not(other, what)),
    };
    text.parse().map_err(|_| not(value, what))
}

fn not(value: &Value, what: &str) -> String {
    format!("{} is not {what}", shown(&text(value)))
}
