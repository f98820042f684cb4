//! Signatures: whether they hold, the exact bytes that were signed, and why they do not hold.
//!
//! The schemes are written from their specifications and share no code with any sender, so that
//! they can disagree with it. A signature that does not hold is explained by trial: each slip that
//! senders are known to make is made here too, alone and in pairs, until one gives the signature
//! that was received.

mod body;
mod claim;
mod message;
mod reprint;
mod secret;
mod trial;

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

pub(crate) use secret::{Keyring, SECRETS_MAX, Secret};

use crate::capture::Record;

/// How far a signed time may be from that of the capture, in seconds (Standard Webhooks, Stripe
/// and Slack all say 5 minutes).
const TOLERANCE_SECS: i64 = 300;
/// How many signed bytes a document shows.
const SHOWN_BYTES_MAX: usize = 1 << 20;

/// A way to sign a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// Standard Webhooks, `v1`: HMAC-SHA256 over id, time and body (also with `svix-` headers).
    StandardV1,
    /// Standard Webhooks, `v1a`: ed25519 over the same.
    StandardV1a,
    /// `x-hub-signature-256`: HMAC-SHA256 over the body, in hex.
    Github,
    /// `stripe-signature`: HMAC-SHA256 over time and body, in hex.
    Stripe,
    /// `x-slack-signature`: HMAC-SHA256 over `v0`, time and body, in hex.
    Slack,
    /// `x-shopify-hmac-sha256`: HMAC-SHA256 over the body, in base64.
    Shopify,
    /// Another header with `signature` or `hmac` in its name: HMAC-SHA256 over the body.
    Hmac,
    /// HTTP Message Signatures (RFC 9421) with `hmac-sha256` or `ed25519`.
    HttpMessage,
}

impl Scheme {
    /// The name by which the API calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StandardV1 => "standard-webhooks-v1",
            Self::StandardV1a => "standard-webhooks-v1a",
            Self::Github => "github",
            Self::Stripe => "stripe",
            Self::Slack => "slack",
            Self::Shopify => "shopify",
            Self::Hmac => "hmac",
            Self::HttpMessage => "rfc9421",
        }
    }

    /// Whether the secret is base64 of the key, and not the key itself.
    fn decodes(self) -> bool {
        matches!(self, Self::StandardV1 | Self::StandardV1a)
    }

    fn encoding(self) -> Encoding {
        match self {
            Self::Github | Self::Stripe | Self::Slack | Self::Hmac => Encoding::Hex,
            Self::StandardV1 | Self::StandardV1a | Self::Shopify | Self::HttpMessage => {
                Encoding::Base64
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Hex,
    Base64,
    Base64Url,
}

/// What became of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// It holds.
    Valid,
    /// It does not hold, or is not within the time that its scheme allows.
    Invalid,
    /// It could not be checked: there is no secret that fits it.
    Unchecked,
    /// There is none.
    Missing,
}

/// What went wrong with a signature, as a name that callers can branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CauseKind {
    /// Another printing of the same JSON was signed.
    BodyReserialised,
    /// The body that arrived is a JSON string which holds what was signed.
    BodyEncodedTwice,
    /// An empty body was signed.
    BodyEmpty,
    /// The body has a line end at its end that was not signed.
    NewlineAdded,
    /// The body misses a line end at its end that was signed.
    NewlineLost,
    /// The body has white space around it that was not signed.
    WhitespaceAdded,
    /// `\n` became `\r\n` or the other way round.
    LineEndsChanged,
    /// The body's characters were encoded in another way when it was signed.
    CharsetChanged,
    /// The text of the secret was the key, where the scheme decodes it.
    SecretUndecoded,
    /// The secret was decoded, where its text is the key.
    SecretDecoded,
    /// The prefix of the secret was left out, where it is part of the key.
    SecretPrefix,
    /// White space at the ends of the secret was part of the key, or was not.
    SecretWhitespace,
    /// Another of the bin's secrets than the first; the signature holds for who knows both.
    OtherSecret,
    /// The secret of another bin.
    SecretOfAnotherBin,
    /// The signed time is too far from that of the capture.
    ClockSkew,
    /// Another time was signed than the one that was sent.
    TimestampDiffers,
    /// The time is not in whole seconds since 1970.
    TimestampMalformed,
    /// The signature is hex digits where the scheme wants base64.
    HexForBase64,
    /// The signature is base64 where the scheme wants hex digits.
    Base64ForHex,
    /// The signature is written in another way than the scheme's: case, padding, twice.
    EncodingDiffers,
    /// The version or algorithm in front of the signature is missing or another one.
    PrefixDiffers,
    /// The text was signed as another scheme does.
    OtherScheme,
    /// The body alone was signed, without the id and the time.
    BodyOnly,
    /// The parts were put together in another order or way.
    SignedTextDiffers,
    /// Another hash than the scheme's.
    OtherAlgorithm,
    /// A header that the scheme needs is missing.
    HeaderMissing,
    /// A header of the scheme cannot be read.
    HeaderMalformed,
    /// `content-digest` is not that of the body (RFC 9530).
    DigestDiffers,
    /// None of the known slips gives this signature.
    Unknown,
}

/// One thing that went wrong with a signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// Its name.
    #[serde(rename = "name")]
    pub kind: CauseKind,
    /// A sentence for people; holds no secret.
    pub text: String,
}

