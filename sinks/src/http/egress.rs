//! From where a receiver sees the connections come.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use postrider::config::NetworkPolicy;
use postrider::delivery::{Cause, Nack};
use postrider::sink::Egress;

use super::connect::{self, Deadline};
use super::proxy::Proxy;
use super::resolve::Resolve;
use super::target::Target;

/// The proxy, or the configured addresses; without any, those that the routes to the target's
/// addresses pick.
pub(super) async fn find(
    target: &Target,
    proxy: Option<&Proxy>,
    policy: &NetworkPolicy,
    resolver: &dyn Resolve,
    deadline: Deadline,
) -> Result<Egress, Nack> {
    if let Some(proxy) = proxy {
        return Ok(Egress::Proxy(proxy.name()));
    }
    let bound = policy.bound();
    if !bound.is_empty() {
        return Ok(Egress::Bound(bound));
    }
    let mut found = Vec::new();
    let mut failure = None;
    for peer in connect::addresses(target, policy, resolver, deadline).await? {
        match local(SocketAddr::new(peer, target.port)) {
            Ok(address) => found.push(address),
            Err(error) => failure = Some((peer, error)),
        }
    }
    found.sort_unstable();
    found.dedup();
    match failure {
        // A name with addresses of both families is reached by the one that there is a route for.
        Some((peer, error)) if found.is_empty() => {
            let message = format!("no route to {peer}: {}", error.kind());
            Err(Nack::retry(Cause::Connect, message))
        }
        _ => Ok(Egress::Routed(found)),
    }
}

/// The local address that the route to `peer` picks. Connecting a UDP socket looks the route up and
/// sends no packet.
fn local(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}
