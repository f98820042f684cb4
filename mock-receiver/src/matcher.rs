//! Which requests are meant: one language for the library, the API and the command line.

use std::{collections::BTreeMap, fmt};

use memchr::memmem;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::capture::Record;

/// Which requests are meant; what is not said is not asked for.
///
/// As JSON, in `match` of `POST /api/v1/wait` and of a scenario's rules:
/// `{"method":"POST","path":"/orders/{id}","query":{"v":"2"},"headers":{"x-a":"b"},"event":"match",`
/// `"json":{"data":{"n":3}},"pointers":{"/data/n":3},"text":"refund"}`.
///
/// ```
/// use mock_receiver::Matcher;
/// use serde_json::json;
///
/// Matcher::new().method("POST").event("match").json(json!({ "data": { "images_count": 3 } }));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Matcher {
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    query: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pointers: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// One thing that a matcher asked for and a request did not have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Mismatch {
    /// `method`, `path`, `query.NAME`, `headers.NAME`, `event`, `text`, or `json` with a JSON
    /// pointer behind it.
    pub(crate) field: String,
    pub(crate) expected: String,
    /// `None` where there is nothing at all.
    pub(crate) found: Option<String>,
}

impl Matcher {
    /// Means every request.
    pub fn new() -> Self {
        Self::default()
    }

    /// The method, in the case in which it is sent.
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.method = Some(method.into());
        self
    }

    /// The whole path as sent, with the bin and without the query. A segment `{name}` stands for
    /// any one segment.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// A parameter of the query that has this value, both decoded (any of that name may).
    pub fn query(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.query.insert(name.into(), value.into());
        self
    }

    /// A header, by its name in any case, that has this value (any of its lines may).
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// The field `event` of the JSON body.
    pub fn event(mut self, event: impl Into<String>) -> Self {
        self.event = Some(event.into());
        self
    }

    /// Part of the JSON body: objects may have further members, everything else is equal (arrays
    /// as a whole). Numbers beyond 64 bits are compared as floating point.
    pub fn json(mut self, part: Value) -> Self {
        self.json = Some(part);
        self
    }

    /// What a JSON pointer (RFC 6901) finds in the body is equal to this.
    pub fn pointer(mut self, pointer: impl Into<String>, value: impl Into<Value>) -> Self {
        self.pointers.insert(pointer.into(), value.into());
        self
    }

    /// The body contains this.
    pub fn text(mut self, part: impl Into<String>) -> Self {
        self.text = Some(part.into());
        self
    }

    /// Whether only a request whose body is there can be told.
    pub(crate) fn needs_body(&self) -> bool {
        self.event.is_some()
            || self.json.is_some()
            || self.text.is_some()
            || !self.pointers.is_empty()
    }

    /// The segments of a path that stand for `{name}`s, with their names.
    pub(crate) fn params(&self, request: &Record) -> Vec<(String, String)> {
        let path = self.path.as_ref().filter(|path| path.contains('{'));
        path.map_or_else(Vec::new, |path| {
            let pairs = path.split('/').zip(request.path.split('/'));
            pairs
                .filter_map(|(name, value)| Some((param(name)?.to_owned(), value.to_owned())))
                .collect()
        })
    }

    /// Whether the request is one of those meant.
    pub fn matches(&self, request: &Record) -> bool {
        self.mismatches(request).is_empty()
    }

    /// Everything in which the request differs.
    pub(crate) fn mismatches(&self, request: &Record) -> Vec<Mismatch> {
        let mut misses = Vec::new();
        let mut miss = |field: String, expected: String, found: Option<String>| {
            misses.push(Mismatch { field, expected, found: found.map(|text| shorten(&text)) });
        };
        if let Some(method) = self.method.as_ref().filter(|method| **method != request.method) {
            miss("method".into(), method.clone(), Some(request.method.clone()));
        }
        if let Some(path) = self.path.as_ref().filter(|path| !is_path(path, &request.path)) {
            miss("path".into(), path.clone(), Some(request.path.clone()));
        }
        let query = request.query.as_deref().unwrap_or_default().as_bytes();
        for (name, value) in &self.query {
            let found = || form_urlencoded::parse(query).filter(|(key, _)| key == name);
            if !found().any(|(_, found)| found == *value) {
                let first = found().next().map(|(_, value)| value.into_owned());
                miss(format!("query.{name}"), value.clone(), first);
            }
        }
        for (name, value) in &self.headers {
            if !request.headers.all(name).any(|found| found == value.as_bytes()) {
                let found = request.headers.bytes(name);
                let found = found.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
                miss(format!("headers.{}", name.to_ascii_lowercase()), value.clone(), found);
            }
        }
        if let Some(event) = &self.event {
            let found = request.event();
            if found.as_deref() != Some(event) {
                miss("event".into(), event.clone(), found.map(Into::into));
            }
        }
        let json = (self.json.is_some() || !self.pointers.is_empty())
            .then(|| request.json::<Value>().ok())
            .flatten();
        if let Some(part) = &self.json {
            match &json {
                Some(whole) => json_misses(part, whole, &mut "json".to_owned(), &mut miss),
                None => miss("json".into(), part.to_string(), None),
            }
        }
        for (pointer, value) in &self.pointers {
            let found = json.as_ref().and_then(|whole| whole.pointer(pointer));
            if found != Some(value) {
                let found = found.map(Value::to_string);
                miss(format!("json{pointer}"), value.to_string(), found);
            }
        }
        if let Some(text) = &self.text
            && memmem::find(&request.body, text.as_bytes()).is_none()
        {
            miss("text".into(), text.clone(), request.text().map(str::to_owned));
        }
        misses
    }
}

/// The name in `{name}`.
fn param(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

fn is_path(wanted: &str, path: &str) -> bool {
    if !wanted.contains('{') {
        return wanted == path;
    }
    let (mut wanted, mut path) = (wanted.split('/'), path.split('/'));
    loop {
        match (wanted.next(), path.next()) {
            (None, None) => return true,
            (Some(one), Some(other)) if one == other || param(one).is_some() => {}
            _ => return false,
        }
    }
}

fn json_misses(
    part: &Value,
    whole: &Value,
    at: &mut String,
    miss: &mut impl FnMut(String, String, Option<String>),
) {
    let (Value::Object(part), Value::Object(whole)) = (part, whole) else {
        if part != whole {
            miss(at.clone(), part.to_string(), Some(whole.to_string()));
        }
        return;
    };
    for (name, value) in part {
        let length = at.len();
        at.push('/');
        at.push_str(&name.replace('~', "~0").replace('/', "~1")); // RFC 6901 §3
        match whole.get(name) {
            Some(found) => json_misses(value, found, at, miss),
            None => miss(at.clone(), value.to_string(), None),
        }
        at.truncate(length);
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {:?}, ", self.field, self.expected)?;
        match &self.found {
            Some(found) => write!(f, "found {found:?}"),
            None => f.write_str("found none"),
        }
    }
}
