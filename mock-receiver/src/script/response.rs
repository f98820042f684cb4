//! One answer.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    StatusCode,
    header::{
        CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
        TRANSFER_ENCODING,
    },
};

use super::{Delay, Fault, template::Template};
use crate::{
    Error, ErrorKind,
    capture::{Record, Relayed},
};

/// What a bin answers to one request.
///
/// ```
/// use mock_receiver::{Delay, Fault, Response};
/// use std::time::Duration;
///
/// Response::status(503).header("retry-after", "1").body("busy").delay(Duration::from_millis(20));
/// Response::status(200).delay(Delay::Pareto { min_ms: 5.0, shape: 1.5 });
/// Response::status(200).body("hello").fault(Fault::TruncateBody { after_bytes: 2 });
/// Response::status(201).template("got {{request.json./data/id}}");
/// Response::hang();   // Takes the request and never answers.
/// Response::reset();  // Ends the connection with a reset in the place of an answer.
/// ```
#[derive(Clone, Debug)]
pub struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    pub(crate) template: Option<Template>,
    pub(crate) delay: Delay,
    pub(crate) retry_after: Option<RetryAfter>,
    pub(crate) fault: Option<Fault>,
}

/// How long the sender is told to wait (RFC 9110 §10.2.3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RetryAfter {
    pub(crate) secs: u64,
    pub(crate) as_date: bool,
}

/// An answer with everything decided, on its way out.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    pub(crate) delay: Duration,
    pub(crate) fault: Option<Fault>,
    /// Where it is a target's: what else of it is passed back.
    pub(crate) relayed: Option<Box<Relayed>>,
}

impl Answer {
    /// The status that a capture shows; `None` where the sender sees none.
    pub(crate) fn status_sent(&self) -> Option<u16> {
        let silent = self.fault.as_ref().is_some_and(Fault::is_silent);
        (!silent).then(|| self.status.as_u16())
    }
}

impl Response {
    /// An answer with that status, no body and no headers beside those that HTTP asks for.
    ///
    /// # Panics
    /// Where `status` is not within 200 to 999 (an interim 1xx is not an answer).
    #[track_caller]
    pub fn status(status: u16) -> Self {
        match checked_status(status) {
            Ok(status) => Self::of(status),
            Err(error) => panic!("{error}"),
        }
    }

    /// What bins answer by themselves: 200 `{"received":true}`.
    pub fn received() -> Self {
        let body = Bytes::from_static(br#"{"received":true}"#);
        let json = HeaderValue::from_static("application/json");
        Self { headers: vec![(CONTENT_TYPE, json)], body, ..Self::of(StatusCode::OK) }
    }

    /// Takes the request and never answers; the connection stays open until the sender closes it.
    pub fn hang() -> Self {
        Self { fault: Some(Fault::Hang), ..Self::of(StatusCode::OK) }
    }

    /// Ends the connection in the place of an answer: the sender sees a reset (RST).
    pub fn reset() -> Self {
        Self { fault: Some(Fault::Reset), ..Self::of(StatusCode::OK) }
    }

    /// A 429 that tells how long to wait, in seconds or as a date (RFC 9110 §10.2.3).
    pub fn too_many(retry_after: Duration, as_date: bool) -> Self {
        let retry_after = Some(RetryAfter { secs: retry_after.as_secs(), as_date });
        Self { retry_after, ..Self::of(StatusCode::TOO_MANY_REQUESTS) }
    }

    pub(crate) fn of(status: StatusCode) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            template: None,
            delay: Delay::Fixed { ms: 0 },
            retry_after: None,
            fault: None,
        }
    }

    /// Adds a header line; the same name may be added several times.
    ///
    /// # Panics
    /// Where name or value are not valid (RFC 9110 §5.5), or the name is one that says how the
    /// answer is framed (`content-length`, `transfer-encoding`).
    #[track_caller]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match checked_header(name, value) {
            Ok(header) => self.headers.push(header),
            Err(error) => panic!("{error}"),
        }
        self
    }

    /// The body, sent as it is.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.template = None;
        self
    }

    /// A body made from the request. Places are `{{request.method}}`, `{{request.path}}`,
    /// `{{request.query}}`, `{{request.query.NAME}}`, `{{request.header.NAME}}`,
    /// `{{request.body}}`, `{{request.json./POINTER}}`, `{{param.NAME}}` (of the rule's path),
    /// `{{now}}` and `{{random}}`; what the request does not have is empty.
    ///
    /// # Panics
    /// Where a place is none of these.
    #[track_caller]
    pub fn template(mut self, text: &str) -> Self {
        match Template::parse(text) {
            Ok(template) => self.template = Some(template),
            Err(error) => panic!("{error}"),
        }
        self.body = Bytes::copy_from_slice(text.as_bytes());
        self
    }

    /// A JSON body, with its content type.
    pub fn json(self, body: &serde_json::Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// How long to wait, when the request is complete and captured, before this is done: a
    /// [`Duration`] or a [`Delay`]. Default none, at most 10 minutes (more is cut to that).
    pub fn delay(mut self, delay: impl Into<Delay>) -> Self {
        self.delay = delay.into();
        self
    }

    /// What goes wrong with it.
    ///
    /// # Panics
    /// Where the fault breaks its own bounds.
    #[track_caller]
    pub fn fault(mut self, fault: Fault) -> Self {
        if let Err(error) = fault.check() {
            panic!("{error}");
        }
        self.fault = Some(fault);
        self
    }

    /// Decides everything that is left to be decided.
    pub(crate) fn decide(
        mut self,
        request: &Record,
        params: &[(String, String)],
        random: &mut fastrand::Rng,
    ) -> Answer {
        if let Some(template) = &self.template {
            self.body = template.fill(request, params, random);
        }
        if let Some(retry_after) = self.retry_after {
            self.headers.push((RETRY_AFTER, retry_after.value()));
        }
        let delay = self.delay.sample(random);
        if let Some(Fault::Redirect { hops, status }) = self.fault {
            self.fault = None;
            if let Some(location) = next_hop(request, hops) {
                let headers = vec![(LOCATION, location)];
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
                let body = Bytes::new();
                return Answer { status, headers, body, delay, fault: None, relayed: None };
            }
        }
        let Self { status, headers, body, fault, .. } = self;
        Answer { status, headers, body, delay, fault, relayed: None }
    }
}

