//! New secrets, made of random bytes that the caller brings.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::SigningKey;

/// A `whsec_` secret. `random`: from the operating system's generator, used for nothing else.
pub fn secret(random: [u8; 32]) -> String {
    format!("whsec_{}", BASE64_STANDARD.encode(random))
}

/// A `whsk_` key to sign with and the `whpk_` key to verify with. `random` as for [`secret`].
pub fn key_pair(random: [u8; 32]) -> (String, String) {
    let key = SigningKey::from_bytes(&random);
    let secret = format!("whsk_{}", BASE64_STANDARD.encode(key.to_keypair_bytes()));
    let public = format!("whpk_{}", BASE64_STANDARD.encode(key.verifying_key().to_bytes()));
    (secret, public)
}
