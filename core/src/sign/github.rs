//! Signatures as GitHub sends them: `x-hub-signature-256: sha256=HEX`, the HMAC-SHA256 of the body.
//!
//! There is no time in them: who has seen a request can send it again. Rules:
//! <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>.

use super::{Refused, TextKey};

/// The header with the signature.
pub const HEADER: &str = "x-hub-signature-256";

/// The header's value for a body.
pub fn sign(key: &TextKey, body: &[u8]) -> String {
    format!("sha256={}", key.hex(b"", body))
}

/// Checks that a body, byte for byte as it arrived, was signed by one of `keys`; in constant time.
///
/// # Errors
/// The reason to refuse the message.
pub fn verify(keys: &[TextKey], header: Option<&str>, body: &[u8]) -> Result<(), Refused> {
    let header = header.filter(|header| !header.is_empty()).ok_or(Refused::Missing(HEADER))?;
    let hex = header.strip_prefix("sha256=").ok_or(Refused::Signature)?;
    if keys.iter().any(|key| key.accepts(hex, b"", body)) {
        Ok(())
    } else {
        Err(Refused::Signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that GitHub documents to test an implementation with.
    #[test]
    fn the_documented_example() {
        let key: TextKey = "It's a Secret to Everybody".parse().unwrap();
        let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(sign(&key, b"Hello, World!"), signature);
        assert_eq!(verify(std::slice::from_ref(&key), Some(signature), b"Hello, World!"), Ok(()));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let key: TextKey = "It's a Secret to Everybody".parse().unwrap();
        let other: TextKey = "another secret of somebody".parse().unwrap();
        let body = b"\xff\x00{}";
        let right = sign(&key, body);
        let keys = [other.clone(), key];
        assert_eq!(verify(&keys, Some(&right), body), Ok(()));
        assert_eq!(verify(&keys, Some(&right), b"\xff\x00{"), Err(Refused::Signature));
        assert_eq!(verify(&[other], Some(&right), body), Err(Refused::Signature));
        assert_eq!(verify(&[], Some(&right), body), Err(Refused::Signature));
        assert_eq!(verify(&keys, None, body), Err(Refused::Missing(HEADER)));
        assert_eq!(verify(&keys, Some(""), body), Err(Refused::Missing(HEADER)));
        let sha1 = right.replace("sha256", "sha1");
        for wrong in
            ["sha256=", &right[..70], &right[7..], &sha1, &format!("{right}0"), "sha256=\u{e9}"]
        {
            assert_eq!(verify(&keys, Some(wrong), body), Err(Refused::Signature), "{wrong}");
        }
    }

    #[test]
    fn a_key_has_a_length_and_is_not_shown() {
        assert!("short".parse::<TextKey>().unwrap_err().to_string().contains("found 5 bytes"));
        assert!("x".repeat(257).parse::<TextKey>().is_err());
        let key: TextKey = "It's a Secret to Everybody".parse().unwrap();
        assert_eq!(format!("{key:?}"), "TextKey(••••)");
    }
}
