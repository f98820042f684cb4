//! What a lane that keeps an order needs of the store: a claim that never outruns the head of a line,
//! and what was tried before a restart.

use std::sync::Arc;

use super::{LEASE, Shared};
use crate::delivery::{State, StateKind};
use crate::endpoint::{Endpoint, EndpointId, OnDead, Order};
use crate::error::{Error, ErrorKind};
use crate::lane::{Head, Lane, Lines, PARKED_MAX};
use crate::store::{Capabilities, Claim, Next, PAGE_EVENTS_MAX, Page, Query, Target};
use crate::time::Timestamp;

/// Whether the store lets every endpoint keep the order that it asks for.
///
/// # Errors
/// `Config`, with the endpoint.
pub(super) fn check(endpoints: &[Endpoint], store: Capabilities) -> Result<(), Error> {
    let why = match store {
        Capabilities { history: false, .. } => "this store keeps no history",
        Capabilities { shared: true, .. } => "this store is shared with other processes",
        _ => return Ok(()),
    };
    let Some(endpoint) = endpoints.iter().find(|it| it.policy.order != Order::None) else {
        return Ok(());
    };
    let what = format!(
        "serve endpoint {:?}: order: expected \"none\", as {why}; use the store \"log\" or \"memory\"",
        endpoint.id
    );
    Err(Error::new(ErrorKind::Config, what))
}

/// More untried deliveries in a row than can have been claimed and given back: everything behind them
/// was never claimed, since claims take the oldest first.
const UNTRIED_MAX: usize = 4 * PARKED_MAX;

/// The lines of an endpoint before anything is claimed: what was claimed before and waits, and what is
/// dead and in the way. Costs a look at what is owed, up to the first long row of untried deliveries.
///
/// # Errors
/// Those of [`Store::find`](crate::store::Store::find).
pub(super) async fn load(
    shared: &Shared,
    endpoint: &EndpointId,
    order: Order,
    on_dead: OnDead,
) -> Result<Lines, Error> {
    let mut lines = Lines::new(order, on_dead);
    let mut query =
        Query::new().endpoint(endpoint.clone()).state(StateKind::Waiting).state(StateKind::Leased);
    if on_dead == OnDead::Block {
        query = query.state(StateKind::Dead);
    }
    // Untried so far: they have their place in a line only if something behind them was claimed.
    let mut untried = Vec::new();
    let mut page = Page::oldest().limit(PAGE_EVENTS_MAX);
    loop {
        let found = shared.store.find(&query, page).await?;
        for record in found.events {
            for delivery in &record.deliveries {
                let head = match delivery.state {
                    State::Dead { .. } => Head::Dead,
                    State::Waiting { due }
                        if delivery.attempts_made == 0 && due <= record.accepted_at =>
                    {
                        untried.push(Arc::clone(&record.event));
                        continue;
                    }
                    _ => Head::Waiting,
                };
                for event in untried.drain(..) {
                    lines.restore(&event, Head::Waiting);
                }
                lines.restore(&record.event, head);
            }
        }
        let Some(next) = found.next.filter(|_| untried.len() < UNTRIED_MAX) else {
            return Ok(lines);
        };
        page = page.after(Some(next));
    }
}

/// Claims for a lane that keeps an order, as far as there is room, and returns what may start: at most
/// `max`. While there is no room, only what was tried before is claimed, so that heads go on.
///
/// # Errors
/// Those of [`Store::claim`](crate::store::Store::claim).
pub(super) async fn claim(
    shared: &Shared,
    lane: &Lane,
    max: usize,
    next: Next,
    now: Timestamp,
) -> Result<Claim, Error> {
    let (startable, room) = lane.with_lines(|lines| (lines.startable(), lines.room()));
    let mut next = next;
    if startable < max && next.is_due(now) {
        let more = max - startable;
        let until = now.after(LEASE);
        let claim = if room == 0 {
            shared.store.claim_tried(lane.id(), more, now, until).await?
        } else {
            shared.store.claim(lane.id(), more.min(room), now, until).await?
        };
        lane.with_lines(|lines| lines.arrive(claim.leases));
        next = claim.next;
    }
    Ok(Claim { leases: lane.with_lines(|lines| lines.take(max)), next })
}

/// Dead deliveries were set aside: what waits behind them goes on.
pub(super) fn purged(shared: &Shared, targets: &[&Target]) {
    let mut freed = Vec::new();
    for target in targets {
        let Some(lane) = shared.lane(&target.endpoint) else { continue };
        if lane.lines().as_mut().is_some_and(|lines| lines.purged(&target.event)) {
            freed.push(target.endpoint.clone());
        }
    }
    if !freed.is_empty() {
        shared.opened().extend(freed);
        shared.has_opened.notify_one();
    }
}
