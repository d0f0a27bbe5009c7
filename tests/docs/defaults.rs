//! What settings are unless somebody says otherwise, as `--print-config` shows them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// What the pages say of a setting that has no value unless somebody gives it one.
pub(crate) const NOT_SET: &str = "not set";

/// Every setting by its key, such as `limits.images`. A group that is empty, for its entries have names of one's own, is one.
pub(crate) fn flat(settings: &impl Serialize) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    flatten("", serde_json::to_value(settings).expect("settings are plain values"), &mut found);
    found
}

fn flatten(key: &str, value: Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                flatten(&if key.is_empty() { name } else { format!("{key}.{name}") }, value, found);
            }
        }
        value => drop(found.insert(key.to_owned(), value)),
    }
}
