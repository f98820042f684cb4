//! What a request says about its signatures: reading the headers of each scheme.

use super::{
    Cause, CauseKind, Encoding, Scheme,
    secret::{decodings, hex},
};
use crate::capture::Record;

/// How many signatures of one header are looked at.
const GIVEN_MAX: usize = 32;

/// Headers that have a scheme of their own.
const KNOWN: [&str; 9] = [
    "webhook-signature",
    "svix-signature",
    "x-hub-signature-256",
    "x-hub-signature",
    "stripe-signature",
    "x-slack-signature",
    "x-shopify-hmac-sha256",
    "signature",
    "signature-input",
];

/// A signature as a request states it.
pub(super) struct Claim {
    pub(super) scheme: Scheme,
    pub(super) header: String,
    pub(super) received: String,
    /// The bytes of each signature in the header, in every way in which they can be read.
    pub(super) given: Vec<Given>,
    /// What is signed in front of the body; `None` where a part of it is missing.
    pub(super) prefix: Option<Vec<u8>>,
    /// What other schemes would sign in front of the body.
    pub(super) alternatives: Vec<(Vec<u8>, Cause)>,
    /// The text of the time that is signed.
    pub(super) timestamp: Option<String>,
    pub(super) id: Option<String>,
    /// What is wrong with the headers themselves.
    pub(super) troubles: Vec<Cause>,
}

/// One signature, as bytes.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) bytes: Vec<u8>,
    /// Why a strict reader of the scheme would not read it so.
    pub(super) causes: Vec<Cause>,
}

/// The signatures of a request; with a secret, those too whose headers are there in part.
pub(super) fn claims(record: &Record, expected: bool) -> Vec<Claim> {
    let mut claims = Vec::new();
    for family in ["webhook-", "svix-"] {
        claims.extend(standard(record, family, expected));
    }
    for (scheme, header) in [
        (Scheme::Github, "x-hub-signature-256"),
        (Scheme::Stripe, "stripe-signature"),
        (Scheme::Slack, "x-slack-signature"),
        (Scheme::Shopify, "x-shopify-hmac-sha256"),
    ] {
        claims.extend(value(record, header).map(|value| plain(record, scheme, header, value)));
    }
    if let (Some(old), None) =
        (value(record, "x-hub-signature"), value(record, "x-hub-signature-256"))
    {
        claims.push(plain(record, Scheme::Github, "x-hub-signature", old));
    }
    for (name, bytes) in record.headers.iter() {
        let name = name.to_ascii_lowercase();
        if (name.contains("signature") || name.contains("hmac")) && !KNOWN.contains(&name.as_str())
        {
            let value = String::from_utf8_lossy(bytes).into_owned();
            claims.push(plain(record, Scheme::Hmac, &name, value));
        }
    }
    claims.truncate(GIVEN_MAX);
    claims
}

/// All values of a header as one (RFC 9110 §5.3).
fn value(record: &Record, name: &str) -> Option<String> {
    let values: Vec<_> = record.headers.all(name).map(String::from_utf8_lossy).collect();
    (!values.is_empty()).then(|| values.join(" "))
}

fn standard(record: &Record, family: &str, expected: bool) -> Vec<Claim> {
    let header = format!("{family}signature");
    let id = value(record, &format!("{family}id"));
    let timestamp = value(record, &format!("{family}timestamp"));
    let received = value(record, &header);
    if received.is_none() && !(expected && id.is_some() && timestamp.is_some()) {
        return Vec::new();
    }
    let mut troubles = Vec::new();
    let parts = [
        ("id", id.is_some()),
        ("timestamp", timestamp.is_some()),
        ("signature", received.is_some()),
    ];
    for (part, there) in parts {
        if !there {
            let text = format!("the header {family}{part} is missing");
            troubles.push(Cause::new(CauseKind::HeaderMissing, text));
        }
    }
    troubles.extend(timestamp.as_deref().and_then(malformed));
    let received = received.unwrap_or_default();
    let tokens: Vec<&str> = received.split_ascii_whitespace().take(GIVEN_MAX).collect();
    let of = |version: &str| -> Vec<&str> {
        tokens.iter().filter_map(|token| token.strip_prefix(version)?.strip_prefix(',')).collect()
    };
    let mut claims = Vec::new();
    for (scheme, version) in [(Scheme::StandardV1, "v1"), (Scheme::StandardV1a, "v1a")] {
        let texts = of(version);
        if texts.is_empty() && (scheme != Scheme::StandardV1 || !of("v1a").is_empty()) {
            continue;
        }
        let mut troubles = troubles.clone();
        let mut given: Vec<Given> = texts.iter().flat_map(|text| read(text, scheme)).collect();
        if texts.is_empty() && !received.is_empty() {
            // No version: whatever stands there may be the signature.
            let why = "no part of the header begins with \"v1,\"";
            let cause = Cause::new(CauseKind::PrefixDiffers, why);
            given = loose(&received, scheme, &cause);
        } else if given.is_empty() && !received.is_empty() {
            let text = format!("there is no signature behind \"{version},\"");
            troubles.push(Cause::new(CauseKind::HeaderMalformed, text));
        }
        let prefix = id.as_ref().zip(timestamp.as_ref());
        claims.push(Claim {
            scheme,
            header: header.clone(),
            received: received.clone(),
            given,
            prefix: prefix.map(|(id, timestamp)| format!("{id}.{timestamp}.").into_bytes()),
            alternatives: alternatives(record, &received, scheme),
            timestamp: timestamp.clone(),
            id: id.clone(),
            troubles,
        });
    }
    claims
}

