//! Publishers whose events are in one write: they wait for it together, and are woken together.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Handle, RuntimeFlavor};

/// So many are woken by the writer itself; more by a task, so that it goes on writing meanwhile.
const WOKEN_DIRECTLY_MAX: usize = 4;

const UNDER_WAY: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

/// One write, for the one who does it. Dropped before it is done, it has failed: nobody waits for
/// ever.
#[derive(Default)]
pub(super) struct Group(Arc<Shared>);

#[derive(Default)]
struct Shared {
    outcome: AtomicU8,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    wakers: Vec<Waker>,
    /// Where many are woken.
    runtime: Option<Handle>,
}

impl Group {
    /// One more that waits.
    pub(super) fn join(&self) -> Member {
        Member { shared: Arc::clone(&self.0), at: None }
    }

    /// What was written is as durable as promised.
    pub(super) fn done(self) {
        self.0.end(DONE);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.0.end(FAILED);
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outcome(&self) -> Option<bool> {
        match self.outcome.load(Ordering::Acquire) {
            UNDER_WAY => None,
            outcome => Some(outcome == DONE),
        }
    }

    fn end(&self, outcome: u8) {
        let Waiting { wakers, runtime } = {
            let mut waiting = self.waiting();
            if self.outcome().is_some() {
                return;
            }
            // Under the lock: who finds it under way is in the list that is taken here.
            self.outcome.store(outcome, Ordering::Release);
            mem::take(&mut *waiting)
        };
        let wakers = WakesAll(wakers);
        if let Some(runtime) = runtime
            && wakers.0.len() > WOKEN_DIRECTLY_MAX
        {
            // Within the runtime a wake-up is a push to the worker's own queue. A runtime that has
            // ended drops the task, which wakes them as well.
            runtime.spawn(async move { drop(wakers) });
        }
    }
}

/// Wakes everybody when dropped.
struct WakesAll(Vec<Waker>);

impl Drop for WakesAll {
    fn drop(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

/// Waits until the write has ended: whether it is done.
///
/// # Cancel safety
/// Dropping it changes nothing for the others.
pub(super) struct Member {
    shared: Arc<Shared>,
    /// The place of its waker.
    at: Option<usize>,
}

impl Future for Member {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        let Self { shared, at } = &mut *self;
        if let Some(done) = shared.outcome() {
            return Poll::Ready(done);
        }
        let mut waiting = shared.waiting();
        if let Some(done) = shared.outcome() {
            return Poll::Ready(done);
        }
        if let Some(at) = *at {
            waiting.wakers[at].clone_from(context.waker());
        } else {
            *at = Some(waiting.wakers.len());
            waiting.wakers.push(context.waker().clone());
        }
        if waiting.runtime.is_none()
            // Only a runtime with workers of its own is sure to run the task that wakes the others.
            && let Ok(runtime) = Handle::try_current()
            && runtime.runtime_flavor() == RuntimeFlavor::MultiThread
        {
            waiting.runtime = Some(runtime);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn poll(member: Pin<&mut Member>) -> Poll<bool> {
        member.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// A write that is given up is a failure for everybody who waits for it, and for who looks later.
    #[test]
    fn dropped_is_failed() {
        let group = Group::default();
        let (mut early, mut late) = (pin!(group.join()), pin!(group.join()));
        assert_eq!(poll(early.as_mut()), Poll::Pending);
        drop(group);
        assert_eq!(poll(early.as_mut()), Poll::Ready(false));
        assert_eq!(poll(late.as_mut()), Poll::Ready(false));
    }

    /// Many are woken by a task of a runtime that may have ended: then too each of them wakes.
    #[test]
    fn wakes_many_whose_runtime_has_ended() {
        let workers = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let (ended, running) = (workers().unwrap(), workers().unwrap());
        let group = Group::default();
        let members: Vec<Member> = (0..50).map(|_| group.join()).collect();
        let mut members = members.into_iter();
        {
            let _inside = ended.enter();
            assert_eq!(poll(pin!(members.next().unwrap())), Poll::Pending);
        }
        drop(ended);
        let waiting: Vec<_> = members.map(|member| running.spawn(member)).collect();
        running.block_on(async {
            tokio::task::yield_now().await;
            group.done();
            for member in waiting {
                assert!(member.await.unwrap());
            }
        });
    }
}
