//! What came back, and what it means.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, LOCATION, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use postrider::Timestamp;
use postrider::delivery::{Ack, Cause, Nack, Outcome};
use url::Url;

use super::permanent::Statuses;
use super::target::redacted;

/// Longest piece of a `location` that a message repeats, in characters.
const LOCATION_CHARS_MAX: usize = 200;

/// An answer, read up to the client's bound.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The header, at most 128 fields and 64 KiB.
    pub headers: HeaderMap,
    /// The body, at most `response_bytes_max` bytes of it. Decoded, unless `headers` still have a
    /// `content-encoding`.
    pub body: Bytes,
    /// Whether `body` is all of it. False beyond the bound, where a failure's body broke off, and
    /// where it could not be decoded to its end.
    pub complete: bool,
    /// The address that answered.
    pub peer: SocketAddr,
    /// What of the request may have to do with a failure; completes its message.
    pub(super) hint: &'static str,
}

impl Answer {
    /// What a webhook's answer means to the delivery; `now` is for dates in `retry-after`.
    ///
    /// - 2xx: taken over.
    /// - 410: never again, the endpoint is disabled (Standard Webhooks).
    /// - 3xx: failed, naming the location: redirects are not followed, a signed event goes only
    ///   where its owner said.
    /// - Any other: failed, to be retried, not before the time in `retry-after` where one is given
    ///   (RFC 9110 §10.2.3). 429, 502, 503 and 504 pause the endpoint's whole lane.
    pub fn outcome(&self, now: Timestamp) -> Outcome {
        self.outcome_with(now, &[])
    }

    /// As [`outcome`](Self::outcome), but that a failure whose status `permanent` covers is final:
    /// the delivery is dead after this attempt. 410 disables as ever.
    pub fn outcome_with(&self, now: Timestamp, permanent: &[Statuses]) -> Outcome {
        let status = self.status.as_u16();
        if self.status.is_success() {
            return Ok(Ack::new().status(status).answer(self.text()));
        }
        let message = if self.status.is_redirection() {
            redirected(status, &self.headers)
        } else {
            format!("the receiver answered {}{}", self.status, self.hint)
        };
        let nack = if self.status == StatusCode::GONE {
            Nack::disable(Cause::Status, "the receiver answered 410: it wants no more events")
        } else if permanent.iter().any(|statuses| statuses.covers(self.status)) {
            let message = format!("{message}; permanent says that it is final");
            Nack::reject(Cause::Status, message)
        } else {
            Nack::retry(Cause::Status, message)
        };
        Err(self.wish(nack, now).status(status).answer(self.text()))
    }

    /// Puts in what the answer asks for about the time of the next try.
    pub(super) fn wish(&self, nack: Nack, now: Timestamp) -> Nack {
        let nack = match self.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) {
            Some(wish) => match retry_after(wish, now) {
                Some(delay) => nack.after(delay),
                None => nack,
            },
            None => nack,
        };
        // The receiver, or what stands before it, has too much to do (RFC 6585 §4, RFC 9110 §15.6).
        if matches!(self.status.as_u16(), 429 | 502..=504) { nack.slow() } else { nack }
    }

    /// The body where it can be read; a coding that we do not know leaves nothing to read.
    fn text(&self) -> &[u8] {
        let mut codings = self.headers.get_all(CONTENT_ENCODING).iter();
        let readable = codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
        if readable { &self.body } else { &[] }
    }
}

fn redirected(status: u16, headers: &HeaderMap) -> String {
    let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else {
        return format!("the receiver answered {status} without a location");
    };
    // A query may hold a token.
    let shown = match Url::parse(location) {
        Ok(url) if url.has_host() => redacted(&url),
        _ => location.split(['?', '#']).next().unwrap_or_default().to_owned(),
    };
    let shown: String = shown.chars().take(LOCATION_CHARS_MAX).collect();
    format!("the receiver answered {status} with the location {shown}; redirects are not followed")
}

/// Reads `retry-after` in both its forms, seconds or an HTTP date (RFC 9110 §10.2.3); a date in the
/// past is no delay. `None` for anything else.
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim_matches([' ', '\t']);
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number too large to hold is a very long wait; the engine caps it.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    // Dates before 1970 do not parse.
    let date = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let date = Timestamp::from_millis(i64::try_from(date.as_millis()).ok()?);
    Some(date.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_in_both_forms() {
        // 1994-11-06T08:49:37Z, the example of RFC 9110 §5.6.7.
        let date = 784_111_777;
        let check = |value: &str, before: i64, expect: Option<u64>| {
            let now = Timestamp::from_millis((date - before) * 1000);
            assert_eq!(retry_after(value, now), expect.map(Duration::from_secs), "{value:?}");
        };
        check("120", 0, Some(120));
        check("0", 0, Some(0));
        check(" 7\t", 0, Some(7));
        check("99999999999999999999999", 0, Some(u64::from(u32::MAX)));
        check("Sun, 06 Nov 1994 08:49:37 GMT", 60, Some(60));
        check("Sunday, 06-Nov-94 08:49:37 GMT", 60, Some(60));
        check("Sun Nov  6 08:49:37 1994", 60, Some(60));
        check("Sun, 06 Nov 1994 08:49:37 GMT", -60, Some(0));
        for garbage in ["", " ", "soon", "-1", "+5", "1.5", "5s", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            check(garbage, 0, None);
        }
    }
}
