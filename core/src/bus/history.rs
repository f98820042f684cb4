//! The past: finding it, sending it again, setting aside what was given up.

use super::Bus;
use crate::delivery::{DeliveryId, StateKind};
use crate::endpoint::{EndpointId, Hold};
use crate::error::{Error, ErrorKind};
use crate::replay::{Job, JobId, Preview, Request};
use crate::stats::EndpointStats;
use crate::store::{
    DeadLetters, Found, Order, PAGE_EVENTS_MAX, Page, Purged, Query, Replayed, Target,
};

/// What can be asked of a store that keeps history ([`Capabilities::history`]); of another one each
/// of these returns [`ErrorKind::Unsupported`].
///
/// [`Capabilities::history`]: crate::store::Capabilities::history
impl Bus {
    /// Finds past events, page by page, each with those of its newest deliveries that are looked
    /// for.
    ///
    /// A page looks at a bounded number of events, so it may hold fewer than asked for, even none,
    /// while there are more: [`Found::next`] tells, and goes into [`Page::after`] for the next one.
    ///
    /// ```
    /// # use postrider::testing::RecordingSink;
    /// # use postrider::{Bus, Endpoint, NewEvent};
    /// use std::time::Duration;
    /// use postrider::delivery::StateKind;
    /// use postrider::store::{Page, Query};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postrider::Error> {
    /// # let sink = RecordingSink::default();
    /// # let bus = Bus::builder().endpoint(Endpoint::builder("shop", sink).build()).open().await?;
    /// bus.publish(NewEvent::raw("match", r#"{"confidence":0.87}"#)?).await?;
    /// bus.flush(Duration::from_secs(5)).await?;
    ///
    /// let delivered = Query::new().of_type("match".parse().unwrap()).state(StateKind::Delivered);
    /// let mut page = Page::newest().limit(50);
    /// let mut found = Vec::new();
    /// loop {
    ///     let part = bus.find(&delivered, page).await?;
    ///     found.extend(part.events);
    ///     let Some(next) = part.next else { break };
    ///     page = page.after(Some(next));
    /// }
    /// assert_eq!(found.len(), 1);
    /// assert_eq!(found[0].deliveries[0].attempts_made, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Unsupported`; `Store`; `Closed`.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn find(&self, query: &Query, page: Page) -> Result<Found, Error> {
        self.inner.store.find(query, page).await
    }

    /// What became of attempts in the last hour, day and week, for each endpoint that ever had one,
    /// sorted by id.
    ///
    /// ```
    /// # use postrider::testing::RecordingSink;
    /// # use postrider::{Bus, Endpoint, NewEvent};
    /// use std::time::Duration;
    /// use postrider::clock::{Clock, SystemClock};
    /// use postrider::stats::Window;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postrider::Error> {
    /// # let sink = RecordingSink::default();
    /// # let bus = Bus::builder().endpoint(Endpoint::builder("shop", sink).build()).open().await?;
    /// bus.publish(NewEvent::raw("match", "1")?).await?;
    /// bus.flush(Duration::from_secs(5)).await?;
    ///
    /// let stats = bus.stats().await?;
    /// let hour = stats[0].series.window(Window::Hour, SystemClock.now());
    /// assert_eq!((hour.succeeded, hour.success_rate()), (1, Some(1.0)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    pub async fn stats(&self) -> Result<Vec<EndpointStats>, Error> {
        let mut stats = self.inner.store.stats().await?;
        stats.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        Ok(stats)
    }

    /// What was given up and neither replayed nor purged: counts by endpoint and reason, sorted by
    /// both.
    ///
    /// ```
    /// # use postrider::testing::RecordingSink;
    /// # use postrider::delivery::{Cause, Nack};
    /// # use postrider::testing::Step;
    /// # use postrider::{Bus, Endpoint, NewEvent};
    /// use std::time::Duration;
    /// use postrider::replay::Request;
    /// use postrider::store::Query;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postrider::Error> {
    /// # let sink = RecordingSink::scripted([Step::Nack(Nack::reject(Cause::Status, "no"))]);
    /// # let bus = Bus::builder().endpoint(Endpoint::builder("shop", sink).build()).open().await?;
    /// bus.publish(NewEvent::raw("match", "1")?).await?;
    /// bus.flush(Duration::from_secs(5)).await?;
    ///
    /// let dead = bus.dead_letters().await?;
    /// assert_eq!((dead[0].endpoint.as_str(), dead[0].count), ("shop", 1));
    ///
    /// // The receiver was repaired: send what it refused once more, and set nothing aside.
    /// bus.replay(Request::new(Query::new().state(dead[0].state.kind()))).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetters>, Error> {
        let mut dead = self.inner.store.dead().await?;
        let key = |dead: &DeadLetters| (dead.endpoint.clone(), format!("{:?}", dead.state));
        dead.sort_by_cached_key(key);
        Ok(dead)
    }

    /// Sets dead and expired deliveries that the query finds aside for good: they are no longer among
    /// the dead letters, and stay in history as purged. Returns how many. A query that asks for no
    /// state asks for both.
    ///
    /// Deliveries given up while it runs may be among them or not.
    ///
    /// ```
    /// # use postrider::{Bus, EndpointId};
    /// use postrider::store::Query;
    ///
    /// # async fn example(bus: Bus, shop: EndpointId) -> Result<(), postrider::Error> {
    /// let purged = bus.purge(&Query::new().endpoint(shop)).await?;
    /// println!("{purged} deliveries set aside");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Invalid` for a query that asks for another state than dead or expired; as for
    /// [`find`](Self::find). What was purged before an error stays so.
    ///
    /// # Cancel safety
    /// Each page of up to 1,000 deliveries is purged as a whole or not at all. Dropped, it stops
    /// after one; calling it again purges the rest.
    pub async fn purge(&self, query: &Query) -> Result<u64, Error> {
        const GIVEN_UP: [StateKind; 2] = [StateKind::Dead, StateKind::Expired];
        let inner = &*self.inner;
        let mut query = query.clone();
        if let Some(other) = query.states.iter().find(|state| !GIVEN_UP.contains(state)) {
            let what = format!("purge deliveries: expected dead or expired ones, found {other:?}");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        if query.states.is_empty() {
            query.states = GIVEN_UP.to_vec();
        }
        // What is accepted later is not looked at, so that it ends.
        let last = inner.engine.place(&Query::new(), Order::NewestFirst).await?;
        let mut page = Page::oldest().limit(PAGE_EVENTS_MAX).without_attempts();
        let mut purged = 0;
        loop {
            let found = self.find(&query, page).await?;
            let targets: Vec<Target> = found
                .events
                .iter()
                .flat_map(|event| {
                    let endpoints = event.deliveries.iter().map(|it| it.id.endpoint());
                    endpoints.map(|endpoint| Target::new(event, endpoint.clone()))
                })
                .collect();
            for targets in targets.chunks(PAGE_EVENTS_MAX) {
                let answers = inner.store.purge(targets, inner.clock.now()).await?;
                let done: Vec<&Target> = targets
                    .iter()
                    .zip(answers)
                    .filter_map(|(target, answer)| (answer == Purged::Done).then_some(target))
                    .collect();
                inner.engine.purged(&done);
                purged += done.len() as u64;
            }
            match found.next {
                Some(next) if last.is_some_and(|last| next < last) => page = page.after(Some(next)),
                _ => return Ok(purged),
            }
        }
    }

    /// Makes a new delivery of the event of `delivery` to its endpoint, due now, however the old one
    /// ended. Returns the id of the new one.
    ///
    /// # Errors
    /// `NotFound` where there is no such delivery (any more); `Conflict` where the newest delivery of
    /// the event to this endpoint is owed, so that it comes anyway, or where there were 1,000 already;
    /// `Full`; as for [`find`](Self::find).
    ///
    /// # Cancel safety
    /// Dropped before it returns, the new delivery is made or not.
    pub async fn retry(&self, delivery: &DeliveryId) -> Result<DeliveryId, Error> {
        let inner = &*self.inner;
        let refused =
            |kind, why: &str| Error::new(kind, format!("retry delivery {delivery}: {why}"));
        let gone = || refused(ErrorKind::NotFound, "there is no such delivery (any more)");
        let event = inner.store.event(delivery.event()).await?.ok_or_else(gone)?;
        if !event.deliveries.iter().any(|it| it.id == *delivery) {
            return Err(gone());
        }
        let target = Target::new(&event, delivery.endpoint().clone());
        let answers = inner.store.replay(&[target], None, inner.clock.now()).await?;
        match answers.into_iter().next() {
            Some(Replayed::Made(id)) => Ok(id),
            Some(Replayed::Owed) => {
                Err(refused(ErrorKind::Conflict, "it is owed already, so it comes anyway"))
            }
            Some(Replayed::TooOften) => {
                Err(refused(ErrorKind::Conflict, "it was sent again 1,000 times already"))
            }
            Some(Replayed::Gone) | None => Err(gone()),
        }
    }

    /// Makes a job that sends past events again. It runs in this bus, survives restarts, and covers
    /// what was accepted before it was made, the oldest first; what is owed is not made a second
    /// time. A new delivery has the event's id and bytes, and a [run](DeliveryId::run) of its own.
    ///
    /// While the backlog is full or the store fails, the job waits and then goes on. At most 4 jobs
    /// run at once; further ones wait for their turn.
    ///
    /// ```
    /// # use postrider::testing::RecordingSink;
    /// # use postrider::{Bus, Endpoint, NewEvent};
    /// use std::time::Duration;
    /// use postrider::replay::Request;
    /// use postrider::store::Query;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postrider::Error> {
    /// # let sink = RecordingSink::default();
    /// # let new = Endpoint::builder("new", sink.clone()).events(["never"])?.build();
    /// # let bus = Bus::builder().endpoint(new).open().await?;
    /// bus.publish(NewEvent::raw("match", "1")?).await?;
    ///
    /// // What an endpoint missed that was added later, at most 100 a second.
    /// let missed = Query::new().of_type("match".parse().unwrap()).missing("new".parse().unwrap());
    /// let request = Request::new(missed).rate("100/s".parse().unwrap());
    /// println!("{} deliveries", bus.preview_replay(&request).await?.total());
    ///
    /// let mut job = bus.replay(request).await?;
    /// while !job.state.is_over() {
    ///     tokio::time::sleep(Duration::from_millis(10)).await;
    ///     job = bus.replay_job(job.id).await?;
    /// }
    /// assert_eq!(job.counts.made, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `NotFound` where the request names an endpoint that is not served; `TooLarge` for a query
    /// beyond 8 KiB; `Full` where 100 jobs have not ended; as for [`find`](Self::find).
    ///
    /// # Cancel safety
    /// Dropped before it returns, the job is made or not; [`replays`](Self::replays) tells.
    pub async fn replay(&self, request: Request) -> Result<Job, Error> {
        self.inner.engine.replay(request).await
    }

    /// Counts what a replay would do now, without doing it.
    ///
    /// It looks at everything that the query may find, page by page, in bounded memory.
    ///
    /// # Errors
    /// Those of [`replay`](Self::replay).
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn preview_replay(&self, request: &Request) -> Result<Preview, Error> {
        self.inner.engine.preview_replay(request).await
    }

    /// Every replay job that has not ended, and those that have: the newest 100 for 7 days. The
    /// oldest first.
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    pub async fn replays(&self) -> Result<Vec<Job>, Error> {
        self.inner.engine.replays().await
    }

    /// How far a replay job is.
    ///
    /// # Errors
    /// `NotFound` where there is no such job (any more); as for [`find`](Self::find).
    pub async fn replay_job(&self, id: JobId) -> Result<Job, Error> {
        self.inner.engine.replay_job(id).await
    }

    /// Ends a replay job and returns how far it came; one that has ended is left as it is. What it
    /// has made stays owed.
    ///
    /// With a store that several processes share, a job that another one runs ends with its next
    /// write; it may still be told as running here.
    ///
    /// # Errors
    /// As for [`replay_job`](Self::replay_job). `Store` too where the store cannot note the end: the
    /// job makes nothing more, and ends once the store works again.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the job ends all the same or goes on.
    pub async fn cancel_replay(&self, id: JobId) -> Result<Job, Error> {
        self.inner.engine.cancel_replay(id).await
    }

    /// Until when nothing is started at the endpoint, because its attempts failed in a row or its
    /// receiver asked for it ([`Breaker`](crate::endpoint::Breaker), `Retry-After`). What is owed to
    /// it waits, and uses up no attempt. `None` where it goes on, or is not served.
    pub fn paused_until(&self, endpoint: &EndpointId) -> Option<crate::time::Timestamp> {
        self.inner.engine.paused_until(endpoint)
    }

    /// Why what is owed to an endpoint is not attempted, and since when; `None` where it is
    /// attempted, or the endpoint is not served.
    pub fn hold(&self, endpoint: &EndpointId) -> Option<Hold> {
        self.inner.engine.hold(endpoint)
    }

    /// Delivers to an endpoint again after its receiver said that it wants nothing any more (HTTP
    /// 410). Until this is called, or the endpoint's settings change, or it is disabled and enabled
    /// again, what is owed to it is held; a store that keeps history remembers that over restarts.
    ///
    /// Where nothing holds the endpoint, nothing changes.
    ///
    /// # Errors
    /// `NotFound` where the endpoint is not served; `Config` where its configuration disables it;
    /// `Store` where the store cannot forget: the endpoint stays held then.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the endpoint is enabled now, after the next start, or not at all;
    /// call it again.
    pub async fn enable(&self, endpoint: &EndpointId) -> Result<(), Error> {
        self.inner.engine.enable(endpoint).await
    }
}
