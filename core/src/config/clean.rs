//! First pass, by the schema: unknown keys, bounds, references of secrets, relative paths, texts of
//! variables. Unknown keys are left out; other mistakes are reported and left in, and the second
//! pass, by serde, does not report them again.

use std::cmp::Ordering;
use std::path::Path;

use figment::value::{Dict, Value};
use serde_json::{Map, Value as Json};

use super::layers::Environment;
use super::live_secret::LIVE;
use super::origin::Source;
use super::path::KeyPath;
use super::report::{Report, integer};
use super::schema::{allows, is_secret, nearest};
use super::secret::{is_variable_name, read_secret_file};
use super::{ByteSize, HumanDuration};

/// The first pass.
pub(super) struct Cleaner<'c, 'r> {
    pub(super) report: &'c mut Report<'r>,
    pub(super) environment: &'c Environment,
    /// Whether unknown keys of files are only warned of.
    pub(super) is_lenient: bool,
}

impl Cleaner<'_, '_> {
    /// The value at `path`, ready for the second pass.
    pub(super) fn clean(&mut self, value: Value, node: &Json, path: &KeyPath) -> Value {
        let schema = self.report.schema;
        let value = self.typed(value, schema.resolve(node, &Value::from(0)), path);
        let node = schema.resolve(node, &value);
        if is_secret(node) {
            return self.secret(value, node, path);
        }
        // Whoever reads it knows all of its keys, and what a null means.
        if node["x-verbatim"] == true {
            return value;
        }
        match value {
            Value::Dict(tag, table) => Value::Dict(tag, self.table(table, node, path)),
            Value::Array(tag, items) => {
                if let Some(message) = length(items.len(), node, "Items", "elements") {
                    self.report.fail(path, message);
                }
                let Some(item) = node.get("items") else { return Value::Array(tag, items) };
                let items = items.into_iter().enumerate();
                let items = items.map(|(index, value)| self.clean(value, item, &path.index(index)));
                Value::Array(tag, items.collect())
            }
            scalar => self.scalar(scalar, node, path),
        }
    }

    fn table(&mut self, table: Dict, node: &Json, path: &KeyPath) -> Dict {
        let none = Map::new();
        let properties = node["properties"].as_object().unwrap_or(&none);
        let others = node.get("additionalProperties");
        let is_closed = match others {
            Some(others) => others == false,
            None => node.get("properties").is_some(),
        };
        for key in node["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            if table.get(key).is_none_or(|value| matches!(value, Value::Empty(..))) {
                self.report.missing(&path.key(key));
            }
        }
        let mut kept = Dict::new();
        for (key, value) in table {
            let path = path.key(&key);
            let child = properties.get(&key).or_else(|| others.filter(|others| others.is_object()));
            match child {
                // TOML has no null; in JSON it says the same as an absent key.
                _ if matches!(value, Value::Empty(..)) && (child.is_some() || !is_closed) => {}
                Some(child) => drop(kept.insert(key, self.clean(value, child, &path))),
                None if is_closed => self.unknown(&key, properties, &path),
                None => drop(kept.insert(key, value)),
            }
        }
        kept
    }

    fn unknown(&mut self, key: &str, known: &Map<String, Json>, path: &KeyPath) {
        let error = self.report.error(path, "unknown key");
        let error = if let Some(nearest) = nearest(key, known.keys().map(String::as_str)) {
            error.remedy(format!("did you mean {nearest:?}?"))
        } else {
            let known: Vec<&str> = known.keys().map(String::as_str).collect();
            error.remedy(format!("known here: {}", known.join(", ")))
        };
        let is_of_file =
            matches!(self.report.origin(path).document.source, Source::File(_) | Source::Text);
        if self.is_lenient && is_of_file {
            self.report.warnings.push(error.remedy("it is ignored, and kept in the file"));
        } else {
            self.report.push(path, error);
        }
    }

    /// Reads the text of a variable or flag as the schema's type wants it.
    fn typed(&self, value: Value, node: &Json, path: &KeyPath) -> Value {
        let Some(text) = self.report.raw_text(path) else { return value };
        let is_text = matches!(value, Value::String(..));
        if is_secret(node) {
            let is_reference = value
                .as_dict()
                .is_some_and(|table| table.contains_key("env") || table.contains_key("file"));
            return if is_reference { value } else { Value::from(text) };
        }
        if allows(node, "string") {
            return Value::from(text);
        }
        let trimmed = text.trim();
        let read = match () {
            () if !is_text => None,
            () if allows(node, "boolean") => trimmed.parse::<bool>().ok().map(Value::from),
            () if allows(node, "integer") => trimmed.parse::<i64>().ok().map(Value::from),
            () if allows(node, "number") => trimmed.parse::<f64>().ok().map(Value::from),
            () => None,
        };
        read.unwrap_or(value)
    }

    /// Resolves `{ env = … }` and `{ file = … }`.
    fn secret(&mut self, value: Value, node: &Json, path: &KeyPath) -> Value {
        let reference = match &value {
            Value::Dict(_, table) if table.len() == 1 => table.iter().next(),
            _ => None,
        };
        let mut followed = None;
        let (found, remedy) = match reference {
            Some((kind, Value::String(_, name))) if kind == "env" => {
                let remedy = if is_variable_name(name) {
                    format!("set {name} before starting")
                } else {
                    "write { env = \"NAME\" }, or the secret itself without env".to_owned()
                };
                (self.environment.secret(name), remedy)
            }
            Some((kind, Value::String(_, file))) if kind == "file" => {
                let file = match self.report.origin(path).document.folder() {
                    Some(folder) => folder.join(file),
                    None => Path::new(file).to_owned(),
                };
                let found = read_secret_file(&file);
                if node[LIVE] == true {
                    let file = file.to_string_lossy().into_owned();
                    followed = Some(Dict::from([("file".to_owned(), Value::from(file))]));
                }
                (found, "check the path and who may read it".to_owned())
            }
            // Plain text, or something that the second pass explains.
            _ => return value,
        };
        match found {
            Ok(text) => followed.map_or_else(|| Value::from(text), Value::from),
            Err(message) => {
                let error = self.report.error(path, message).remedy(remedy);
                self.report.push(path, error);
                value
            }
        }
    }

    /// Checks the bounds that the schema states.
    fn scalar(&mut self, value: Value, node: &Json, path: &KeyPath) -> Value {
        let choices = choices(node);
        let (message, remedy) = match &value {
            // figment would take a number for the position of a choice.
            Value::Num(..) if !choices.is_empty() => (Some(one_of(&choices)), None),
            Value::Num(_, number) => {
                let as_float =
                    number.to_f64().or_else(|| integer(*number).map(|number| number as f64));
                let message = as_float.and_then(|number| within(number, node));
                (message.or_else(|| size(&value, node)), None)
            }
            Value::String(_, text) if !choices.is_empty() => {
                if choices.contains(&text.as_str()) {
                    (None, None)
                } else {
                    let nearest = nearest(text, choices.iter().copied());
                    let nearest = nearest.map(|nearest| format!("did you mean {nearest:?}?"));
                    let remedy = node["x-remedy"].as_str().map(ToOwned::to_owned);
                    (Some(one_of(&choices)), nearest.or(remedy))
                }
            }
            Value::String(_, text) => {
                let message = length(text.chars().count(), node, "Length", "characters");
                (message.or_else(|| size(&value, node)), None)
            }
            _ => (None, None),
        };
        if let Some(message) = message {
            let found = self.report.show(&value, path);
            let error = self.report.error(path, message).found(found);
            self.report.push(path, error.remedy(remedy.unwrap_or_default()));
        }
        match (&value, self.report.origin(path).document.folder()) {
            (Value::String(_, text), Some(folder)) if node["format"] == "path" => {
                Value::from(folder.join(text).to_string_lossy().into_owned())
            }
            _ => value,
        }
    }
}

