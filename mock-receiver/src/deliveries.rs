//! Requests grouped into deliveries: the attempts to bring over one message.

use std::{collections::HashMap, fmt, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use crate::{Capture, Error, ErrorKind, capture::Record};

/// Headers that hold the id of a message, the likeliest first. The `CloudEvents` id is the binary
/// mode's; those of the structured mode and of Stripe stand in the body.
const HEADERS: [&str; 8] = [
    "webhook-id",
    "svix-id",
    "x-github-delivery",
    "x-gitlab-event-uuid",
    "x-shopify-webhook-id",
    "x-request-uuid",
    "ce-id",
    "idempotency-key",
];
/// A larger body is not searched for an id.
const BODY_BYTES_MAX: usize = 1 << 20;

/// How requests are grouped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Key {
    /// By the first that a request has: `webhook-id`, `svix-id`, `x-github-delivery`,
    /// `x-gitlab-event-uuid`, `x-shopify-webhook-id`, `x-request-uuid`, `ce-id`,
    /// `idempotency-key`, or `id` of a JSON body that is a `CloudEvents` or Stripe event.
    #[default]
    Known,
    /// By this header.
    Header(String),
    /// By what this JSON pointer (RFC 6901) finds in the body: a text or a number.
    Pointer(String),
}

impl Key {
    /// Reads `/data/id` as a pointer and anything else as the name of a header.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for an empty text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "" => Err(Error::new(ErrorKind::Invalid, "a key is a header or a JSON pointer (/id)")),
            pointer if pointer.starts_with('/') => Ok(Self::Pointer(pointer.to_owned())),
            header => Ok(Self::Header(header.to_owned())),
        }
    }

    /// The id of the message that a request brings; `None` where it has none.
    pub fn of(&self, request: &Record) -> Option<String> {
        match self {
            Self::Header(name) => request.header(name).map(str::to_owned),
            Self::Pointer(pointer) => body(request)?.pointer(pointer).and_then(text),
            Self::Known => HEADERS
                .iter()
                .find_map(|name| request.header(name).map(str::to_owned))
                .or_else(|| {
                    let body = body(request)?;
                    let stripe = body.get("object").is_some_and(|object| object == "event");
                    let known = stripe || body.get("specversion").is_some();
                    known.then(|| body.get("id").and_then(text)).flatten()
                }),
        }
    }
}

fn body(request: &Record) -> Option<serde_json::Value> {
    (request.body.len() <= BODY_BYTES_MAX).then(|| request.json().ok()).flatten()
}

fn text(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// All attempts to bring over one message.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// The id of the message.
    pub id: String,
    /// Its whole requests, in the order in which they came.
    pub attempts: Vec<Capture>,
    /// Whether a message whose first attempt came later was taken over before this one.
    pub out_of_order: bool,
}

impl Delivery {
    /// The times from one attempt to the next; one fewer than there are attempts.
    pub fn gaps(&self) -> Vec<Duration> {
        self.attempts
            .windows(2)
            .map(|pair| {
                let gap = pair[1].at.duration_since(pair[0].at);
                Duration::try_from(gap).unwrap_or(Duration::ZERO) // A clock that was set back.
            })
            .collect()
    }

    /// How many attempts were answered with 2xx.
    pub fn successes(&self) -> usize {
        self.attempts.iter().filter(|attempt| is_success(attempt)).count()
    }

    /// The attempts that came when one had been answered with 2xx already.
    pub fn after_success(&self) -> &[Capture] {
        let first = self.attempts.iter().position(|attempt| is_success(attempt));
        first.map_or(&[], |first| &self.attempts[first + 1..])
    }

    /// Whether every attempt had the same bytes in its body.
    pub fn is_stable(&self) -> bool {
        self.attempts.windows(2).all(|pair| pair[0].body == pair[1].body)
    }

