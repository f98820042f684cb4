//! What has been found wrong so far, and where the values at hand came from.

use std::collections::BTreeSet;

use figment::value::{Num, Value};

use super::errors::{ConfigError, ERRORS_MAX, REDACTED};
use super::origin::{Origin, Origins, Source};
use super::path::{KeyPath, Step};
use super::schema::{Located, Schema, allows};

/// Longest value that an error shows, in characters.
const FOUND_CHARS_MAX: usize = 64;

/// Collects errors; knows for each path what the schema says and where the value stands.
pub(super) struct Report<'a> {
    pub(super) schema: &'a Schema,
    /// All values, as they were before anything was dropped.
    pub(super) tree: &'a Value,
    pub(super) origins: &'a Origins,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<ConfigError>,
    bad: BTreeSet<KeyPath>,
    /// Paths in the endpoint at hand whose values were inherited, with where they really stand.
    pub(super) inherited: Vec<(KeyPath, KeyPath)>,
}

impl<'a> Report<'a> {
    pub(super) fn new(schema: &'a Schema, tree: &'a Value, origins: &'a Origins) -> Self {
        Self {
            schema,
            tree,
            origins,
            errors: Vec::new(),
            warnings: Vec::new(),
            bad: BTreeSet::new(),
            inherited: Vec::new(),
        }
    }

    /// Where the value that is used for `path` was written.
    fn written(&self, path: &KeyPath) -> KeyPath {
        let inherited = self.inherited.iter().find(|(to, _)| path.starts_with(to));
        match inherited {
            Some((to, from)) => path.steps()[to.steps().len()..]
                .iter()
                .fold(from.clone(), |path, step| path.then(step.clone())),
            None => path.clone(),
        }
    }

    pub(super) fn origin(&self, path: &KeyPath) -> &'a Origin {
        self.origins.of(&self.written(path))
    }

    /// The whole text of the variable or flag that set exactly this key.
    pub(super) fn raw_text(&self, path: &KeyPath) -> Option<&'a str> {
        let origin = self.origins.whole(&self.written(path))?;
        let is_text = matches!(origin.document.source, Source::Variable(_) | Source::Flag(_));
        (is_text && origin.offset.is_none()).then_some(origin.document.text.as_str())
    }

    pub(super) fn locate(&self, path: &KeyPath) -> Located<'a> {
        self.schema.locate(&self.written(path), self.tree)
    }

    /// An error at `path`, to be completed and pushed.
    pub(super) fn error(&self, path: &KeyPath, message: impl Into<String>) -> ConfigError {
        ConfigError::new(self.origin(path).place(), &self.written(path), message)
    }

    /// Records an error that concerns the value at `path`.
    pub(super) fn push(&mut self, path: &KeyPath, error: ConfigError) {
        self.bad.insert(path.clone());
        // An inherited value is looked at once for each endpoint.
        if self.errors.len() < ERRORS_MAX && !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    /// Notes that the value at `path` cannot be used, for a reason that was reported.
    pub(super) fn note_bad(&mut self, path: &KeyPath) {
        self.bad.insert(path.clone());
    }

    pub(super) fn fail(&mut self, path: &KeyPath, message: impl Into<String>) {
        let error = self.error(path, message);
        self.push(path, error);
    }

    /// Whether nothing at or below `path` was wrong so far.
    pub(super) fn is_clean(&self, path: &KeyPath) -> bool {
        !self.bad.range(path..).next().is_some_and(|bad| bad.starts_with(path))
    }

    /// Whether the value at `path` itself was found wrong.
    pub(super) fn is_bad(&self, path: &KeyPath) -> bool {
        self.bad.contains(path)
    }

    /// The value as an error may show it: no secret, no more than its kind where the schema expects
    /// no scalar, short.
    pub(super) fn show(&self, value: &Value, path: &KeyPath) -> String {
        let Located { node, hidden, .. } = self.locate(path);
        let is_plain = node.is_some_and(|node| {
            ["string", "integer", "number", "boolean"].iter().any(|kind| allows(node, kind))
                || node.get("enum").is_some()
                || node.get("const").is_some()
                || node["oneOf"][0].get("const").is_some()
        });
        match value {
            Value::Dict(..) => "a table".to_owned(),
            Value::Array(..) => "a list".to_owned(),
            Value::Empty(..) => "null".to_owned(),
            _ if hidden => REDACTED.to_owned(),
            Value::Bool(_, value) => value.to_string(),
            Value::Num(_, number) => integer(*number)
                .map(|number| number.to_string())
                .or_else(|| number.to_f64().map(|number| number.to_string()))
                .unwrap_or_else(|| "a number".to_owned()),
            Value::String(_, text) if is_plain => shorten(&redact_url(text)),
            Value::String(..) | Value::Char(..) => "text".to_owned(),
        }
    }
}

/// A whole number, whichever type holds it: figment's own conversions take signed ones for signed
/// numbers only.
pub(super) fn integer(number: Num) -> Option<i128> {
    number.to_i128().or_else(|| number.to_u128()?.try_into().ok())
}

/// The path that figment's error names, in `value`; cut where it leads out of it.
pub(super) fn path_in(value: &Value, names: &[String]) -> KeyPath {
    let (mut path, mut value) = (KeyPath::default(), value);
    for name in names {
        let (step, below) = match value {
            Value::Dict(_, table) => (Step::Key(name.clone()), table.get(name)),
            Value::Array(_, items) => match name.parse() {
                Ok(index) => (Step::Index(index), items.get(index)),
                Err(_) => break,
            },
            _ => break,
        };
        let Some(below) = below else { break };
        path = path.then(step);
        value = below;
    }
    path
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(FOUND_CHARS_MAX) {
        Some((at, _)) => format!("{:?}…", &text[..at]),
        None => format!("{text:?}"),
    }
}

/// Hides what a URL may hold of secrets: user and password, and the query. Made for texts that are
/// *wrong* URLs, so that it looks for marks and does not parse.
fn redact_url(text: &str) -> String {
    let Some(colon) = text.find(':') else { return text.to_owned() };
    let start = colon + 1 + text[colon + 1..].bytes().take_while(|b| *b == b'/').count();
    let query = text[start..].find(['?', '#']).map_or(text.len(), |at| start + at);
    let (host, tail) = match text[start..].rfind('@') {
        // A password may hold any character, `?` and `#` too.
        Some(at) if text[..colon].contains('@') || start + at >= query => {
            return format!("{}{REDACTED}", &text[..start.min(colon)]);
        }
        Some(at) => (start + at, &text[start + at..query]),
        None => (start, &text[start..query]),
    };
    let user = if host > start { REDACTED } else { "" };
    let query = if query < text.len() { format!("?{REDACTED}") } else { String::new() };
    format!("{}{user}{tail}{query}", &text[..start])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_their_secrets() {
        let check = |text: &str, expect: &str| assert_eq!(redact_url(text), expect, "{text:?}");
        check("https://example.com/a", "https://example.com/a");
        check("https://me:pw@example.com/a", "https://••••@example.com/a");
        check("htp:/me:pw@example.com/a", "htp:/••••@example.com/a");
        check("me:pw@example.com", "me:••••@example.com");
        check("https://example.com/a?token=x", "https://example.com/a?••••");
        check("https://me:p?w@example.com/a", "https••••");
        check("https://me:p#w@example.com/a?x=y", "https••••");
        check("10", "10");
        check("", "");
    }
}
