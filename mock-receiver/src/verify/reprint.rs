//! JSON printed again as other programs print it: what a sender signs when it signs its own
//! printing of a body and sends another.

use std::fmt::Write as _;

/// How a program prints JSON.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Style {
    /// Behind commas and colons of one line (`", "` and `": "` as Python's).
    pub(super) spaced: bool,
    /// Spaces per level, over several lines; 0 for one line.
    pub(super) indent: usize,
    pub(super) sorted: bool,
    /// Characters beyond ASCII as `\uXXXX`.
    pub(super) ascii: bool,
    /// `/` as `\/`, as PHP does.
    pub(super) slashes: bool,
    /// `<`, `>` and `&` as `\u003c` and so on, as Go does.
    pub(super) html: bool,
    /// Numbers through a double, as JavaScript does.
    pub(super) doubles: bool,
}

/// A value with its members in their order and its numbers in their digits.
pub(super) enum Json {
    /// A number or a literal, as it stands.
    Plain(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads a document; `None` where it is none (or is nested deeper than 128 levels).
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        // What passes here is valid and not deep, so that the reader below may be simple.
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).ok()?;
        let mut reader = Reader { text: std::str::from_utf8(bytes).ok()?, depth: 0 };
        reader.value()
    }

    pub(super) fn print(&self, style: Style) -> String {
        let mut out = String::new();
        self.write(style, 0, &mut out);
        out
    }

    fn write(&self, style: Style, level: usize, out: &mut String) {
        match self {
            Self::Plain(text) => {
                let double = style.doubles.then(|| text.parse::<f64>().ok()).flatten();
                match double {
                    // Rust prints the shortest digits that read back the same, as JavaScript does.
                    Some(double) if double.abs() < 1e21 => drop(write!(out, "{double}")),
                    _ => out.push_str(text),
                }
            }
            Self::Text(text) => quote(text, style, out),
            Self::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    between(at, style, level + 1, out);
                    item.write(style, level + 1, out);
                }
                end(items.is_empty(), style, level, out);
                out.push(']');
            }
            Self::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                if style.sorted {
                    members.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    between(at, style, level + 1, out);
                    quote(name, style, out);
                    out.push_str(if style.spaced || style.indent > 0 { ": " } else { ":" });
                    value.write(style, level + 1, out);
                }
                end(members.is_empty(), style, level, out);
                out.push('}');
            }
        }
    }
}

fn between(at: usize, style: Style, level: usize, out: &mut String) {
    if at > 0 {
        out.push(',');
    }
    if style.indent > 0 {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', style.indent * level));
    } else if at > 0 && style.spaced {
        out.push(' ');
    }
}

fn end(empty: bool, style: Style, level: usize, out: &mut String) {
    if !empty && style.indent > 0 {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', style.indent * level));
    }
}

fn quote(text: &str, style: Style, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '/' if style.slashes => out.push_str("\\/"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' if style.html => drop(write!(out, "\\u{:04x}", char as u32)),
            char if char < ' ' || (style.ascii && !char.is_ascii()) => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}"); // Writing to a string cannot fail.
                }
            }
            char => out.push(char),
        }
    }
    out.push('"');
}

/// Reads what is known to be valid.
struct Reader<'a> {
    text: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<u8> {
        self.text = self.text.trim_start_matches([' ', '\t', '\n', '\r']);
        self.text.bytes().next()
    }

    fn skip(&mut self) {
        self.text = self.text.get(1..).unwrap_or_default();
    }

    fn value(&mut self) -> Option<Json> {
        match self.peek()? {
            b'"' => self.text().map(Json::Text),
            b'[' => {
                self.deeper()?;
                let mut items = Vec::new();
                while self.peek()? != b']' {
                    items.push(self.value()?);
                    if self.peek()? == b',' {
                        self.skip();
                    }
                }
                self.shallower();
                Some(Json::List(items))
            }
            b'{' => {
                self.deeper()?;
                let mut members = Vec::new();
                while self.peek()? != b'}' {
                    let name = self.text()?;
                    self.peek()?;
                    self.skip(); // The colon.
                    members.push((name, self.value()?));
                    if self.peek()? == b',' {
                        self.skip();
                    }
                }
                self.shallower();
                Some(Json::Object(members))
            }
            _ => {
                let length = self.text.find([',', ']', '}', ' ', '\t', '\n', '\r']);
                let (plain, rest) = self.text.split_at(length.unwrap_or(self.text.len()));
                self.text = rest;
                (!plain.is_empty()).then(|| Json::Plain(plain.to_owned()))
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        let mut escaped = false;
        let length = self.text.get(1..)?.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })?;
        let (quoted, rest) = self.text.split_at(length + 2);
        self.text = rest;
        serde_json::from_str(quoted).ok()
    }

    fn deeper(&mut self) -> Option<()> {
        self.skip();
        self.depth += 1;
        (self.depth <= 128).then_some(())
    }

    fn shallower(&mut self) {
        self.skip();
        self.depth -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_printed_as_other_programs_print_them() {
        let text = r#" {"b" : [1.0, 18446744073709551616, true,null,"ü/<\u00e9\n\ud83d\ude00"],"a":{},"c":[] } "#;
        let json = Json::parse(text.as_bytes()).expect("a document");
        let plain = Style::default();
        for (style, expect) in [
            (plain, r#"{"b":[1.0,18446744073709551616,true,null,"ü/<é\n😀"],"a":{},"c":[]}"#),
            (
                Style { spaced: true, ascii: true, ..plain },
                r#"{"b": [1.0, 18446744073709551616, true, null, "\u00fc/<\u00e9\n\ud83d\ude00"], "a": {}, "c": []}"#,
            ),
            (
                Style { sorted: true, doubles: true, ..plain },
                r#"{"a":{},"b":[1,18446744073709552000,true,null,"ü/<é\n😀"],"c":[]}"#,
            ),
            (
                Style { slashes: true, html: true, ..plain },
                r#"{"b":[1.0,18446744073709551616,true,null,"ü\/\u003cé\n😀"],"a":{},"c":[]}"#,
            ),
        ] {
            assert_eq!(json.print(style), expect);
        }
        let indented = Json::parse(br#"{"a":[1,{}]}"#).expect("a document");
        assert_eq!(
            indented.print(Style { indent: 2, ..plain }),
            "{\n  \"a\": [\n    1,\n    {}\n  ]\n}"
        );
        for wrong in ["", "{", "{\"a\"}", "\u{feff}1", "\"", &"[".repeat(1000)] {
            assert!(Json::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert_eq!(Json::parse(deep.as_bytes()).expect("deep").print(plain), deep);
    }
}
