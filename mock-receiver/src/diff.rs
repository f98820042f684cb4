//! In what two captures differ: head, query, headers, and the body as JSON or as bytes.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::capture::Record;

/// How many differences are listed.
const DIFFERENCES_MAX: usize = 1_000;
/// A longer value is cut where it is shown.
const SHOWN_CHARS_MAX: usize = 200;
/// A larger body is not compared as JSON.
const JSON_BYTES_MAX: usize = 4 << 20;

/// In what two captures differ; from [`diff`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Diff {
    /// The numbers of the two.
    pub a: u64,
    /// The second one.
    pub b: u64,
    /// Whether nothing differs at all: not head, trailers or body.
    pub identical: bool,
    /// Whether the bodies are byte for byte the same.
    pub body_identical: bool,
    /// Whether the bodies are the same JSON, whatever the printing; `None` where one is none.
    pub json_equal: Option<bool>,
    /// The offset of the first byte in which the bodies differ.
    pub first_byte: Option<usize>,
    /// Each difference, at most 1000.
    pub differences: Vec<Difference>,
    /// Whether there are more than are listed.
    pub truncated: bool,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// `method`, `path`, `query.NAME`, `headers.NAME`, `headers` (their order or case),
    /// `trailers`, `json` with a JSON pointer behind it, or `body`.
    pub field: String,
    /// What the first one has; `None` for nothing.
    pub a: Option<String>,
    /// What the second one has.
    pub b: Option<String>,
}

/// Compares two captures. JSON bodies of up to 4 MiB are compared member by member; numbers
/// beyond 64 bits as floating point, but the bytes always too.
pub fn diff(a: &Record, b: &Record) -> Diff {
    let mut found = Found::default();
    found.compare("method", Some(a.method.clone()), Some(b.method.clone()));
    found.compare("path", Some(a.path.clone()), Some(b.path.clone()));
    found.grouped("query", &query(a), &query(b));
    let lower = |record: &Record| -> Vec<(String, String)> {
        let pairs = record.headers.to_pairs().into_iter();
        pairs.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
    };
    found.grouped("headers", &lower(a), &lower(b));
    if found.list.iter().all(|one| !one.field.starts_with("headers")) {
        let names = |record: &Record| {
            let pairs = record.headers.to_pairs().into_iter().map(|(name, _)| name);
            Some(pairs.collect::<Vec<_>>().join(", "))
        };
        found.compare("headers", names(a), names(b));
    }
    let lines = |record: &Record| Some(String::from_utf8_lossy(record.trailers.raw()).into_owned());
    found.compare("trailers", lines(a), lines(b));
    let body_identical = a.body == b.body;
    let first_byte = (!body_identical).then(|| {
        let pairs = a.body.iter().zip(b.body.iter());
        pairs.take_while(|(one, other)| one == other).count()
    });
    let json = |record: &Record| {
        let small = record.body.len() <= JSON_BYTES_MAX;
        small.then(|| record.json::<Value>().ok()).flatten()
    };
    let json_equal = match (json(a), json(b)) {
        (Some(one), Some(other)) => {
            found.json(&one, &other, &mut "json".to_owned());
            Some(one == other)
        }
        _ => None,
    };
    if let (Some(at), None | Some(true)) = (first_byte, json_equal) {
        let around = |bytes: &[u8]| {
            let part = &bytes[at.saturating_sub(20).min(bytes.len())..bytes.len().min(at + 40)];
            Some(format!("…{}", String::from_utf8_lossy(part).escape_debug()))
        };
        found.add("body".to_owned(), around(&a.body), around(&b.body));
    }
    let Found { list, truncated } = found;
    let identical = list.is_empty() && a.head() == b.head() && body_identical;
    let (a, b) = (a.seq, b.seq);
    Diff { a, b, identical, body_identical, json_equal, first_byte, differences: list, truncated }
}

fn query(record: &Record) -> Vec<(String, String)> {
    let query = record.query.as_deref().unwrap_or_default();
    let pairs = form_urlencoded::parse(query.as_bytes());
    pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

#[derive(Default)]
struct Found {
    list: Vec<Difference>,
    truncated: bool,
}

impl Found {
    fn add(&mut self, field: String, a: Option<String>, b: Option<String>) {
        if self.list.len() == DIFFERENCES_MAX {
            self.truncated = true;
            return;
        }
        let short = |text: Option<String>| text.map(|text| shorten(&text));
        self.list.push(Difference { field, a: short(a), b: short(b) });
    }

    fn compare(&mut self, field: &str, a: Option<String>, b: Option<String>) {
        if a != b {
            self.add(field.to_owned(), a, b);
        }
    }

    /// Values of one name together, in their order.
    fn grouped(&mut self, field: &str, a: &[(String, String)], b: &[(String, String)]) {
        let mut names: Vec<&str> = a.iter().chain(b).map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let of = |pairs: &[(String, String)]| {
                let values: Vec<&str> = pairs
                    .iter()
                    .filter(|(key, _)| key == name)
                    .map(|(_, value)| value.as_str())
                    .collect();
                (!values.is_empty()).then(|| values.join(", "))
            };
            self.compare(&format!("{field}.{name}"), of(a), of(b));
        }
    }

    fn json(&mut self, a: &Value, b: &Value, at: &mut String) {
        let length = at.len();
        match (a, b) {
            (Value::Object(one), Value::Object(other)) => {
                let added = other.keys().filter(|name| !one.contains_key(*name));
                for name in one.keys().chain(added) {
                    at.push('/');
                    at.push_str(&name.replace('~', "~0").replace('/', "~1")); // RFC 6901 §3
                    self.either(one.get(name), other.get(name), at);
                    at.truncate(length);
                }
            }
            (Value::Array(one), Value::Array(other)) => {
                for index in 0..one.len().max(other.len()) {
                    at.push('/');
                    at.push_str(&index.to_string());
                    self.either(one.get(index), other.get(index), at);
                    at.truncate(length);
                }
            }
            _ if a != b => self.add(at.clone(), Some(a.to_string()), Some(b.to_string())),
            _ => {}
        }
    }

    fn either(&mut self, a: Option<&Value>, b: Option<&Value>, at: &mut String) {
        match (a, b) {
            (Some(a), Some(b)) => self.json(a, b, at),
            (a, b) => self.add(at.clone(), a.map(Value::to_string), b.map(Value::to_string)),
        }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// For people: a line per difference, `-` for the first and `+` for the second.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} and #{}: ", self.a, self.b)?;
        match (self.identical, self.body_identical, self.json_equal) {
            (true, ..) => f.write_str("identical")?,
            (_, true, _) => f.write_str("the same body")?,
            (_, _, Some(true)) => f.write_str("the same JSON, printed differently")?,
            _ => f.write_str("bodies differ")?,
        }
        for Difference { field, a, b } in &self.differences {
            write!(f, "\n{field}")?;
            for (sign, value) in [('-', a), ('+', b)] {
                if let Some(value) = value {
                    write!(f, "\n  {sign} {}", value.escape_debug())?;
                }
            }
        }
        if self.truncated {
            f.write_str("\n…")?;
        }
        Ok(())
    }
}
