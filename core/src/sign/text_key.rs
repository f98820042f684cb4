//! Keys that are the secret's text as it stands, as GitHub and Stripe have them.

use std::fmt;
use std::ops::RangeInclusive;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

/// How long a secret may be that is used as its text, in bytes.
pub const TEXT_KEY_BYTES: RangeInclusive<usize> = 16..=256;

/// An HMAC-SHA256 key: the bytes of the secret's text, a prefix such as `whsec_` included. `Debug`
/// hides it.
#[derive(Clone)]
pub struct TextKey(Box<Hmac<Sha256>>);

/// A text that is too short or too long for a key; says its length, never what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTextKey(usize);

impl fmt::Display for InvalidTextKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = (TEXT_KEY_BYTES.start(), TEXT_KEY_BYTES.end());
        write!(f, "expected a signing secret of {low} to {high} bytes, found {} bytes", self.0)
    }
}

impl std::error::Error for InvalidTextKey {}

impl std::str::FromStr for TextKey {
    type Err = InvalidTextKey;

    fn from_str(text: &str) -> Result<Self, InvalidTextKey> {
        if !TEXT_KEY_BYTES.contains(&text.len()) {
            return Err(InvalidTextKey(text.len()));
        }
        let mac = Hmac::new_from_slice(text.as_bytes()).expect("HMAC takes a key of any length");
        Ok(Self(Box::new(mac)))
    }
}

impl TextKey {
    /// The code of the two parts, one after the other.
    fn code(&self, prefix: &[u8], body: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(prefix);
        mac.update(body);
        mac.finalize().into_bytes().into()
    }

    /// The code as lower-case hex digits.
    pub(super) fn hex(&self, prefix: &[u8], body: &[u8]) -> String {
        self.code(prefix, body).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether `hex` is the code. Takes the same time whatever digits are in it.
    pub(super) fn accepts(&self, hex: &str, prefix: &[u8], body: &[u8]) -> bool {
        let Some(found) = decode(hex) else { return false };
        self.code(prefix, body).ct_eq(&found).into()
    }
}

/// 32 bytes from their hex digits.
fn decode(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

impl fmt::Debug for TextKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TextKey(••••)")
    }
}
