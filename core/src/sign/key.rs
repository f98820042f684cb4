//! Keys and what they sign.

use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// How long a symmetric key may be, in bytes (before base64).
pub const SYMMETRIC_KEY_BYTES: RangeInclusive<usize> = 24..=64;

/// One key of one scheme; `Debug` shows the scheme only.
///
/// | text | scheme | can |
/// |---|---|---|
/// | `whsec_` and base64 of 24 to 64 bytes | `v1`, HMAC-SHA256 | sign and verify |
/// | `whsk_` and base64 of 64 bytes (seed and public key) | `v1a`, ed25519 | sign and verify |
/// | `whpk_` and base64 of 32 bytes (public key) | `v1a`, ed25519 | verify |
///
/// ```
/// use postrider::sign::Key;
///
/// let key: Key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse()?;
/// assert_eq!(
///     key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, br#"{"test": 2432232314}"#).unwrap(),
///     "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
/// );
/// # Ok::<(), postrider::sign::InvalidKey>(())
/// ```
#[derive(Clone)]
pub struct Key(Scheme);

#[derive(Clone)]
enum Scheme {
    /// The hash with the key already worked in, so that a signature costs only the message.
    Hmac(Box<Hmac<Sha256>>),
    Ed25519(Box<SigningKey>),
    Ed25519Public(Box<VerifyingKey>),
}

/// A text that is no key; says what is wrong, never what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKey(Why);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Prefix,
    Base64,
    Length(usize),
    PairLength(usize),
    PublicLength(usize),
    Pair,
    Public,
}

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Why::Prefix => f.write_str(
                "expected a signing secret that starts with \"whsec_\" (or \"whsk_\" for ed25519)",
            ),
            Why::Base64 => f.write_str("expected base64 with padding after the secret's prefix"),
            Why::Length(found) => write!(
                f,
                "expected {} to {} bytes in base64 after \"whsec_\", found {found} bytes",
                SYMMETRIC_KEY_BYTES.start(),
                SYMMETRIC_KEY_BYTES.end(),
            ),
            Why::PairLength(found) => {
                write!(f, "expected 64 bytes in base64 after \"whsk_\", found {found} bytes")
            }
            Why::PublicLength(found) => {
                write!(f, "expected 32 bytes in base64 after \"whpk_\", found {found} bytes")
            }
            Why::Pair => f.write_str("the two halves of the \"whsk_\" key do not belong together"),
            Why::Public => f.write_str("the \"whpk_\" key is no point of the ed25519 curve"),
        }
    }
}

impl std::error::Error for InvalidKey {}

impl std::str::FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let decode =
            |base64: &str| BASE64_STANDARD.decode(base64).map_err(|_| InvalidKey(Why::Base64));
        if let Some(rest) = text.strip_prefix("whsec_") {
            let bytes = decode(rest)?;
            if !SYMMETRIC_KEY_BYTES.contains(&bytes.len()) {
                return Err(InvalidKey(Why::Length(bytes.len())));
            }
            let mac = Hmac::new_from_slice(&bytes).expect("HMAC takes a key of any length");
            return Ok(Self(Scheme::Hmac(Box::new(mac))));
        }
        if let Some(rest) = text.strip_prefix("whsk_") {
            let bytes = decode(rest)?;
            let pair: &[u8; 64] = bytes
                .as_slice()
                .try_into()
                .map_err(|_| InvalidKey(Why::PairLength(bytes.len())))?;
            let key = SigningKey::from_keypair_bytes(pair).map_err(|_| InvalidKey(Why::Pair))?;
            return Ok(Self(Scheme::Ed25519(Box::new(key))));
        }
        if let Some(rest) = text.strip_prefix("whpk_") {
            let bytes = decode(rest)?;
            let point: &[u8; 32] = bytes
                .as_slice()
                .try_into()
                .map_err(|_| InvalidKey(Why::PublicLength(bytes.len())))?;
            let key = VerifyingKey::from_bytes(point).map_err(|_| InvalidKey(Why::Public))?;
            return Ok(Self(Scheme::Ed25519Public(Box::new(key))));
        }
        Err(InvalidKey(Why::Prefix))
    }
}

