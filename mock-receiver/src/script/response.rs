//! One answer.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING},
};

use crate::{Error, ErrorKind};

/// The longest delay of an answer.
pub(crate) const DELAY_MAX: Duration = Duration::from_mins(10);

/// What a bin answers to one request.
///
/// ```
/// use mock_receiver::Response;
/// use std::time::Duration;
///
/// Response::status(503).header("retry-after", "1").body("busy").delay(Duration::from_millis(20));
/// Response::hang();   // Takes the request and never answers.
/// Response::reset();  // Ends the connection with a reset in the place of an answer.
/// ```
#[derive(Clone, Debug)]
pub struct Response {
    pub(crate) kind: Kind,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    pub(crate) delay: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Status(StatusCode),
    Hang,
    Reset,
}

impl Response {
    /// An answer with that status, no body and no headers beside those that HTTP asks for.
    ///
    /// # Panics
    /// Where `status` is not within 200 to 999 (an interim 1xx is not an answer).
    #[track_caller]
    pub fn status(status: u16) -> Self {
        match checked_status(status) {
            Ok(status) => Self::of(Kind::Status(status)),
            Err(error) => panic!("{error}"),
        }
    }

    /// What bins answer by themselves: 200 `{"received":true}`.
    pub fn received() -> Self {
        let body = Bytes::from_static(br#"{"received":true}"#);
        let json = HeaderValue::from_static("application/json");
        let headers = vec![(CONTENT_TYPE, json)];
        Self { headers, body, ..Self::of(Kind::Status(StatusCode::OK)) }
    }

    /// Takes the request and never answers; the connection stays open until the sender closes it.
    pub fn hang() -> Self {
        Self::of(Kind::Hang)
    }

    /// Ends the connection in the place of an answer: the sender sees a reset (RST).
    pub fn reset() -> Self {
        Self::of(Kind::Reset)
    }

    pub(crate) fn of(kind: Kind) -> Self {
        Self { kind, headers: Vec::new(), body: Bytes::new(), delay: Duration::ZERO }
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
        self
    }

    /// A JSON body, with its content type.
    pub fn json(self, body: &serde_json::Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// How long to wait, when the request is complete and captured, before this is done. Default
    /// none, at most 10 minutes (more is cut to that).
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay.min(DELAY_MAX);
        self
    }

    /// The status that a capture will show.
    pub(crate) fn status_sent(&self) -> Option<u16> {
        match self.kind {
            Kind::Status(status) => Some(status.as_u16()),
            Kind::Hang | Kind::Reset => None,
        }
    }
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
