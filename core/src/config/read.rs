//! Second pass, by serde: values become the types that want them.
//!
//! serde stops at the first mistake. Here each mistake is reported, left out, and the rest read
//! again, so that all of them are found: also in the settings of a third party's sink.

use figment::error::Kind;
use figment::value::Value;

use super::errors::{ERRORS_MAX, REDACTED};
use super::path::{KeyPath, Step};
use super::report::{Report, path_in};
use super::schema::{Located, nearest};

impl Report<'_> {
    /// Reads the value at `base` with `read`; `None` where what is wrong leaves nothing to read.
    pub(super) fn read<T>(
        &mut self,
        mut value: Value,
        base: &KeyPath,
        read: impl Fn(&Value) -> Result<T, figment::Error>,
    ) -> Option<T> {
        // Elements of lists that were left out, at their original positions.
        let mut removed: Vec<KeyPath> = Vec::new();
        loop {
            let error = match read(&value) {
                Ok(read) => return Some(read),
                Err(error) => error,
            };
            // Each round reads all again; a list of a million mistakes must not take a million.
            if self.errors.len() >= ERRORS_MAX {
                return None;
            }
            let at = path_in(&value, &error.path);
            let original = base.join(&before_removal(&at, &removed));
            let found = find(&value, &at);
            match &error.kind {
                Kind::MissingField(key) => self.missing(&original.key(key)),
                kind if self.is_clean(&original) => self.wrong(kind, found, &original),
                // It was reported already, by the first pass: what is left of it is no surprise.
                _ => {}
            }
            // What is left out now must not be called missing by the table around it.
            self.note_bad(&original);
            let parent = at.parent()?;
            if matches!(at.steps().last(), Some(Step::Index(_))) {
                removed.push(before_removal(&at, &removed));
            }
            remove(&mut value, &parent, &at)?;
        }
    }

    /// A key that is needed is not there, or was left out because it was wrong.
    pub(super) fn missing(&mut self, path: &KeyPath) {
        if !self.is_bad(path) {
            let remedy = match self.locate(path).description {
                Some(text) => format!("add it: {}", lower_first(first_sentence(text))),
                None => "add it".to_owned(),
            };
            let error = self.error(path, "missing").remedy(remedy);
            self.push(path, error);
        }
    }

    fn wrong(&mut self, kind: &Kind, found: &Value, path: &KeyPath) {
        let Located { node, hidden, .. } = self.locate(path);
        let shown = self.show(found, path);
        let wants = |kind: &str| node.is_some_and(|node| super::schema::allows(node, kind));
        let (message, mut remedy) = match kind {
            Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => {
                (format!("expected {}", in_words(expected)), String::new())
            }
            Kind::InvalidLength(length, expected) => {
                let message = format!("expected {}, found {length}", in_words(expected));
                let error = self.error(path, message);
                return self.push(path, error);
            }
            Kind::UnknownVariant(wrong, known) => {
                let quoted: Vec<String> = known.iter().map(|text| format!("{text:?}")).collect();
                let remedy = nearest(wrong, known.iter().copied())
                    .map(|nearest| format!("did you mean {nearest:?}?"));
                (format!("expected {}", quoted.join(" or ")), remedy.unwrap_or_default())
            }
            Kind::UnknownField(key, known) => {
                let error = self.error(path, format!("unknown key {key:?}"));
                let error = match nearest(key, known.iter().copied()) {
                    Some(nearest) => error.remedy(format!("did you mean {nearest:?}?")),
                    None => error.remedy(format!("known here: {}", known.join(", "))),
                };
                return self.push(path, error);
            }
            Kind::Message(message) => {
                // Our types name what they found themselves; here it is shown, shortened and with
                // secrets hidden, the same way for all.
                let (expected, has_found) = match message.split_once(", found ") {
                    Some((expected, _)) => (expected.to_owned(), true),
                    None => (message.clone(), false),
                };
                let expected = match found {
                    Value::String(_, text) if hidden && !text.is_empty() => {
                        expected.replace(text.as_str(), REDACTED)
                    }
                    _ => expected,
                };
                if !has_found {
                    let error = self.error(path, expected);
                    return self.push(path, error);
                }
                (expected, String::new())
            }
            _ => ("expected another value".to_owned(), String::new()),
        };
        if remedy.is_empty() && wants("array") && self.raw_text(path).is_none() {
            // This much can be said of secrets too.
            remedy = match found {
                Value::String(..) => "write it in [ ]".to_owned(),
                _ => String::new(),
            };
        }
        if remedy.is_empty() && !hidden {
            remedy = match found {
                Value::Num(..) | Value::String(..)
                    if message.contains("a duration with a unit") && is_digits(&shown) =>
                {
                    format!("write \"{}s\"", shown.trim_matches('"'))
                }
                Value::String(_, text)
                    if (wants("boolean") && text.parse::<bool>().is_ok())
                        || (wants("integer") && text.parse::<i64>().is_ok())
                        || (wants("number") && text.parse::<f64>().is_ok()) =>
                {
                    format!("write {text} without quotes")
                }
                Value::String(..)
                    if (wants("array") || wants("object")) && self.raw_text(path).is_some() =>
                {
                    "write JSON, or set each key in it by a name of its own".to_owned()
                }
                Value::Num(..) | Value::Bool(..) if wants("string") => {
                    format!("write \"{shown}\"")
                }
                _ => String::new(),
            };
        }
        let error = self.error(path, message).found(shown).remedy(remedy);
        self.push(path, error);
    }
}

