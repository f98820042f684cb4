//! What goes over the wire: the five bodies, and the headers of each attempt.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use postrider::Timestamp;
use postrider::event::Envelope;
use postrider::sign::{HEADER_ID, HEADER_TIMESTAMP};
use postrider::sink::Attempt;
use postrider::transform::{Impossible, Transform};
use schemars::JsonSchema;
use serde::Deserialize;

use super::signers::{Signature, Signed, Signers};

const ID: HeaderName = HeaderName::from_static(HEADER_ID);
const TIMESTAMP: HeaderName = HeaderName::from_static(HEADER_TIMESTAMP);

/// How an event is written into the request. `PAYLOAD` is always the event's payload, byte for byte
/// as it was published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Format {
    /// `{"event":TYPE,"timestamp":TIME,"data":PAYLOAD}`.
    #[default]
    Guide,
    /// `{"type":TYPE,"timestamp":TIME,"data":PAYLOAD}`, as Standard Webhooks advises.
    Standard,
    /// A `CloudEvents` 1.0 document, `application/cloudevents+json` (structured mode of its HTTP
    /// binding, §3.2).
    #[serde(rename = "cloudevents")]
    CloudEvents,
    /// `PAYLOAD` alone, the `CloudEvents` 1.0 attributes in `ce-` headers (binary mode, §3.1).
    #[serde(rename = "cloudevents-binary")]
    CloudEventsBinary,
    /// `PAYLOAD` alone.
    Raw,
}

impl Format {
    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::CloudEvents => "application/cloudevents+json; charset=utf-8",
            _ => "application/json",
        })
    }

    /// The body of `event`. The time in it is when the event was accepted, the same on every
    /// attempt.
    pub(super) fn body(self, event: &Envelope, payload: &Bytes, source: &str) -> Bytes {
        let name = match self {
            Self::Guide => "event",
            Self::Standard => "type",
            Self::CloudEvents => return cloud_event(event, payload, source),
            Self::CloudEventsBinary | Self::Raw => return payload.clone(),
        };
        let kind = event.event_type();
        let mut body = Vec::with_capacity(96 + kind.as_str().len() + payload.len());
        // A type name has no character that JSON escapes.
        write!(body, r#"{{"{name}":"{kind}","timestamp":"{}","data":"#, event.time())
            .expect("a Vec takes all that is written");
        body.extend_from_slice(payload);
        body.push(b'}');
        body.into()
    }
}

