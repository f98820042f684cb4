//! What an endpoint of this kind may be told, and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use postrider::config::{ByteSize, HumanDuration, Secret};
use postrider::endpoint::TIMEOUT_MAX;
use postrider::sign::{Key, TextKey};
use postrider::sink::{CheckContext, Problem};
use postrider::transform::Transform;
use schemars::JsonSchema;
use serde::Deserialize;

use super::auth::{Auth, AuthSettings};
use super::batch::BatchSettings;
use super::client::{
    CONNECT_TIMEOUT_DEFAULT, CONNECTIONS_IDLE_MAX_DEFAULT, Options, RESPONSE_BYTES_MAX_DEFAULT,
};
use super::handshake::{Handshake, HandshakeSettings, REQUEST_ORIGIN};
use super::network::NetworkSettings;
use super::permanent::Statuses;
use super::request::{Compress, Format, Template};
use super::signers::{Signature, Signers};
use super::target::Target;
use super::trust::TlsSettings;

/// Most headers of its own that an endpoint may have.
pub const HEADERS_MAX: usize = 64;
/// Names and values of an endpoint's own headers together, in bytes.
pub const HEADERS_BYTES_MAX: usize = 16 << 10;
/// Most signing secrets of one endpoint.
pub const SECRETS_MAX: usize = 10;
/// Longest `CloudEvents` source, in bytes.
pub const SOURCE_BYTES_MAX: usize = 2 << 10;
/// Largest `response_bytes_max` that may be asked for, in bytes.
pub const RESPONSE_BYTES_MAX_MAX: usize = 16 << 20;
/// Largest `connections_idle_max` that may be asked for.
pub const CONNECTIONS_IDLE_MAX_MAX: u32 = 4096;

/// Most entries of `permanent`.
pub const PERMANENT_MAX: usize = 64;

/// The keys of an HTTP endpoint beside the common ones. `Debug` shows no secret.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// Where to POST: an http or https URL of at most 8 KiB. User and password in it are sent as
    /// Basic authorization.
    #[schemars(extend("format" = "uri", "examples" = ["https://api.example.com/webhook"]))]
    pub url: String,
    /// Headers of the endpoint's own: at most 64, 16 KiB together. May replace user-agent and
    /// content-type; not those that belong to the connection or that Postrider sets itself.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// Signing secrets, at most 10: of Standard Webhooks `whsec_…` or (ed25519) `whsk_…`. With several,
    /// each request carries a signature of every one, so that they can be rotated.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// How requests are signed with the secrets, one or more of `"standard"`, `"rfc9421"`,
    /// `"github"` and `"stripe"`; see SIGNATURES.md. For the latter two a secret is any text of 16
    /// to 256 bytes.
    #[serde(default = "signature_default")]
    #[schemars(length(min = 1, max = 4))]
    pub signature: Vec<Signature>,
    /// How an event is written into the request.
    #[serde(default)]
    pub format: Format,
    /// Another body than the payload: `"slack"`, `"discord"`, `"teams"` or `"zapier"`, or `{ template
    /// = … }` with `{{ path }}` in its texts; see TRANSFORMS.md. A preset is sent as the whole body,
    /// whatever the format; what a template makes stands where the payload would.
    #[serde(default)]
    pub transform: Option<TransformSetting>,
    /// Headers that carry an attribute of the event, by header name: at most 64. An event without
    /// the attribute goes without the header.
    #[serde(default)]
    #[schemars(extend("examples" = [{ "x-tenant": "tenant" }]))]
    pub attribute_headers: BTreeMap<String, String>,
    /// Sends bodies of 1 KiB and more in this coding (`content-encoding`). Signatures are of the
    /// body before it, but for "rfc9421", whose digest is of what is sent.
    #[serde(default)]
    pub compress: Option<Compress>,
    /// Sends several events in one request. Absent: one in each.
    #[serde(default)]
    pub batch: Option<BatchSettings>,
    /// Asks the receiver for its consent before anything is sent to it. Absent: it is not asked.
    #[serde(default)]
    pub handshake: Option<HandshakeSettings>,
    /// The source that `CloudEvents` carry: a URI reference of at most 2 KiB. Used by the formats
    /// "cloudevents" and "cloudevents-binary".
    #[serde(default = "source_default")]
    pub source: String,
    /// Longest time for looking up, connecting and TLS together, above 0 and at most 15m. The
    /// endpoint's timeout holds for the whole attempt.
    #[serde(default = "connect_timeout_default")]
    pub connect_timeout: HumanDuration,
    /// Statuses after which a delivery is dead at once, instead of being tried again: codes from
    /// 300 to 599 and the classes "3xx", "4xx" and "5xx"; at most 64. A class leaves out 408, 425,
    /// 429 and 503, which ask for another try. 410 disables the endpoint in any case. Default:
    /// none.
    #[serde(default)]
    #[schemars(extend("examples" = [[400, 422], ["4xx"]]))]
    pub permanent: Vec<Statuses>,
    /// How much of an answer is read, 0 to 16 MiB, before and after decoding; a longer one is cut
    /// there and its connection closed. The first 4 KiB are kept with the attempt.
    #[serde(default = "response_bytes_max_default")]
    pub response_bytes_max: ByteSize,
    /// Most idle connections that are kept, 0 to 4096, each for 30 seconds; raise it along with
    /// concurrency.
    #[serde(default = "connections_idle_max_default")]
    pub connections_idle_max: u32,
    /// How requests say who sends them, beside headers and the URL's user and password.
    #[serde(default)]
    pub auth: AuthSettings,
    /// Narrows the `[network]` section for this endpoint.
    #[serde(default)]
    pub network: NetworkSettings,
    /// Whom to trust, and the certificate to show.
    #[serde(default)]
    pub tls: TlsSettings,
}

