//! First pass, by the schema: unknown keys, bounds, references of secrets, relative paths, texts of
//! variables. Unknown keys are left out; other mistakes are reported and left in, and the second
//! pass, by serde, does not report them again.

use std::path::Path;

use figment::value::{Dict, Value};
use serde_json::{Map, Value as Json};

use super::layers::Environment;
use super::origin::Source;
use super::path::KeyPath;
use super::report::Report;
use super::schema::{allows, is_secret, nearest};
use super::secret::read_secret_file;
use super::{ByteSize, HumanDuration};

/// Keys that the design names and that a later version builds.
const LATER: [&str; 4] = ["rate", "order", "filter", "transform"];

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
            return self.secret(value, path);
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
        let is_later = LATER.contains(&key) && known.contains_key("timeout");
        let error = if is_later {
            self.report.error(path, "not yet supported by this version").remedy("remove it")
        } else {
            let error = self.report.error(path, "unknown key");
            if let Some(nearest) = nearest(key, known.keys().map(String::as_str)) {
                error.remedy(format!("did you mean {nearest:?}?"))
            } else {
                let known: Vec<&str> = known.keys().map(String::as_str).collect();
                error.remedy(format!("known here: {}", known.join(", ")))
            }
        };
        let is_of_file =
            matches!(self.report.origin(path).document.source, Source::File(_) | Source::Text);
        if self.is_lenient && is_of_file && !is_later {
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
    fn secret(&mut self, value: Value, path: &KeyPath) -> Value {
        let reference = match &value {
            Value::Dict(_, table) if table.len() == 1 => table.iter().next(),
            _ => None,
        };
        let (found, remedy) = match reference {
            Some((kind, Value::String(_, name))) if kind == "env" => {
                (self.environment.secret(name), format!("set {name} before starting"))
            }
            Some((kind, Value::String(_, file))) if kind == "file" => {
                let file = match self.report.origin(path).document.folder() {
                    Some(folder) => folder.join(file),
                    None => Path::new(file).to_owned(),
                };
                (read_secret_file(&file), "check the path and who may read it".to_owned())
            }
            // Plain text, or something that the second pass explains.
            _ => return value,
        };
        match found {
            Ok(text) => Value::from(text),
            Err(message) => {
                let error = self.report.error(path, message).remedy(remedy);
                self.report.push(path, error);
                value
            }
        }
    }

    /// Checks the bounds that the schema states.
    fn scalar(&mut self, value: Value, node: &Json, path: &KeyPath) -> Value {
        let message = match &value {
            Value::Num(_, number) => {
                let is_choice =
                    node.get("enum").is_some() || node["oneOf"][0].get("const").is_some();
                match number.to_f64().or_else(|| number.to_i128().map(|number| number as f64)) {
                    // figment would take the number for the position of a choice.
                    _ if is_choice => Some(format!("expected {}", choices(node))),
                    Some(number) => within(number, node).or_else(|| size(&value, node)),
                    None => None,
                }
            }
            Value::String(_, text) => length(text.chars().count(), node, "Length", "characters")
                .or_else(|| size(&value, node)),
            _ => None,
        };
        if let Some(message) = message {
            let found = self.report.show(&value, path);
            let error = self.report.error(path, message).found(found);
            self.report.push(path, error);
        }
        match (&value, self.report.origin(path).document.folder()) {
            (Value::String(_, text), Some(folder)) if node["format"] == "path" => {
                Value::from(folder.join(text).to_string_lossy().into_owned())
            }
            _ => value,
        }
    }
}

/// The choices of an enum, in words.
pub(super) fn choices(node: &Json) -> String {
    let of_enum = node["enum"].as_array().into_iter().flatten().filter_map(Json::as_str);
    let of_consts = node["oneOf"].as_array().into_iter().flatten();
    let of_consts = of_consts.filter_map(|choice| choice["const"].as_str());
    let quoted: Vec<String> = of_enum.chain(of_consts).map(|text| format!("{text:?}")).collect();
    quoted.join(" or ")
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

/// Breaks of `x-min` and `x-max`, which durations and sizes have.
fn size(value: &Value, node: &Json) -> Option<String> {
    let bound = |key: &str| node[key].as_str();
    let (low, high) = (bound("x-min"), bound("x-max"));
    low.or(high)?;
    let (is_low, is_high) = match value {
        Value::String(_, text) if text.parse::<HumanDuration>().is_ok() => {
            let read = |text: &str| text.parse::<HumanDuration>().ok();
            let found = read(text);
            (low.is_some_and(|low| found < read(low)), high.is_some_and(|high| found > read(high)))
        }
        value => {
            let read = |text: &str| text.parse::<ByteSize>().ok().map(|size| size.0);
            let found = match value {
                Value::String(_, text) => read(text),
                Value::Num(_, number) => number.to_u128().and_then(|size| size.try_into().ok()),
                _ => None,
            };
            // What is no size at all, the second pass explains.
            found?;
            (low.is_some_and(|low| found < read(low)), high.is_some_and(|high| found > read(high)))
        }
    };
    match (is_low, is_high) {
        (true, _) => Some(format!("expected at least {}", low.unwrap_or_default())),
        (_, true) => Some(format!("expected at most {}", high.unwrap_or_default())),
        _ => None,
    }
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
