//! Accepting connections, a bounded number at once.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};

/// After a failed accept, usually for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves each connection in a task of its own, with its number from 1; when `max` are open, the
/// next wait in the listener's queue.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    max: usize,
    serve: impl Fn(TcpStream, SocketAddr, u64) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(max));
    let mut number = 0;
    while let Ok(permit) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                number += 1;
                // Answers are small; without this they may wait for the peer's acknowledgement.
                let _ = stream.set_nodelay(true);
                let served = serve(stream, peer, number);
                tokio::spawn(async move {
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
