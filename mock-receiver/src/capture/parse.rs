//! Request heads as they come over HTTP/1 (RFC 9112), taken apart just as far as answering needs.
//!
//! More is accepted than a server should: folded lines, bare line feeds. What is refused is
//! refused with a reason that names the line, and is kept all the same.

use memchr::memchr;

/// The largest head, or trailer section.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most header lines.
pub(super) const HEADERS_MAX: usize = 100;

/// What a head says about the request and its body.
#[derive(Debug, PartialEq)]
pub(super) struct Head<'a> {
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) version: &'static str,
    pub(super) framing: Framing,
    /// Whether the connection may be used for another request.
    pub(super) keep_alive: bool,
    /// Whether the sender waits for 100 before it sends the body (RFC 9110 §10.1.1).
    pub(super) expects: bool,
}

impl Head<'_> {
    /// Stands for a head that could not be read: nothing follows it.
    pub(super) fn last() -> Self {
        let (method, target, version) = ("", "", "HTTP/1.1");
        let framing = Framing::Length(0);
        Self { method, target, version, framing, keep_alive: false, expects: false }
    }
}

/// How the end of the body is known (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// Why a head is refused: the status of the answer and a sentence.
#[derive(Debug, PartialEq)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) why: String,
}

fn refused(why: impl Into<String>) -> Refused {
    Refused { status: 400, why: why.into() }
}

/// Where the first section of lines ends: behind its empty line. `from` is where an earlier look
/// at the same, shorter bytes ended.
pub(super) fn section_end(bytes: &[u8], from: usize) -> Option<usize> {
    // The section may be empty, as trailers mostly are.
    match bytes {
        [b'\n', ..] => return Some(1),
        [b'\r', b'\n', ..] => return Some(2),
        _ => {}
    }
    let mut at = from.saturating_sub(3);
    while let Some(found) = memchr(b'\n', &bytes[at..]) {
        at += found + 1;
        match &bytes[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

/// Reads a whole head, with its empty line.
pub(super) fn head(bytes: &[u8]) -> Result<Head<'_>, Refused> {
    let mut lines = Lines(bytes);
    let first = lines.next().unwrap_or_default();
    if first.first() == Some(&0x16) {
        return Err(refused("this is a TLS handshake; start the receiver with --tls for it"));
    }
    let first = std::str::from_utf8(first)
        .map_err(|_| refused("the request line is not text (RFC 9112 §3)"))?;
    let mut words = first.split(' ').filter(|word| !word.is_empty());
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        let why = "the request line is not METHOD TARGET VERSION (RFC 9112 §3)";
        return Err(refused(format!("{why}: {}", shown(first.as_bytes()))));
    };
    if !method.bytes().all(is_token) {
        return Err(refused(format!("the method {method:?} is not a token (RFC 9110 §9.1)")));
    }
    if target.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(refused("the target holds a control character (RFC 9112 §3.2)"));
    }
    let version = match version {
        "HTTP/1.1" => "HTTP/1.1",
        "HTTP/1.0" => "HTTP/1.0",
        other => {
            let why = format!("version {other:?} is none that is spoken here: HTTP/1.1, HTTP/1.0");
            return Err(Refused { status: 505, why });
        }
    };
    let mut seen = Seen::default();
    for line in lines {
        seen.line(line)?;
    }
    let framing = seen.framing()?;
    let keep_alive = match version {
        "HTTP/1.0" => seen.keep_alive && !seen.close,
        _ => !seen.close,
    };
    Ok(Head { method, target, version, framing, keep_alive, expects: seen.expects })
}

/// What the header lines have said so far.
#[derive(Default)]
struct Seen {
    lines: usize,
    length: Option<u64>,
    coding: Option<bool>,
    close: bool,
    keep_alive: bool,
    expects: bool,
}

impl Seen {
    fn line(&mut self, line: &[u8]) -> Result<(), Refused> {
        self.lines += 1;
        if self.lines > HEADERS_MAX {
            let why = format!("there are more than {HEADERS_MAX} header lines");
            return Err(Refused { status: 431, why });
        }
        if line.first().is_some_and(|&byte| byte == b' ' || byte == b'\t') {
            if self.lines == 1 {
                return Err(refused("the first header line begins with a space (RFC 9112 §2.2)"));
            }
            return Ok(()); // Goes on with the line before (obs-fold, RFC 9112 §5.2).
        }
        let Some(colon) = memchr(b':', line) else {
            return Err(refused(format!("a header line has no colon: {}", shown(line))));
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().copied().all(is_token) {
            let why = "a header's name is not a token (RFC 9110 §5.1)";
            return Err(refused(format!("{why}: {}", shown(name))));
        }
        if value.iter().any(|&byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
            let why = "holds a control character (RFC 9110 §5.5)";
            return Err(refused(format!("the value of header {} {why}", shown(name))));
        }
        let has = |word: &str| {
            value
                .split(|&byte| byte == b',')
                .any(|one| one.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
        };
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length(value)?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let last = value.rsplit(|&byte| byte == b',').next().unwrap_or_default();
            self.coding = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        } else if name.eq_ignore_ascii_case(b"connection") {
            self.close |= has("close");
            self.keep_alive |= has("keep-alive");
        } else if name.eq_ignore_ascii_case(b"expect") {
            self.expects = has("100-continue");
        }
        Ok(())
    }

    fn length(&mut self, value: &[u8]) -> Result<(), Refused> {
        let number = std::str::from_utf8(value)
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(bytes) = number.and_then(|text| text.parse().ok()) else {
            let why = "content-length is not a number of bytes (RFC 9112 §6.2)";
            return Err(refused(format!("{why}: {}", shown(value))));
        };
        if self.length.is_some_and(|earlier| earlier != bytes) {
            return Err(refused("two content-length lines differ (RFC 9112 §6.3)"));
        }
        self.length = Some(bytes);
        Ok(())
    }

    fn framing(&self) -> Result<Framing, Refused> {
        match self.coding {
            Some(true) => Ok(Framing::Chunked),
            Some(false) => {
                Err(refused("the last transfer-encoding is not chunked (RFC 9112 §6.3)"))
            }
            None => Ok(Framing::Length(self.length.unwrap_or(0))),
        }
    }
}

/// The size before any extension (RFC 9112 §7.1).
pub(super) fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|&byte| byte == b';').next()?.trim_ascii();
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok().filter(|_| plain)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Lines without their ends, up to the empty one.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr(b'\n', self.0).unwrap_or(self.0.len());
        let line = self.0[..end].strip_suffix(b"\r").unwrap_or(&self.0[..end]);
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        (!line.is_empty()).then_some(line)
    }
}

