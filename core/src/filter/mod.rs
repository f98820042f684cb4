//! Filters: which of the events that an endpoint's patterns match it really gets.
//!
//! Pure. A filter is compiled once from JSON and then judges events by their type, id, key,
//! attributes and payload. A payload is parsed at most once for all filters of an event, and not at
//! all where none asks for it. The language is in docs/FILTERS.md.

mod compile;
mod dialect;
mod explain;
mod number;
mod test;
pub(crate) mod value;

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;

pub use explain::Mismatch;

use crate::event::{Attributes, Envelope, NewEvent};
use test::Node;
use value::Value;

/// Most conditions of one filter.
pub const CONDITIONS_MAX: usize = 200;
/// Deepest nesting of a filter.
pub const DEPTH_MAX: usize = 32;
/// Most values of one list in a filter.
pub const LIST_MAX: usize = 1000;
/// Longest regular expression, in bytes.
pub const REGEX_BYTES_MAX: usize = 1 << 10;
/// Largest compiled regular expression, in bytes.
pub const REGEX_COMPILED_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of a payload that filters look into; one that is deeper matches none of them.
pub const PAYLOAD_DEPTH_MAX: usize = 128;

/// A compiled filter; cheap to clone.
///
/// ```
/// use postrider::filter::{Facts, Filter};
/// use postrider::NewEvent;
///
/// let filter: Filter = r#"{"payload": {"amount": {"$gte": 100}}}"#.parse()?;
/// let event = NewEvent::raw("order.paid", r#"{"amount": 99.5}"#).unwrap();
/// let why = filter.explain(&Facts::of_new(&event)).unwrap_err();
/// assert_eq!(why.to_string(), "payload.amount: expected $gte 100, found 99.5");
/// # Ok::<(), postrider::filter::InvalidFilter>(())
/// ```
#[derive(Clone)]
pub struct Filter(Arc<Compiled>);

struct Compiled {
    source: Json,
    root: Node,
    asks_payload: bool,
}

impl Filter {
    /// Compiles a filter: a table in the language of docs/FILTERS.md, or a list of filters in the
    /// dialects of the `CloudEvents` Subscriptions API.
    ///
    /// # Errors
    /// Everything that is wrong, each with the place in `source`; at least one.
    pub fn new(source: &Json) -> Result<Self, Vec<InvalidFilter>> {
        let (root, asks_payload) = compile::compile(source)?;
        Ok(Self(Arc::new(Compiled { source: source.clone(), root, asks_payload })))
    }

    /// Whether the event passes.
    pub fn matches(&self, event: &Facts<'_>) -> bool {
        event.root(self.0.asks_payload).is_some_and(|root| self.0.root.holds(Some(root)))
    }

    /// Whether the event passes, and if not, the first condition that does not hold.
    ///
    /// # Errors
    /// That condition.
    pub fn explain(&self, event: &Facts<'_>) -> Result<(), Mismatch> {
        match event.root(self.0.asks_payload) {
            Some(root) => explain::explain(&self.0.root, root),
            None => Err(Mismatch::too_deep()),
        }
    }

    /// Whether payloads must be parsed for it.
    pub fn asks_payload(&self) -> bool {
        self.0.asks_payload
    }
}

impl std::str::FromStr for Filter {
    type Err = InvalidFilter;

    /// Compiles a filter that is written as JSON; tells the first mistake.
    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        let source: Json = serde_json::from_str(text)
            .map_err(|error| InvalidFilter::new(&[], format!("not valid JSON: {error}"), ""))?;
        Self::new(&source).map_err(|mut mistakes| mistakes.swap_remove(0))
    }
}

/// Filters are equal where they are written the same.
impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.0.source == other.0.source
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.0.source)
    }
}

/// One mistake in a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidFilter {
    /// Where: the keys and positions from the filter's root.
    pub path: Vec<String>,
    /// What is wrong, as a lower-case sentence part.
    pub message: String,
    /// What to do; may be empty.
    pub remedy: String,
}

