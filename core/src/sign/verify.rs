//! Checking a message as its receiver.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::key::prefix;
use super::{HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, Key};
use crate::time::Timestamp;

/// How far a message's time may be from now, in either direction (5 minutes, as the specification
/// advises).
pub const TOLERANCE_DEFAULT: Duration = Duration::from_mins(5);
/// Most signatures of one message that are looked at; a sender has a few while rotating keys.
pub const SIGNATURES_MAX: usize = 32;

/// The three headers of a signed message as they arrived; `None` where one is missing.
#[derive(Clone, Copy, Debug, Default)]
pub struct SignedHeaders<'a> {
    /// `webhook-id`.
    pub id: Option<&'a str>,
    /// `webhook-timestamp`.
    pub timestamp: Option<&'a str>,
    /// `webhook-signature`.
    pub signature: Option<&'a str>,
}

/// Why a message was not accepted. Answer 401 and do not act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// This header is missing or empty.
    Missing(&'static str),
    /// The time that the message carries is not whole Unix seconds.
    Timestamp,
    /// The message's time lies further in the past than the tolerance.
    TooOld,
    /// The message's time lies further in the future than the tolerance.
    TooNew,
    /// No signature is that of any key: wrong key, or the message was changed on its way.
    Signature,
    /// This header is not written by its rules.
    Malformed(&'static str),
    /// The signature does not cover this part of the message, which must not be changed.
    Uncovered(&'static str),
    /// The signed digest is not that of the body.
    Digest,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "the header {name} is missing"),
            Self::Timestamp => f.write_str("the message's time is not in whole Unix seconds"),
            Self::TooOld => f.write_str("the message is too old"),
            Self::TooNew => f.write_str("the message's time is in the future"),
            Self::Signature => f.write_str("no signature fits the message and a known key"),
            Self::Malformed(name) => write!(f, "the header {name} is malformed"),
            Self::Uncovered(name) => write!(f, "the signature does not cover {name}"),
            Self::Digest => f.write_str("the digest is not that of the body"),
        }
    }
}

impl std::error::Error for Refused {}

/// Checks that a message was signed by one of `keys` within `tolerance` of `now`.
///
/// `body` is what arrived, byte for byte, UTF-8 or not: parse it only afterwards. Signatures of
/// unknown schemes are passed over, so that senders may add one. Signatures are compared in
/// constant time. This does not remember ids: dropping a message that came twice is the caller's.
///
/// # Errors
/// The first reason to refuse the message.
pub fn verify(
    keys: &[Key],
    headers: SignedHeaders<'_>,
    body: &[u8],
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), Refused> {
    let (prefix, signatures) = judged(headers, now, tolerance)?;
    for signature in signatures.split(' ').take(SIGNATURES_MAX) {
        let Some((scheme, base64)) = signature.split_once(',') else { continue };
        let Ok(signature) = BASE64_STANDARD.decode(base64) else { continue };
        if keys.iter().any(|key| key.accepts(scheme, &signature, &prefix, body)) {
            return Ok(());
        }
    }
    Err(Refused::Signature)
}

/// What is signed before the body, and the signatures, where the headers alone give no reason to
/// refuse the message.
pub(super) fn judged(
    headers: SignedHeaders<'_>,
    now: Timestamp,
    tolerance: Duration,
) -> Result<(String, &str), Refused> {
    let id = given(headers.id, HEADER_ID)?;
    let timestamp = given(headers.timestamp, HEADER_TIMESTAMP)?;
    let signatures = given(headers.signature, HEADER_SIGNATURE)?;
    Ok((prefix(id, near(timestamp, now, tolerance)?), signatures))
}

/// The time in Unix seconds that `timestamp` says, where it is within `tolerance` of `now`.
pub(super) fn near(timestamp: &str, now: Timestamp, tolerance: Duration) -> Result<i64, Refused> {
    // Digits only: a sign, a fraction or a space would be signed as another text than we rebuild.
    if !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refused::Timestamp);
    }
    let seconds: i64 = timestamp.parse().map_err(|_| Refused::Timestamp)?;
    let tolerance = i64::try_from(tolerance.as_secs()).unwrap_or(i64::MAX);
    let age = now.as_seconds().saturating_sub(seconds);
    if age > tolerance {
        return Err(Refused::TooOld);
    }
    if age < tolerance.saturating_neg() {
        return Err(Refused::TooNew);
    }
    Ok(seconds)
}

