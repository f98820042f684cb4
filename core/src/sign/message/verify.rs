//! Checking a message signature as its receiver.

use std::time::Duration;

use subtle::ConstantTimeEq as _;

use super::list::{Input, bytes, split};
use super::{HEADER, HEADER_DIGEST, HEADER_INPUT, Request, base, digest, header, lines};
use crate::sign::verify::near;
use crate::sign::{Key, Refused, SIGNATURES_MAX};
use crate::time::Timestamp;

/// What a signature must cover so that neither the body nor the place can be changed.
pub const REQUIRED: &[&str] = &["@method", "@authority", "@path", HEADER_DIGEST];

/// Checks that one signature of a request is by one of `keys`, was made within `tolerance` of `now`,
/// has not expired and covers all of `required`; [`REQUIRED`] is what is advised.
///
/// `body` is what arrived, byte for byte. It is compared with [`HEADER_DIGEST`] where the signature
/// covers that; of its digests SHA-256 is known. A signature without `created` is refused, so is one
/// that names another algorithm than that of the key or covers a component that is not understood
/// (those with parameters, and those of answers). `keyid` is not looked at: every key is tried, in
/// constant time. At most [`SIGNATURES_MAX`] signatures are looked at.
///
/// # Errors
/// Why the first signature that was made by a known key is refused, or else the first of all.
pub fn verify(
    keys: &[Key],
    request: &Request<'_>,
    body: &[u8],
    required: &[&'static str],
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), Refused> {
    let inputs = header(request, HEADER_INPUT).ok_or(Refused::Missing(HEADER_INPUT))?;
    let signatures = header(request, HEADER).ok_or(Refused::Missing(HEADER))?;
    let mut refused = None;
    for member in split(&inputs, ',').take(SIGNATURES_MAX) {
        let verdict = one(keys, request, member, &signatures).and_then(|input| {
            current(&input, now, tolerance)?;
            let lacks = |name: &&&'static str| !input.components.contains(*name);
            if let Some(name) = required.iter().find(lacks) {
                return Err(Refused::Uncovered(name));
            }
            if input.components.contains(&HEADER_DIGEST) {
                of_body(request, body)?;
            }
            Ok(())
        });
        match verdict {
            Ok(()) => return Ok(()),
            // Of a stranger's signature beside ours nothing need be told.
            Err(why) if refused.is_none_or(|earlier| earlier == Refused::Signature) => {
                refused = Some(why);
            }
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or(Refused::Malformed(HEADER_INPUT)))
}

/// What a member of `signature-input` says, where its signature is by one of `keys`.
fn one<'a>(
    keys: &[Key],
    request: &Request<'_>,
    member: &'a str,
    signatures: &str,
) -> Result<Input<'a>, Refused> {
    let input = Input::parse(member).ok_or(Refused::Malformed(HEADER_INPUT))?;
    let signature = bytes(signatures, input.label).ok_or(Refused::Malformed(HEADER))?;
    let lines = lines(request, &input.components).ok_or(Refused::Signature)?;
    let base = base(&lines, input.text);
    let algorithm = input.parameter("alg").map(|quoted| quoted.trim_matches('"'));
    let fits = |key: &&Key| algorithm.is_none_or(|name| name == key.algorithm());
    if keys.iter().filter(fits).any(|key| key.accepts_bytes(&signature, base.as_bytes())) {
        Ok(input)
    } else {
        Err(Refused::Signature)
    }
}

fn current(input: &Input<'_>, now: Timestamp, tolerance: Duration) -> Result<(), Refused> {
    near(input.parameter("created").ok_or(Refused::Timestamp)?, now, tolerance)?;
    if let Some(expires) = input.parameter("expires") {
        let expires: i64 = expires.parse().map_err(|_| Refused::Timestamp)?;
        if expires < now.as_seconds() {
            return Err(Refused::TooOld);
        }
    }
    Ok(())
}

/// Whether the digest that was sent is that of the body.
fn of_body(request: &Request<'_>, body: &[u8]) -> Result<(), Refused> {
    let sent = header(request, HEADER_DIGEST).ok_or(Refused::Missing(HEADER_DIGEST))?;
    let sent = split(&sent, ',').find(|member| member.starts_with("sha-256="));
    let sent = sent.ok_or(Refused::Malformed(HEADER_DIGEST))?;
    if digest(body).as_bytes().ct_eq(sent.as_bytes()).into() {
        Ok(())
    } else {
        Err(Refused::Digest)
    }
}