impl Key {
    /// Signs one message: `v1,BASE64` or `v1a,BASE64`, one entry of `webhook-signature`.
    ///
    /// `None` for a public key, which cannot sign.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
        let prefix = prefix(id, timestamp);
        match &self.0 {
            Scheme::Hmac(mac) => Some(entry("v1,", &code(mac, prefix.as_bytes(), body))),
            Scheme::Ed25519(key) => {
                let message = [prefix.as_bytes(), body].concat();
                Some(entry("v1a,", &key.sign(&message).to_bytes()))
            }
            Scheme::Ed25519Public(_) => None,
        }
    }

    /// Signs `message` as it is: 32 bytes of HMAC-SHA256 or 64 of ed25519.
    pub(super) fn sign_bytes(&self, message: &[u8]) -> Option<Vec<u8>> {
        match &self.0 {
            Scheme::Hmac(mac) => Some(code(mac, message, b"").to_vec()),
            Scheme::Ed25519(key) => Some(key.sign(message).to_bytes().to_vec()),
            Scheme::Ed25519Public(_) => None,
        }
    }

    /// The algorithm's name in HTTP Message Signatures.
    pub(super) fn algorithm(&self) -> &'static str {
        match self.0 {
            Scheme::Hmac(_) => "hmac-sha256",
            Scheme::Ed25519(_) | Scheme::Ed25519Public(_) => "ed25519",
        }
    }

    /// A name for the key that tells nothing of it: 16 lower-case hex digits, the first 8 bytes of the
    /// HMAC-SHA256 of the text `keyid` under a secret, or of the SHA-256 of a public key. Both halves
    /// of a pair have the same.
    pub fn id(&self) -> String {
        let hash: [u8; 32] = match &self.0 {
            Scheme::Hmac(mac) => code(mac, b"keyid", b""),
            Scheme::Ed25519(key) => Sha256::digest(key.verifying_key().as_bytes()).into(),
            Scheme::Ed25519Public(key) => Sha256::digest(key.as_bytes()).into(),
        };
        hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether it can sign: a public key cannot.
    pub fn can_sign(&self) -> bool {
        !matches!(self.0, Scheme::Ed25519Public(_))
    }

    /// Whether `signature`, the part after the scheme's comma, is this key's for the message. Takes
    /// the same time whatever is in it.
    pub(super) fn accepts(
        &self,
        scheme: &str,
        signature: &[u8],
        prefix: &str,
        body: &[u8],
    ) -> bool {
        let Scheme::Hmac(mac) = &self.0 else {
            let message = [prefix.as_bytes(), body].concat();
            return scheme == "v1a" && self.accepts_bytes(signature, &message);
        };
        scheme == "v1" && code(mac, prefix.as_bytes(), body).ct_eq(signature).into()
    }

    /// Whether `signature` is this key's for `message` as it is, in constant time, too.
    pub(super) fn accepts_bytes(&self, signature: &[u8], message: &[u8]) -> bool {
        let public = match &self.0 {
            Scheme::Hmac(mac) => return code(mac, message, b"").ct_eq(signature).into(),
            Scheme::Ed25519(key) => &key.verifying_key(),
            Scheme::Ed25519Public(key) => &**key,
        };
        Signature::from_slice(signature)
            .is_ok_and(|signature| public.verify_strict(message, &signature).is_ok())
    }
}

/// What is signed before the body.
pub(super) fn prefix(id: &str, timestamp: i64) -> String {
    format!("{id}.{timestamp}.")
}

fn code(mac: &Hmac<Sha256>, prefix: &[u8], body: &[u8]) -> [u8; 32] {
    let mut mac = mac.clone();
    mac.update(prefix);
    mac.update(body);
    mac.finalize().into_bytes().into()
}

fn entry(scheme: &str, signature: &[u8]) -> String {
    let mut text = String::with_capacity(scheme.len() + signature.len().div_ceil(3) * 4);
    text.push_str(scheme);
    BASE64_STANDARD.encode_string(signature, &mut text);
    text
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Scheme::Hmac(_) => "Key(v1 ••••)",
            Scheme::Ed25519(_) => "Key(v1a ••••)",
            Scheme::Ed25519Public(_) => "Key(v1a public)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_key_and_says_why() {
        let check = |text: &str, expect: &str| {
            let error = text.parse::<Key>().unwrap_err().to_string();
            assert!(error.contains(expect), "{text:?}: {error}");
        };
        check("", "starts with \"whsec_\"");
        check("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "starts with \"whsec_\"");
        check("whsec_", "24 to 64 bytes in base64 after \"whsec_\", found 0 bytes");
        check("whsec_c2hvcnQ=", "found 5 bytes");
        check("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "base64");
        check("whsec_not base64", "base64");
        check("whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "expected 64 bytes");
        check(&format!("whsk_{}", BASE64_STANDARD.encode([7; 64])), "belong together");
        check("whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "expected 32 bytes");
        check(&format!("whsec_{}", BASE64_STANDARD.encode([7; 65])), "found 65 bytes");
    }

    #[test]
    fn debug_hides_the_key() {
        let key: Key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        assert_eq!(format!("{key:?}"), "Key(v1 ••••)");
    }
}
