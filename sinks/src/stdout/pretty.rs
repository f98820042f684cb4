//! An event on one line for people.

use std::io::Write;

use postrider::event::Envelope;

/// How much of a payload is shown, in bytes; then comes how much is left.
const DATA_BYTES_MAX: usize = 1000;
/// How much of an id is shown: its end, where a `UUIDv7` is random.
const ID_CHARS: usize = 8;
/// Types shorter than this are padded, so that what follows lines up.
const TYPE_WIDTH: usize = 16;

/// How parts are set off on a terminal (ECMA-48 SGR), or not at all.
#[derive(Clone, Copy)]
pub(super) struct Paint {
    dim: &'static str,
    kind: &'static str,
    name: &'static str,
    end: &'static str,
}

impl Paint {
    pub(super) fn new(is_coloured: bool) -> Self {
        if is_coloured {
            Self { dim: "\x1b[2m", kind: "\x1b[1;36m", name: "\x1b[34m", end: "\x1b[0m" }
        } else {
            Self { dim: "", kind: "", name: "", end: "" }
        }
    }
}

pub(super) fn write_pretty(event: &Envelope, paint: Paint, out: &mut Vec<u8>) {
    let Paint { dim, kind, end, .. } = paint;
    let id = event.id().to_string();
    let short = id.char_indices().rev().nth(ID_CHARS - 1).map_or(&*id, |(at, _)| &id[at..]);
    let (time, name) = (event.time(), event.event_type());
    write!(out, "{dim}{time}{end} {kind}{name:<TYPE_WIDTH$}{end} {dim}{short:>ID_CHARS$}{end} ")
        .expect("a vector takes any bytes");
    if let Some(key) = event.key() {
        out.extend_from_slice(dim.as_bytes());
        out.push(b'[');
        key.chars().for_each(|c| put(c, out));
        out.push(b']');
        out.extend_from_slice(end.as_bytes());
        out.push(b' ');
    }
    write_data(event.payload_str(), paint, out);
    out.push(b'\n');
}

/// Writes JSON with one space after `,` and `:` and none elsewhere between tokens.
fn write_data(json: &str, paint: Paint, out: &mut Vec<u8>) {
    let mut rest = json.trim_start();
    while let Some(c) = rest.chars().next() {
        let done = json.len() - rest.len();
        if done >= DATA_BYTES_MAX {
            let left = rest.len();
            write!(out, "{}… {left} more bytes{}", paint.dim, paint.end)
                .expect("a vector takes any bytes");
            return;
        }
        if c == '"' {
            let (text, after) = rest.split_at(string_end(rest));
            let is_name = after.trim_start().starts_with(':');
            // A long text is cut like the whole; the rest of it counts as left.
            let shown = text.floor_char_boundary(DATA_BYTES_MAX - done);
            if is_name {
                out.extend_from_slice(paint.name.as_bytes());
            }
            text[..shown].chars().for_each(|c| put(c, out));
            if is_name {
                out.extend_from_slice(paint.end.as_bytes());
            }
            rest = &rest[shown..];
            if shown < text.len() {
                let left = rest.len();
                write!(out, "{}… {left} more bytes{}", paint.dim, paint.end)
                    .expect("a vector takes any bytes");
                return;
            }
        } else {
            put(c, out);
            if matches!(c, ',' | ':') {
                out.push(b' ');
            }
            rest = &rest[c.len_utf8()..];
        }
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }
}

/// Where the string that `text` begins with ends.
fn string_end(text: &str) -> usize {
    let mut is_escaped = true; // The opening quote ends nothing.
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Writes a character; one that could steer the terminal becomes its JSON escape. JSON itself
/// forbids only those below U+0020 (RFC 8259 §7), and terminals obey U+009B like ESC [.
fn put(c: char, out: &mut Vec<u8>) {
    if c.is_control() {
        write!(out, "\\u{:04x}", u32::from(c)).expect("a vector takes any bytes");
    } else {
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use postrider::clock::SystemClock;
    use postrider::event::NewEvent;

    use super::*;

    fn pretty(new: NewEvent, is_coloured: bool) -> String {
        let new = new
            .id("0193a5c0-7c3d-7d8e-9f00-0123456789ab".parse().unwrap())
            .time("2025-11-30T14:30:45.123Z".parse().unwrap());
        let event = new.seal(&SystemClock, 1 << 20).unwrap();
        let mut out = Vec::new();
        write_pretty(&event, Paint::new(is_coloured), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn raw(payload: &str) -> NewEvent {
        NewEvent::raw("match", payload.to_owned()).unwrap()
    }

    #[test]
    fn one_line() {
        assert_eq!(
            pretty(raw("{\"a\" :\n [1,2.50, \"x, \\\"y:\"] ,\"b\":{ }}\n").key("k\u{9b}2J"), false),
            "2025-11-30T14:30:45.123Z match            456789ab [k\\u009b2J] \
             {\"a\": [1, 2.50, \"x, \\\"y:\"], \"b\": {}}\n"
        );
    }

    #[test]
    fn coloured() {
        assert_eq!(
            pretty(raw(r#"{"a":"b"}"#), true),
            "\x1b[2m2025-11-30T14:30:45.123Z\x1b[0m \x1b[1;36mmatch           \x1b[0m \
             \x1b[2m456789ab\x1b[0m {\x1b[34m\"a\"\x1b[0m: \"b\"}\n"
        );
    }

    /// A payload comes from strangers; a terminal obeys escape sequences.
    #[test]
    fn nothing_steers_the_terminal() {
        let line = pretty(raw("\"\u{9b}31m \u{7f} \\u001b[2J\""), false);
        assert!(line.ends_with("\"\\u009b31m \\u007f \\u001b[2J\"\n"), "{line}");
    }

    #[test]
    fn long_payloads_are_cut() {
        let text = "\u{e9}".repeat(5000);
        let line = pretty(raw(&format!("[\"{text}\"]")), false);
        assert!(line.len() < 1200, "{}", line.len());
        assert!(line.contains("… 9"), "{line}");
        let list = format!("[{}1]", "1, ".repeat(1000));
        let line = pretty(raw(&list), false);
        assert!(line.len() < 1200 && line.ends_with(" more bytes\n"), "{line}");
    }
}
