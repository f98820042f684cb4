//! Accepting connections, a bounded number at once, and the ways of not doing so on purpose.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::{Semaphore, watch},
    time::{Instant, sleep, sleep_until},
};

/// After a failed accept, usually for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// How an address accepts, switched live.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Gate {
    /// How long each connection waits before it is served.
    pub(crate) delay: Duration,
    /// Until when connections are refused.
    pub(crate) refuse_until: Option<Instant>,
}

/// Serves each connection in a task of its own, with its number from 1; when `max` are open, the
/// next wait in the listener's queue.
///
/// Refusing gives the port back to the system for as long as it lasts: nothing else makes
/// connecting fail. Where another program takes it meanwhile, it is tried again and again.
pub(crate) async fn accept<F>(
    mut listener: TcpListener,
    max: usize,
    mut gate: watch::Receiver<Gate>,
    serve: impl Fn(TcpStream, SocketAddr, u64) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(addr) = listener.local_addr() else { return };
    let room = Arc::new(Semaphore::new(max));
    let mut number = 0;
    while let Ok(permit) = room.clone().acquire_owned().await {
        let refuse_until = gate.borrow_and_update().refuse_until;
        if let Some(end) = refuse_until.filter(|end| *end > Instant::now()) {
            drop(listener);
            select! {
                () = sleep_until(end) => {}
                Ok(()) = gate.changed() => {}
            }
            listener = again(addr).await;
            continue;
        }
        let accepted = select! {
            accepted = listener.accept() => accepted,
            Ok(()) = gate.changed() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                number += 1;
                // Answers are small; without this they may wait for the peer's acknowledgement.
                let _ = stream.set_nodelay(true);
                let served = serve(stream, peer, number);
                let delay = gate.borrow().delay;
                tokio::spawn(async move {
                    if !delay.is_zero() {
                        sleep(delay).await;
                    }
                    served.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "accepting a connection failed");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn again(addr: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => return listener,
            Err(error) => {
                tracing::warn!(%addr, error = %error, "listening again failed");
                sleep(PAUSE).await;
            }
        }
    }
}