/// What serde expected, for people who know TOML or JSON and not Rust.
fn in_words(expected: &str) -> &str {
    let starts = |words: &[&str]| words.iter().any(|word| expected.starts_with(word));
    match expected {
        "a boolean" => "true or false",
        "a string" | "a borrowed string" => "text",
        "a sequence" => "a list",
        "a map" => "a table",
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        _ if starts(&["struct ", "tuple struct ", "internally tagged enum "]) => "a table",
        _ if starts(&["an array of length ", "a tuple of size "]) => "a list",
        _ if starts(&["enum "]) => "one of its choices",
        other => other,
    }
}

/// Whether a shown value is a number without a unit, quoted or not.
fn is_digits(shown: &str) -> bool {
    let digits = shown.trim_matches('"');
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn first_sentence(text: &str) -> &str {
    let end = text.find(". ").into_iter().chain(text.find(".\n")).min();
    text[..end.unwrap_or(text.len())].trim_end_matches('.')
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

fn find<'v>(value: &'v Value, path: &KeyPath) -> &'v Value {
    let mut value = value;
    for step in path.steps() {
        value = match (step, value) {
            (Step::Key(key), Value::Dict(_, table)) => &table[key],
            (Step::Index(index), Value::Array(_, items)) => &items[*index],
            _ => return value,
        };
    }
    value
}

/// Takes the value at `path`, which is in `parent`, out.
fn remove(value: &mut Value, parent: &KeyPath, path: &KeyPath) -> Option<()> {
    let mut value = value;
    for step in parent.steps() {
        value = match (step, value) {
            (Step::Key(key), Value::Dict(_, table)) => table.get_mut(key)?,
            (Step::Index(index), Value::Array(_, items)) => items.get_mut(*index)?,
            _ => return None,
        };
    }
    match (path.steps().last()?, value) {
        (Step::Key(key), Value::Dict(_, table)) => table.remove(key).map(drop),
        (Step::Index(index), Value::Array(_, items)) if *index < items.len() => {
            items.remove(*index);
            Some(())
        }
        _ => None,
    }
}

/// Where the value that is now at `path` stood before the elements in `removed` were taken out.
fn before_removal(path: &KeyPath, removed: &[KeyPath]) -> KeyPath {
    let mut original = KeyPath::default();
    for step in path.steps() {
        let step = match step {
            Step::Key(_) => step.clone(),
            Step::Index(index) => {
                let mut gone: Vec<usize> = removed
                    .iter()
                    .filter(|gone| gone.parent().as_ref() == Some(&original))
                    .filter_map(|gone| match gone.steps().last() {
                        Some(Step::Index(index)) => Some(*index),
                        _ => None,
                    })
                    .collect();
                gone.sort_unstable();
                Step::Index(gone.into_iter().fold(*index, |at, gone| at + usize::from(gone <= at)))
            }
        };
        original = original.then(step);
    }
    original
}