impl InvalidFilter {
    fn new(path: &[String], message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { path: path.to_vec(), message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for InvalidFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("filter")?;
        for step in &self.path {
            write!(f, ".{step}")?;
        }
        write!(f, ": {}", self.message)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

impl std::error::Error for InvalidFilter {}

/// What filters may look at of one event. Parses the payload when the first filter asks for it, and
/// keeps what it found for the others.
pub struct Facts<'a> {
    kind: &'a str,
    id: Option<String>,
    key: Option<&'a str>,
    attributes: &'a Attributes,
    payload: &'a [u8],
    without_payload: OnceCell<Value<'a>>,
    /// `None` inside: the payload nests too deep.
    with_payload: OnceCell<Option<Value<'a>>>,
}

impl<'a> Facts<'a> {
    /// Of an accepted event.
    pub fn of(event: &'a Envelope) -> Self {
        let id = Some(event.id().to_string());
        let kind = event.event_type().as_str();
        Self::new(kind, id, event.key(), event.attributes(), event.payload())
    }

    /// Of an event that is not published yet: an id that publishing would make is missing.
    pub fn of_new(event: &'a NewEvent) -> Self {
        let id = event.given_id().map(ToString::to_string);
        let kind = event.event_type().as_str();
        Self::new(kind, id, event.given_key(), event.attributes(), event.payload())
    }

    fn new(
        kind: &'a str,
        id: Option<String>,
        key: Option<&'a str>,
        attributes: &'a Attributes,
        payload: &'a [u8],
    ) -> Self {
        let (without_payload, with_payload) = (OnceCell::new(), OnceCell::new());
        Self { kind, id, key, attributes, payload, without_payload, with_payload }
    }

    fn root(&self, with_payload: bool) -> Option<&Value<'a>> {
        if !with_payload {
            return Some(self.without_payload.get_or_init(|| Value::Table(self.beside())));
        }
        let parsed = self.with_payload.get_or_init(|| {
            let mut root = self.beside();
            root.push(("payload".into(), value::parse(self.payload)?));
            Some(Value::Table(root))
        });
        parsed.as_ref()
    }

    /// Everything but the payload.
    fn beside(&self) -> Vec<(std::borrow::Cow<'a, str>, Value<'a>)> {
        let attributes = self
            .attributes
            .iter()
            .map(|(name, text)| (name.as_str().into(), Value::Text(text.as_str().into())));
        let mut root = vec![
            ("type".into(), Value::Text(self.kind.into())),
            ("attributes".into(), Value::Table(attributes.collect())),
        ];
        if let Some(id) = &self.id {
            root.push(("id".into(), Value::Text(id.clone().into())));
        }
        if let Some(key) = self.key {
            root.push(("key".into(), Value::Text(key.into())));
        }
        root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the filter lets an event of this payload through.
    fn passes(filter: &str, payload: &str) -> bool {
        let filter: Filter = filter.parse().unwrap_or_else(|error| panic!("{filter}: {error}"));
        let event = NewEvent::raw("order.paid", payload.to_owned())
            .unwrap()
            .key("k-1")
            .attribute("tier", "gold");
        let facts = Facts::of_new(&event);
        let passes = filter.matches(&facts);
        assert_eq!(filter.explain(&facts).is_ok(), passes, "{filter:?} {payload}");
        passes
    }

    fn check(filter: &str, payload: &str, expect: bool) {
        let filter = format!(r#"{{"payload": {filter}}}"#);
        assert_eq!(passes(&filter, payload), expect, "{filter} on {payload}");
    }

    #[test]
    fn plain_values_are_equal_or_in_a_list() {
        check(r#"{"a": 1}"#, r#"{"a": 1}"#, true);
        check(r#"{"a": 1}"#, r#"{"a": 1.0}"#, true);
        check(r#"{"a": 1}"#, r#"{"a": "1"}"#, false);
        check(r#"{"a": null}"#, r#"{"a": null}"#, true);
        check(r#"{"a": null}"#, "{}", false);
        check(r#"{"a": {"b": true}}"#, r#"{"a": {"b": true, "c": 1}}"#, true);
        check(r#"{"tags": "gift"}"#, r#"{"tags": ["gift", "x"]}"#, true);
        check(r#"{"tags": "gif"}"#, r#"{"tags": ["gift", "x"]}"#, false);
        check(r#"{"tags": ["x", "gift"]}"#, r#"{"tags": ["gift", "x", 3]}"#, true);
        check(r#"{"tags": ["y", "gift"]}"#, r#"{"tags": ["gift", "x"]}"#, false);
        check(r#"{"tags": ["gift"]}"#, r#"{"tags": "gift"}"#, false);
        check("false", "false", true);
        check(r#""a\nb""#, r#""a\u000ab""#, true);
    }

    /// Hookdeck: a table beside a list is looked for in one and the same element.
    #[test]
    fn a_table_is_found_in_one_element_of_a_list() {
        let payload = r#"{"items": [{"id": 1, "n": 5}, {"id": 2, "n": 9}]}"#;
        check(r#"{"items": {"id": 2, "n": {"$gt": 8}}}"#, payload, true);
        check(r#"{"items": {"id": 1, "n": {"$gt": 8}}}"#, payload, false);
        check(r#"{"items": {"id": 1}}"#, r#"{"items": []}"#, false);
    }

    #[test]
    fn operators() {
        for (test, value, expect) in [
            (r#"{"$eq": [1, 2]}"#, "[1, 2]", true),
            (r#"{"$eq": [1, 2]}"#, "[2, 1]", false),
            (r#"{"$eq": {"x": 1}}"#, r#"{"x": 1.0}"#, true),
            (r#"{"$eq": {"x": 1}}"#, r#"{"x": 1, "y": 2}"#, false),
            (r#"{"$ne": 1}"#, "2", true),
            (r#"{"$ne": 1}"#, "[1, 2]", false),
            (r#"{"$neq": 1}"#, "1", false),
            (r#"{"$in": [1, "a"]}"#, r#""a""#, true),
            (r#"{"$in": [1, "a"]}"#, r#"["b", 1]"#, true),
            (r#"{"$nin": [1, "a"]}"#, r#""a""#, false),
            (r#"{"$nin": [1, "a"]}"#, r#""b""#, true),
            (r#"{"$gt": 1}"#, "1", false),
            (r#"{"$gte": 1}"#, "1", true),
            (r#"{"$gt": 0.1, "$lt": 0.3}"#, "0.2", true),
            (r#"{"$lte": 0.1}"#, "0.1000000000000000000001", false),
            (r#"{"$gt": 1}"#, r#""2""#, false),
            (r#"{"$lt": "2025-12-01"}"#, r#""2025-11-30T10:00:00Z""#, true),
            (r#"{"$gt": 5}"#, "[1, 9]", true),
            (r#"{"$startsWith": "ab"}"#, r#""abc""#, true),
            (r#"{"$startsWith": ["x", "ab"]}"#, r#""abc""#, true),
            (r#"{"$endsWith": "ab"}"#, r#""abc""#, false),
            (r#"{"$contains": "b"}"#, r#""abc""#, true),
            (r#"{"$contains": "b"}"#, r#"["abc"]"#, false),
            (r#"{"$contains": 3}"#, "[1, 3]", true),
            (r#"{"$regex": "^a.c$"}"#, r#""abc""#, true),
            (r#"{"$regex": "^a.c$"}"#, r#""xabc""#, false),
            (r#"{"$exists": true}"#, "null", true),
            (r#"{"$exist": false}"#, "1", false),
            (r#"{"$or": [1, {"$gt": 5}]}"#, "7", true),
            (r#"{"$or": [1, {"$gt": 5}]}"#, "3", false),
            (r#"{"$and": [{"$gt": 1}, {"$lt": 5}]}"#, "3", true),
            (r#"{"$not": {"$startsWith": "a"}}"#, r#""abc""#, false),
            (r#"{"$not": "b"}"#, r#""abc""#, true),
        ] {
            check(&format!(r#"{{"a": {test}}}"#), &format!(r#"{{"a": {value}}}"#), expect);
        }
    }

    /// Only what says so holds for a value that is not there.
    #[test]
    fn what_is_missing() {
        for (test, expect) in [
            (r#"{"$exists": false}"#, true),
            (r#"{"$ne": 1}"#, true),
            (r#"{"$nin": [1]}"#, true),
            (r#"{"$not": 1}"#, true),
            (r#"{"$eq": null}"#, false),
            (r#"{"$lt": 1}"#, false),
            (r#"{"$regex": ""}"#, false),
            (r#"{"b": {"$exists": false}}"#, true),
        ] {
            check(&format!(r#"{{"a": {test}}}"#), "{}", expect);
            check(&format!(r#"{{"x": {{"a": {test}}}}}"#), r#"{"x": 3}"#, expect);
        }
    }

    #[test]
    fn numbers_are_compared_exactly() {
        check(r#"{"$eq": 9007199254740993}"#, "9007199254740993", true);
        check(r#"{"$eq": 9007199254740993}"#, "9007199254740992", false);
        check(r#"{"$gt": 18446744073709551615}"#, "18446744073709551616", true);
        check(r#"{"$gt": 1}"#, "1e400", true);
        check(r#"{"$lt": 0}"#, "-1e-400", true);
    }

    #[test]
    fn the_rest_of_an_event_and_whole_conditions() {
        assert!(passes(r#"{"type": {"$startsWith": "order."}, "key": "k-1"}"#, "{}"));
        assert!(passes(r#"{"attributes": {"tier": {"$in": ["gold"]}}}"#, "{}"));
        assert!(passes(r#"{"id": {"$exists": false}}"#, "{}"));
        assert!(passes(r#"{"$or": [{"key": "x"}, {"payload": {"a": 1}}]}"#, r#"{"a": 1}"#));
        assert!(!passes(r#"{"$not": {"payload": {"a": 1}}}"#, r#"{"a": 1}"#));
        assert!(!passes(r#"{"type": "order"}"#, "{}"));
    }

    #[test]
    fn the_payload_is_parsed_only_where_a_filter_asks_for_it() {
        let asks = |text: &str| text.parse::<Filter>().unwrap().asks_payload();
        assert!(!asks(r#"{"type": "a", "$or": [{"key": "x"}, {"id": "y"}]}"#));
        assert!(asks(r#"{"type": "a", "$or": [{"key": "x"}, {"payload": 1}]}"#));
        assert!(!asks(r#"[{"prefix": {"type": "a"}}]"#));
        let event = NewEvent::raw("a", "{}").unwrap();
        let facts = Facts::of_new(&event);
        assert!(r#"{"type": "a"}"#.parse::<Filter>().unwrap().matches(&facts));
        assert!(facts.with_payload.get().is_none());
    }

    /// A payload that nests without end must not end the process, nor pass a `$not` unseen.
    #[test]
    fn a_payload_that_nests_too_deep_passes_no_filter_that_looks_into_it() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        let look = r#"{"payload": {"$not": {"a": 1}}}"#;
        assert!(passes(look, &deep(PAYLOAD_DEPTH_MAX)));
        assert!(!passes(look, &deep(PAYLOAD_DEPTH_MAX + 1)));
        assert!(!passes(look, &deep(500_000)));
        assert!(passes(r#"{"type": "order.paid"}"#, &deep(500_000)));
    }

    #[test]
    fn a_mismatch_names_the_condition() {
        let why = |filter: &str, payload: &str| {
            let event = NewEvent::raw("order.paid", payload.to_owned()).unwrap();
            let filter: Filter = filter.parse().unwrap();
            filter.explain(&Facts::of_new(&event)).unwrap_err().to_string()
        };
        let check = |filter, payload, expect: &str| assert_eq!(why(filter, payload), expect);
        check(
            r#"{"payload": {"user": {"tier": "gold"}}}"#,
            r#"{"user": {"tier": "basic"}}"#,
            r#"payload.user.tier: expected "gold", found "basic""#,
        );
        check(
            r#"{"payload": {"a": {"$in": [1, 2]}}}"#,
            "{}",
            "payload.a: expected $in [1,2], found nothing",
        );
        check(
            r#"{"$or": [{"key": "x"}, {"id": "y"}]}"#,
            "{}",
            "no alternative of $or holds; the first: key: expected \"x\", found nothing",
        );
        check(
            r#"{"type": {"$not": {"$endsWith": "paid"}}}"#,
            "{}",
            "type: what $not excludes holds",
        );
    }

    #[test]
    fn mistakes_are_all_told_with_path_and_remedy() {
        let source = serde_json::json!({
            "data": {"a": 1},
            "payload": {"a": {"$gtt": 1, "$gt": true, "$regex": "(", "$in": 3}, "b": {}, "c": []},
            "$or": [],
        });
        let told: Vec<String> =
            Filter::new(&source).unwrap_err().iter().map(ToString::to_string).collect();
        let has =
            |text: &str| assert!(told.iter().any(|told| told.contains(text)), "{text}: {told:#?}");
        has(r#"filter.data: unknown key; did you mean "payload"?"#);
        has(r#"filter.payload.a.$gtt: unknown operator; did you mean "$gt"?"#);
        has("filter.payload.a.$gt: expected a number or a text");
        has("filter.payload.a.$regex: not a regular expression");
        has("filter.payload.a.$in: expected a list");
        has("filter.payload.b: an empty table says nothing");
        has("filter.payload.c: an empty list says nothing");
        has("filter.$or: an empty list says nothing");
        assert_eq!(told.len(), 8, "{told:#?}");
    }

    #[test]
    fn filters_are_bounded() {
        let mistake = |json: Json| Filter::new(&json).unwrap_err()[0].to_string();
        let mut deep = serde_json::json!({"$eq": 1});
        for _ in 0..DEPTH_MAX {
            deep = serde_json::json!({ "a": deep });
        }
        assert!(mistake(serde_json::json!({ "payload": deep })).contains("nested deeper than 32"));
        let wide: serde_json::Map<String, Json> =
            (0..=CONDITIONS_MAX).map(|n| (n.to_string(), n.into())).collect();
        assert!(
            mistake(serde_json::json!({ "payload": wide })).contains("more than 200 conditions")
        );
        let long: Vec<usize> = (0..=LIST_MAX).collect();
        assert!(mistake(serde_json::json!({"payload": {"$in": long}})).contains("at most 1000"));
        let regex = |text: &str| mistake(serde_json::json!({"type": {"$regex": text}}));
        assert!(regex(&"a".repeat(2000)).contains("at most 1024 bytes"));
        assert!(regex("(a{1000}){1000}").contains("not a regular expression"));
    }

    #[test]
    fn dialects_of_cloud_events() {
        assert!(passes(r#"[{"exact": {"type": "order.paid", "tier": "gold"}}]"#, "{}"));
        assert!(!passes(r#"[{"exact": {"type": "order"}}]"#, "{}"));
        assert!(passes(r#"[{"prefix": {"type": "order."}}, {"suffix": {"tier": "ld"}}]"#, "{}"));
        assert!(!passes(r#"[{"prefix": {"type": "order."}}, {"suffix": {"tier": "x"}}]"#, "{}"));
        assert!(passes(r#"[{"exact": {"partitionkey": "k-1"}}]"#, "{}"));
        assert!(passes(
            r#"[{"any": [{"exact": {"type": "x"}}, {"exact": {"tier": "gold"}}]}]"#,
            "{}"
        ));
        assert!(!passes(
            r#"[{"all": [{"exact": {"type": "x"}}, {"exact": {"tier": "gold"}}]}]"#,
            "{}"
        ));
        assert!(passes(r#"[{"not": {"exact": {"subject": "x"}}}]"#, "{}"));
        let mistake = |text: &str| text.parse::<Filter>().unwrap_err().to_string();
        assert!(mistake(r#"[{"sql": "type = 'x'"}]"#).contains("filter.0.sql: unknown dialect"));
        assert!(mistake(r#"[{"exact": {"source": "x"}}]"#).contains("the same for every event"));
        assert!(mistake(r#"[{"exact": {"type": ""}}]"#).contains("not empty"));
        assert!(
            mistake(r#"[{"exact": {"a": "b"}, "prefix": {"a": "b"}}]"#).contains("one dialect")
        );
        assert!(mistake("[]").contains("an empty list says nothing"));
    }
}
