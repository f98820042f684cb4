//! From a target to an open connection: look up, judge every address, connect to one of those that
//! were judged, speak TLS.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postrider::config::{HumanDuration, NetworkPolicy};
use postrider::delivery::{Cause, Nack};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::guard::{self, NameKind};
use super::pool::Body;
use super::proxy::Proxy;
use super::resolve::Resolve;
use super::target::{Forbidden, Host, Target};
use super::tls::{self, Tls};
use super::wire::{Mark, Stream, Wire};

/// Most addresses of one name that are tried; all of them are judged.
const ADDRESSES_TRIED_MAX: usize = 8;
/// Stands in for a limit that no instant can hold.
const FOREVER: Duration = Duration::from_hours(24 * 365);
/// Most header fields of an answer.
const ANSWER_HEADERS_MAX: usize = 128;
/// Largest head of an answer, in bytes; also hyper's buffer per connection.
const ANSWER_HEAD_BYTES_MAX: usize = 64 << 10;

/// A moment, and the limit that it comes from, for messages.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) limit: Duration,
}

impl Deadline {
    /// `limit` from now, and `shown` in messages.
    pub(super) fn after(limit: Duration, shown: Duration) -> Self {
        let now = Instant::now();
        // Longer than an instant can hold is for ever.
        Self { at: now.checked_add(limit).unwrap_or(now + FOREVER), limit: shown }
    }

