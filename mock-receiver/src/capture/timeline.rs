//! When what happened to a request, and who ended its connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// The moments of a request, each as the time since its connection was accepted.
///
/// What comes after the decision to answer (`answer_*`, `closed*`) is filled in as it happens,
/// also in captures that were handed out before.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// The TLS handshake was complete; `None` without TLS.
    pub tls: Option<Duration>,
    /// The first byte of the request was there.
    pub first_byte: Duration,
    /// The head was complete.
    pub head: Duration,
    /// The body was complete, or was given up.
    pub body: Duration,
    late: Late,
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Closer {
    /// The sender closed it in order (FIN).
    Sender,
    /// The sender reset it (RST), or the way to it broke.
    SenderReset,
    /// The receiver closed it in order.
    Receiver,
    /// The receiver reset it, as a fault asked for.
    ReceiverReset,
}

impl Timeline {
    pub(crate) fn new(tls: Option<Duration>, first_byte: Duration) -> Self {
        Self { tls, first_byte, head: first_byte, body: first_byte, late: Late::default() }
    }

    /// The first byte of the answer was handed to the system.
    pub fn answer_began(&self) -> Option<Duration> {
        self.late.0.began.read()
    }

    /// The last byte of the answer was handed to the system.
    pub fn answer_ended(&self) -> Option<Duration> {
        self.late.0.ended.read()
    }

    /// The connection ended, while this was the last request on it.
    pub fn closed(&self) -> Option<Duration> {
        self.late.0.closed.read()
    }

    /// Who ended the connection, where [`closed`](Self::closed) is known.
    pub fn closed_by(&self) -> Option<Closer> {
        match self.late.0.closer.load(Relaxed) {
            1 => Some(Closer::Sender),
            2 => Some(Closer::SenderReset),
            3 => Some(Closer::Receiver),
            4 => Some(Closer::ReceiverReset),
            _ => None,
        }
    }

    pub(crate) fn late(&self) -> Late {
        self.late.clone()
    }
}

/// The part of a timeline that is filled in when the request is kept already.
#[derive(Clone, Debug, Default)]
pub(crate) struct Late(Arc<Moments>);

#[derive(Debug, Default)]
struct Moments {
    began: Moment,
    ended: Moment,
    closed: Moment,
    closer: AtomicU8,
}

/// Microseconds and one, so that zero is "not yet".
#[derive(Debug, Default)]
struct Moment(AtomicU64);

impl Moment {
    fn read(&self) -> Option<Duration> {
        self.0.load(Relaxed).checked_sub(1).map(Duration::from_micros)
    }

    fn write(&self, at: Duration) {
        self.0.store(at.as_micros() as u64 + 1, Relaxed);
    }
}

impl Late {
    /// Marks the beginning of the answer, once.
    pub(crate) fn began(&self, accepted: Instant) {
        if self.0.began.read().is_none() {
            self.0.began.write(accepted.elapsed());
        }
    }

    pub(crate) fn ended(&self, accepted: Instant) {
        self.0.ended.write(accepted.elapsed());
    }

    pub(crate) fn closed(&self, accepted: Instant, by: Closer) {
        let code = match by {
            Closer::Sender => 1,
            Closer::SenderReset => 2,
            Closer::Receiver => 3,
            Closer::ReceiverReset => 4,
        };
        self.0.closer.store(code, Relaxed);
        self.0.closed.write(accepted.elapsed());
    }
}
