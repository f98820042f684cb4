//! The bearer token of the admin API.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq as _;

use crate::{Error, ErrorKind};

/// 32 bytes from the system's generator, as text.
pub(crate) fn made() -> Result<String, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(ErrorKind::Start, "the system gave no random bytes for a token").because(error)
    })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A token that a header can hold.
pub(crate) fn checked(token: &str) -> Result<String, Error> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "the token must be one or more visible ASCII characters without spaces";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(token.to_owned())
}

/// Whether the value of an `authorization` header carries that token (RFC 6750 §2.1); takes as
/// long for a wrong token as for the right one.
pub(crate) fn authorizes(header: &[u8], token: &str) -> bool {
    header.split_at_checked(7).is_some_and(|(scheme, given)| {
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(token.as_bytes()))
    })
}
