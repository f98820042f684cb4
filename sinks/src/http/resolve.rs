//! From names to addresses.

use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;

/// Looks host names up; the addresses are checked by the caller.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// Every address of `name`, in the order they should be tried.
    ///
    /// # Errors
    /// Why there is none.
    ///
    /// # Cancel safety
    /// Dropped when the time to connect is over.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

impl fmt::Debug for dyn Resolve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolve")
    }
}

/// The operating system's resolver (`getaddrinfo`): hosts file, DNS and its caches as everywhere
/// else on the machine.
///
/// It blocks a thread per lookup; one value runs one lookup at a time, so that an endpoint whose
/// name servers hang holds one thread and not the pool.
#[derive(Debug)]
pub struct SystemResolver {
    lookups: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(1)) }
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let name = name.to_owned();
        // The permit goes along: a lookup that nobody waits for any more still holds its thread.
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            Ok((name.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).collect())
        })
        .await
        .map_err(io::Error::other)?
    }
}
