//! Which signatures a request carries.

use http::{HeaderName, HeaderValue};
use postrider::sign::{HEADER_SIGNATURE, Key, TextKey, github, stripe};
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
}

impl Signature {
    /// The header that it sets.
    pub(super) fn header(self) -> HeaderName {
        HeaderName::from_static(match self {
            Self::Standard => HEADER_SIGNATURE,
            Self::Github => github::HEADER,
            Self::Stripe => stripe::HEADER,
        })
    }
}

/// The keys of each way that is in use.
#[derive(Default)]
pub(super) struct Signers {
    pub(super) standard: Vec<Key>,
    /// Its header holds one signature: that of the first secret.
    pub(super) github: Option<TextKey>,
    pub(super) stripe: Vec<TextKey>,
}

impl Signers {
    /// The ways that are in use.
    pub(super) fn used(&self) -> impl Iterator<Item = Signature> {
        [
            (!self.standard.is_empty()).then_some(Signature::Standard),
            self.github.is_some().then_some(Signature::Github),
            (!self.stripe.is_empty()).then_some(Signature::Stripe),
        ]
        .into_iter()
        .flatten()
    }

    /// The header of each way in use, for one message. While rotating, the receiver knows one of
    /// the keys: each signs, where the header can hold it.
    pub(super) fn sign(
        &self,
        id: &str,
        seconds: i64,
        body: &[u8],
    ) -> Vec<(HeaderName, HeaderValue)> {
        let sign = |way| match way {
            Signature::Standard => {
                let signatures = self.standard.iter().filter_map(|key| key.sign(id, seconds, body));
                signatures.collect::<Vec<_>>().join(" ")
            }
            Signature::Github => {
                self.github.as_ref().map(|key| github::sign(key, body)).unwrap_or_default()
            }
            Signature::Stripe => stripe::sign(&self.stripe, seconds, body),
        };
        self.used().map(|way| (way.header(), super::request::value(sign(way)))).collect()
    }
}
