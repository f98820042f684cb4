//! The receiver's consent, asked for before anything is sent to it (HTTP Web Hooks for Event Delivery
//! of `CloudEvents` 1.0.2, §4).

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use postrider::config::HumanDuration;
use postrider::delivery::{Cause, Nack};
use postrider::sink::Problem;
use postrider::{Rate, Timestamp};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;

use super::answer::Answer;
use super::asked::Asked;
use super::client::Client;
use super::connect::Deadline;
use super::request::AGENT;

/// Goes with the question and, once there is consent, with every delivery (§4.1.2).
pub(super) const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const REQUEST_RATE: HeaderName = HeaderName::from_static("webhook-request-rate");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

/// Longest origin, in bytes: a DNS name.
pub const HANDSHAKE_ORIGIN_BYTES_MAX: usize = 253;
/// Shortest time between two questions that may be asked for.
pub const HANDSHAKE_EVERY_MIN: Duration = Duration::from_mins(1);
/// Longest time between two questions that may be asked for.
pub const HANDSHAKE_EVERY_MAX: Duration = Duration::from_hours(24 * 30);
/// Longest piece of a receiver's header that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 100;
/// The rate until the receiver has answered, a second: one delivery is enough to ask.
const RATE_UNKNOWN: NonZeroU32 = NonZeroU32::MIN;

/// Asks the receiver for its consent before the first delivery, and again from time to time.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HttpHandshake")]
pub struct HandshakeSettings {
    /// Who asks: the DNS name of the sending system, at most 253 bytes. Sent as
    /// webhook-request-origin with the question and with every delivery.
    #[schemars(extend("examples" = ["events.example.com"]))]
    pub origin: String,
    /// How many requests a minute to ask for, at least 1. Default: none is named. What the receiver
    /// allows is kept to, whatever was asked for.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub rate_per_minute: Option<NonZeroU32>,
    /// How long a consent holds; then it is asked for again: 1m to 30d.
    #[serde(default = "every_default")]
    pub every: HumanDuration,
}

fn every_default() -> HumanDuration {
    HumanDuration(Duration::from_hours(24))
}

impl HandshakeSettings {
    /// The handshake; `None` where something is wrong, which `problems` then name.
    pub(super) fn checked(&self, problems: &mut Vec<Problem>) -> Option<Handshake> {
        let every = self.every.0;
        let is_every_right = (HANDSHAKE_EVERY_MIN..=HANDSHAKE_EVERY_MAX).contains(&every);
        if !is_every_right {
            let message = format!(
                "expected {} to {}, found {}",
                HumanDuration(HANDSHAKE_EVERY_MIN),
                HumanDuration(HANDSHAKE_EVERY_MAX),
                self.every
            );
            problems.push(Problem::new("handshake.every", message));
        }
        if !is_dns_name(&self.origin) {
            let message = format!(
                "expected a DNS name of at most {HANDSHAKE_ORIGIN_BYTES_MAX} bytes, such as \
                 \"events.example.com\""
            );
            let problem = Problem::new("handshake.origin", message);
            problems.push(problem.remedy("give the name alone, without \"https://\" and path"));
            return None;
        }
        let origin = HeaderValue::try_from(&self.origin).expect("a DNS name is visible ASCII");
        let rate = self.rate_per_minute;
        is_every_right.then(|| Handshake {
            origin,
            rate,
            every,
            given: Asked::default(),
            allowed: AtomicU32::new(UNKNOWN),
        })
    }
}

fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= HANDSHAKE_ORIGIN_BYTES_MAX && name.split('.').all(is_label)
}

/// Not answered yet, in [`Handshake::allowed`].
const UNKNOWN: u32 = 0;
/// Allowed without a limit.
const UNLIMITED: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Handshake {
    origin: HeaderValue,
    rate: Option<NonZeroU32>,
    every: Duration,
    /// The last consent.
    given: Asked<()>,
    /// Requests a minute that the receiver allowed last, or one of the two values above.
    allowed: AtomicU32,
}

impl Handshake {
    /// The value of [`REQUEST_ORIGIN`].
    pub(super) fn origin(&self) -> &HeaderValue {
        &self.origin
    }