fn given<'a>(value: Option<&'a str>, name: &'static str) -> Result<&'a str, Refused> {
    value.filter(|value| !value.is_empty()).ok_or(Refused::Missing(name))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SENT: i64 = 1_614_265_330;

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    /// Verifies a message sent at `SENT` that arrives `late` seconds after.
    fn check(headers: SignedHeaders<'_>, body: &[u8], late: i64) -> Result<(), Refused> {
        verify(&[key(SECRET)], headers, body, at(SENT + late), TOLERANCE_DEFAULT)
    }

    fn headers<'a>(timestamp: &'a str, signature: &'a str) -> SignedHeaders<'a> {
        SignedHeaders { id: Some("msg_1"), timestamp: Some(timestamp), signature: Some(signature) }
    }

    #[test]
    fn vectors() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/standard-webhooks.json");
        let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert!(cases.len() >= 3);
        for case in cases {
            let text = |name: &str| case[name].as_str().unwrap();
            let timestamp = case["timestamp"].as_i64().unwrap();
            let (id, body, signature) = (text("id"), text("body").as_bytes(), text("signature"));
            let signs = key(text("secret"));
            assert_eq!(signs.sign(id, timestamp, body).as_deref(), Some(signature), "{case}");

            let timestamp_text = timestamp.to_string();
            let headers = SignedHeaders {
                id: Some(id),
                timestamp: Some(&timestamp_text),
                signature: Some(signature),
            };
            let mut keys = vec![signs];
            keys.extend(case["public"].as_str().map(key));
            for key in keys {
                let verdict = |body: &[u8], late| {
                    let now = at(timestamp + late);
                    verify(std::slice::from_ref(&key), headers, body, now, TOLERANCE_DEFAULT)
                };
                assert_eq!(verdict(body, 0), Ok(()), "{key:?} {case}");
                let mut changed = body.to_vec();
                changed[0] ^= 1;
                assert_eq!(verdict(&changed, 0), Err(Refused::Signature), "{key:?} {case}");
                assert_eq!(verdict(body, 301), Err(Refused::TooOld), "{key:?} {case}");
            }
        }
    }

    #[test]
    fn each_header_is_needed() {
        let signature = key(SECRET).sign("msg_1", SENT, b"{}").unwrap();
        let sent = SENT.to_string();
        let whole = headers(&sent, &signature);
        assert_eq!(check(whole, b"{}", 0), Ok(()));
        for (broken, name) in [
            (SignedHeaders { id: None, ..whole }, HEADER_ID),
            (SignedHeaders { id: Some(""), ..whole }, HEADER_ID),
            (SignedHeaders { timestamp: None, ..whole }, HEADER_TIMESTAMP),
            (SignedHeaders { signature: None, ..whole }, HEADER_SIGNATURE),
            (SignedHeaders { signature: Some(""), ..whole }, HEADER_SIGNATURE),
        ] {
            assert_eq!(check(broken, b"{}", 0), Err(Refused::Missing(name)));
        }
        // The id is signed: one of another message does not fit.
        let other = SignedHeaders { id: Some("msg_2"), ..whole };
        assert_eq!(check(other, b"{}", 0), Err(Refused::Signature));
    }

    #[test]
    fn time_is_whole_seconds_and_near() {
        let signature = key(SECRET).sign("msg_1", SENT, b"{}").unwrap();
        for wrong in [
            "hello",
            "161426533.0",
            "-1614265330",
            "+1614265330",
            " 1614265330",
            "99999999999999999999",
        ] {
            let found = check(headers(wrong, &signature), b"{}", 0);
            assert_eq!(found, Err(Refused::Timestamp), "{wrong:?}");
        }
        let sent = SENT.to_string();
        for (late, expect) in [
            (300, Ok(())),
            (301, Err(Refused::TooOld)),
            (-300, Ok(())),
            (-301, Err(Refused::TooNew)),
        ] {
            assert_eq!(check(headers(&sent, &signature), b"{}", late), expect, "{late}");
        }
    }

    #[test]
    fn one_fitting_signature_among_others_is_enough() {
        let right = key(SECRET).sign("msg_1", SENT, b"{}").unwrap();
        let old = key("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").sign("msg_1", SENT, b"{}").unwrap();
        let sent = SENT.to_string();
        let list = format!("v2,abcd {old} nonsense {right}");
        assert_eq!(check(headers(&sent, &list), b"{}", 0), Ok(()));
        let base64 = right.strip_prefix("v1,").unwrap();
        for wrong in [
            "v1,",
            "v1",
            ",",
            &right[..right.len() - 4],
            &old,
            &format!("v1a,{base64}"),
            &format!("v2,{base64}"),
        ] {
            let found = check(headers(&sent, wrong), b"{}", 0);
            assert_eq!(found, Err(Refused::Signature), "{wrong:?}");
        }
    }

    #[test]
    fn any_bytes_are_a_body() {
        let sent = SENT.to_string();
        for body in [&b""[..], b"\xff\xfe\x00", "\u{e9}".as_bytes()] {
            let signature = key(SECRET).sign("msg_1", SENT, body).unwrap();
            assert_eq!(check(headers(&sent, &signature), body, 0), Ok(()), "{body:?}");
        }
    }
}
