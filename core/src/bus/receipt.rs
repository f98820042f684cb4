//! What publish and shutdown answer.

use std::sync::Arc;

use serde::Serialize;

use crate::delivery::DeliveryId;
use crate::endpoint::EndpointId;
use crate::event::EventId;
use crate::store::{Accepted, Backlog, Durability};

/// Proof that an event is held by the store, and whom it goes to.
#[derive(Clone, Debug)]
pub struct Receipt {
    event: EventId,
    endpoints: Arc<[EndpointId]>,
    duplicate: bool,
    durability: Durability,
}

impl Receipt {
    pub(super) fn new(event: EventId, accepted: Accepted, durability: Durability) -> Self {
        Self { event, endpoints: accepted.endpoints, duplicate: accepted.duplicate, durability }
    }

    /// The event's id.
    pub fn event(&self) -> &EventId {
        &self.event
    }

    /// Whom it goes to; nobody where no endpoint asks for its type.
    pub fn endpoints(&self) -> &[EndpointId] {
        &self.endpoints
    }

    /// The deliveries that are owed, one for each endpoint.
    pub fn deliveries(&self) -> impl Iterator<Item = DeliveryId> + '_ {
        self.endpoints.iter().map(|endpoint| DeliveryId::new(endpoint.clone(), self.event.clone()))
    }

    /// Whether an event of this id had been accepted before: this is its first receipt again, and
    /// nothing new is delivered.
    pub fn is_duplicate(&self) -> bool {
        self.duplicate
    }

    /// What the accepted event survives.
    pub fn durability(&self) -> Durability {
        self.durability
    }
}

/// What is owed and not delivered, by endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Left {
    endpoints: Vec<LeftAt>,
}

/// What is owed to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftAt {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Due, or under way.
    pub due: u64,
    /// Waiting for a later attempt.
    pub delayed: u64,
    /// Whether none is attempted: the endpoint is disabled, or not configured.
    pub held: bool,
}

impl Left {
    pub(super) fn new(backlog: Vec<(Backlog, bool)>) -> Self {
        let mut endpoints: Vec<LeftAt> = backlog
            .into_iter()
            .map(|(backlog, is_open)| LeftAt {
                endpoint: backlog.endpoint,
                due: backlog.ready + backlog.leased,
                delayed: backlog.delayed,
                held: !is_open,
            })
            .collect();
        endpoints.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        Self { endpoints }
    }

    /// Only endpoints that are owed something, sorted by id.
    pub fn endpoints(&self) -> &[LeftAt] {
        &self.endpoints
    }

    /// All that is owed.
    pub fn total(&self) -> u64 {
        self.endpoints.iter().map(|left| left.due + left.delayed).sum()
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }
}
