//! Events that were accepted lately, so that the usual delivery reads nothing from disk.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::endpoint::EndpointId;
use crate::event::Envelope;
use crate::time::Timestamp;

/// An accepted event with what its receipt says.
#[derive(Clone)]
pub(super) struct Cached {
    pub(super) event: Arc<Envelope>,
    pub(super) endpoints: Arc<[EndpointId]>,
    pub(super) accepted_at: Timestamp,
}

/// The newest events, bounded by bytes. Numbers follow each other, so a place is a difference.
pub(super) struct Cache {
    first: u64,
    events: VecDeque<Cached>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { first: 0, events: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the event with the number after the last one's; drops the oldest below `written` while
    /// there are too many bytes.
    pub(super) fn push(&mut self, number: u64, cached: Cached, written: u64) {
        if self.first + self.events.len() as u64 != number {
            self.events.clear();
            self.bytes = 0;
        }
        if self.events.is_empty() {
            self.first = number;
        }
        self.bytes += cached.event.weight();
        self.events.push_back(cached);
        // What is not on disk yet can be found nowhere else.
        while self.bytes > self.bytes_max && self.first < written {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.event.weight();
            self.first += 1;
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<&Cached> {
        self.events.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}