    /// What in the gaps is not as the schedule says: gap `n` must be that of the schedule, give
    /// or take `tolerance` of it (0.2: a fifth) and 50 ms. More attempts than the schedule has
    /// gaps for are a difference; fewer are none where the last one was answered with 2xx.
    pub fn schedule_misses(&self, schedule: &[Duration], tolerance: f64) -> Vec<String> {
        const SLACK: Duration = Duration::from_millis(50);
        let gaps = self.gaps();
        let mut misses = Vec::new();
        for (at, gap) in gaps.iter().enumerate() {
            let Some(expected) = schedule.get(at) else {
                misses.push(format!(
                    "attempt {} after {gap:?}: the schedule ends with attempt {}",
                    at + 2,
                    schedule.len() + 1
                ));
                break;
            };
            let room = expected.mul_f64(tolerance.clamp(0.0, 1e6)) + SLACK;
            if gap.abs_diff(*expected) > room {
                misses.push(format!(
                    "attempt {} after {gap:?}: expected {expected:?}, give or take {room:?}",
                    at + 2
                ));
            }
        }
        let open = self.attempts.last().is_some_and(|last| !is_success(last));
        if open && gaps.len() < schedule.len() {
            let (had, all) = (gaps.len() + 1, schedule.len() + 1);
            misses.push(format!("{had} of {all} attempts so far, none taken over"));
        }
        misses
    }
}

fn is_success(request: &Record) -> bool {
    request.status.is_some_and(|status| (200..300).contains(&status))
}

/// What came into a bin, by message.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Deliveries {
    /// In the order of their first attempts.
    pub list: Vec<Delivery>,
    /// Whole requests without an id.
    pub keyless: Vec<Capture>,
}

impl Deliveries {
    /// Groups requests; those that are not whole are left out.
    pub(crate) fn of(captures: Vec<Capture>, key: &Key) -> Self {
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut grouped = Self { list: Vec::new(), keyless: Vec::new() };
        for capture in captures.into_iter().filter(|capture| capture.is_whole()) {
            let Some(id) = key.of(&capture) else {
                grouped.keyless.push(capture);
                continue;
            };
            let place = *places.entry(id.clone()).or_insert_with(|| {
                grouped.list.push(Delivery { id, attempts: Vec::new(), out_of_order: false });
                grouped.list.len() - 1
            });
            grouped.list[place].attempts.push(capture);
        }
        grouped.mark_order();
        grouped
    }

    /// A message is out of order where a later one was taken over before it.
    fn mark_order(&mut self) {
        let mut earliest = u64::MAX; // The first success among the later messages.
        for delivery in self.list.iter_mut().rev() {
            let success = delivery.attempts.iter().find(|attempt| is_success(attempt));
            let own = success.map_or(u64::MAX, |attempt| attempt.seq);
            delivery.out_of_order = earliest < own;
            earliest = earliest.min(own);
        }
    }

    /// The delivery of that message.
    pub fn find(&self, id: &str) -> Option<&Delivery> {
        self.list.iter().find(|delivery| delivery.id == id)
    }
}

impl Serialize for Delivery {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Attempt {
            seq: u64,
            received_at: String,
            gap_ms: Option<u64>,
            status: Option<u16>,
            after_success: bool,
            body_bytes: u64,
        }
        let gaps = self.gaps();
        let late = self.after_success().first().map_or(u64::MAX, |capture| capture.seq);
        let attempts: Vec<Attempt> = self
            .attempts
            .iter()
            .enumerate()
            .map(|(at, attempt)| Attempt {
                seq: attempt.seq,
                received_at: format!("{:.3}", attempt.at),
                gap_ms: at.checked_sub(1).map(|before| gaps[before].as_millis() as u64),
                status: attempt.status,
                after_success: attempt.seq >= late,
                body_bytes: attempt.body_bytes,
            })
            .collect();
        let mut document = serializer.serialize_struct("Delivery", 6)?;
        document.serialize_field("id", &self.id)?;
        document.serialize_field("successes", &self.successes())?;
        document.serialize_field("duplicates", &self.after_success().len())?;
        document.serialize_field("out_of_order", &self.out_of_order)?;
        document.serialize_field("body_stable", &self.is_stable())?;
        document.serialize_field("attempts", &attempts)?;
        document.end()
    }
}

/// `"msg_1": #1 → 503, +5.02s #4 → 200`
impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:", self.id)?;
        let gaps = self.gaps();
        for (at, attempt) in self.attempts.iter().enumerate() {
            if let Some(before) = at.checked_sub(1) {
                write!(f, ", +{:.3?}", gaps[before])?;
            }
            match attempt.status {
                Some(status) => write!(f, " #{} → {status}", attempt.seq)?,
                None => write!(f, " #{} → no answer", attempt.seq)?,
            }
        }
        if self.out_of_order {
            f.write_str(", out of order")?;
        }
        Ok(())
    }
}
