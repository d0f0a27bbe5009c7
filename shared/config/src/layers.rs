//! The merge: what was given is checked key by key against the defaults, then laid over them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    ConfigErrors, Validate,
    problems::{Origin, Problem, Problems},
    sources::{Given, Input, Sources},
};

/// A value for one key of the schema. `within` is the way from that key to the value, where the key is opaque.
struct Leaf {
    within: Vec<String>,
    input: Input,
    origin: Origin,
}

/// The leaves that were given for each key of the schema, weakest first.
type Leaves = BTreeMap<Vec<String>, Vec<Leaf>>;

pub(crate) fn load<S>(sources: &Sources) -> Result<S, ConfigErrors>
where
    S: Serialize + DeserializeOwned + Default + Validate,
{
    let mut problems = Vec::new();
    let given = sources.given(&mut problems);
    let defaults = serde_json::to_value(S::default()).map_err(|error| broken_defaults(&error))?;
    serde_json::from_value::<S>(defaults.clone()).map_err(|error| broken_defaults(&error))?;
    let leaves = sort_into_schema(given, &defaults, &mut problems);

    let mut tree = defaults.clone();
    let mut origins = BTreeMap::new();
    let mut refused = BTreeSet::new();
    for (path, leaves) in leaves {
        if let Some(last) = leaves.last() {
            origins.insert(path.join("."), last.origin.clone());
        }
        let before = problems.len();
        if let Some(value) = checked::<S>(&path, leaves, &defaults, &mut problems) {
            place(&mut tree, &path, value);
        }
        if problems.len() > before {
            refused.insert(path.join("."));
        }
    }
    let settings = serde_json::from_value::<S>(tree).map_err(|error| broken_defaults(&error))?;

    let mut found = Problems::default();
    settings.validate(&mut found);
    for mut problem in found.into_found() {
        // What is wrong with a default that stands in for a refused value is nobody's mistake.
        if !ancestors(&problem.key).any(|key| refused.contains(key)) {
            problem.origin =
                ancestors(&problem.key).find_map(|key| origins.get(key).cloned()).unwrap_or(Origin::Default);
            problems.push(problem);
        }
    }
    ConfigErrors::from_problems(problems).map_or(Ok(settings), Err)
}

/// A dotted key and the keys above it, from the longest.
fn ancestors(key: &str) -> impl Iterator<Item = &str> {
    let shorter = key.rmatch_indices('.').map(|(at, _)| &key[..at]);
    std::iter::once(key).chain(shorter)
}

/// Only a settings type whose `Serialize` and `Deserialize` disagree gets here.
fn broken_defaults(error: &serde_json::Error) -> ConfigErrors {
    let message = format!("the defaults do not read back: {error}");
    let problem = Problem { key: String::new(), message, origin: Origin::Default };
    ConfigErrors::from_problems(vec![problem]).expect("there is one problem")
}

fn sort_into_schema(given: Vec<Given>, schema: &Value, problems: &mut Vec<Problem>) -> Leaves {
    let mut leaves = Leaves::new();
    for Given { path, input, origin } in given {
        match input {
            Input::Typed(value) => sort_tree(path, value, schema, &origin, &mut leaves, problems),
            Input::Text(_) => sort_text(path, input, schema, origin, &mut leaves, problems),
        }
    }
    leaves
}

/// Takes a tree apart down to the keys of the schema.
fn sort_tree(
    path: Vec<String>,
    value: Value,
    schema: &Value,
    origin: &Origin,
    leaves: &mut Leaves,
    problems: &mut Vec<Problem>,
) {
    let Some(known) = group(lookup(schema, &path)) else {
        let leaf = Leaf { within: Vec::new(), input: Input::Typed(value), origin: origin.clone() };
        leaves.entry(path).or_default().push(leaf);
        return;
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let mut path = path.clone();
                path.push(key);
                if known.contains_key(&path[path.len() - 1]) {
                    sort_tree(path, value, schema, origin, leaves, problems);
                } else {
                    problems.push(unknown(&path, schema, origin.clone()));
                }
            }
        }
        _ => problems.push(is_a_group(&path, known, origin.clone())),
    }
}

/// Follows the path of a text to a key of the schema.
fn sort_text(
    path: Vec<String>,
    input: Input,
    schema: &Value,
    origin: Origin,
    leaves: &mut Leaves,
    problems: &mut Vec<Problem>,
) {
    let mut here = schema;
    for (depth, name) in path.iter().enumerate() {
        match (group(Some(here)), is_opaque(here)) {
            (Some(known), _) => match known.get(name) {
                Some(next) => here = next,
                None => return problems.push(unknown(&path, schema, origin)),
            },
            (None, true) => {
                let within = path[depth..].to_vec();
                let leaf = Leaf { within, input, origin };
                return leaves.entry(path[..depth].to_vec()).or_default().push(leaf);
            }
            (None, false) => return problems.push(unknown(&path, schema, origin)),
        }
    }
    match group(Some(here)) {
        Some(known) => problems.push(is_a_group(&path, known, origin)),
        None => leaves.entry(path).or_default().push(Leaf { within: Vec::new(), input, origin }),
    }
}

/// The keys of a level of the schema; `None` for a single value and for what is opaque.
fn group(schema: Option<&Value>) -> Option<&Map<String, Value>> {
    schema?.as_object().filter(|map| !map.is_empty())
}

/// Whether the default does not show what may stand here: an option or a map.
fn is_opaque(schema: &Value) -> bool {
    schema.is_null() || schema.as_object().is_some_and(Map::is_empty)
}

fn lookup<'a>(tree: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(tree, |tree, name| tree.get(name))
}