    /// The earlier of both.
    pub(super) fn min(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    /// Runs one step; `doing` completes "timed out …".
    pub(super) async fn step<T>(
        self,
        doing: impl FnOnce() -> String,
        step: impl Future<Output = T>,
    ) -> Result<T, Nack> {
        timeout_at(self.at, step).await.map_err(|_| {
            let message = format!("timed out {} (limit {})", doing(), HumanDuration(self.limit));
            Nack::retry(Cause::Timeout, message)
        })
    }
}

/// Opens a connection to `target`, through `proxy` where there is one; the address is then the
/// proxy's.
pub(super) async fn open(
    target: &Target,
    proxy: Option<&Proxy>,
    policy: &NetworkPolicy,
    resolver: &dyn Resolve,
    tls: Option<&Tls>,
    deadline: Deadline,
) -> Result<(SocketAddr, Wire), Nack> {
    // A proxy must not reach what may not be reached without it.
    permit(target.permit(policy))?;
    let place = proxy.map_or(target, |proxy| &proxy.place);
    let addresses = addresses(place, policy, resolver, deadline).await?;
    let (peer, mut tcp) = reach(&addresses, place.port, policy, deadline).await?;
    // Small writes go out at once; a request is written in one piece.
    tcp.set_nodelay(true).map_err(|error| unreachable(peer, &error))?;
    let stream = match tls {
        None => Stream::Plain(tcp),
        Some(tls) => {
            if let Some(proxy) = proxy {
                proxy.tunnel(&mut tcp, target, deadline).await?;
            }
            let host = &target.host;
            let name = tls::server_name(host).ok_or_else(|| {
                Nack::reject(Cause::Tls, format!("no certificate can name the host {host}"))
            })?;
            let handshake = TlsConnector::from(tls.config()).connect(name, tcp);
            let doing = || format!("in the TLS handshake with {host} at {peer}");
            let stream = deadline.step(doing, handshake).await?.map_err(|error| {
                Nack::retry(Cause::Tls, format!("{}: {host} at {peer}", tls::explain(&error)))
            })?;
            Stream::Tls(Box::new(stream))
        }
    };
    Ok((peer, Wire { stream, mark: Mark::default() }))
}

/// Speaks HTTP/1.1 on an open connection.
pub(super) async fn handshake(
    wire: Wire,
) -> hyper::Result<(http1::SendRequest<Body>, http1::Connection<TokioIo<Wire>, Body>)> {
    http1::Builder::new()
        .max_headers(ANSWER_HEADERS_MAX)
        .max_header_size(ANSWER_HEAD_BYTES_MAX)
        .max_buf_size(ANSWER_HEAD_BYTES_MAX)
        .handshake(TokioIo::new(wire))
        .await
}

/// The addresses that may be connected to; a name with a single forbidden one is refused whole, or
/// whoever runs its DNS could mix one in and wait for the day it is picked.
pub(super) async fn addresses(
    target: &Target,
    policy: &NetworkPolicy,
    resolver: &dyn Resolve,
    deadline: Deadline,
) -> Result<Vec<IpAddr>, Nack> {
    permit(target.permit_place(policy))?;
    let name = match &target.host {
        Host::Ip(address) => return Ok(vec![*address]),
        Host::Name(name) => name,
    };
    if guard::kind_of(name) == NameKind::Loopback {
        let allowed = guard::LOOPBACK.into_iter().filter(|&it| guard::permit(it, policy).is_ok());
        return Ok(allowed.collect());
    }
    let found = deadline.step(|| format!("resolving {name}"), resolver.resolve(name)).await?;
    let addresses = found.map_err(|error| {
        let why = error.to_string();
        let why = why.strip_prefix("failed to lookup address information: ").unwrap_or(&why);
        Nack::retry(Cause::Dns, format!("{name} does not resolve: {why}"))
    })?;
    if addresses.is_empty() {
        return Err(Nack::retry(Cause::Dns, format!("{name} has no address")));
    }
    for &address in &addresses {
        if let Err(reason) = guard::permit(address, policy) {
            let message = format!(
                "the network policy forbids {name}: it resolves to {address}, which is {}",
                guard::reason(reason)
            );
            return Err(Nack::retry(Cause::Policy, message));
        }
    }
    Ok(addresses)
}

/// A literal address or reserved name can never come right without another configuration.
fn permit(judged: Result<(), Forbidden>) -> Result<(), Nack> {
    judged.map_err(|forbidden| Nack::reject(Cause::Policy, forbidden.to_string()))
}

/// Connects to the first address that answers. Each gets an even share of the time that is left, so
/// that one dead address does not use it all up.
async fn reach(
    addresses: &[IpAddr],
    port: u16,
    policy: &NetworkPolicy,
    deadline: Deadline,
) -> Result<(SocketAddr, TcpStream), Nack> {
    let tried = addresses.len().min(ADDRESSES_TRIED_MAX);
    let mut failure = None;
    for (index, &address) in addresses[..tried].iter().enumerate() {
        let peer = SocketAddr::new(address, port);
        let left = deadline.at.saturating_duration_since(Instant::now());
        let share = left / (tried - index) as u32;
        let share = Deadline { at: Instant::now() + share, ..deadline };
        let step = share.step(|| format!("connecting to {peer}"), from(policy, peer)).await;
        failure = Some(match step {
            Ok(Ok(stream)) => return Ok((peer, stream)),
            Ok(Err(nack)) | Err(nack) => nack,
        });
    }
    Err(failure.expect("there is at least one address"))
}

/// Connects from the policy's own address, where it has one.
async fn from(policy: &NetworkPolicy, peer: SocketAddr) -> Result<TcpStream, Nack> {
    let failed = |error: io::Error| unreachable(peer, &error);
    let own = policy.bind_for(peer.ip()).map_err(|family| {
        let message = format!("cannot connect to {peer}: bind_address has no {family} address");
        Nack::retry(Cause::Connect, message)
    })?;
    let Some(own) = own else { return TcpStream::connect(peer).await.map_err(failed) };
    let socket = if peer.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(failed)?;
    socket.bind(SocketAddr::new(own, 0)).map_err(|error| {
        let message = format!("cannot send from bind_address {own}: {}", error.kind());
        Nack::retry(Cause::Connect, message)
    })?;
    socket.connect(peer).await.map_err(failed)
}

fn unreachable(peer: SocketAddr, error: &io::Error) -> Nack {
    let message = match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("connection refused by {peer}"),
        kind => format!("cannot connect to {peer}: {kind}"),
    };
    Nack::retry(Cause::Connect, message)
}
