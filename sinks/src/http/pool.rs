//! The idle connections of one endpoint.
//!
//! hyper-util's pool serves many hosts and keeps a timer task for each client for as long as the
//! client lives; an endpoint has one host, and an idle endpoint shall cost no task. So this is a
//! list, newest last. A task exists per open connection and ends it after [`IDLE_MAX`].

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep, timeout};

use super::wire::{Mark, Wire};

/// How long a connection may stay unused before it is closed.
pub const IDLE_MAX: Duration = Duration::from_secs(30);
/// A connection older than this is closed after its exchange, so that a name which moved to another
/// address is followed, and judged again by the network policy, also under steady load.
pub const AGE_MAX: Duration = Duration::from_mins(5);
/// How long a request waits, in all, for a connection that is still putting its last answer away.
const READY_WAIT: Duration = Duration::from_millis(20);

pub(super) type Body = Full<Bytes>;

/// One open connection, held by whoever sends on it. Dropped, it is closed.
pub(super) struct Connection {
    pub(super) sender: http1::SendRequest<Body>,
    pub(super) peer: SocketAddr,
    pub(super) mark: Mark,
    born: Instant,
    idle_since: Instant,
}

#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<Idle>,
    idle_max: usize,
}

#[derive(Default)]
struct Idle {
    connections: Vec<Connection>,
    closed: bool,
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} connections", self.connections.len())
    }
}

impl Pool {
    pub(super) fn new(idle_max: usize) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), idle_max })
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        // Every change is a single push or removal, so a panic elsewhere leaves the list whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the task that moves a new connection's bytes.
    pub(super) fn adopt(
        self: &Arc<Self>,
        sender: http1::SendRequest<Body>,
        io: http1::Connection<TokioIo<Wire>, Body>,
        peer: SocketAddr,
        mark: Mark,
    ) -> Connection {
        tokio::spawn(drive(io, Arc::downgrade(self), mark.clone()));
        let now = Instant::now();
        Connection { sender, peer, mark, born: now, idle_since: now }
    }

    /// The connection that was used last and is still open.
    ///
    /// # Cancel safety
    /// A connection that was being waited for is closed.
    pub(super) async fn take(&self) -> Option<Connection> {
        let mut waited = false;
        loop {
            let mut connection = self.lock().connections.pop()?;
            if connection.sender.is_ready() {
                return Some(connection);
            }
            if connection.sender.is_closed() || waited {
                continue;
            }
            // Right after an answer hyper may need a turn of the connection's task. One whose
            // request is still being written, since it was answered early, is given up.
            waited = true;
            if matches!(timeout(READY_WAIT, connection.sender.ready()).await, Ok(Ok(()))) {
                return Some(connection);
            }
        }
    }

    /// Takes a connection back after a whole exchange.
    pub(super) fn put(&self, mut connection: Connection) {
        let now = Instant::now();
        if connection.sender.is_closed() || now.duration_since(connection.born) > AGE_MAX {
            return;
        }
        connection.idle_since = now;
        let mut idle = self.lock();
        if !idle.closed && idle.connections.len() < self.idle_max {
            idle.connections.push(connection);
        }
    }

    /// Closes what is idle; what comes back later is closed too.
    pub(super) fn close(&self) {
        let mut idle = self.lock();
        idle.closed = true;
        idle.connections.clear();
    }

    /// When to look again at the connection of `mark`; `None` where it has been idle too long.
    fn look(&self, mark: &Mark) -> Option<Instant> {
        let idle = self.lock();
        let now = Instant::now();
        match idle.connections.iter().find(|connection| connection.mark.is_of(mark)) {
            None => Some(now + IDLE_MAX),
            Some(connection) => {
                let end = connection.idle_since + IDLE_MAX;
                (end > now).then_some(end)
            }
        }
    }

    fn forget(&self, mark: &Mark) {
        self.lock().connections.retain(|connection| !connection.mark.is_of(mark));
    }
}

/// Moves one connection's bytes until either side ends it or it has been idle too long.
async fn drive(io: http1::Connection<TokioIo<Wire>, Body>, pool: Weak<Pool>, mark: Mark) {
    {
        let mut io = std::pin::pin!(io);
        let mut timer = std::pin::pin!(sleep(IDLE_MAX));
        loop {
            tokio::select! {
                biased;
                // Whoever waits for an answer is told of a failure there.
                _ = &mut io => break,
                () = &mut timer => match pool.upgrade().and_then(|pool| pool.look(&mark)) {
                    Some(next) => timer.as_mut().reset(next),
                    None => break,
                },
            }
        }
    }
    // Only now, with the connection gone, does its sender refuse to be put back.
    if let Some(pool) = pool.upgrade() {
        pool.forget(&mark);
    }
}
