//! What a sink reports of one attempt.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How much of an answer is kept with an attempt, in bytes.
pub const ANSWER_BYTES_MAX: usize = 4 << 10;
/// How much of a failure's description is kept, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 500;

/// What became of one delivery of a batch.
pub type Outcome = Result<Ack, Nack>;

/// The receiver has taken the event over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "an ack counts only when it is returned"]
pub struct Ack {
    pub(crate) status: Option<u16>,
    pub(crate) answer: String,
}

impl Ack {
    /// Taken over; nothing more to say.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the answer's status.
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Adds the beginning of the answer; what is beyond 4 KiB is cut, what is not UTF-8 replaced.
    pub fn answer(mut self, answer: &[u8]) -> Self {
        self.answer = beginning(answer);
        self
    }
}

/// What kind of failure an attempt met: for statistics and hints, never for deciding (that is the
/// [`Verdict`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// No complete answer within the timeout.
    Timeout,
    /// The connection was refused or could not be made.
    Connect,
    /// The connection ended before the answer was complete.
    Closed,
    /// The host name did not resolve.
    Dns,
    /// The TLS handshake or certificate failed.
    Tls,
    /// The network policy forbids the address.
    Policy,
    /// An answer that is not a success, such as an HTTP status outside 2xx.
    Status,
    /// The answer breaks its protocol or a bound.
    Protocol,
    /// A file or pipe could not be written.
    Io,
    /// The event cannot be brought into the form that the endpoint wants.
    Format,
    /// The sink panicked.
    Panic,
    /// The sink broke its contract, such as reporting nothing for a delivery.
    Sink,
    /// Anything else.
    Other,
    /// The application's refresh could not renew the event.
    Refresh,
}

impl Cause {
    /// Its number in stored bytes: 1 to 14, never changed.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Timeout => 1,
            Self::Connect => 2,
            Self::Closed => 3,
            Self::Dns => 4,
            Self::Tls => 5,
            Self::Policy => 6,
            Self::Status => 7,
            Self::Protocol => 8,
            Self::Io => 9,
            Self::Format => 10,
            Self::Panic => 11,
            Self::Sink => 12,
            Self::Other => 13,
            Self::Refresh => 14,
        }
    }

    /// The cause of this number. What a newer version wrote is a failure all the same.
    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Timeout,
            2 => Self::Connect,
            3 => Self::Closed,
            4 => Self::Dns,
            5 => Self::Tls,
            6 => Self::Policy,
            7 => Self::Status,
            8 => Self::Protocol,
            9 => Self::Io,
            10 => Self::Format,
            11 => Self::Panic,
            12 => Self::Sink,
            14 => Self::Refresh,
            _ => Self::Other,
        }
    }
}

/// What the sink says should follow; the schedule stays the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Try again by the schedule, and not before `after` where the receiver named a delay.
    Retry {
        /// The receiver's wish, such as `Retry-After` (RFC 9110 §10.2.3).
        after: Option<Duration>,
    },
    /// No attempt can succeed: give up.
    Reject,
    /// The receiver wants nothing any more: give up and disable the endpoint.
    Disable,
}

/// The event was not taken over, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a nack counts only when it is returned"]
pub struct Nack {
    pub(crate) verdict: Verdict,
    pub(crate) cause: Cause,
    pub(crate) message: String,
    pub(crate) status: Option<u16>,
    pub(crate) answer: String,
    pub(crate) slow: bool,
}

impl Nack {
    /// Failed, but may succeed later. `message` reads after "failed: ", holds no secret or payload,
    /// and is cut at 500 bytes.
    pub fn retry<'a>(cause: Cause, message: impl Into<Cow<'a, str>>) -> Self {
        Self::new(Verdict::Retry { after: None }, cause, message)
    }

    /// Can never succeed.
    pub fn reject<'a>(cause: Cause, message: impl Into<Cow<'a, str>>) -> Self {
        Self::new(Verdict::Reject, cause, message)
    }

    /// The receiver wants nothing any more (HTTP 410).
    pub fn disable<'a>(cause: Cause, message: impl Into<Cow<'a, str>>) -> Self {
        Self::new(Verdict::Disable, cause, message)
    }

    fn new<'a>(verdict: Verdict, cause: Cause, message: impl Into<Cow<'a, str>>) -> Self {
        let message = cut(message.into(), MESSAGE_BYTES_MAX);
        Self { verdict, cause, message, status: None, answer: String::new(), slow: false }
    }

    /// Adds the delay that the receiver asked for; only a nack that may be retried keeps it.
    pub fn after(mut self, delay: Duration) -> Self {
        if let Verdict::Retry { after } = &mut self.verdict {
            *after = Some(delay);
        }
        self
    }

    /// Says that the receiver has too much to do, not only with this event: its lane pauses, for the
    /// delay that it asked for, at most an hour, or else a second, longer each time.
    pub fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    /// Adds the answer's status.
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Adds the beginning of the answer; what is beyond 4 KiB is cut, what is not UTF-8 replaced.
    pub fn answer(mut self, answer: &[u8]) -> Self {
        self.answer = beginning(answer);
        self
    }

    /// What should follow.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What kind of failure it was.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// The failure in words.
    pub fn message(&self) -> &str {
        &self.message
    }
}

fn beginning(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(&answer[..answer.len().min(ANSWER_BYTES_MAX)]);
    cut(text, ANSWER_BYTES_MAX)
}

/// Cuts at a character's border; a replacement character may make lossy text longer than its bytes.
fn cut(text: Cow<'_, str>, bytes_max: usize) -> String {
    let mut text = text.into_owned();
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded() {
        let long = Nack::retry(Cause::Other, "\u{e9}".repeat(MESSAGE_BYTES_MAX))
            .answer(&vec![0xff; 1 << 20]);
        assert_eq!(long.message.len(), MESSAGE_BYTES_MAX);
        assert!(long.answer.len() <= ANSWER_BYTES_MAX, "{}", long.answer.len());
        assert_eq!(Ack::new().answer(b"ok \xff").answer, "ok \u{fffd}");
    }

    #[test]
    fn only_a_retry_keeps_a_delay() {
        let delay = Duration::from_secs(3);
        assert_eq!(
            Nack::retry(Cause::Status, "503").after(delay).verdict(),
            Verdict::Retry { after: Some(delay) }
        );
        assert_eq!(Nack::reject(Cause::Status, "400").after(delay).verdict(), Verdict::Reject);
    }

    #[test]
    fn every_cause_has_a_number_of_its_own() {
        for code in 1..=14 {
            assert_eq!(Cause::from_code(code).code(), code);
        }
        assert_eq!(Cause::from_code(200), Cause::Other);
    }
}