/// A transform as it is written; compiled when the settings are checked.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct TransformSetting(pub serde_json::Value);

impl JsonSchema for TransformSetting {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Transform".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": ["string", "object"],
            "x-type": "`\"slack\"`, `\"discord\"`, `\"teams\"`, `\"zapier\"` or table",
            "x-verbatim": true,
        })
    }
}

fn signature_default() -> Vec<Signature> {
    vec![Signature::Standard]
}

fn source_default() -> String {
    "postrider".to_owned()
}

fn connect_timeout_default() -> HumanDuration {
    HumanDuration(CONNECT_TIMEOUT_DEFAULT)
}

fn response_bytes_max_default() -> ByteSize {
    ByteSize(RESPONSE_BYTES_MAX_DEFAULT as u64)
}

fn connections_idle_max_default() -> u32 {
    CONNECTIONS_IDLE_MAX_DEFAULT as u32
}

impl fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSettings")
            .field("url", &self.shown())
            .field("headers", &self.headers)
            .field("secrets", &self.secrets)
            .field("signature", &self.signature)
            .field("format", &self.format)
            .field("transform", &self.transform)
            .field("attribute_headers", &self.attribute_headers)
            .field("compress", &self.compress)
            .field("batch", &self.batch)
            .field("handshake", &self.handshake)
            .field("source", &self.source)
            .field("connect_timeout", &self.connect_timeout)
            .field("permanent", &self.permanent)
            .field("response_bytes_max", &self.response_bytes_max)
            .field("connections_idle_max", &self.connections_idle_max)
            .field("auth", &self.auth)
            .field("network", &self.network)
            .field("tls", &self.tls)
            .finish()
    }
}

