//! JSON texts, with the place of each value.
//!
//! The parser gives no places of its own. `RawValue` borrows from the text, so the distance between
//! the two pointers is the place. Each level is scanned once per level above it; the bound on
//! nesting bounds that too.

use std::fmt;
use std::sync::Arc;

use figment::value::{Dict, Empty, Value};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::errors::ConfigError;
use crate::config::origin::{Document, Origins};
use crate::config::path::{KeyPath, Step};

/// Deepest nesting, the same as the TOML parser's.
const DEPTH_MAX: usize = 80;

/// Reads a whole JSON text, which must be an object.
pub(super) fn read(document: &Arc<Document>) -> Result<(Dict, Origins), ConfigError> {
    let text = document.text.as_str();
    let raw = serde_json::from_str::<&RawValue>(text).map_err(|error| {
        let line_start: usize =
            text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        // serde_json counts columns in bytes, and names the last one that it took.
        let mut offset = (line_start + error.column().saturating_sub(1)).min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        ConfigError::syntax(document.place(Some(offset)), format!("JSON: {message}"))
    })?;
    let (value, origins) = Reader { document }.value(raw, &KeyPath::default())?;
    match value {
        Value::Dict(_, values) => Ok((values, origins)),
        _ => Err(ConfigError::syntax(document.place(Some(0)), "JSON: expected an object")),
    }
}

/// Reads one value for the key at `path`, as a variable holds it. `None` where the text is no JSON.
pub(super) fn read_value(
    document: &Arc<Document>,
    path: &KeyPath,
) -> Option<Result<Value, ConfigError>> {
    let raw = serde_json::from_str::<&RawValue>(&document.text).ok()?;
    Some(Reader { document }.value(raw, path).map(|(value, _)| value))
}

struct Reader<'a> {
    document: &'a Arc<Document>,
}

impl Reader<'_> {
    fn value(&self, raw: &RawValue, path: &KeyPath) -> Result<(Value, Origins), ConfigError> {
        let text = raw.get();
        let offset = text.as_ptr() as usize - self.document.text.as_ptr() as usize;
        let place = || self.document.place(Some(offset));
        if path.steps().len() > DEPTH_MAX {
            let message = format!("expected at most {DEPTH_MAX} levels");
            return Err(ConfigError::new(place(), path, message));
        }
        let mut origins = Origins::leaf(self.document, Some(offset));
        // The whole text was scanned before, so that only what is checked here can fail.
        let unreadable = |_| ConfigError::new(place(), path, "expected a valid JSON value");
        let value = match text.as_bytes().first() {
            Some(b'{') => {
                let Entries(entries) = serde_json::from_str(text).map_err(unreadable)?;
                let mut values = Dict::new();
                for (key, raw) in entries {
                    let path = path.key(&key);
                    let (value, below) = self.value(raw, &path)?;
                    if values.insert(key.clone(), value).is_some() {
                        return Err(ConfigError::new(below.here.place(), &path, "duplicate key")
                            .remedy("keep one of the two"));
                    }
                    origins.below.insert(Step::Key(key), below);
                }
                Value::from(values)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(unreadable)?;
                let mut values = Vec::with_capacity(items.len());
                for (index, raw) in items.into_iter().enumerate() {
                    let (value, below) = self.value(raw, &path.index(index))?;
                    origins.below.insert(Step::Index(index), below);
                    values.push(value);
                }
                Value::from(values)
            }
            _ => scalar(serde_json::from_str(text).map_err(unreadable)?),
        };
        Ok((value, origins))
    }
}

/// A value that is no object and no list.
fn scalar(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Bool(value) => Value::from(value),
        serde_json::Value::String(text) => Value::from(text),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        _ => Value::from(Empty::None),
    }
}

/// The members of an object in their order, with duplicates.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
