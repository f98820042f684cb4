//! Header lines kept as they were sent.

use std::fmt;

use bytes::Bytes;
use memchr::memchr;

/// Header lines in the order, case and number in which they were sent.
///
/// Kept as the raw bytes and taken apart when looked at.
#[derive(Clone, Default)]
pub struct Headers {
    head: Bytes,
    /// Where the header lines begin: behind the request line, or 0 for trailers.
    start: usize,
}

impl Headers {
    /// The header lines of a whole head, which begins with its request line.
    pub(crate) fn of_head(head: Bytes) -> Self {
        let start = memchr(b'\n', &head).map_or(head.len(), |at| at + 1);
        Self { head, start }
    }

    /// Header lines without anything before them.
    pub(crate) fn of_lines(lines: Bytes) -> Self {
        Self { head: lines, start: 0 }
    }

    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// The bytes as sent, line ends and the closing empty line included.
    pub fn raw(&self) -> &[u8] {
        &self.head[self.start..]
    }

    /// Each line as its name, in the case in which it was sent, and its value without the
    /// whitespace around it. Values may hold any byte from 0x80 up (RFC 9110 §5.5, `obs-text`),
    /// and the line ends of a folded line (RFC 9112 §5.2).
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut rest = self.raw();
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let (line, more) = rest.split_at(line_end(rest));
                rest = more;
                let Some(colon) = memchr(b':', line) else { continue };
                if let Ok(name) = std::str::from_utf8(&line[..colon]) {
                    return Some((name, line[colon + 1..].trim_ascii()));
                }
            }
            None
        })
    }

    /// The first value of that name, in any case, where it is UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The bytes of the first value of that name, in any case.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The bytes of every value of that name, in any case, in the order sent.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Names and values as text, with U+FFFD for what is not UTF-8.
    pub fn to_pairs(&self) -> Vec<(String, String)> {
        self.iter()
            .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()))
            .collect()
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// Behind a line and what is folded into it.
fn line_end(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr(b'\n', &bytes[at..]) {
        at += found + 1;
        if !matches!(bytes.get(at), Some(b' ' | b'\t')) {
            return at;
        }
    }
    bytes.len()
}

/// Names only: values may be secrets.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}