/// The value for a key out of what was given for it, or `None` and a problem for each value that does not fit.
fn checked<S: Serialize + DeserializeOwned>(
    path: &[String],
    leaves: Vec<Leaf>,
    defaults: &Value,
    problems: &mut Vec<Problem>,
) -> Option<Value> {
    let schema = lookup(defaults, path)?;
    if is_opaque(schema) {
        let origin = leaves.last()?.origin.clone();
        let readings = [merged(&leaves, as_typed), merged(&leaves, |text| Value::from(text))];
        return report(first_fit::<S>(path, &readings, defaults), path, origin, problems);
    }
    let mut value = None;
    for Leaf { input, origin, .. } in leaves {
        let readings = match input {
            Input::Typed(value) => vec![value],
            Input::Text(text) => readings(&text, schema),
        };
        let fit = match wrong_kind(&readings, schema) {
            Some(message) => Err(message),
            None => first_fit::<S>(path, &readings, defaults)
                .map_err(|message| with_value::<S>(message, path, readings.first(), defaults)),
        };
        value = report(fit, path, origin, problems).or(value);
    }
    value
}

fn report(fit: Result<Value, String>, path: &[String], origin: Origin, problems: &mut Vec<Problem>) -> Option<Value> {
    fit.map_err(|message| problems.push(Problem { key: path.join("."), message, origin })).ok()
}

/// The first reading that the settings accept in the place of the default, or why the first one was refused.
fn first_fit<S: DeserializeOwned>(path: &[String], readings: &[Value], defaults: &Value) -> Result<Value, String> {
    let mut refused = None;
    for value in readings {
        let mut tree = defaults.clone();
        place(&mut tree, path, value.clone());
        match serde_json::from_value::<S>(tree) {
            Ok(_) => return Ok(value.clone()),
            Err(error) => refused = refused.or(Some(error.to_string())),
        }
    }
    Err(refused.unwrap_or_else(|| "no value".to_owned()))
}

/// Adds to a message the text that it is about, unless that is there already or is a secret.
fn with_value<S: Serialize + DeserializeOwned>(
    message: String,
    path: &[String],
    value: Option<&Value>,
    defaults: &Value,
) -> String {
    match value.and_then(Value::as_str) {
        Some(text) if !message.contains(text) && !is_secret::<S>(path, defaults) => format!("`{text}`: {message}"),
        _ => message,
    }
}

/// Whether a text at this key is written out as another one, as secrets are.
fn is_secret<S: Serialize + DeserializeOwned>(path: &[String], defaults: &Value) -> bool {
    let probe = Value::from("probe");
    let mut tree = defaults.clone();
    place(&mut tree, path, probe.clone());
    let written = serde_json::from_value::<S>(tree).and_then(serde_json::to_value);
    written.is_ok_and(|tree| lookup(&tree, path) != Some(&probe))
}

/// A list is checked here, before serde would show in its message a text that may be a secret.
fn wrong_kind(readings: &[Value], schema: &Value) -> Option<String> {
    (schema.is_array() && !readings.iter().any(Value::is_array)).then(|| "this must be a list".to_owned())
}

/// What a text can mean for a key with such a default.
fn readings(text: &str, schema: &Value) -> Vec<Value> {
    match schema {
        Value::String(_) => vec![Value::from(text), as_typed(text)],
        Value::Array(_) => match as_typed(text) {
            Value::Array(values) => vec![Value::Array(values)],
            _ => {
                let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
                vec![
                    parts.iter().map(|part| Value::from(*part)).collect(),
                    parts.iter().map(|part| as_typed(part)).collect(),
                ]
            }
        },
        _ => vec![as_typed(text), Value::from(text)],
    }
}

/// A text as the JSON value that it spells, or as a text.
fn as_typed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// The values of an opaque key over each other: what is given inside it adds up, anything else replaces.
fn merged(leaves: &[Leaf], read: impl Fn(&str) -> Value) -> Value {
    let mut whole = Value::Null;
    for Leaf { within, input, .. } in leaves {
        let value = match input {
            Input::Typed(value) => value.clone(),
            Input::Text(text) => read(text),
        };
        let value =
            within.iter().rev().fold(value, |value, name| Value::Object(Map::from_iter([(name.clone(), value)])));
        overlay(&mut whole, value);
    }
    whole
}

fn overlay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                overlay(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// Puts a value at a path whose upper levels are objects of the schema.
fn place(tree: &mut Value, path: &[String], value: Value) {
    let mut here = tree;
    for name in path {
        here = &mut here[name.as_str()];
    }
    *here = value;
}

fn is_a_group(path: &[String], known: &Map<String, Value>, origin: Origin) -> Problem {
    let keys: Vec<_> = known.keys().cloned().collect();
    let message = format!("this is a group of keys: {}", keys.join(", "));
    Problem { key: path.join("."), message, origin }
}

fn unknown(path: &[String], schema: &Value, origin: Origin) -> Problem {
    let key = path.join(".");
    let mut keys = Vec::new();
    all_keys(String::new(), schema, &mut keys);
    // The same name on another level is the likeliest mistake, then a slip of the pen.
    let name = path.last().map_or("", String::as_str);
    let same_name = keys.iter().find(|known| known.rsplit('.').next() == Some(name));
    let nearest = same_name.or_else(|| keys.iter().min_by_key(|known| strsim::damerau_levenshtein(known, &key)));
    let hint = nearest.map(|known| format!("; the nearest known key is `{known}`")).unwrap_or_default();
    Problem { message: format!("unknown key{hint}"), key, origin }
}

fn all_keys(prefix: String, schema: &Value, keys: &mut Vec<String>) {
    if let Some(known) = group(Some(schema)) {
        for (name, value) in known {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            all_keys(key, value, keys);
        }
    }
    if !prefix.is_empty() {
        keys.push(prefix);
    }
}

#[cfg(test)]
mod tests;
