//! Tokens by OAuth 2.0 client credentials (RFC 6749 §4.4): fetched when needed, kept until shortly
//! before they end.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method};
use postrider::config::{LiveSecret, NetworkPolicy};
use postrider::delivery::{Cause, Nack};
use postrider::sink::Problem;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::asked::Asked;
use super::auth;
use super::client::{Client, Options};
use super::connect::Deadline;
use super::request::AGENT;
use super::target::Target;
use super::trust::Trust;

/// Largest answer of a token server that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How long a token is kept whose server does not say (RFC 6749 §5.1 leaves it open).
const LIFE_DEFAULT: Duration = Duration::from_mins(5);
/// Longest that a token is kept, whatever its server says.
const LIFE_MAX: Duration = Duration::from_hours(24);
/// A token is not used in the last tenth of its life, nor in its last minute.
const MARGIN_MAX: Duration = Duration::from_mins(1);

/// Where and how to fetch tokens.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HttpOAuth2")]
pub struct OAuth2Settings {
    /// The token endpoint: an http or https URL under the endpoint's network policy and TLS.
    #[schemars(extend("format" = "uri", "examples" = ["https://auth.example.com/oauth/token"]))]
    pub token_url: String,
    /// The client's identifier.
    #[schemars(length(min = 1, max = 1024))]
    pub client_id: String,
    /// The client's secret. One in a file is read again when the file changes.
    pub client_secret: LiveSecret,
    /// The scopes to ask for, separated by spaces.
    #[serde(default)]
    #[schemars(length(min = 1, max = 4096))]
    pub scope: Option<String>,
    /// The API that the token is for, where the server wants to know (`audience`).
    #[serde(default)]
    #[schemars(length(min = 1, max = 4096))]
    pub audience: Option<String>,
    /// How the client's identifier and secret are sent (RFC 6749 §2.3.1).
    #[serde(default)]
    pub client_auth: ClientAuth,
}

/// How a client says who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ClientAuth {
    /// In `authorization: Basic`, which every server has to take.
    #[default]
    Basic,
    /// In the form, for servers that take nothing else.
    Body,
}

/// Shows neither the secret nor a query of the URL.
impl std::fmt::Debug for OAuth2Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = Target::parse(&self.token_url).map(|target| target.to_string());
        f.debug_struct("OAuth2Settings")
            .field("token_url", &url.unwrap_or_else(|_| "invalid URL".to_owned()))
            .field("client_id", &self.client_id)
            .field("scope", &self.scope)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct OAuth2 {
    settings: OAuth2Settings,
    client: Client,
    /// The header with a token.
    token: Asked<HeaderValue>,
}

/// What a token server answers (RFC 6749 §5.1, §5.2).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: String,
    #[serde(default)]
    expires_in: Option<serde_json::Number>,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
}

impl OAuth2 {
    pub(super) fn new(
        settings: &OAuth2Settings,
        network: &NetworkPolicy,
        trust: Option<&Trust>,
        connect_timeout: Duration,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let options = Options::new(network.clone())
            .trust(trust.cloned())
            .connect_timeout(connect_timeout)
            .response_bytes_max(ANSWER_BYTES_MAX)
            // A token lasts much longer than an idle connection.
            .connections_idle_max(0);
        match Client::new(&settings.token_url, options) {
            Ok(client) => {
                let settings = settings.clone();
                Some(Self { settings, client, token: Asked::default() })
            }
            Err(error) => {
                problems.push(Problem::new("auth.oauth2.token_url", error.to_string()));
                None
            }
        }
    }

    /// The header with a token that is still good. Whoever waits while another one fetches it gets
    /// the same, or fails the same: a token server in trouble is not asked by each.
    ///
    /// # Errors
    /// Where none can be had; names the step, and no secret.
    ///
    /// # Cancel safety
    /// Safe: the next one fetches.
    pub(super) async fn header(&self, deadline: Deadline) -> Result<HeaderValue, Nack> {
        let doing = || format!("waiting for the OAuth2 token of {}", self.client.shown());
        self.token.get(deadline, doing, || self.fetch(deadline)).await
    }

    /// The receiver has refused this token.
    pub(super) async fn forget(&self, refused: &HeaderValue) {
        self.token.forget(refused).await;
    }

    /// A header, and until when its token is used.
    async fn fetch(&self, deadline: Deadline) -> Result<(HeaderValue, Instant), Nack> {
        let failed = |cause, why: String| {
            let message = format!("fetching the OAuth2 token from {}: {why}", self.client.shown());
            Nack::retry(cause, message)
        };
        let (headers, body) = self.request();
        let began = Instant::now();
        let left = deadline.at.saturating_duration_since(began);
        let answer = self
            .client
            .send(Method::POST, &headers, body, left)
            .await
            .map_err(|nack| failed(nack.cause(), nack.message().to_owned()))?;
        if !answer.status.is_success() {
            // The code is one of a list (§5.2); other text of the answer may hold anything.
            let code = serde_json::from_slice::<Refused>(&answer.body).ok().map(|it| it.error);
            let code = code.filter(|code| {
                code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            });
            let code = code.map(|code| format!(", {code}")).unwrap_or_default();
            return Err(failed(Cause::Status, format!("answered {}{code}", answer.status)));
        }
        let granted: Granted = serde_json::from_slice(&answer.body)
            .map_err(|_| failed(Cause::Protocol, "the answer holds no access_token".to_owned()))?;
        if !granted.token_type.eq_ignore_ascii_case("bearer") {
            let why = "the answer's token_type is not Bearer".to_owned();
            return Err(failed(Cause::Protocol, why));
        }
        let header = auth::header(&granted.access_token).ok_or_else(|| {
            failed(Cause::Protocol, "the access_token cannot be sent in a header".to_owned())
        })?;
        // A number of any kind; nonsense counts as unsaid.
        let life = granted.expires_in.and_then(|it| it.as_f64()).filter(|life| *life > 0.0);
        let life = life
            .map_or(LIFE_DEFAULT, |life| Duration::from_secs_f64(life.min(LIFE_MAX.as_secs_f64())));
        Ok((header, began + life - (life / 10).min(MARGIN_MAX)))
    }

    fn request(&self) -> (HeaderMap, Bytes) {
        let OAuth2Settings { client_id, client_secret, scope, audience, client_auth, .. } =
            &self.settings;
        let secret = client_secret.current();
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in [("scope", scope), ("audience", audience)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, kind);
        match client_auth {
            ClientAuth::Body => {
                form.append_pair("client_id", client_id);
                form.append_pair("client_secret", secret.expose());
            }
            ClientAuth::Basic => {
                // Each is form-encoded before they are joined (§2.3.1).
                let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let both = format!("{}:{}", encoded(client_id), encoded(secret.expose()));
                let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(both)))
                    .expect("Base64 is visible ASCII");
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
            }
        }
        (headers, Bytes::from(form.finish()))
    }
}
