//! Who we say we are: a bearer token that may be renewed, or one that OAuth 2.0 gives out.

use std::time::Duration;

use http::HeaderValue;
use postrider::config::{LiveSecret, NetworkPolicy};
use postrider::delivery::{Cause, Nack};
use postrider::sink::Problem;
use schemars::JsonSchema;
use serde::Deserialize;

use super::connect::Deadline;
use super::oauth::{OAuth2, OAuth2Settings};
use super::trust::Trust;

/// The endpoint's own `auth`: one of its keys.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "HttpAuth")]
pub struct AuthSettings {
    /// A token sent as `authorization: Bearer …` (RFC 6750 §2.1). One in a file is read again when
    /// the file changes.
    pub bearer: Option<LiveSecret>,
    /// Where to fetch a token (client credentials, RFC 6749 §4.4).
    pub oauth2: Option<OAuth2Settings>,
}

impl AuthSettings {
    /// What the settings ask for; `None` where they ask for nothing.
    pub(super) fn checked(
        &self,
        network: &NetworkPolicy,
        trust: Option<&Trust>,
        connect_timeout: Duration,
        problems: &mut Vec<Problem>,
    ) -> Option<Auth> {
        match (&self.bearer, &self.oauth2) {
            (Some(_), Some(_)) => {
                let problem = Problem::new("auth", "expected one of bearer and oauth2, found both");
                problems.push(problem.remedy("take one of the two out"));
                None
            }
            (Some(token), None) => {
                if bearer(token).is_none() {
                    let message = "the token is empty or has a character that no token may hold";
                    let problem = Problem::new("auth.bearer", message);
                    problems.push(problem.remedy("give the token alone, without \"Bearer\""));
                }
                Some(Auth::Bearer(token.clone()))
            }
            (None, Some(settings)) => {
                let oauth = OAuth2::new(settings, network, trust, connect_timeout, problems)?;
                Some(Auth::OAuth2(Box::new(oauth)))
            }
            (None, None) => None,
        }
    }
}

/// Makes the `authorization` of requests.
#[derive(Debug)]
pub(super) enum Auth {
    Bearer(LiveSecret),
    OAuth2(Box<OAuth2>),
}

impl Auth {
    /// The header for a request.
    ///
    /// # Errors
    /// Where no token can be had: a failure that is tried again.
    pub(super) async fn header(&self, deadline: Deadline) -> Result<HeaderValue, Nack> {
        match self {
            Self::Bearer(token) => bearer(token).ok_or_else(|| {
                Nack::retry(Cause::Sink, "the file of auth.bearer holds no token that can be sent")
            }),
            Self::OAuth2(oauth) => oauth.header(deadline).await,
        }
    }

    /// Another header after one that was answered 401; `None` where there is no other to try.
    ///
    /// # Errors
    /// As [`header`](Self::header).
    pub(super) async fn other(
        &self,
        refused: &HeaderValue,
        deadline: Deadline,
    ) -> Result<Option<HeaderValue>, Nack> {
        if let Self::OAuth2(oauth) = self {
            oauth.forget(refused).await;
        }
        let header = self.header(deadline).await?;
        Ok((header != *refused).then_some(header))
    }
}

/// `Bearer` and the token, where it is one (`b64token`, RFC 6750 §2.1; more visible characters are
/// let through, since some issuers use them).
fn bearer(token: &LiveSecret) -> Option<HeaderValue> {
    header(token.current().expose())
}

pub(super) fn header(token: &str) -> Option<HeaderValue> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}
