//! What the derive macro's field attributes call. Not for use by hand, hence hidden from the docs.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::net::Ipv6Addr;
use std::ops::{Bound, RangeBounds};

pub use serde::Serialize;

use super::Invalid;

/// `#[event(range = …)]`; a NaN is in no range.
pub fn range<T, R>(field: &str, value: &T, range: &R) -> Result<(), Invalid>
where
    T: PartialOrd + Display,
    R: RangeBounds<T>,
{
    if range.contains(value) {
        return Ok(());
    }
    let from = match range.start_bound() {
        Bound::Included(from) => format!("at least {from}"),
        Bound::Excluded(from) => format!("above {from}"),
        Bound::Unbounded => String::new(),
    };
    let to = match range.end_bound() {
        Bound::Included(to) => format!("at most {to}"),
        Bound::Excluded(to) => format!("below {to}"),
        Bound::Unbounded => String::new(),
    };
    let both = if from.is_empty() || to.is_empty() { "" } else { " and " };
    Err(Invalid::new(field, format!("a value of {from}{both}{to}"), value))
}

/// `#[event(not_empty)]`.
pub fn not_empty<T: Length + ?Sized>(field: &str, value: &T) -> Result<(), Invalid> {
    if value.length() > 0 {
        return Ok(());
    }
    Err(Invalid::new(field, "a value that is not empty", format!("0 {}", T::UNIT)))
}

/// `#[event(length_max = …)]`.
pub fn length_max<T: Length + ?Sized>(field: &str, value: &T, max: usize) -> Result<(), Invalid> {
    let length = value.length();
    if length <= max {
        return Ok(());
    }
    Err(Invalid::new(field, format!("at most {max} {}", T::UNIT), length))
}

/// `#[event(url)]`: an absolute URL with the scheme http or https and a host (RFC 3986 §3).
///
/// The URL is not shown when it is wrong: a signed one is a secret.
pub fn url(field: &str, value: &(impl AsRef<str> + ?Sized)) -> Result<(), Invalid> {
    check_url(value.as_ref())
        .map_err(|found| Invalid::new(field, "an absolute http or https URL", found))
}

/// By hand, because this room has no other use for a URL and the `url` crate brings Unicode tables
/// of several hundred kilobytes. It is stricter than browsers: only characters of RFC 3986.
fn check_url(url: &str) -> Result<(), String> {
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| {
            let (start, rest) = url.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(rest)
        })
        .ok_or("one that does not begin with https:// or http://")?;
    let bytes = url.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let is_allowed = match byte {
            b'%' => {
                bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(byte),
        };
        if !is_allowed {
            return Err(format!("one with a character that must be percent-encoded, at byte {at}"));
        }
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    let (host, port) = match host_and_port.strip_prefix('[') {
        Some(literal) => {
            let (address, port) = literal.split_once(']').ok_or("one with a broken host")?;
            address.parse::<Ipv6Addr>().map_err(|_| "one with a broken host")?;
            (address, port)
        }
        None => match host_and_port.find(':') {
            Some(at) => host_and_port.split_at(at),
            None => (host_and_port, ""),
        },
    };
    if host.is_empty() {
        return Err("one without a host".into());
    }
    if host_and_port.starts_with('[') || !host.contains(['[', ']']) {
        let digits = port.strip_prefix(':').unwrap_or(port);
        let is_port = digits.is_empty() && port.len() <= 1
            || port.starts_with(':')
                && digits.bytes().all(|byte| byte.is_ascii_digit())
                && digits.parse::<u16>().is_ok();
        return if is_port { Ok(()) } else { Err("one with a broken port".into()) };
    }
    Err("one with a broken host".into())
}

/// What has a length that people count: characters or elements.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no length to check",
    label = "`not_empty` and `length_max` are for strings, lists and maps"
)]
pub trait Length {
    /// What is counted.
    const UNIT: &'static str;

    /// How many.
    fn length(&self) -> usize;
}

impl Length for str {
    const UNIT: &'static str = "characters";

    fn length(&self) -> usize {
        self.chars().count()
    }
}

impl Length for String {
    const UNIT: &'static str = str::UNIT;

    fn length(&self) -> usize {
        self.as_str().length()
    }
}

impl Length for Cow<'_, str> {
    const UNIT: &'static str = str::UNIT;

    fn length(&self) -> usize {
        (**self).length()
    }
}

impl<T: Length + ?Sized> Length for &T {
    const UNIT: &'static str = T::UNIT;

    fn length(&self) -> usize {
        (**self).length()
    }
}

impl<T: Length + ?Sized> Length for Box<T> {
    const UNIT: &'static str = T::UNIT;

    fn length(&self) -> usize {
        (**self).length()
    }
}

macro_rules! count_elements {
    ($($of:ty [$($generics:tt)*]),* $(,)?) => {$(
        impl<$($generics)*> Length for $of {
            const UNIT: &'static str = "elements";

            fn length(&self) -> usize {
                self.len()
            }
        }
    )*};
}

count_elements! {
    [T] [T],
    Vec<T> [T],
    BTreeSet<T> [T],
    BTreeMap<K, V> [K, V],
    HashSet<T, S> [T, S],
    HashMap<K, V, S> [K, V, S],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let check = |url: &str, expect: bool| assert_eq!(check_url(url).is_ok(), expect, "{url}");
        check("https://example.com", true);
        check("HTTP://user:pass@example.com:8080/a/b;c?d=e%20f&g#h", true);
        check("http://127.0.0.1:3000/", true);
        check("http://[::1]:80/", true);
        check("https://[2001:db8::1]", true);
        check("https://example.com:", true); // RFC 3986 §3.2.3: a port may be empty.
        check("https://example.com?x", true);
        check("", false);
        check("example.com", false);
        check("ftp://example.com", false);
        check("javascript:alert(1)", false);
        check("https:/example.com", false);
        check("https://", false);
        check("https:///path", false);
        check("https://user@", false);
        check("https://:80", false);
        check("https://example.com:port", false);
        check("https://example.com:99999", false);
        check("https://example.com:+80", false);
        check("https://[::1", false);
        check("https://[::1]80", false);
        check("https://[x]", false);
        check("https://a[b]", false);
        check("https://exa mple.com", false);
        check("https://example.com/\n", false);
        check("https://example.com/%2", false);
        check("https://example.com/%zz", false);
        check("https://example.com/\u{e9}", false);
        check("https://example.com/<x>", false);
    }

    /// A signed URL is a secret.
    #[test]
    fn a_wrong_url_is_not_shown() {
        let error = url("model_url", "https://x/?signature=hunter 2").unwrap_err().to_string();
        assert_eq!(
            error,
            "model_url: expected an absolute http or https URL, found one with a character that must \
             be percent-encoded, at byte 27"
        );
    }
}
