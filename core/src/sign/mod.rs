//! Signatures by the Standard Webhooks specification, as GitHub and Stripe send them, and
//! of HTTP messages: made by senders, checked by receivers.
//!
//! Pure: bytes in, text or a verdict out; no clock, no protocol. The signed text is the message id,
//! the Unix time in seconds and the raw body, joined by dots, so that neither can be changed and an
//! old request cannot be sent again later. Rules:
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.

mod fresh;
pub mod github;
mod key;
#[cfg(feature = "tower")]
mod layer;
pub mod message;
pub mod stripe;
mod text_key;
mod verify;

pub use fresh::{key_pair, secret};
pub use key::{InvalidKey, Key, SYMMETRIC_KEY_BYTES};
#[cfg(feature = "tower")]
pub use layer::{BODY_BYTES_MAX_DEFAULT, Verify, VerifyLayer};
pub use text_key::{InvalidTextKey, TEXT_KEY_BYTES, TextKey};
pub use verify::{Refused, SIGNATURES_MAX, SignedHeaders, TOLERANCE_DEFAULT, verify};

/// The header with the message's id: the same on every attempt.
pub const HEADER_ID: &str = "webhook-id";
/// The header with the attempt's time in Unix seconds.
pub const HEADER_TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures, separated by spaces.
pub const HEADER_SIGNATURE: &str = "webhook-signature";
