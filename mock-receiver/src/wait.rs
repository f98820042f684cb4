//! Waiting for requests, and the account of what came when they did not.

use std::{
    fmt,
    future::IntoFuture,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, task::JoinHandle, time::timeout_at};

use crate::{
    Capture, Error, ErrorKind, Matcher, matcher::Mismatch, receiver::Shared, store::Store,
};

/// How many captures an account lists.
const LISTED_MAX: usize = 20;

/// A wait for requests in one bin; await it.
///
/// By default for one whole request of any kind, within 10 s. Requests that came before the wait
/// count; requests that are [not whole](crate::Record::is_whole) do not.
///
/// # Errors
/// [`Unmet`](ErrorKind::Unmet) when the time is over, with the nearest miss and the requests so
/// far in its text; [`Closed`](ErrorKind::Closed) when the receiver goes out of scope.
///
/// # Cancel safety
/// A dropped wait changes nothing.
#[must_use = "a wait does nothing until it is awaited"]
pub struct Wait {
    pub(crate) shared: Arc<Shared>,
    pub(crate) runtime: Handle,
    pub(crate) wanted: Wanted,
}

/// What is waited for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) bin: String,
    pub(crate) count: usize,
    pub(crate) within: Duration,
    pub(crate) matcher: Matcher,
}

impl Wait {
    /// How many requests at least.
    pub fn count(mut self, count: usize) -> Self {
        self.wanted.count = count;
        self
    }

    /// For how long at most, in real time, also where the test's own clock is paused.
    pub fn within(mut self, within: Duration) -> Self {
        self.wanted.within = within;
        self
    }

    /// Which requests count.
    pub fn matching(mut self, matcher: Matcher) -> Self {
        self.wanted.matcher = matcher;
        self
    }
}

impl IntoFuture for Wait {
    /// All that match by the time that there are enough: at least as many as asked for, oldest first.
    type Output = Result<Vec<Capture>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            // On the receiver's own runtime, whose clock is never paused.
            let Self { shared, runtime, wanted } = self;
            let mut task = Abort(runtime.spawn(async move { wait(&shared.store, &wanted).await }));
            match (&mut task.0).await {
                Ok(met) => met.map_err(Miss::into_error),
                Err(_) => Err(Error::new(
                    ErrorKind::Closed,
                    "the receiver went out of scope while it was waited for requests",
                )),
            }
        })
    }
}

struct Abort<T>(JoinHandle<T>);

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until enough requests match.
pub(crate) async fn wait(store: &Store, wanted: &Wanted) -> Result<Vec<Capture>, Box<Miss>> {
    // More than the clock can hold is more than anyone waits.
    let deadline = Instant::now().checked_add(wanted.within);
    let mut tally = Miss::new(wanted.clone());
    loop {
        let changed = store.changed();
        tally.look(store);
        if tally.matched.len() >= wanted.count {
            return Ok(tally.matched);
        }
        match deadline {
            None => changed.await,
            Some(deadline) if timeout_at(deadline.into(), changed).await.is_err() => {
                return Err(Box::new(tally));
            }
            Some(_) => {}
        }
    }
}

/// What has come so far, and what came nearest.
#[derive(Debug)]
pub(crate) struct Miss {
    pub(crate) wanted: Wanted,
    pub(crate) matched: Vec<Capture>,
    /// Requests that came into the bin, whether they match or not.
    pub(crate) received: usize,
    /// Of those, the ones that are not whole.
    pub(crate) partial: usize,
    pub(crate) nearest: Option<(Capture, Vec<Mismatch>)>,
    /// The last ones, for the account.
    last: std::collections::VecDeque<Capture>,
    cursor: u64,
}

impl Miss {
    fn new(wanted: Wanted) -> Self {
        let (received, partial, cursor) = (0, 0, 0);
        let last = std::collections::VecDeque::with_capacity(LISTED_MAX);
        Self { wanted, matched: Vec::new(), received, partial, nearest: None, last, cursor }
    }

    /// Looks at what has come since the last look.
    fn look(&mut self, store: &Store) {
        let (bin, cursor) = (self.wanted.bin.clone(), self.cursor);
        store.each(Some(&bin), cursor, |capture| {
            self.take(capture);
            true
        });
    }

    fn take(&mut self, capture: Capture) {
        self.cursor = capture.seq;
        self.received += 1;
        if self.last.len() == LISTED_MAX {
            self.last.pop_front();
        }
        self.last.push_back(capture.clone());
        if !capture.is_whole() {
            self.partial += 1;
            return;
        }
        let misses = self.wanted.matcher.mismatches(&capture);
        if misses.is_empty() {
            self.matched.push(capture);
        } else if self.nearest.as_ref().is_none_or(|(_, least)| misses.len() <= least.len()) {
            self.nearest = Some((capture, misses));
        }
    }

    fn into_error(self: Box<Self>) -> Error {
        Error::new(ErrorKind::Unmet, self.to_string()).with_captures(self.matched)
    }

    /// The first line of the account.
    pub(crate) fn summary(&self) -> String {
        let Self { wanted, matched, received, partial, .. } = self;
        let partial = match partial {
            0 => String::new(),
            some => format!(", {some} of them not whole"),
        };
        format!(
            "after {:?} bin {:?} has {} of the {} requests waited for; {received} came{partial}",
            wanted.within,
            wanted.bin,
            matched.len(),
            wanted.count,
        )
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        if let Some((capture, misses)) = &self.nearest {
            write!(f, "\nnearest miss: {}", **capture)?;
            for miss in misses {
                write!(f, "\n  {miss}")?;
            }
        }
        if !self.last.is_empty() {
            f.write_str("\nrequests so far:")?;
            if self.received > self.last.len() {
                write!(f, "\n  … {} earlier", self.received - self.last.len())?;
            }
            for capture in &self.last {
                write!(f, "\n  {}", **capture)?;
            }
        }
        Ok(())
    }
}
