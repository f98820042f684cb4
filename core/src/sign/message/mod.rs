//! HTTP Message Signatures (RFC 9421), over parts of a request and the digest of its body (RFC 9530).
//!
//! Keys are those of Standard Webhooks: a `whsec_` secret signs as `hmac-sha256`, a `whsk_` key as
//! `ed25519`. Unlike the other schemes, this one binds a message to the place that it was sent to.

mod list;
mod verify;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

pub use verify::{REQUIRED, verify};

use super::Key;

/// The header with the body's digest.
pub const HEADER_DIGEST: &str = "content-digest";
/// The header that says what each signature covers.
pub const HEADER_INPUT: &str = "signature-input";
/// The header with the signatures.
pub const HEADER: &str = "signature";

/// Most components of one signature.
pub const COMPONENTS_MAX: usize = 32;

/// What of a request can be signed beside its body.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// As sent: `POST`.
    pub method: &'a str,
    /// The host and, where it is not the scheme's own, the port: what the `host` header has.
    pub authority: &'a str,
    /// The path and, where there is one, the query behind a `?`.
    pub target: &'a str,
    /// Names in lower case and values. A header that came several times stands here several times.
    pub headers: &'a [(&'a str, &'a str)],
}

/// The values of the two headers that carry signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Of [`HEADER_INPUT`].
    pub input: String,
    /// Of [`HEADER`].
    pub signature: String,
}

/// The value of [`HEADER_DIGEST`] for a body: its SHA-256.
///
/// ```
/// use postrider::sign::message::digest;
///
/// // The example of RFC 9530, appendix D.
/// let body = b"{\"hello\": \"world\"}\n";
/// assert_eq!(digest(body), "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:");
/// ```
pub fn digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", BASE64_STANDARD.encode(Sha256::digest(body)))
}

/// Signs `components` of a request with each of `keys`, labelled `sig1`, `sig2` and so on.
///
/// `components` are names of headers in lower case and of `@method`, `@authority`, `@path`,
/// `@query`, `@request-target`; at most [`COMPONENTS_MAX`], none twice. To cover the body, put
/// [`digest`] into the headers and its name here. `created` is in Unix seconds. Each signature names
/// its algorithm and, as `keyid`, [`Key::id`].
///
/// `None` where a component is missing from the request or no part of it, or where a key cannot sign.
pub fn sign(
    keys: &[Key],
    request: &Request<'_>,
    components: &[&str],
    created: i64,
) -> Option<Signed> {
    let lines = lines(request, components)?;
    let list = components.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" ");
    let mut signed = Signed { input: String::new(), signature: String::new() };
    for (index, key) in keys.iter().enumerate() {
        let (keyid, alg) = (key.id(), key.algorithm());
        let input = format!("({list});created={created};keyid=\"{keyid}\";alg=\"{alg}\"");
        let signature = BASE64_STANDARD.encode(key.sign_bytes(base(&lines, &input).as_bytes())?);
        let (comma, label) = (if index == 0 { "" } else { ", " }, (index + 1).to_string());
        signed.input.extend([comma, "sig", &label, "=", &input]);
        signed.signature.extend([comma, "sig", &label, "=:", &signature, ":"]);
    }
    Some(signed)
}

/// The lines of the signature base before the last (§2.5); `None` where one is not there or stands
/// there twice, and where there are too many.
fn lines(request: &Request<'_>, components: &[&str]) -> Option<String> {
    if components.len() > COMPONENTS_MAX {
        return None;
    }
    let mut lines = String::new();
    for (at, name) in components.iter().enumerate() {
        if components[..at].contains(name) {
            return None;
        }
        let value = value(request, name)?;
        // What would begin a line of its own could pass for another component.
        if value.contains(['\n', '\r']) || !value.is_ascii() {
            return None;
        }
        lines.extend(["\"", name, "\": ", &value, "\n"]);
    }
    Some(lines)
}

fn base(lines: &str, input: &str) -> String {
    format!("{lines}\"@signature-params\": {input}")
}

/// The value of a component (§2.1, §2.2).
fn value(request: &Request<'_>, name: &str) -> Option<String> {
    let (path, query) = match request.target.split_once('?') {
        Some((path, query)) => (path, query),
        None => (request.target, ""),
    };
    Some(match name {
        "@method" => request.method.to_owned(),
        "@authority" => request.authority.to_ascii_lowercase(),
        "@path" if path.is_empty() => "/".to_owned(),
        "@path" => path.to_owned(),
        "@query" => format!("?{query}"),
        "@request-target" => request.target.to_owned(),
        _ if name.starts_with('@') => return None,
        _ => header(request, name)?,
    })
}

/// All values of a header as one.
fn header(request: &Request<'_>, name: &str) -> Option<String> {
    let values = request.headers.iter().filter(|(found, _)| *found == name);
    let values: Vec<_> = values.map(|(_, value)| value.trim_matches([' ', '\t'])).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

#[cfg(test)]
mod tests;