impl RetryAfter {
    fn value(self) -> HeaderValue {
        if !self.as_date {
            return HeaderValue::from(self.secs);
        }
        // Up to a second is lost to the date's own grain: never tell less than asked for.
        let now = std::time::SystemTime::now();
        let date = now.checked_add(Duration::from_secs(self.secs.min(1 << 32) + 1));
        let text = httpdate::fmt_http_date(date.unwrap_or(now));
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("0"))
    }
}

/// The parameter that counts the hops of a chain of redirects.
const HOP: &str = "mock-hop";

/// Where the next redirect leads; `None` at the end of a chain.
fn next_hop(request: &Record, hops: Option<u32>) -> Option<HeaderValue> {
    let query = request.query.as_deref().unwrap_or_default();
    let location = match hops {
        None if query.is_empty() => request.path.clone(),
        None => format!("{}?{query}", request.path),
        Some(hops) => {
            let mut gone = 0;
            let mut next = form_urlencoded::Serializer::new(String::new());
            for (name, value) in form_urlencoded::parse(query.as_bytes()) {
                if name == HOP {
                    gone = value.parse().unwrap_or(0);
                } else {
                    next.append_pair(&name, &value);
                }
            }
            if gone >= hops {
                return None;
            }
            next.append_pair(HOP, &(gone + 1).to_string());
            format!("{}?{}", request.path, next.finish())
        }
    };
    HeaderValue::from_str(&location).ok()
}

pub(crate) fn checked_status(status: u16) -> Result<StatusCode, Error> {
    StatusCode::from_u16(status).ok().filter(|status| !status.is_informational()).ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            format!("{status} is not a status that can be answered: use 200 to 999"),
        )
    })
}

pub(crate) fn checked_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Error> {
    let invalid = |why: &str| {
        Error::new(ErrorKind::Invalid, format!("header {name:?} cannot be answered: {why}"))
    };
    let key = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| invalid("the name is not a token (RFC 9110 §5.1)"))?;
    if key == CONTENT_LENGTH || key == TRANSFER_ENCODING {
        return Err(invalid("the receiver frames its answers itself"));
    }
    let value = HeaderValue::from_str(value)
        .map_err(|_| invalid("the value holds a control character (RFC 9110 §5.5)"))?;
    Ok((key, value))
}

/// An answer with that status, as [`Response::status`].
impl From<u16> for Response {
    #[track_caller]
    fn from(status: u16) -> Self {
        Self::status(status)
    }
}

/// An answer with that status, as [`Response::status`]; here so that plain literals can be used.
impl From<i32> for Response {
    #[track_caller]
    fn from(status: i32) -> Self {
        Self::status(u16::try_from(status).unwrap_or(0))
    }
}
