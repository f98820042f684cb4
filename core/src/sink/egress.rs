//! From where a receiver sees connections come.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use crate::delivery::Nack;

/// What a receiver that lets in listed addresses only should list for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Egress {
    /// The configured local addresses, one or two.
    Bound(Vec<IpAddr>),
    /// The local addresses that the system's routes pick now, at least one. Another route picks
    /// another.
    Routed(Vec<IpAddr>),
    /// Connections come from a proxy, named here as `host:port`: its own addresses count.
    Proxy(String),
}

/// Finds an [`Egress`]: asks DNS and the system's routes, and sends nothing to the receiver.
pub type EgressFuture = Pin<Box<dyn Future<Output = Result<Egress, Nack>> + Send>>;
