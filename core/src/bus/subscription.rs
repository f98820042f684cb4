//! In-process subscriptions: a stream of accepted events that never holds the bus up.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;
use futures_util::Stream;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;

use crate::event::{Envelope, Event, EventType};
use crate::route::{Pattern, Router};

/// Most events that a subscription may fall behind, unless built otherwise.
pub const SUBSCRIBER_EVENTS_MAX_DEFAULT: usize = 1_024;

/// All subscriptions of a bus. Those with the same patterns share one channel.
pub(super) struct Subscriptions {
    channels: ArcSwap<Channels>,
    /// Held by whoever changes the list; whether the bus is closed.
    changing: Mutex<bool>,
    events_max: usize,
}

#[derive(Default)]
struct Channels {
    router: Router,
    list: Vec<Channel>,
}

#[derive(Clone)]
struct Channel {
    patterns: Vec<Pattern>,
    sender: broadcast::Sender<Arc<Envelope>>,
}

impl Subscriptions {
    pub(super) fn new(events_max: usize) -> Self {
        Self { channels: ArcSwap::default(), changing: Mutex::new(false), events_max }
    }

    /// Whether the bus is closed, under the lock of whoever changes the list.
    fn changing(&self) -> MutexGuard<'_, bool> {
        self.changing.lock().expect("no code panics while it holds this lock")
    }

    pub(super) fn send(&self, event: &Arc<Envelope>) {
        let channels = self.channels.load();
        if channels.list.is_empty() {
            return;
        }
        for channel in channels.router.find(&event.kind, &mut Vec::new()) {
            // Fails where every subscriber has gone; the next `subscribe` removes the channel.
            let _ = channels.list[*channel as usize].sender.send(Arc::clone(event));
        }
    }

    /// Whether somebody subscribes to events of this type.
    pub(super) fn want(&self, kind: &EventType) -> bool {
        let channels = self.channels.load();
        let found = channels.router.find(kind, &mut Vec::new()).to_vec();
        found.iter().any(|channel| channels.list[*channel as usize].sender.receiver_count() > 0)
    }

    pub(super) fn subscribe(&self, mut patterns: Vec<Pattern>) -> Subscription {
        patterns.sort_unstable();
        patterns.dedup();
        let is_closed = self.changing();
        let current = self.channels.load();
        if let Some(channel) = current.list.iter().find(|channel| channel.patterns == patterns) {
            return Subscription { events: channel.sender.subscribe() };
        }
        let (sender, events) = broadcast::channel(self.events_max);
        if !*is_closed {
            let in_use = current.list.iter().filter(|channel| channel.sender.receiver_count() > 0);
            let list: Vec<Channel> =
                in_use.cloned().chain([Channel { patterns, sender }]).collect();
            let router = Router::new(list.iter().map(|channel| &channel.patterns));
            self.channels.store(Arc::new(Channels { router, list }));
        }
        Subscription { events }
    }

    /// Ends every subscription after what it has not read yet.
    pub(super) fn close(&self) {
        *self.changing() = true;
        self.channels.store(Arc::default());
    }
}

/// Why a subscription has no event to give.
#[derive(Debug)]
#[non_exhaustive]
pub enum SubscriptionError {
    /// The subscriber was too slow: so many events were dropped, oldest first. The next call goes
    /// on after them.
    Missed(u64),
    /// The event does not read as the type asked for; the next call goes on after it.
    Decode {
        /// The event.
        event: Arc<Envelope>,
        /// What does not fit.
        source: serde_json::Error,
    },
}

impl fmt::Display for SubscriptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missed(count) => write!(f, "keep up: {count} events were missed"),
            Self::Decode { event, .. } => {
                write!(f, "read event {} as the type that its subscriber wants", event.id())
            }
        }
    }
}

impl std::error::Error for SubscriptionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Missed(_) => None,
            Self::Decode { source, .. } => Some(source),
        }
    }
}

/// A stream of accepted events, by patterns.
#[derive(Debug)]
pub struct Subscription {
    events: broadcast::Receiver<Arc<Envelope>>,
}

impl Subscription {
    /// The next event; `None` once the bus is shut down and everything was read.
    ///
    /// # Errors
    /// [`SubscriptionError::Missed`] with a count where events were dropped before they were read.
    ///
    /// # Cancel safety
    /// Safe: no event is lost.
    pub async fn next(&mut self) -> Option<Result<Arc<Envelope>, SubscriptionError>> {
        match self.events.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::RecvError::Lagged(count)) => {
                Some(Err(SubscriptionError::Missed(count)))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The same as a [`Stream`].
    pub fn into_stream(
        self,
    ) -> impl Stream<Item = Result<Arc<Envelope>, SubscriptionError>> + Send {
        futures_util::stream::unfold(self, |mut subscription| async move {
            let next = subscription.next().await?;
            Some((next, subscription))
        })
    }
}

/// A stream of accepted events of one type.
#[derive(Debug)]
pub struct TypedSubscription<E> {
    subscription: Subscription,
    event: PhantomData<fn() -> E>,
}

/// A typed event as a subscriber gets it; derefs to the event.
#[derive(Clone, Debug)]
pub struct Received<E> {
    event: E,
    envelope: Arc<Envelope>,
}

impl<E> Received<E> {
    /// The event with its id, time and payload bytes.
    pub fn envelope(&self) -> &Arc<Envelope> {
        &self.envelope
    }

    /// The event itself.
    pub fn into_event(self) -> E {
        self.event
    }
}

impl<E> Deref for Received<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.event
    }
}

impl<E: Event + DeserializeOwned> TypedSubscription<E> {
    pub(super) fn new(subscription: Subscription) -> Self {
        Self { subscription, event: PhantomData }
    }

    /// The next event; `None` once the bus is shut down and everything was read.
    ///
    /// # Errors
    /// [`SubscriptionError::Missed`] with a count where events were dropped before they were read;
    /// [`SubscriptionError::Decode`] where another publisher used the type's name for another shape.
    ///
    /// # Cancel safety
    /// Safe: no event is lost.
    pub async fn next(&mut self) -> Option<Result<Received<E>, SubscriptionError>> {
        let envelope = match self.subscription.next().await? {
            Ok(envelope) => envelope,
            Err(missed) => return Some(Err(missed)),
        };
        Some(match envelope.decode() {
            Ok(event) => Ok(Received { event, envelope }),
            Err(source) => Err(SubscriptionError::Decode { event: envelope, source }),
        })
    }

    /// The same as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Received<E>, SubscriptionError>> + Send
    where
        E: Send,
    {
        futures_util::stream::unfold(self, |mut subscription| async move {
            let next = subscription.next().await?;
            Some((next, subscription))
        })
    }
}
