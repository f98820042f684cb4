//! Single values laid over the layers below: what variables, flags and code set.

use std::sync::Arc;

use figment::value::{Dict, Value};

use super::{Layer, json, toml};
use crate::config::errors::ConfigError;
use crate::config::origin::{Document, Origins};
use crate::config::path::{KeyPath, Step};

/// One value for one key.
pub(in crate::config) struct Entry {
    pub(in crate::config) path: KeyPath,
    pub(in crate::config) value: Value,
    /// Where it came from; for a text its document holds the text.
    pub(in crate::config) document: Arc<Document>,
}

/// The list or table that a text spells, as JSON or as an inline TOML value; else the text itself,
/// which is read later as its key's type wants.
pub(in crate::config) fn structure(
    document: &Arc<Document>,
    path: &KeyPath,
) -> Result<Value, ConfigError> {
    let text = document.text.trim_start();
    if text.starts_with(['[', '{']) {
        if let Some(value) = json::read_value(document, path) {
            return value;
        }
        if let Some(value) = toml::read_inline(text) {
            return Ok(value);
        }
    }
    Ok(Value::from(document.text.as_str()))
}

/// Lays `entries` over `base`. A position in a list (`endpoints.0.url`) changes that element, or
/// appends one where it is the next.
pub(in crate::config) fn patch(
    base: Layer,
    mut entries: Vec<Entry>,
    errors: &mut Vec<ConfigError>,
) -> Layer {
    // A key comes before those within it, position 9 before 10. Stable: the last setter wins.
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut root = Value::from(base.values);
    let mut origins = base.origins;
    for Entry { path, value, document } in entries {
        match slot(&mut root, path.steps()) {
            Ok(slot) => {
                *slot = value;
                origins.set(&path, Origins::leaf(&document, None));
            }
            Err((list, length)) => {
                let message = format!("{list} has {length} elements, and none may be skipped");
                errors.push(
                    ConfigError::new(document.place(None), &path, message)
                        .remedy(format!("number the next one {length}")),
                );
            }
        }
    }
    let values = root.into_dict().unwrap_or_default();
    Layer { values, origins }
}

/// The place of the value at `steps`, made where there is none. The error is a list that is too
/// short, and its length.
fn slot<'a>(root: &'a mut Value, steps: &[Step]) -> Result<&'a mut Value, (KeyPath, usize)> {
    let mut value = root;
    let mut path = KeyPath::default();
    for step in steps {
        // What is in the way gives way; an empty table may still become a list.
        let is_empty = value.as_dict().is_some_and(Dict::is_empty);
        match (step, &*value) {
            (_, Value::Dict(..)) if !(is_empty && matches!(step, Step::Index(_))) => {}
            (Step::Index(_), Value::Array(..)) => {}
            (Step::Index(_), _) => *value = Value::from(Vec::<Value>::new()),
            (Step::Key(_), _) => *value = Value::from(Dict::new()),
        }
        value = match (step, value) {
            (Step::Index(index), Value::Array(_, items)) => {
                if *index > items.len() {
                    return Err((path, items.len()));
                }
                if *index == items.len() {
                    items.push(Value::from(Dict::new()));
                }
                &mut items[*index]
            }
            (step, Value::Dict(_, table)) => {
                let key = match step {
                    Step::Key(key) => key.clone(),
                    Step::Index(index) => index.to_string(),
                };
                table.entry(key).or_insert_with(|| Value::from(Dict::new()))
            }
            _ => unreachable!("made a table or a list above"),
        };
        path = path.then(step.clone());
    }
    Ok(value)
}