/// The beginning of some bytes, for a sentence.
pub(super) fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(60)];
    let dots = if cut.len() < bytes.len() { "…" } else { "" };
    format!("\"{}{dots}\"", cut.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_section_is_found_however_the_bytes_come() {
        for (whole, end) in [
            (&b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest"[..], Some(24)),
            (b"GET / HTTP/1.1\nA: b\n\nrest", Some(21)),
            (b"GET / HTTP/1.1\nA: b\n\r\nrest", Some(22)),
            (b"\r\nrest", Some(2)),
            (b"\nrest", Some(1)),
            (b"GET / HTTP/1.1\r\nA: b\r\n\r", None),
            (b"", None),
        ] {
            assert_eq!(section_end(whole, 0), end, "{:?}", whole.escape_ascii().to_string());
            for from in 0..whole.len() {
                if section_end(&whole[..from], 0).is_none() {
                    assert_eq!(section_end(whole, from), end, "looked before at {from}");
                }
            }
        }
    }

    #[test]
    fn framing_and_persistence_are_read_as_the_rfc_says() {
        let check = |lines: &str| {
            let bytes = format!("POST /a?b HTTP/1.1\r\n{lines}\r\n");
            let head = head(bytes.as_bytes()).unwrap_or_else(|error| panic!("{lines}: {error:?}"));
            (head.framing, head.keep_alive, head.expects)
        };
        assert_eq!(check(""), (Framing::Length(0), true, false));
        assert_eq!(check("CONTENT-length:  12 \r\n"), (Framing::Length(12), true, false));
        assert_eq!(check("Content-Length: 3\r\nContent-Length: 3\r\n").0, Framing::Length(3));
        let both = "content-length: 3\r\ntransfer-encoding: gzip, Chunked\r\n";
        assert_eq!(check(both).0, Framing::Chunked);
        assert!(!check("Connection: Upgrade, Close\r\n").1);
        assert!(check("expect: 100-Continue\r\n").2);
        assert_eq!(check("X-Folded: one\r\n two\r\n").0, Framing::Length(0));
        let old = head(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").map(|h| h.keep_alive);
        assert_eq!(old, Ok(true));
        assert_eq!(head(b"GET /a HTTP/1.0\r\n\r\n").map(|head| head.keep_alive), Ok(false));
    }

    #[test]
    fn what_is_refused_says_why() {
        for (bytes, status, why) in [
            (&b"\x16\x03\x01\x02\0\x01\r\n\r\n"[..], 400, "TLS handshake"),
            (b"nonsense\r\n\r\n", 400, "METHOD TARGET VERSION"),
            (b"GET /a b HTTP/1.1\r\n\r\n", 400, "METHOD TARGET VERSION"),
            (b"G\"T /a HTTP/1.1\r\n\r\n", 400, "not a token"),
            (b"GET /a HTTP/2.0\r\n\r\n", 505, "HTTP/2.0"),
            (b"GET /\xff HTTP/1.1\r\n\r\n", 400, "not text"),
            (b"GET /a HTTP/1.1\r\nBad Name: a\r\n\r\n", 400, "Bad Name"),
            (b"GET /a HTTP/1.1\r\nName : a\r\n\r\n", 400, "\"Name \""),
            (b"GET /a HTTP/1.1\r\nNone\r\n\r\n", 400, "no colon"),
            (b"GET /a HTTP/1.1\r\nA: b\0c\r\n\r\n", 400, "control character"),
            (b"GET /a HTTP/1.1\r\n A: b\r\n\r\n", 400, "begins with a space"),
            (b"GET /a HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400, "\"+1\""),
            (b"GET /a HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400, "9999"),
            (b"GET /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "differ"),
            (b"GET /a HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "not chunked"),
        ] {
            let error = head(bytes).expect_err(why);
            assert_eq!(error.status, status, "{}", error.why);
            assert!(error.why.contains(why), "{}", error.why);
        }
        let many = format!("GET /a HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(head(many.as_bytes()).map_err(|error| error.status), Err(431));
        for wrong in ["", "x", "-1", "+1", " ", "1g", "fffffffffffffffff"] {
            assert_eq!(chunk_size(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(chunk_size(b"1A;x=\"y\""), Some(26));
        assert_eq!(chunk_size(b" 0a "), Some(10));
    }
}
