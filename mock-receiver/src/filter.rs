//! The short filter of listings: `method:POST path:/orders -status:200 body:"text"`.

use memchr::memmem;

use crate::capture::Record;

/// Terms that must all hold.
///
/// A term is `KEY:VALUE`, or a bare word which is looked for in path, query and body; `-` in
/// front negates it; `"…"` around a value or word lets it hold spaces. Keys: `method` (any case),
/// `path` (begins with), `status` (`200`, `5xx`, `none`), `event`, `header` (`NAME` or
/// `NAME=VALUE`) and `body` (contains).
#[derive(Debug, Default)]
pub(crate) struct Filter {
    terms: Vec<Term>,
}

#[derive(Debug)]
struct Term {
    negated: bool,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Method(String),
    Path(String),
    Status(String),
    Event(String),
    Header(String, Option<String>),
    Body(String),
    Anywhere(String),
}

const KEYS: &str = "method, path, status, event, header, body";

impl Filter {
    /// Reads a filter; the error names the term.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (term, behind) = Term::parse(rest)?;
            terms.push(term);
            rest = behind.trim_start();
        }
        Ok(Self { terms })
    }

    pub(crate) fn matches(&self, request: &Record) -> bool {
        self.terms.iter().all(|term| term.test.holds(request) != term.negated)
    }
}

impl Term {
    fn parse(text: &str) -> Result<(Self, &str), String> {
        let (negated, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let key_end = text.find([':', '"', ' ']).filter(|&at| text[at..].starts_with(':'));
        let (key, text) = key_end.map_or((None, text), |at| (Some(&text[..at]), &text[at + 1..]));
        let (value, rest) = match text.strip_prefix('"') {
            Some(quoted) => quoted
                .split_once('"')
                .ok_or_else(|| format!("filter: the quote before {quoted:?} is not closed"))?,
            None => text.split_at(text.find(char::is_whitespace).unwrap_or(text.len())),
        };
        let value = value.to_owned();
        if value.is_empty() {
            return Err(format!("filter: {:?} has no value", key.unwrap_or("-")));
        }
        let test = match key {
            None => Test::Anywhere(value),
            Some("method") => Test::Method(value),
            Some("path") => Test::Path(value),
            Some("event") => Test::Event(value),
            Some("body") => Test::Body(value),
            Some("header") => match value.split_once('=') {
                Some((name, value)) => Test::Header(name.to_owned(), Some(value.to_owned())),
                None => Test::Header(value, None),
            },
            Some("status") => {
                let class = value.len() == 3
                    && value.ends_with("xx")
                    && value.starts_with(|first: char| first.is_ascii_digit());
                if !class && value != "none" && value.parse::<u16>().is_err() {
                    return Err(format!("filter: status {value:?} is not like 200, 5xx or none"));
                }
                Test::Status(value)
            }
            Some(key) => return Err(format!("filter: unknown key {key:?}; the keys are {KEYS}")),
        };
        Ok((Self { negated, test }, rest))
    }
}

impl Test {
    fn holds(&self, request: &Record) -> bool {
        match self {
            Self::Method(method) => request.method.eq_ignore_ascii_case(method),
            Self::Path(path) => request.path.starts_with(path.as_str()),
            Self::Status(wanted) => match request.status {
                None => wanted == "none",
                Some(status) => match wanted.strip_suffix("xx") {
                    Some(class) => status.to_string().starts_with(class),
                    None => wanted.parse() == Ok(status),
                },
            },
            Self::Event(event) => request.event().as_deref() == Some(event.as_str()),
            Self::Header(name, value) => request
                .headers
                .all(name)
                .any(|found| value.as_ref().is_none_or(|value| found == value.as_bytes())),
            Self::Body(text) => contains(&request.body, text.as_bytes()),
            Self::Anywhere(text) => {
                request.path.contains(text.as_str())
                    || request.query.as_ref().is_some_and(|query| query.contains(text.as_str()))
                    || contains(&request.body, text.as_bytes())
            }
        }
    }
}

fn contains(whole: &[u8], part: &[u8]) -> bool {
    memmem::find(whole, part).is_some()
}
