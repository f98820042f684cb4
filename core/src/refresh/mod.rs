//! Refresh: an application's function that renews parts of an event just before it is sent.
//!
//! Some fields are worth nothing after a while, such as a signed URL that is valid for an hour. A
//! refresh is called before every attempt of the events that it is registered for
//! ([`BusBuilder::refresh`](crate::BusBuilder::refresh)) and may give a new payload for this one
//! attempt. The event in the store, its id and its time stay as they were accepted.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::delivery::{Cause, Nack};
use crate::event::{Event, EventType};
use crate::route::Pattern;
use crate::sink::Attempt;

/// Renews parts of an event before an attempt.
#[async_trait]
pub trait Refresh: Send + Sync + 'static {
    /// The payload for this attempt: JSON, at most `bus.payload_bytes_max` long; `None`: as it was
    /// accepted. Called from many tasks at once; its time counts towards the endpoint's timeout.
    ///
    /// # Errors
    /// The attempt then counts as failed in this way, and is made again or not as the
    /// [`Nack`] says. A panic counts as a failure that is retried.
    ///
    /// # Cancel safety
    /// Dropped when the timeout passes.
    async fn refresh(&self, attempt: &Attempt) -> Result<Option<String>, Nack>;
}

/// A [`Refresh`] from a function over a typed event.
///
/// ```
/// use postrider::delivery::{Cause, Nack};
/// use postrider::{Bus, Event, refresh};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "match")]
/// struct Match { best_model: String, model_url: String }
///
/// async fn sign(model: &str) -> Result<String, std::io::Error> {
/// #   Ok(format!("https://models.example.com/{model}?signature=…"))
/// }
///
/// let builder = Bus::builder().refresh(["match"], refresh::typed(|event: Match| async move {
///     match sign(&event.best_model).await {
///         Ok(model_url) => Ok(Match { model_url, ..event }),
///         Err(error) => Err(Nack::retry(Cause::Refresh, format!("sign the model's URL: {error}"))),
///     }
/// }))?;
/// # Ok::<(), postrider::Error>(())
/// ```
pub fn typed<E, F, R>(renew: F) -> impl Refresh
where
    E: Event + DeserializeOwned + Send + 'static,
    F: Fn(E) -> R + Send + Sync + 'static,
    R: Future<Output = Result<E, Nack>> + Send + 'static,
{
    Typed { renew, event: PhantomData }
}

struct Typed<E, F> {
    renew: F,
    event: PhantomData<fn(E)>,
}

#[async_trait]
impl<E, F, R> Refresh for Typed<E, F>
where
    E: Event + DeserializeOwned + Send + 'static,
    F: Fn(E) -> R + Send + Sync + 'static,
    R: Future<Output = Result<E, Nack>> + Send + 'static,
{
    async fn refresh(&self, attempt: &Attempt) -> Result<Option<String>, Nack> {
        let event = attempt.event.decode().map_err(|error| {
            let kind = E::TYPE;
            let why = format!("refresh: the event does not read as {kind:?}, {}", place(&error));
            Nack::reject(Cause::Refresh, why)
        })?;
        let renewed = (self.renew)(event).await?;
        let payload = serde_json::to_string(&renewed).map_err(|_| {
            Nack::reject(Cause::Refresh, "refresh: the renewed event does not encode as JSON")
        })?;
        Ok(Some(payload))
    }
}

/// Where a payload is wrong; what `serde_json` says of it may show the payload.
fn place(error: &serde_json::Error) -> String {
    format!("wrong at line {} column {}", error.line(), error.column())
}

/// A refresh, and the types of events that it is for.
pub(crate) type Registered = (Vec<Pattern>, Arc<dyn Refresh>);

/// Every refresh of a bus, with the events that it is for.
#[derive(Clone, Default)]
pub(crate) struct Refreshes {
    list: Arc<[Registered]>,
    payload_bytes_max: usize,
}

impl Refreshes {
    pub(crate) fn new(list: Vec<Registered>, payload_bytes_max: usize) -> Self {
        Self { list: list.into(), payload_bytes_max }
    }

    /// Whether one of them is for this attempt's event.
    pub(crate) fn are_for(&self, attempt: &Attempt) -> bool {
        self.find(attempt.event.event_type()).is_some()
    }

    /// The first that is for events of this type.
    fn find(&self, kind: &EventType) -> Option<&Arc<dyn Refresh>> {
        self.list
            .iter()
            .find(|(patterns, _)| patterns.iter().any(|pattern| pattern.matches(kind)))
            .map(|(_, refresh)| refresh)
    }

    /// The attempt with what the refresh for it gives, if there is one.
    ///
    /// # Errors
    /// What the refresh reports, or that its payload breaks a rule.
    pub(crate) async fn apply(&self, mut attempt: Attempt) -> Result<Attempt, Nack> {
        let Some(refresh) = self.find(attempt.event.event_type()) else { return Ok(attempt) };
        let Some(payload) = refresh.refresh(&attempt).await? else { return Ok(attempt) };
        let refused =
            |why: String| Nack::reject(Cause::Refresh, format!("refresh: its payload: {why}"));
        if payload.len() > self.payload_bytes_max {
            let (max, found) = (self.payload_bytes_max, payload.len());
            return Err(refused(format!("expected at most {max} bytes, found {found}")));
        }
        if let Err(error) = serde_json::from_str::<&RawValue>(&payload) {
            return Err(refused(format!("expected one JSON value, {}", place(&error))));
        }
        let mut event = (*attempt.event).clone();
        event.payload = payload.into();
        attempt.event = Arc::new(event);
        Ok(attempt)
    }
}

impl fmt::Debug for Refreshes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list.iter().map(|(patterns, _)| patterns)).finish()
    }
}