    /// How fast deliveries may come; `None`: the receiver sets no limit.
    pub(super) fn rate_max(&self) -> Option<Rate> {
        match self.allowed.load(Ordering::Relaxed) {
            UNKNOWN => Some(Rate::per_second(RATE_UNKNOWN)),
            UNLIMITED => None,
            rate => NonZeroU32::new(rate).map(Rate::per_minute),
        }
    }

    /// Returns where there is a consent that still holds; asks for it where there is none. Whoever
    /// waits while another one asks gets the same answer. `now` is for dates in `retry-after`.
    ///
    /// # Errors
    /// A failure to be retried, which says why there is no consent.
    ///
    /// # Cancel safety
    /// Safe: the next one asks.
    pub(super) async fn consent(
        &self,
        client: &Client,
        now: Timestamp,
        deadline: Deadline,
    ) -> Result<(), Nack> {
        let doing = || format!("waiting for the consent of {}", client.shown());
        let ask = || async {
            self.ask(client, now, deadline).await?;
            Ok(((), Instant::now() + self.every))
        };
        self.given.get(deadline, doing, ask).await
    }

    /// Asks by OPTIONS. Neither credentials nor the endpoint's own headers go along: the place may
    /// not be one that they are meant for.
    async fn ask(&self, client: &Client, now: Timestamp, deadline: Deadline) -> Result<(), Nack> {
        let head = || {
            let mut head = HeaderMap::with_capacity(8);
            head.insert(HOST, client.authority().clone());
            head.insert(USER_AGENT, HeaderValue::from_static(AGENT));
            head.insert(REQUEST_ORIGIN, self.origin.clone());
            if let Some(rate) = self.rate {
                head.insert(REQUEST_RATE, HeaderValue::from(rate.get()));
            }
            head
        };
        let answer = client.exchange(&Method::OPTIONS, &head, Bytes::new(), deadline).await;
        let answer = answer.map_err(|nack| {
            let message = format!("asking the receiver for consent (OPTIONS): {}", nack.message());
            Nack::retry(nack.cause(), message)
        })?;
        let allowed = self.allowed_by(&answer).map_err(|why| refusal(&answer, now, &why))?;
        self.allowed.store(allowed, Ordering::Relaxed);
        Ok(())
    }

    /// Requests a minute, or [`UNLIMITED`]; otherwise why there is no consent.
    fn allowed_by(&self, answer: &Answer) -> Result<u32, String> {
        // A success alone is no consent (§4.2); neither is a header on what says that it failed.
        if !answer.status.is_success() {
            return Err(format!("OPTIONS was answered {}", answer.status));
        }
        let Some(origin) = answer.headers.get(ALLOWED_ORIGIN) else {
            return Err(format!("the answer to OPTIONS has no {ALLOWED_ORIGIN}"));
        };
        let is_ours =
            origin == "*" || origin.as_bytes().eq_ignore_ascii_case(self.origin.as_bytes());
        if !is_ours {
            return Err(format!("it allows the origin {}", shown(origin)));
        }
        let rate = match answer.headers.get(ALLOWED_RATE) {
            Some(rate) if rate == "*" => return Ok(UNLIMITED),
            Some(rate) => rate,
            // It has to say (§4.2.1): what was asked for is what it knows of.
            None => return Ok(self.rate.map_or(UNLIMITED, NonZeroU32::get)),
        };
        let digits = rate.as_bytes();
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let number = rate.to_str().ok().filter(|_| is_number);
        match number.map(|number| number.parse().unwrap_or(UNLIMITED)) {
            None | Some(UNKNOWN) => Err(format!("its {ALLOWED_RATE} is {}", shown(rate))),
            Some(number) => Ok(number),
        }
    }
}

fn shown(value: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    format!("{:?}", text.chars().take(SHOWN_CHARS_MAX).collect::<String>())
}

/// A refusal is retried, also where the status would end a delivery: consent may be given later.
fn refusal(answer: &Answer, now: Timestamp, why: &str) -> Nack {
    let message = format!("the receiver does not consent to deliveries: {why}");
    let nack = Nack::retry(Cause::Status, message).status(answer.status.as_u16());
    answer.wish(nack, now).answer(&answer.body)
}