/// An event in the JSON format of `CloudEvents` (§3).
fn cloud_event(event: &Envelope, payload: &Bytes, source: &str) -> Bytes {
    let text = |text: &str| serde_json::to_string(text).expect("a text always encodes");
    let mut body = Vec::with_capacity(256 + payload.len());
    write!(
        body,
        r#"{{"specversion":"1.0","id":{},"source":{},"type":"{}","time":"{}","datacontenttype":"application/json""#,
        text(&event.id().to_string()),
        text(source),
        event.event_type(),
        event.time(),
    )
    .expect("a Vec takes all that is written");
    for (name, value) in extensions(event) {
        write!(body, r#","{name}":{}"#, text(value)).expect("a Vec takes all that is written");
    }
    body.extend_from_slice(br#","data":"#);
    body.extend_from_slice(payload);
    body.push(b'}');
    body.into()
}

/// What a `CloudEvent` carries beside its required attributes: the ordering key as `partitionkey`
/// (its partitioning extension), and the event's attributes as far as their names are allowed
/// (lower-case letters and digits, §3.1) and do not change the meaning of the document.
fn extensions(event: &Envelope) -> impl Iterator<Item = (&str, &str)> {
    const TAKEN: [&str; 10] = [
        "specversion",
        "id",
        "source",
        "type",
        "time",
        "datacontenttype",
        "dataschema",
        "data",
        "database64",
        "partitionkey",
    ];
    let key = event.key().map(|key| ("partitionkey", key));
    let attributes = event.attributes().iter().filter(|(name, value)| {
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && !TAKEN.contains(&name.as_str())
            && !value.is_empty()
    });
    key.into_iter().chain(attributes.map(|(name, value)| (name.as_str(), value.as_str())))
}

/// The `user-agent` of every request of ours.
pub(super) const AGENT: &str = concat!("Postrider/", env!("CARGO_PKG_VERSION"));

/// The headers that belong to one attempt.
pub(super) type Stamp = Vec<(HeaderName, HeaderValue)>;

/// A coding of the request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compress {
    /// RFC 1952.
    Gzip,
}

/// Bodies below this many bytes are sent as they are: they would hardly get smaller.
pub const COMPRESS_FROM_BYTES: usize = 1024;

impl Compress {
    fn apply(self, body: &Bytes) -> Bytes {
        let Self::Gzip = self;
        // The fastest level: it halves JSON, for a third of the time that the next ones take.
        let mut gzip = GzEncoder::new(Vec::with_capacity(body.len() / 2), Compression::fast());
        gzip.write_all(body)
            .and_then(|()| gzip.finish())
            .expect("a Vec takes all that is written")
            .into()
    }
}

/// The coding's name.
const GZIP: &str = "gzip";

/// Everything about an endpoint's requests that no event changes.
pub(super) struct Template {
    format: Format,
    source: String,
    signers: Signers,
    /// Path and query, as they are sent.
    target: String,
    /// In the order they are sent; `webhook-` values are put in for each attempt.
    headers: HeaderMap,
    transform: Option<Transform>,
    /// Headers, and the event's attribute that is the value of each.
    attributes: Vec<(HeaderName, String)>,
    compress: Option<Compress>,
}

impl Template {
    /// Starts from what the URL says (`headers` and `target`); `own` are the endpoint's, of which
    /// those that the sink sets itself have been refused.
    pub(super) fn new(
        mut headers: HeaderMap,
        target: &http::Uri,
        format: Format,
        source: &str,
        signers: Signers,
        own: HeaderMap,
    ) -> Self {
        headers.insert(CONTENT_TYPE, format.content_type());
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ID, HeaderValue::from_static(""));
        headers.insert(TIMESTAMP, HeaderValue::from_static(""));
        for name in signers.used().flat_map(Signature::headers) {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(""));
        }
        headers.extend(own);
        Self {
            format,
            source: source.to_owned(),
            signers,
            target: target.to_string(),
            headers,
            transform: None,
            attributes: Vec::new(),
            compress: None,
        }
    }

    /// Puts what `transform` makes in place of payloads.
    pub(super) fn transform(mut self, transform: Option<Transform>) -> Self {
        self.transform = transform;
        self
    }

    /// Sends attributes of events in these headers.
    pub(super) fn attributes(mut self, attributes: Vec<(HeaderName, String)>) -> Self {
        self.attributes = attributes;
        self
    }

    /// Sends bodies in this coding.
    pub(super) fn compress(mut self, compress: Option<Compress>) -> Self {
        self.compress = compress;
        self
    }

    /// Says another content type, where the endpoint has none of its own.
    pub(super) fn content_type(mut self, content_type: HeaderValue) -> Self {
        if self.headers.get(CONTENT_TYPE) == Some(&self.format.content_type()) {
            self.headers.insert(CONTENT_TYPE, content_type);
        }
        self
    }

    /// The body that this event alone would have.
    pub(super) fn body(&self, event: &Envelope) -> Result<Bytes, Impossible> {
        let Some(transform) = &self.transform else {
            return Ok(self.format.body(event, event.payload(), &self.source));
        };
        let made = transform.apply(event)?;
        if transform.is_whole_body() {
            return Ok(made);
        }
        Ok(self.format.body(event, &made, &self.source))
    }

    /// Body of one attempt, and the headers that are its own.
    pub(super) fn fill(&self, attempt: &Attempt) -> Result<(Stamp, Bytes), Impossible> {
        let event = &*attempt.event;
        let body = self.body(event)?;
        let id = event.id().to_string();
        let mut stamp = Stamp::new();
        if self.format == Format::CloudEventsBinary {
            self.cloud_event_headers(event, &id, &mut stamp);
        }
        for (header, attribute) in &self.attributes {
            if let Some(text) = event.attributes().get(attribute) {
                stamp.push((header.clone(), value(text.clone())));
            }
        }
        let body = self.finish(id, attempt.now, &body, &mut stamp);
        Ok((stamp, body))
    }

    /// Brings a request's body into the coding, signs it, and says its id and time. Signatures are of
    /// the body before the coding, which is what receivers read; but for RFC 9421's, whose digest is
    /// by its rules (RFC 9530 §2) of the bytes that are sent.
    pub(super) fn finish(
        &self,
        id: String,
        now: Timestamp,
        body: &Bytes,
        stamp: &mut Stamp,
    ) -> Bytes {
        let seconds = now.as_seconds();
        let coded = self.compress.filter(|_| body.len() >= COMPRESS_FROM_BYTES);
        let content = coded.map_or_else(|| body.clone(), |compress| compress.apply(body));
        let text = |name| self.headers.get(name).and_then(|value| value.to_str().ok());
        stamp.extend(self.signers.sign(Signed {
            authority: text(HOST).unwrap_or_default(),
            target: &self.target,
            content_type: text(CONTENT_TYPE).unwrap_or_default(),
            content_encoding: coded.map(|_| GZIP),
            id: &id,
            seconds,
            body,
            content: &content,
        }));
        stamp.push((TIMESTAMP, HeaderValue::from(seconds)));
        stamp.push((ID, value(id)));
        if coded.is_some() {
            stamp.push((CONTENT_ENCODING, HeaderValue::from_static(GZIP)));
        }
        content
    }

    /// All headers of a request with this stamp; a second try of one attempt carries the same.
    pub(super) fn head(&self, stamp: &[(HeaderName, HeaderValue)]) -> HeaderMap {
        let mut headers = self.headers.clone();
        for (name, value) in stamp {
            headers.insert(name.clone(), value.clone());
        }
        headers
    }

    fn cloud_event_headers(&self, event: &Envelope, id: &str, stamp: &mut Stamp) {
        let mut add = |name: HeaderName, text: &str| {
            stamp.push((name, encoded(text)));
        };
        add(HeaderName::from_static("ce-specversion"), "1.0");
        add(HeaderName::from_static("ce-id"), id);
        add(HeaderName::from_static("ce-source"), &self.source);
        add(HeaderName::from_static("ce-type"), event.event_type().as_str());
        add(HeaderName::from_static("ce-time"), &event.time().to_string());
        for (name, text) in extensions(event) {
            let name = HeaderName::try_from(format!("ce-{name}"))
                .expect("letters and digits make a header name");
            add(name, text);
        }
    }
}

/// What the HTTP binding percent-encodes in header values (§3.1.3.2): all but visible ASCII, and
/// space, `"` and `%`.
const CE_ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

fn encoded(text: &str) -> HeaderValue {
    value(utf8_percent_encode(text, CE_ENCODED).to_string())
}

pub(super) fn value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text))
        .expect("ids, signatures, attributes and percent-encoded text are printable ASCII")
}
