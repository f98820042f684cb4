//! What a body may have been when it was signed, given what it was when it arrived.

use memchr::memmem;

use super::{
    Cause, CauseKind,
    reprint::{Json, Style},
};

/// A larger body is not printed again.
const REPRINT_BYTES_MAX: usize = 1 << 20;
/// The byte order mark of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The body as one slip would have left it, each with the slip's name; never the body itself.
pub(super) fn variants(body: &[u8]) -> Vec<(Vec<u8>, Cause)> {
    let mut all = Variants { body, list: Vec::new() };
    for (end, name) in [("\n", "\\n"), ("\r\n", "\\r\\n")] {
        all.add(
            [body, end.as_bytes()].concat(),
            CauseKind::NewlineLost,
            format!("the signed body ends with {name}, which the one that arrived has not"),
        );
    }
    for (end, name) in [("\r\n", "\\r\\n"), ("\n", "\\n")] {
        if let Some(bare) = body.strip_suffix(end.as_bytes()) {
            all.add(
                bare.to_vec(),
                CauseKind::NewlineAdded,
                format!("the body that arrived ends with {name}, which the signed one has not"),
            );
        }
    }
    all.add(
        body.trim_ascii().to_vec(),
        CauseKind::WhitespaceAdded,
        "the body that arrived has white space around it, which the signed one has not",
    );
    let unix = replaced(body, b"\r\n", b"\n");
    let windows = replaced(&unix, b"\n", b"\r\n");
    all.add(
        unix,
        CauseKind::LineEndsChanged,
        "line ends were \\n when it was signed and \\r\\n on arrival",
    );
    all.add(
        windows,
        CauseKind::LineEndsChanged,
        "line ends were \\r\\n when it was signed and \\n on arrival",
    );
    if let Some(json) = (body.len() <= REPRINT_BYTES_MAX).then(|| Json::parse(body)).flatten() {
        for (style, name) in styles() {
            let why = format!("the signed JSON was printed differently: {name}");
            all.add(json.print(style).into(), CauseKind::BodyReserialised, why);
        }
        if let Json::Text(inner) = &json {
            all.add(
                inner.clone().into(),
                CauseKind::BodyEncodedTwice,
                "the body that arrived is a JSON string that holds the signed document",
            );
        }
    }
    let marked = "a byte order mark was lost after it was signed";
    let unmarked = "a byte order mark was added after it was signed";
    match body.strip_prefix(MARK) {
        Some(bare) => all.add(bare.to_vec(), CauseKind::CharsetChanged, unmarked),
        None => all.add([MARK, body].concat(), CauseKind::CharsetChanged, marked),
    }
    if let Ok(text) = std::str::from_utf8(body) {
        if let Some(latin) = text.chars().map(|char| u8::try_from(char as u32).ok()).collect() {
            let why = "the signed bytes were ISO-8859-1 (or were encoded as UTF-8 once more)";
            all.add(latin, CauseKind::CharsetChanged, why);
        }
    } else {
        let text: String = body.iter().map(|&byte| char::from(byte)).collect();
        let why = "the signed bytes were UTF-8, what arrived is ISO-8859-1";
        all.add(text.into(), CauseKind::CharsetChanged, why);
    }
    all.add(Vec::new(), CauseKind::BodyEmpty, "an empty body was signed");
    all.list
}

struct Variants<'a> {
    body: &'a [u8],
    list: Vec<(Vec<u8>, Cause)>,
}

impl Variants<'_> {
    fn add(&mut self, variant: Vec<u8>, kind: CauseKind, text: impl Into<String>) {
        if variant != self.body && self.list.iter().all(|(other, _)| *other != variant) {
            self.list.push((variant, Cause::new(kind, text)));
        }
    }
}

fn styles() -> Vec<(Style, String)> {
    let plain = Style::default();
    let base = [
        (plain, "compact"),
        (Style { spaced: true, ..plain }, "with a space behind commas and colons"),
        (Style { spaced: true, ascii: true, ..plain }, "as Python's json.dumps does"),
        (Style { doubles: true, ..plain }, "as JavaScript's JSON.stringify does"),
        (Style { slashes: true, ascii: true, ..plain }, "as PHP's json_encode does"),
        (Style { slashes: true, ..plain }, "compact, with \\/"),
        (Style { html: true, ..plain }, "compact, with \\u003c, as Go's json.Marshal does"),
        (Style { ascii: true, ..plain }, "compact, in ASCII only"),
        (Style { indent: 2, ..plain }, "indented by 2"),
        (Style { indent: 4, ..plain }, "indented by 4"),
    ];
    let sorted = base
        .iter()
        .map(|(style, name)| (Style { sorted: true, ..*style }, format!("{name}, keys sorted")));
    base.iter().map(|(style, name)| (*style, (*name).to_owned())).chain(sorted).collect()
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut begin = 0;
    for at in memmem::find_iter(bytes, from) {
        out.extend_from_slice(&bytes[begin..at]);
        out.extend_from_slice(to);
        begin = at + from.len();
    }
    out.extend_from_slice(&bytes[begin..]);
    out
}