/// The texts that an enum may be; empty where it is none.
pub(super) fn choices(node: &Json) -> Vec<&str> {
    let alternatives = node["oneOf"].as_array().into_iter().flatten();
    let mut choices = Vec::new();
    for schema in alternatives.chain([node]) {
        choices.extend(schema["enum"].as_array().into_iter().flatten().filter_map(Json::as_str));
        choices.extend(schema["const"].as_str());
    }
    choices
}

fn one_of(choices: &[&str]) -> String {
    let quoted: Vec<String> = choices.iter().map(|choice| format!("{choice:?}")).collect();
    format!("expected {}", quoted.join(" or "))
}

/// Breaks of `minimum` and `maximum`.
fn within(number: f64, node: &Json) -> Option<String> {
    let (low, high) = (node["minimum"].as_f64(), node["maximum"].as_f64());
    let is_low = low.is_some_and(|low| number < low);
    let is_high = high.is_some_and(|high| number > high);
    if !is_low && !is_high && !number.is_nan() {
        return None;
    }
    Some(match (low, high) {
        (Some(low), Some(high)) => format!("expected {low} to {high}"),
        (Some(low), None) => format!("expected at least {low}"),
        (None, Some(high)) => format!("expected at most {high}"),
        (None, None) => return None,
    })
}

/// Breaks of `x-min` and `x-max`, which durations and sizes have. What is no duration or size at
/// all, the second pass explains.
fn size(value: &Value, node: &Json) -> Option<String> {
    // Both kinds as numbers: nanoseconds or bytes.
    let read = |value: &Value, is_duration: bool| match value {
        Value::String(_, text) if is_duration => {
            text.parse::<HumanDuration>().ok().map(|duration| duration.0.as_nanos())
        }
        Value::String(_, text) => text.parse::<ByteSize>().ok().map(|size| u128::from(size.0)),
        Value::Num(_, number) if !is_duration => integer(*number)?.try_into().ok(),
        _ => None,
    };
    let is_beyond = |bound: &str, side: Ordering| {
        let is_duration = bound.parse::<HumanDuration>().is_ok();
        let bound = read(&Value::from(bound), is_duration);
        let found = read(value, is_duration);
        found.is_some_and(|found| bound.is_some_and(|bound| found.cmp(&bound) == side))
    };
    let (low, high) = (node["x-min"].as_str(), node["x-max"].as_str());
    if let Some(low) = low.filter(|low| is_beyond(low, Ordering::Less)) {
        return Some(format!("expected at least {low}"));
    }
    let high = high.filter(|high| is_beyond(high, Ordering::Greater))?;
    Some(format!("expected at most {high}"))
}

/// Breaks of `minItems`, `maxLength` and their like.
fn length(found: usize, node: &Json, of: &str, unit: &str) -> Option<String> {
    let bound = |side: &str| node[format!("{side}{of}")].as_u64();
    if let Some(low) = bound("min").filter(|low| (found as u64) < *low) {
        return Some(match (low, found) {
            (1, 0) if of == "Items" => "expected at least one element, found none".to_owned(),
            (1, 0) => "expected a text that is not empty".to_owned(),
            _ => format!("expected at least {low} {unit}, found {found}"),
        });
    }
    let high = bound("max").filter(|high| (found as u64) > *high)?;
    Some(format!("expected at most {high} {unit}, found {found}"))
}