impl HttpSettings {
    /// The defaults for `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            headers: BTreeMap::new(),
            secrets: Vec::new(),
            signature: signature_default(),
            format: Format::default(),
            transform: None,
            attribute_headers: BTreeMap::new(),
            compress: None,
            batch: None,
            handshake: None,
            source: source_default(),
            connect_timeout: connect_timeout_default(),
            permanent: Vec::new(),
            response_bytes_max: response_bytes_max_default(),
            connections_idle_max: connections_idle_max_default(),
            auth: AuthSettings::default(),
            network: NetworkSettings::default(),
            tls: TlsSettings::default(),
        }
    }

    /// The URL without credentials and query.
    pub(super) fn shown(&self) -> String {
        // What does not parse may hold anything.
        Target::parse(&self.url).map_or_else(|_| "invalid URL".to_owned(), |url| url.to_string())
    }

    /// Checks everything at once; what is returned can be built.
    pub(super) fn checked(&self, context: &CheckContext<'_>) -> Result<Checked, Vec<Problem>> {
        let mut problems = Vec::new();
        let network = self.network.narrow(context.network, &mut problems);
        let target = match Target::parse(&self.url) {
            Ok(target) => {
                if let Err(forbidden) = target.permit(&network) {
                    let problem = Problem::new("url", forbidden.to_string());
                    problems.push(problem.remedy(forbidden.remedy()));
                }
                Some(target)
            }
            Err(error) => {
                problems.push(Problem::new("url", error.to_string()));
                None
            }
        };
        let with_credentials = target.as_ref().is_some_and(|target| target.authorization.is_some());
        let headers = self.checked_headers(with_credentials, &mut problems);
        let signers = self.checked_keys(&mut problems);
        let transform = self.checked_transform(&mut problems);
        let trust = self.tls.checked(&mut problems);
        let timeout = self.connect_timeout.0;
        let auth = self.auth.checked(&network, trust.as_ref(), timeout, &mut problems);
        if auth.is_some() && (with_credentials || headers.contains_key(AUTHORIZATION)) {
            let problem = Problem::new("auth", "another setting makes the authorization, too");
            problems
                .push(problem.remedy("take auth, the header authorization or the url's user out"));
        }
        let attributes = self.checked_attributes(&headers, &mut problems);
        if let Some(batch) = &self.batch {
            batch.check(self.format, &mut problems);
        }
        let handshake = self.handshake.as_ref().and_then(|it| it.checked(&mut problems));
        self.check_bounds(&mut problems);
        match target {
            Some(target) if problems.is_empty() => Ok(Checked {
                template: self
                    .template(&target, handshake.as_ref(), signers, headers)
                    .transform(transform)
                    .attributes(attributes)
                    .compress(self.compress),
                target,
                auth,
                batch: self.batch.clone(),
                handshake,
                permanent: self.permanent.clone(),
                options: Options::new(network)
                    .trust(trust)
                    .connect_timeout(self.connect_timeout.0)
                    .response_bytes_max(self.response_bytes_max.0 as usize)
                    .connections_idle_max(self.connections_idle_max as usize),
            }),
            _ => Err(problems),
        }
    }

    fn template(
        &self,
        target: &Target,
        handshake: Option<&Handshake>,
        signers: Signers,
        headers: HeaderMap,
    ) -> Template {
        let (head, uri) = (first_headers(target, handshake), &target.uri);
        let template = Template::new(head, uri, self.format, &self.source, signers, headers);
        match &self.batch {
            Some(batch) => template.content_type(batch.content_type(self.format)),
            None => template,
        }
    }

    fn checked_attributes(
        &self,
        headers: &HeaderMap,
        problems: &mut Vec<Problem>,
    ) -> Vec<(HeaderName, String)> {
        let mut checked: Vec<(HeaderName, String)> = Vec::new();
        if self.attribute_headers.len() > HEADERS_MAX {
            let found = self.attribute_headers.len();
            let message = format!("expected at most {HEADERS_MAX} headers, found {found}");
            problems.push(Problem::new("attribute_headers", message));
            return checked;
        }
        if self.batch.is_some() && !self.attribute_headers.is_empty() {
            let message = "a request of several events has no header of one of them";
            let problem = Problem::new("attribute_headers", message);
            problems.push(problem.remedy("take it out, or take batch out"));
        }
        for (name, attribute) in &self.attribute_headers {
            let key = format!("attribute_headers.{name}");
            let problem = match HeaderName::try_from(name) {
                Err(_) => Problem::new(key, "not a header name")
                    .remedy("use letters, digits and hyphens only"),
                Ok(header) => match self.reserved(header.as_str()) {
                    Some((message, remedy)) => Problem::new(key, message).remedy(remedy),
                    None if matches!(header.as_str(), "authorization" | "content-type") => {
                        Problem::new(key, "not for the publisher of an event to say")
                            .remedy("give it in headers")
                    }
                    None if headers.contains_key(&header)
                        || checked.iter().any(|(other, _)| *other == header) =>
                    {
                        Problem::new(key, "given twice").remedy("take one of the two out")
                    }
                    None => {
                        checked.push((header, attribute.clone()));
                        continue;
                    }
                },
            };
            problems.push(problem);
        }
        checked
    }

    fn checked_headers(&self, with_credentials: bool, problems: &mut Vec<Problem>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.headers.len() > HEADERS_MAX {
            let found = self.headers.len();
            problems.push(Problem::new(
                "headers",
                format!("expected at most {HEADERS_MAX} headers, found {found}"),
            ));
            return headers;
        }
        let bytes: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.expose().len()).sum();
        if bytes > HEADERS_BYTES_MAX {
            problems.push(Problem::new(
                "headers",
                format!("expected at most {HEADERS_BYTES_MAX} bytes together, found {bytes}"),
            ));
            return headers;
        }
        for (name, text) in &self.headers {
            let mut refuse = |problem: Problem| problems.push(problem);
            let key = format!("headers.{name}");
            let Ok(header) = HeaderName::try_from(name) else {
                refuse(
                    Problem::new(key, "not a header name")
                        .remedy("use letters, digits and hyphens only"),
                );
                continue;
            };
            if let Some((message, remedy)) = self.reserved(header.as_str()) {
                refuse(Problem::new(key, message).remedy(remedy));
                continue;
            }
            if header == AUTHORIZATION && with_credentials {
                refuse(
                    Problem::new(key, "the url's user and password already make this header")
                        .remedy("take one of the two out"),
                );
                continue;
            }
            // Visible ASCII, space and tab: what receivers agree on (RFC 9110 §5.5).
            let mut value = match HeaderValue::from_str(text.expose()) {
                Ok(value) if value.to_str().is_ok() => value,
                _ => {
                    refuse(
                        Problem::new(key, "its value has a character that no header may hold")
                            .remedy("use visible ASCII and spaces only; look for a line break"),
                    );
                    continue;
                }
            };
            value.set_sensitive(header != CONTENT_TYPE);
            if headers.insert(header, value).is_some() {
                let message = "given twice: header names do not differ by case";
                refuse(Problem::new(key, message).remedy("take one of the two out"));
            }
        }
        headers
    }

    /// Why an endpoint may not set the header of this lower-case name, and what to do instead.
    fn reserved(&self, name: &str) -> Option<(&'static str, &'static str)> {
        match name {
            "host" => Some(("taken from the url", "change the url")),
            "content-length" => Some(("follows from the event", "take it out")),
            // RFC 9110 §7.6.1, and what negotiates about the connection or the upload.
            "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "content-encoding"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "expect"
            | "proxy-authorization"
            | "proxy-authenticate" => Some(("belongs to the connection", "take it out")),
            _ if name.starts_with("webhook-") => {
                Some(("set by Postrider", "take it out; to sign requests give secrets"))
            }
            _ if self.signature.iter().any(|way| way.headers().contains(&name)) => {
                Some(("set by the signature", "take it out, or choose another signature"))
            }
            "content-type" if self.format == Format::CloudEvents => Some((
                "the format \"cloudevents\" is recognised by its own content-type",
                "take it out, or choose another format",
            )),
            _ if name.starts_with("ce-") && self.format == Format::CloudEventsBinary => {
                Some(("set by the format \"cloudevents-binary\"", "take it out; see source"))
            }
            _ => None,
        }
    }

    fn checked_keys(&self, problems: &mut Vec<Problem>) -> Signers {
        let mut signers = Signers::default();
        if self.secrets.len() > SECRETS_MAX {
            let found = self.secrets.len();
            problems.push(Problem::new(
                "secrets",
                format!("expected at most {SECRETS_MAX} secrets, found {found}"),
            ));
            return signers;
        }
        let uses = |way| self.signature.contains(&way);
        if self.secrets.is_empty() && self.signature.iter().any(|way| *way != Signature::Standard) {
            let problem = Problem::new("signature", "there is no secret to sign with");
            problems.push(problem.remedy("give secrets, or take it out"));
        }
        for (index, secret) in self.secrets.iter().enumerate() {
            let mut refuse = |message: String, remedy: &str| {
                let problem = Problem::new(format!("secrets.{index}"), message);
                problems.push(problem.remedy(remedy));
            };
            if self.signature.iter().any(|way| way.takes_keys()) {
                match secret.expose().parse::<Key>() {
                    Ok(key) if key.can_sign() => {
                        if uses(Signature::Rfc9421) {
                            signers.rfc9421.push(key.clone());
                        }
                        if uses(Signature::Standard) {
                            signers.standard.push(key);
                        }
                    }
                    Ok(_) => refuse(
                        "a public key (\"whpk_\") cannot sign".to_owned(),
                        "give the \"whsk_\" key that it belongs to",
                    ),
                    Err(error) => refuse(error.to_string(), ""),
                }
            }
            if self.signature.iter().any(|way| !way.takes_keys()) {
                match secret.expose().parse::<TextKey>() {
                    Ok(key) => {
                        if uses(Signature::Github) {
                            signers.github.get_or_insert_with(|| key.clone());
                        }
                        if uses(Signature::Stripe) {
                            signers.stripe.push(key);
                        }
                    }
                    Err(error) => refuse(error.to_string(), ""),
                }
            }
        }
        signers
    }

    fn checked_transform(&self, problems: &mut Vec<Problem>) -> Option<Transform> {
        match Transform::new(&self.transform.as_ref()?.0) {
            Ok(transform) => {
                if transform.is_whole_body() && self.format == Format::CloudEvents {
                    let message =
                        "a preset is the whole body, and the format \"cloudevents\" is one, too";
                    problems
                        .push(Problem::new("transform", message).remedy("take one of the two out"));
                }
                Some(transform)
            }
            Err(wrong) => {
                let key = if wrong.key.is_empty() {
                    "transform"
                } else {
                    &format!("transform.{}", wrong.key)
                };
                problems.push(Problem::new(key, wrong.message).remedy(wrong.remedy));
                None
            }
        }
    }

    fn check_bounds(&self, problems: &mut Vec<Problem>) {
        let connect_timeout = self.connect_timeout.0;
        if connect_timeout == Duration::ZERO || connect_timeout > TIMEOUT_MAX {
            let message = format!(
                "expected more than 0s and at most {}, found {}",
                HumanDuration(TIMEOUT_MAX),
                self.connect_timeout
            );
            problems.push(Problem::new("connect_timeout", message));
        }
        if self.permanent.len() > PERMANENT_MAX {
            let found = self.permanent.len();
            problems.push(Problem::new(
                "permanent",
                format!("expected at most {PERMANENT_MAX} statuses, found {found}"),
            ));
        }
        if self.response_bytes_max.0 > RESPONSE_BYTES_MAX_MAX as u64 {
            let message = format!(
                "expected at most {}, found {}",
                ByteSize(RESPONSE_BYTES_MAX_MAX as u64),
                self.response_bytes_max
            );
            problems.push(Problem::new("response_bytes_max", message));
        }
        if self.connections_idle_max > CONNECTIONS_IDLE_MAX_MAX {
            let message = format!(
                "expected at most {CONNECTIONS_IDLE_MAX_MAX}, found {}",
                self.connections_idle_max
            );
            problems.push(Problem::new("connections_idle_max", message));
        }
        // CloudEvents 1.0 §3.1: a non-empty URI-reference; what else it may hold is RFC 3986's.
        let source = &self.source;
        if source.is_empty()
            || source.len() > SOURCE_BYTES_MAX
            || !source
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte))
        {
            let message = format!(
                "expected a URI reference of 1 to {SOURCE_BYTES_MAX} bytes without spaces, such as \
                 \"/my-app\" or \"https://example.com\""
            );
            problems.push(Problem::new("source", message));
        }
    }
}

/// What no format and no setting of the endpoint's headers changes.
fn first_headers(target: &Target, handshake: Option<&Handshake>) -> HeaderMap {
    let mut head = target.head();
    if let Some(handshake) = handshake {
        head.insert(REQUEST_ORIGIN, handshake.origin().clone());
    }
    head
}

/// Settings without a problem.
pub(super) struct Checked {
    pub(super) target: Target,
    pub(super) permanent: Vec<Statuses>,
    pub(super) options: Options,
    pub(super) template: Template,
    pub(super) auth: Option<Auth>,
    pub(super) batch: Option<BatchSettings>,
    pub(super) handshake: Option<Handshake>,
}