impl Cause {
    fn new(kind: CauseKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// One signature of a request.
#[derive(Clone)]
#[non_exhaustive]
pub struct Signature {
    /// The scheme by which it was checked.
    pub scheme: Scheme,
    /// The header that holds it, or should.
    pub header: String,
    /// What became of it.
    pub verdict: Verdict,
    /// The bytes that the scheme signs, of the request as it arrived; empty where parts of them
    /// are missing.
    pub signed: Vec<u8>,
    /// The signature that the first secret gives, as it would stand in the header; `None` without
    /// a secret that can sign.
    pub expected: Option<String>,
    /// The value of the header.
    pub received: String,
    /// Which of the bin's secrets made it, from 1; `None` where none did.
    pub secret: Option<usize>,
    /// What went wrong, the likeliest explanation with the fewest slips. Empty where nothing did.
    pub causes: Vec<Cause>,
}

/// All that is known about the signatures of a request.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The request's number.
    pub seq: u64,
    /// Valid where one signature is, else what is known of most.
    pub verdict: Verdict,
    /// How many secrets hold for the bin.
    pub secrets: usize,
    /// Each signature by its scheme.
    pub signatures: Vec<Signature>,
}

impl Explanation {
    /// Whether any signature has a cause of that name.
    pub fn has(&self, kind: CauseKind) -> bool {
        self.signatures.iter().any(|signature| signature.has(kind))
    }
}

impl Signature {
    /// Whether a cause has that name.
    pub fn has(&self, kind: CauseKind) -> bool {
        self.causes.iter().any(|cause| cause.kind == kind)
    }
}

/// Explains every signature of a request.
pub(crate) fn explain(record: &Record, keyring: &Keyring) -> Explanation {
    let secrets = keyring.of(&record.bin);
    explain_with(record, &secrets, &keyring.others(&record.bin))
}

/// The same with these secrets, and these of other bins.
pub(crate) fn explain_with(
    record: &Record,
    secrets: &[Secret],
    others: &[(String, Secret)],
) -> Explanation {
    let mut signatures: Vec<Signature> = claim::claims(record, !secrets.is_empty())
        .into_iter()
        .map(|claim| trial::judge(claim, record, secrets, others))
        .collect();
    signatures.extend(message::judge(record, secrets, others));
    let order = [Verdict::Valid, Verdict::Invalid, Verdict::Unchecked];
    let verdict = order
        .into_iter()
        .find(|verdict| signatures.iter().any(|signature| signature.verdict == *verdict))
        .unwrap_or(Verdict::Missing);
    Explanation { seq: record.seq, verdict, secrets: secrets.len(), signatures }
}

/// Says so where a signed time is too far from that of the capture.
fn skew(signed: i64, captured: Timestamp) -> Option<Cause> {
    let ahead = signed.saturating_sub(captured.as_second());
    let side = if ahead > 0 { "ahead of" } else { "behind" };
    (ahead.unsigned_abs() > TOLERANCE_SECS as u64).then(|| {
        let text = format!(
            "the signed time is {} s {side} that of the capture; {TOLERANCE_SECS} s are allowed \
             (a clock that is off, or an old request that was sent again)",
            ahead.unsigned_abs()
        );
        Cause::new(CauseKind::ClockSkew, text)
    })
}

impl Serialize for Scheme {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = &self.signed[..self.signed.len().min(SHOWN_BYTES_MAX)];
        let text = std::str::from_utf8(shown).ok();
        let mut document = serializer.serialize_struct("Signature", 10)?;
        document.serialize_field("scheme", &self.scheme)?;
        document.serialize_field("header", &self.header)?;
        document.serialize_field("verdict", &self.verdict)?;
        document.serialize_field("signed", &text)?;
        let base64 = text.is_none().then(|| STANDARD.encode(shown));
        document.serialize_field("signed_base64", &base64)?;
        document.serialize_field("signed_bytes", &self.signed.len())?;
        document.serialize_field("expected", &self.expected)?;
        document.serialize_field("received", &self.received)?;
        document.serialize_field("secret", &self.secret)?;
        document.serialize_field("causes", &self.causes)?;
        document.end()
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

/// For people, over several lines.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Valid => "valid",
            Verdict::Invalid => "invalid",
            Verdict::Unchecked => "not checked, no secret fits",
            Verdict::Missing => "missing",
        };
        write!(f, "{} in {}: {verdict}", self.scheme.as_str(), self.header)?;
        if let Some(secret) = self.secret {
            write!(f, ", made with secret {secret}")?;
        }
        for cause in &self.causes {
            write!(f, "\n  {}: {}", name(cause.kind), cause.text)?;
        }
        let line = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(2_000)]);
            text.escape_debug().to_string()
        };
        write!(f, "\n  signed    {} B: \"{}\"", self.signed.len(), line(&self.signed))?;
        if let Some(expected) = &self.expected {
            write!(f, "\n  expected  {expected}")?;
        }
        write!(f, "\n  received  {}", line(self.received.as_bytes()))
    }
}

/// For people: each signature, or that there is none.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.signatures.is_empty() {
            return f.write_str("no signature");
        }
        for (at, signature) in self.signatures.iter().enumerate() {
            write!(f, "{}{signature}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// The name of a cause, as in documents.
fn name(kind: CauseKind) -> String {
    let value = serde_json::to_value(kind).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}