/// The schemes whose signature stands alone in a header.
fn plain(record: &Record, scheme: Scheme, header: &str, received: String) -> Claim {
    let mut troubles = Vec::new();
    let mut timestamp = None;
    let texts: Vec<&str> = match scheme {
        Scheme::Stripe => {
            let parts = || received.split(',').take(GIVEN_MAX).map(str::trim);
            timestamp = parts().find_map(|part| part.strip_prefix("t=")).map(str::to_owned);
            if timestamp.is_none() {
                let why = "there is no time (t=…) in the header";
                troubles.push(Cause::new(CauseKind::HeaderMalformed, why));
            }
            parts().filter_map(|part| part.strip_prefix("v1=")).collect()
        }
        Scheme::Slack => {
            timestamp = value(record, "x-slack-request-timestamp");
            if timestamp.is_none() {
                let why = "the header x-slack-request-timestamp is missing";
                troubles.push(Cause::new(CauseKind::HeaderMissing, why));
            }
            received.strip_prefix("v0=").into_iter().collect()
        }
        Scheme::Github => received.strip_prefix("sha256=").into_iter().collect(),
        _ => vec![received.strip_prefix("sha256=").unwrap_or(&received)],
    };
    troubles.extend(timestamp.as_deref().and_then(malformed));
    let mut given: Vec<Given> = texts.iter().flat_map(|text| read(text, scheme)).collect();
    if given.is_empty() {
        let wanted = match scheme {
            Scheme::Stripe => "v1=",
            Scheme::Slack => "v0=",
            Scheme::Github => "sha256=",
            _ => "",
        };
        let why = format!("the signature does not stand behind \"{wanted}\" as it should");
        given = loose(&received, scheme, &Cause::new(CauseKind::PrefixDiffers, why));
        if given.is_empty() {
            let why = "there is no signature in the header";
            troubles.push(Cause::new(CauseKind::HeaderMalformed, why));
        }
    }
    let prefix = match scheme {
        Scheme::Stripe => timestamp.as_ref().map(|time| format!("{time}.")),
        Scheme::Slack => timestamp.as_ref().map(|time| format!("v0:{time}:")),
        _ => Some(String::new()),
    };
    Claim {
        scheme,
        header: header.to_owned(),
        given,
        prefix: prefix.map(String::into_bytes),
        alternatives: alternatives(record, &received, scheme),
        timestamp,
        id: None,
        troubles,
        received,
    }
}

fn malformed(timestamp: &str) -> Option<Cause> {
    let digits = !timestamp.is_empty() && timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let why = match timestamp.len() {
        ..=12 if digits => return None,
        13.. if digits => "is in milliseconds, not in seconds",
        _ => "is not a whole number of seconds",
    };
    let shown: String = timestamp.chars().take(40).collect();
    Some(Cause::new(CauseKind::TimestampMalformed, format!("the time {shown:?} {why}")))
}

