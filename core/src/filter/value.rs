//! Payloads as filters see them: numbers keep their digits, texts are borrowed where they can be.

use std::borrow::Cow;

use serde_json::Value as Json;

use super::PAYLOAD_DEPTH_MAX;
use super::number;

/// A JSON value.
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// As it is written.
    Number(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    /// In the order it is written; of a name that is given twice, the last counts.
    Table(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl<'a> Value<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&Value<'a>> {
        let Self::Table(entries) = self else { return None };
        entries.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Writes it as JSON without spaces; numbers keep their digits.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let text = |text: &str, out: &mut Vec<u8>| {
            serde_json::to_writer(out, text).expect("a Vec takes all that is written");
        };
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Self::Number(number) => out.extend_from_slice(number.as_bytes()),
            Self::Text(value) => text(value, out),
            Self::List(items) => {
                out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Self::Table(entries) => {
                out.push(b'{');
                for (at, (name, value)) in entries.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    text(name, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }

    /// Whether it is the same value as one of a filter.
    pub(super) fn is(&self, wanted: &Json) -> bool {
        match (self, wanted) {
            (Self::Null, Json::Null) => true,
            (Self::Bool(found), Json::Bool(wanted)) => found == wanted,
            (Self::Number(found), Json::Number(wanted)) => {
                number::compare(found, &wanted.to_string()).is_eq()
            }
            (Self::Text(found), Json::String(wanted)) => found == wanted,
            (Self::List(found), Json::Array(wanted)) => {
                found.len() == wanted.len()
                    && found.iter().zip(wanted).all(|(found, wanted)| found.is(wanted))
            }
            (Self::Table(found), Json::Object(wanted)) => {
                let mut names = found.iter().map(|(name, _)| name);
                names.all(|name| wanted.contains_key(&**name))
                    && wanted
                        .iter()
                        .all(|(name, wanted)| self.get(name).is_some_and(|found| found.is(wanted)))
            }
            _ => false,
        }
    }
}

/// Parses a payload; `None` where it nests deeper than [`PAYLOAD_DEPTH_MAX`].
///
/// Payloads were checked to be JSON when they were published. Anything else ends in `None`, too.
pub(crate) fn parse(payload: &[u8]) -> Option<Value<'_>> {
    let text = std::str::from_utf8(payload).ok()?;
    Parser { text, at: 0 }.value(PAYLOAD_DEPTH_MAX)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    /// The next byte that is no white space, not taken.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> bool {
        let is_next = self.peek() == Some(wanted);
        self.at += usize::from(is_next);
        is_next
    }

    fn value(&mut self, depth: usize) -> Option<Value<'a>> {
        match self.peek()? {
            b'{' => {
                let depth = depth.checked_sub(1)?;
                self.at += 1;
                let mut entries = Vec::new();
                if self.take(b'}') {
                    return Some(Value::Table(entries));
                }
                loop {
                    self.peek()?;
                    let name = self.text()?;
                    self.take(b':').then_some(())?;
                    entries.push((name, self.value(depth)?));
                    if !self.take(b',') {
                        return self.take(b'}').then_some(Value::Table(entries));
                    }
                }
            }
            b'[' => {
                let depth = depth.checked_sub(1)?;
                self.at += 1;
                let mut items = Vec::new();
                if self.take(b']') {
                    return Some(Value::List(items));
                }
                loop {
                    items.push(self.value(depth)?);
                    if !self.take(b',') {
                        return self.take(b']').then_some(Value::List(items));
                    }
                }
            }
            b'"' => self.text().map(Value::Text),
            _ => Some(match self.word() {
                "null" => Value::Null,
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "" => return None,
                number => Value::Number(number),
            }),
        }
    }

    /// What stands up to the next mark or white space.
    fn word(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let length = rest.bytes().take_while(is_part).count();
        self.at += length;
        &rest[..length]
    }

    fn text(&mut self) -> Option<Cow<'a, str>> {
        let rest = self.text[self.at..].strip_prefix('"')?;
        let bytes = rest.as_bytes();
        let (mut end, mut has_escapes) = (0, false);
        while *bytes.get(end)? != b'"' {
            let is_escape = bytes[end] == b'\\';
            has_escapes |= is_escape;
            end += 1 + usize::from(is_escape);
        }
        self.at += end + 2;
        let inner = &rest[..end];
        if !has_escapes {
            return Some(inner.into());
        }
        let quoted = &self.text[self.at - end - 2..self.at];
        // Half of a surrogate pair is valid JSON and no text: it stays as it is spelled.
        Some(serde_json::from_str(quoted).map_or(inner.into(), Cow::Owned))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            (-1e9..1e9).prop_map(Json::from),
            any::<String>().prop_map(Json::from),
        ];
        leaf.prop_recursive(5, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Json::from),
                prop::collection::btree_map(any::<String>(), inner, 0..8)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// What serde writes is read as the same value, in both of its spellings.
        #[test]
        fn parses_what_serde_writes(json in json()) {
            for text in [json.to_string(), serde_json::to_string_pretty(&json).unwrap()] {
                prop_assert!(parse(text.as_bytes()).unwrap().is(&json), "{text}");
            }
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[\\[\\]{}\",:\\\\a0-9 ]{0,64}") {
            let _ = parse(&bytes);
            let _ = parse(text.as_bytes());
        }
    }

    #[test]
    fn the_last_of_two_equal_names_counts_and_odd_escapes_stay() {
        let value = parse(br#"{"a": 1, "a": 2, "b": "\ud800"}"#).unwrap();
        assert!(value.get("a").unwrap().is(&2.into()));
        assert!(value.get("b").unwrap().is(&r"\ud800".into()));
    }
}
