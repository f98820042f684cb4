//! Signatures as Stripe sends them: `stripe-signature: t=SECONDS,v1=HEX`, the HMAC-SHA256 of the time,
//! a dot and the body; several `v1` while a secret is rotated.
//!
//! Rules: <https://docs.stripe.com/webhooks#verify-manually>.

use std::time::Duration;

use super::verify::near;
use super::{Refused, SIGNATURES_MAX, TextKey};
use crate::time::Timestamp;

/// The header with the time and the signatures.
pub const HEADER: &str = "stripe-signature";

/// The header's value for a body: one signature of each key.
pub fn sign(keys: &[TextKey], timestamp: i64, body: &[u8]) -> String {
    let prefix = format!("{timestamp}.");
    let mut header = format!("t={timestamp}");
    for key in keys {
        header.push_str(",v1=");
        header.push_str(&key.hex(prefix.as_bytes(), body));
    }
    header
}

/// Checks that a body, byte for byte as it arrived, was signed by one of `keys` within `tolerance`
/// of `now`; in constant time. Parts of unknown schemes are passed over.
///
/// # Errors
/// The first reason to refuse the message.
pub fn verify(
    keys: &[TextKey],
    header: Option<&str>,
    body: &[u8],
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), Refused> {
    let header = header.filter(|header| !header.is_empty()).ok_or(Refused::Missing(HEADER))?;
    let parts = || header.split(',').filter_map(|part| part.split_once('='));
    let time = parts().find(|(name, _)| *name == "t").ok_or(Refused::Timestamp)?.1;
    let prefix = format!("{}.", near(time, now, tolerance)?);
    let signatures = parts().filter(|(name, _)| *name == "v1").take(SIGNATURES_MAX);
    for (_, hex) in signatures {
        if keys.iter().any(|key| key.accepts(hex, prefix.as_bytes(), body)) {
            return Ok(());
        }
    }
    Err(Refused::Signature)
}

#[cfg(test)]
mod tests {
    use super::super::TOLERANCE_DEFAULT;
    use super::*;

    const SENT: i64 = 1_614_265_330;

    fn key(text: &str) -> TextKey {
        text.parse().unwrap()
    }

    fn check(header: &str, body: &[u8], late: i64) -> Result<(), Refused> {
        let now = Timestamp::from_millis((SENT + late) * 1000);
        verify(&[key("whsec_test_secret")], Some(header), body, now, TOLERANCE_DEFAULT)
    }

    #[test]
    fn signatures_of_several_keys_and_unknown_schemes() {
        let body = b"\xff{}";
        let keys = [key("whsec_other_secret"), key("whsec_test_secret")];
        let header = sign(&keys, SENT, body);
        assert_eq!(header.matches(",v1=").count(), 2);
        assert!(header.starts_with("t=1614265330,v1="));
        assert_eq!(check(&header, body, 0), Ok(()));
        assert_eq!(check(&format!("v0=abc,{header},x"), body, 0), Ok(()));
        assert_eq!(check(&sign(&keys[..1], SENT, body), body, 0), Err(Refused::Signature));
        assert_eq!(check(&header, b"\xff{} ", 0), Err(Refused::Signature));
        assert_eq!(check(&header.replace("v1", "v0"), body, 0), Err(Refused::Signature));
        assert_eq!(
            check(&header.replace("t=1614265330", "t=1614265331"), body, 0),
            Err(Refused::Signature)
        );
    }

    #[test]
    fn the_time_is_whole_seconds_and_near() {
        let header = sign(&[key("whsec_test_secret")], SENT, b"{}");
        for (late, expect) in [
            (300, Ok(())),
            (301, Err(Refused::TooOld)),
            (-300, Ok(())),
            (-301, Err(Refused::TooNew)),
        ] {
            assert_eq!(check(&header, b"{}", late), expect, "{late}");
        }
        for wrong in ["t=", "t=x", "t=-1614265330", "t= 1614265330", "T=1614265330"] {
            let header = header.replace("t=1614265330", wrong);
            assert_eq!(check(&header, b"{}", 0), Err(Refused::Timestamp), "{wrong}");
        }
        let now = Timestamp::from_millis(SENT * 1000);
        assert_eq!(verify(&[], None, b"{}", now, TOLERANCE_DEFAULT), Err(Refused::Missing(HEADER)));
    }
}
