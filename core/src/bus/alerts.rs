//! Publishes the bus's own alerts.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::{Inner, PUBLISHERS_WAIT};
use crate::alert::{Alert, BacklogHigh};
use crate::error::Error;
use crate::event::Event as _;
use crate::store::Accept;

/// How often what is owed is looked at, while somebody asks to be told that it is much.
const BACKLOG_EVERY: Duration = Duration::from_secs(10);
/// Least time between two looks for news, so that a flood of failures costs little.
const PAUSE: Duration = Duration::from_millis(20);

/// Publishes alerts until the engine stops or the bus is dropped.
pub(super) fn start(inner: &Arc<Inner>) {
    let stopped = inner.engine.stopping();
    let weak = Arc::downgrade(inner);
    let desk = Arc::clone(&inner.desk);
    inner.engine.spawn(async move {
        let mut next: Option<Instant> = None;
        let mut backlog_at = Instant::now() + BACKLOG_EVERY;
        loop {
            let until = next.unwrap_or(backlog_at).min(backlog_at);
            tokio::select! {
                () = stopped.cancelled() => return,
                () = desk.has_news() => tokio::time::sleep(PAUSE).await,
                () = sleep_until(until) => {}
            }
            let look = look(&weak, &mut backlog_at);
            tokio::select! {
                () = stopped.cancelled() => return,
                at = look => match at {
                    Some(at) => next = at,
                    None => return,
                },
            }
        }
    });
}

/// Publishes what may be told now, and says when there may be more; `None` where the bus is gone.
async fn look(weak: &Weak<Inner>, backlog_at: &mut Instant) -> Option<Option<Instant>> {
    let inner = weak.upgrade()?;
    let now = Instant::now();
    if now >= *backlog_at {
        *backlog_at = now + BACKLOG_EVERY;
        if let Err(error) = inner.look_at_backlog().await {
            tracing::warn!(error = error.chain(), "what is owed could not be counted");
        }
    }
    let (alerts, next) = inner.desk.due(now);
    for alert in alerts {
        inner.raise(&alert).await;
    }
    Some(next)
}

impl Inner {
    async fn look_at_backlog(&self) -> Result<(), Error> {
        if self.routes.load().router.find(&BacklogHigh::NAME, &mut Vec::new()).is_empty()
            && !self.subscriptions.want(&BacklogHigh::NAME)
        {
            return Ok(());
        }
        let now = self.clock.now();
        let backlog = self.store.backlog(now).await?;
        self.desk.owed(&backlog, |endpoint| self.engine.name(endpoint), now);
        Ok(())
    }

    /// Publishes an alert to those that ask for it, but not to the endpoint that it is about.
    async fn raise(&self, alert: &Alert) {
        let (kind, about) = (alert.event_type(), alert.endpoint());
        if let Err(error) = self.publish_alert(alert).await {
            tracing::warn!(endpoint = %about, %kind, error = error.chain(), "an alert was not published");
        }
    }

    async fn publish_alert(&self, alert: &Alert) -> Result<(), Error> {
        let now = self.clock.now();
        let event = alert.encode()?.seal_at(now, &*self.clock, usize::MAX)?;
        let event = Arc::new(event);
        let endpoints = self.routes.load().plan(&event, &mut Vec::new());
        let endpoints: Arc<[_]> =
            endpoints.iter().filter(|endpoint| *endpoint != alert.endpoint()).cloned().collect();
        if !endpoints.is_empty() {
            let accept = Accept { event: Arc::clone(&event), endpoints };
            self.store.accept(vec![accept], now).await?;
        }
        self.subscriptions.send(&event);
        Ok(())
    }

    /// Publishes what waits for its interval, for a shutdown.
    pub(super) async fn raise_rest(&self) {
        for alert in self.desk.rest(Instant::now()) {
            if timeout(PUBLISHERS_WAIT, self.raise(&alert)).await.is_err() {
                tracing::warn!("alerts were not published: the store takes none");
                return;
            }
        }
    }
}
