//! Which signatures a request carries.

use http::{HeaderName, HeaderValue};
use postrider::sign::{
    HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, Key, TextKey, github, message, stripe,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// One way to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Signature {
    /// `webhook-signature` of Standard Webhooks.
    Standard,
    /// `x-hub-signature-256`, as GitHub sends it.
    Github,
    /// `stripe-signature`, as Stripe sends it.
    Stripe,
    /// `content-digest`, `signature-input` and `signature`: HTTP Message Signatures (RFC 9421).
    Rfc9421,
}

impl Signature {
    /// The headers that it sets.
    pub(super) fn headers(self) -> &'static [&'static str] {
        match self {
            Self::Standard => &[HEADER_SIGNATURE],
            Self::Github => &[github::HEADER],
            Self::Stripe => &[stripe::HEADER],
            Self::Rfc9421 => &[message::HEADER_DIGEST, message::HEADER_INPUT, message::HEADER],
        }
    }

    /// Whether its keys are those of Standard Webhooks; else a key is the secret's text.
    pub(super) fn takes_keys(self) -> bool {
        matches!(self, Self::Standard | Self::Rfc9421)
    }
}

/// The keys of each way that is in use.
#[derive(Default)]
pub(super) struct Signers {
    pub(super) standard: Vec<Key>,
    /// Its header holds one signature: that of the first secret.
    pub(super) github: Option<TextKey>,
    pub(super) stripe: Vec<TextKey>,
    pub(super) rfc9421: Vec<Key>,
}

/// What is signed beside the body: the place, which no event changes, and what belongs to one attempt.
#[derive(Clone, Copy)]
pub(super) struct Signed<'a> {
    pub(super) authority: &'a str,
    pub(super) target: &'a str,
    pub(super) content_type: &'a str,
    pub(super) content_encoding: Option<&'a str>,
    pub(super) id: &'a str,
    pub(super) seconds: i64,
    pub(super) body: &'a [u8],
    /// The body as it is sent, in its coding.
    pub(super) content: &'a [u8],
}

impl Signers {
    /// The ways that are in use.
    pub(super) fn used(&self) -> impl Iterator<Item = Signature> {
        [
            (!self.standard.is_empty()).then_some(Signature::Standard),
            self.github.is_some().then_some(Signature::Github),
            (!self.stripe.is_empty()).then_some(Signature::Stripe),
            (!self.rfc9421.is_empty()).then_some(Signature::Rfc9421),
        ]
        .into_iter()
        .flatten()
    }

    /// The headers of each way in use, for one message. While rotating, the receiver knows one of
    /// the keys: each signs, where the header can hold it.
    pub(super) fn sign(&self, signed: Signed<'_>) -> Vec<(HeaderName, HeaderValue)> {
        let Signed { id, seconds, body, .. } = signed;
        let mut headers = Vec::with_capacity(2);
        for way in self.used() {
            let values = match way {
                Signature::Standard => {
                    let each = self.standard.iter().filter_map(|key| key.sign(id, seconds, body));
                    vec![each.collect::<Vec<_>>().join(" ")]
                }
                Signature::Github => {
                    self.github.iter().map(|key| github::sign(key, body)).collect()
                }
                Signature::Stripe => vec![stripe::sign(&self.stripe, seconds, body)],
                Signature::Rfc9421 => message_signatures(&self.rfc9421, signed).into(),
            };
            let names = way.headers().iter().map(|name| HeaderName::from_static(name));
            headers.extend(names.zip(values.into_iter().map(super::request::value)));
        }
        headers
    }
}

/// The values of the three headers of RFC 9421.
fn message_signatures(keys: &[Key], signed: Signed<'_>) -> [String; 3] {
    let (digest, seconds) = (message::digest(signed.content), signed.seconds.to_string());
    let mut headers = vec![
        ("content-type", signed.content_type),
        (message::HEADER_DIGEST, &*digest),
        (HEADER_ID, signed.id),
        (HEADER_TIMESTAMP, &*seconds),
    ];
    headers.extend(signed.content_encoding.map(|coding| ("content-encoding", coding)));
    let Signed { authority, target, .. } = signed;
    let request = message::Request { method: "POST", authority, target, headers: &headers };
    let mut components = vec!["@method", "@authority", "@path"];
    // Without a query, libraries differ in what stands for it.
    if target.contains('?') {
        components.push("@query");
    }
    components.extend(headers.iter().map(|(name, _)| *name));
    let made = message::sign(keys, &request, &components, signed.seconds)
        .expect("each component is there and each key was checked to sign");
    [digest, made.input, made.signature]
}