/// A signature in every way in which its text can be read.
pub(super) fn read(text: &str, scheme: Scheme) -> Vec<Given> {
    let wanted = scheme.encoding();
    let mut given = Vec::new();
    for (encoding, bytes) in decodings(text) {
        let cause = match (wanted, encoding) {
            // The scheme does not say which, so none is a slip.
            (Encoding::Hex, Encoding::Base64) if scheme == Scheme::Hmac => None,
            (Encoding::Base64, Encoding::Hex) => Some((
                CauseKind::HexForBase64,
                "the signature is written in hex digits, the scheme wants base64",
            )),
            (Encoding::Hex, Encoding::Base64 | Encoding::Base64Url) => Some((
                CauseKind::Base64ForHex,
                "the signature is written in base64, the scheme wants hex digits",
            )),
            (_, Encoding::Base64Url) => Some((
                CauseKind::EncodingDiffers,
                "the signature is written in base64 of the URL kind (- and _)",
            )),
            (Encoding::Base64, Encoding::Base64) if !text.len().is_multiple_of(4) => Some((
                CauseKind::EncodingDiffers,
                "the padding (=) of the signature's base64 is missing",
            )),
            (Encoding::Hex, Encoding::Hex) if *text != hex(&bytes) => {
                Some((CauseKind::EncodingDiffers, "the hex digits of the signature are upper-case"))
            }
            _ => None,
        };
        let causes: Vec<Cause> =
            cause.into_iter().map(|(kind, text)| Cause::new(kind, text)).collect();
        if let Ok(inner) = std::str::from_utf8(&bytes) {
            for (_, bytes) in decodings(inner) {
                let why = "the signature was encoded twice: hex digits or base64 within base64";
                let twice = Cause::new(CauseKind::EncodingDiffers, why);
                given.push(Given { bytes, causes: vec![twice] });
            }
        }
        given.push(Given { bytes, causes });
    }
    given
}

/// Whatever in a header may be a signature.
pub(super) fn loose(value: &str, scheme: Scheme, cause: &Cause) -> Vec<Given> {
    let mut given = Vec::new();
    for part in value.split([' ', ',', ';']).take(GIVEN_MAX) {
        let named = part.split_once('=').filter(|(name, rest)| {
            !rest.is_empty() && rest.bytes().any(|byte| byte != b'=') && name.len() <= 12
        });
        let text = named.map_or(part, |(_, rest)| rest).trim_matches(['"', ':']);
        for mut one in read(text, scheme).into_iter().filter(|one| one.bytes.len() >= 16) {
            one.causes.insert(0, cause.clone());
            given.push(one);
        }
    }
    given
}

/// What other schemes would have signed in front of the body, with the times and ids that the
/// request states anywhere.
fn alternatives(record: &Record, received: &str, own: Scheme) -> Vec<(Vec<u8>, Cause)> {
    let ids = ["webhook-id", "svix-id"].into_iter().filter_map(|name| value(record, name));
    let in_header = received.split([',', ' ']).find_map(|part| part.strip_prefix("t="));
    let mut times: Vec<String> = in_header.map(str::to_owned).into_iter().collect();
    for name in ["webhook-timestamp", "svix-timestamp", "x-slack-request-timestamp"] {
        times.extend(value(record, name));
    }
    if let Some(stripe) = value(record, "stripe-signature") {
        times.extend(
            stripe.split(',').find_map(|part| part.trim().strip_prefix("t=")).map(str::to_owned),
        );
    }
    times.dedup();
    let mut all = Vec::new();
    let other = |scheme: Scheme, prefix: String| {
        let text = format!("what was signed is the text of another scheme: {}", scheme.as_str());
        (scheme, (prefix.into_bytes(), Cause::new(CauseKind::OtherScheme, text)))
    };
    for time in &times {
        all.push(other(Scheme::Stripe, format!("{time}.")));
        all.push(other(Scheme::Slack, format!("v0:{time}:")));
    }
    for id in ids {
        for time in &times {
            all.push(other(Scheme::StandardV1, format!("{id}.{time}.")));
            let parts = [
                (format!("{time}.{id}."), "time and id change places"),
                (format!("{id}{time}"), "no dots between the parts"),
            ];
            for (prefix, how) in parts {
                let cause =
                    Cause::new(CauseKind::SignedTextDiffers, format!("the signed text has {how}"));
                all.push((Scheme::Hmac, (prefix.into_bytes(), cause)));
            }
        }
    }
    let same = |scheme: Scheme| {
        scheme == own || (scheme == Scheme::StandardV1 && own == Scheme::StandardV1a)
    };
    let mut all: Vec<_> = all
        .into_iter()
        .filter(|(scheme, _)| !same(*scheme) || *scheme == Scheme::Hmac)
        .map(|(_, other)| other)
        .collect();
    if matches!(own, Scheme::StandardV1 | Scheme::StandardV1a | Scheme::Stripe | Scheme::Slack) {
        let why = "only the body was signed, without what the scheme puts in front of it";
        all.push((Vec::new(), Cause::new(CauseKind::BodyOnly, why)));
    }
    all
}
