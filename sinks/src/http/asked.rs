//! Something that another server is asked for before a delivery, and that holds for a while: asked
//! once for many deliveries.

use std::future::Future;

use postrider::delivery::Nack;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connect::Deadline;

/// What came of the last question: a value and until when it holds.
#[derive(Debug)]
pub(super) struct Asked<T> {
    /// Locked while it is asked for.
    last: Mutex<Option<Last<T>>>,
}

#[derive(Debug)]
struct Last<T> {
    at: Instant,
    said: Result<(T, Instant), Nack>,
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        Self { last: Mutex::default() }
    }
}

impl<T: Clone + PartialEq> Asked<T> {
    /// The value, while it holds; otherwise asks for it. Whoever waits while another one asks gets
    /// the same, or fails the same: a server in trouble is not asked by each. `doing` completes
    /// "timed out …" where the wait is too long.
    ///
    /// # Errors
    /// Those of `ask`; a timeout of the wait.
    ///
    /// # Cancel safety
    /// Safe: the next one asks.
    pub(super) async fn get<F>(
        &self,
        deadline: Deadline,
        doing: impl FnOnce() -> String,
        ask: impl FnOnce() -> F,
    ) -> Result<T, Nack>
    where
        F: Future<Output = Result<(T, Instant), Nack>>,
    {
        let began = Instant::now();
        let mut last = deadline.step(doing, self.last.lock()).await?;
        match &*last {
            Some(Last { said: Ok((value, until)), .. }) if Instant::now() < *until => {
                return Ok(value.clone());
            }
            Some(Last { at, said: Err(nack) }) if began <= *at => return Err(nack.clone()),
            _ => {}
        }
        let said = ask().await;
        *last = Some(Last { at: Instant::now(), said: said.clone() });
        said.map(|(value, _)| value)
    }

    /// This value holds no longer. Another one may have been got meanwhile, and stays.
    pub(super) async fn forget(&self, value: &T) {
        let mut last = self.last.lock().await;
        if matches!(&*last, Some(Last { said: Ok((held, _)), .. }) if held == value) {
            *last = None;
        }
    }
}
