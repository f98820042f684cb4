//! One thread that does the blocking writes of one endpoint, for the many tasks that deliver to it.
//!
//! Files and pipes block: a disk that is full of other work, a reader that stopped reading.
//! - The async runtime never waits for them. The thread is our own and not one of the runtime's
//!   blocking pool, because a runtime that ends waits for its pool: a pipe that nobody reads would
//!   keep the process from exiting.
//! - There is at most one thread, however often attempts time out and are made again. It starts
//!   with the first delivery and ends when there was nothing to do for [`LINGER`], so that an idle
//!   endpoint costs no thread.
//! - What queued up during one write is the next write (group commit).
//! - A write that ends well after its attempt was given up (a timeout) is remembered, and the next
//!   attempt of that delivery is acked without writing a second time.
//!
//! The queue holds only calls whose caller still waits, so the lane's concurrency bounds it.

use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postrider::delivery::{Ack, Cause, DeliveryId, Nack, Outcome};
use postrider::sink::Attempt;
use postrider::{Error, ErrorKind};
use tokio::sync::oneshot;

/// How long the thread waits for more before it ends.
const LINGER: Duration = Duration::from_secs(2);
/// Most deliveries remembered as written too late for their attempt. When there are more, all are
/// forgotten, and each may then be written twice: at least once, as everywhere.
const LATE_MAX: usize = 4096;

/// A place that is written to by blocking calls, from one thread at a time.
pub(crate) trait Place: Send + 'static {
    /// Writes these deliveries in order; one outcome for each.
    fn write(&mut self, batch: &[&Attempt]) -> Vec<Outcome>;

    /// Whether a write could succeed now.
    fn check(&mut self) -> Result<(), Nack>;

    /// Finishes; no write follows.
    fn close(&mut self) -> Result<(), Error>;

    /// Called after a panic in one of the others: distrust all state.
    fn reset(&mut self);
}

/// Hands calls to the thread that owns the place.
pub(crate) struct Writer<P: Place>(Arc<Shared<P>>);

struct Shared<P> {
    /// For people: `file "x"`.
    name: String,
    /// Most deliveries in one write, unless a single call brings more.
    group_max: usize,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Held by the thread for as long as it lives.
    place: Mutex<P>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    has_thread: bool,
    /// Nobody is left who could send more.
    is_orphan: bool,
    late: HashSet<DeliveryId>,
}

enum Job {
    Deliver(Call),
    Check(oneshot::Sender<Result<(), Nack>>),
    Close(oneshot::Sender<Result<(), Error>>),
}

impl Job {
    /// Whether the caller has gone.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Deliver(call) => call.reply.is_closed(),
            Self::Check(reply) => reply.is_closed(),
            // Closing must happen even if nobody waits for it.
            Self::Close(_) => false,
        }
    }
}

/// What the thread does next.
enum Work {
    /// Calls that are written together.
    Write(Vec<Call>),
    Check(oneshot::Sender<Result<(), Nack>>),
    Close(oneshot::Sender<Result<(), Error>>),
}

/// A call that is about to be written.
struct Call {
    batch: Vec<Attempt>,
    reply: oneshot::Sender<Vec<Outcome>>,
}

/// What is under a lock here is whole between any two statements, so a panic spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: Place> Writer<P> {
    pub(crate) fn new(name: impl Into<String>, group_max: usize, place: P) -> Self {
        Self(Arc::new(Shared {
            name: name.into(),
            group_max,
            queue: Mutex::default(),
            wake: Condvar::new(),
            place: Mutex::new(place),
        }))
    }

    /// Writes a batch, with others that wait at the same time.
    ///
    /// # Cancel safety
    /// A batch that is still queued is not written. One that is being written is finished and
    /// remembered.
    pub(crate) async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        let (reply, answer) = oneshot::channel();
        let mut call = Pending { shared: &self.0, batch, answer };
        if let Err(error) = self.submit(Job::Deliver(Call { batch: batch.to_vec(), reply })) {
            let message = format!("{}: cannot start a thread to write it: {error}", self.0.name);
            return vec![Err(Nack::retry(Cause::Io, message)); batch.len()];
        }
        (&mut call.answer).await.unwrap_or_else(|_| {
            let message = format!("{}: the thread that writes it panicked", self.0.name);
            vec![Err(Nack::retry(Cause::Panic, message)); batch.len()]
        })
    }

    pub(crate) async fn check(&self) -> Result<(), Nack> {
        let (reply, answer) = oneshot::channel();
        self.submit(Job::Check(reply)).map_err(|error| {
            let message = format!("{}: cannot start a thread to write it: {error}", self.0.name);
            Nack::retry(Cause::Io, message)
        })?;
        answer.await.unwrap_or_else(|_| {
            let message = format!("{}: the thread that writes it panicked", self.0.name);
            Err(Nack::retry(Cause::Panic, message))
        })
    }

    pub(crate) async fn close(&self) -> Result<(), Error> {
        let failed = || Error::new(ErrorKind::Sink, format!("close {}", self.0.name));
        let (reply, answer) = oneshot::channel();
        self.submit(Job::Close(reply)).map_err(|error| failed().because(error))?;
        answer.await.unwrap_or_else(|_| Err(failed().because("its thread panicked")))
    }

    fn submit(&self, job: Job) -> std::io::Result<()> {
        let mut queue = lock(&self.0.queue);
        // A thread that hangs takes nothing out, so what has been given up is taken out here.
        queue.jobs.retain(|job| !job.is_abandoned());
        queue.jobs.push_back(job);
        if queue.has_thread {
            self.0.wake.notify_one();
            return Ok(());
        }
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("postrider-writer".into());
        match thread.spawn(move || run(&shared)) {
            Ok(_) => queue.has_thread = true,
            Err(error) => {
                queue.jobs.pop_back();
                return Err(error);
            }
        }
        Ok(())
    }
}

impl<P: Place> Drop for Writer<P> {
    fn drop(&mut self) {
        lock(&self.0.queue).is_orphan = true;
        self.0.wake.notify_one();
    }
}

/// A call that waits for its answer. Dropped with the answer unread, it remembers what was written.
struct Pending<'a, P: Place> {
    shared: &'a Shared<P>,
    batch: &'a [Attempt],
    answer: oneshot::Receiver<Vec<Outcome>>,
}

impl<P: Place> Drop for Pending<'_, P> {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(outcomes) = self.answer.try_recv() {
            self.shared.remember(self.batch.iter().zip(&outcomes));
        }
    }
}

impl<P: Place> Shared<P> {
    /// Keeps in mind what was written although nobody heard of it.
    fn remember<'a>(&self, written: impl Iterator<Item = (&'a Attempt, &'a Outcome)>) {
        let mut queue = lock(&self.queue);
        for (attempt, outcome) in written {
            if outcome.is_ok() {
                if queue.late.len() == LATE_MAX {
                    queue.late.clear();
                }
                queue.late.insert(attempt.delivery.clone());
            }
        }
    }

    /// Waits for work; `None` ends the thread.
    fn next(&self) -> Option<Work> {
        let mut queue = lock(&self.queue);
        loop {
            while let Some(job) = queue.jobs.pop_front() {
                if job.is_abandoned() {
                    continue;
                }
                return Some(match job {
                    Job::Check(reply) => Work::Check(reply),
                    Job::Close(reply) => Work::Close(reply),
                    Job::Deliver(call) => Work::Write(self.group(call, &mut queue)),
                });
            }
            if !queue.is_orphan {
                let (back, waited) =
                    self.wake.wait_timeout(queue, LINGER).unwrap_or_else(PoisonError::into_inner);
                queue = back;
                if !waited.timed_out() || !queue.jobs.is_empty() {
                    continue;
                }
            }
            queue.has_thread = false;
            return None;
        }
    }

    /// Adds to `first` what else waits and fits.
    fn group(&self, first: Call, queue: &mut Queue) -> Vec<Call> {
        let mut deliveries = first.batch.len();
        let mut calls = vec![first];
        while let Some(Job::Deliver(next)) = queue.jobs.front()
            && deliveries + next.batch.len() <= self.group_max
        {
            let Some(Job::Deliver(next)) = queue.jobs.pop_front() else { break };
            if !next.reply.is_closed() {
                deliveries += next.batch.len();
                calls.push(next);
            }
        }
        calls
    }
}

/// The thread.
fn run<P: Place>(shared: &Shared<P>) {
    // The thread before us may still be on its way out.
    let mut place = lock(&shared.place);
    while let Some(work) = shared.next() {
        // A panic drops the replies, which tells the callers; the next ones are served.
        let done = catch_unwind(AssertUnwindSafe(|| match work {
            Work::Write(calls) => write(shared, &mut *place, calls),
            Work::Check(reply) => drop(reply.send(place.check())),
            Work::Close(reply) => drop(reply.send(place.close())),
        }));
        if done.is_err() {
            place.reset();
        }
    }
}

fn write<P: Place>(shared: &Shared<P>, place: &mut P, calls: Vec<Call>) {
    let mut attempts: Vec<&Attempt> = calls.iter().flat_map(|call| &call.batch).collect();
    // For each delivery whether an earlier attempt of it was written too late to be acked.
    let mut was_late = vec![false; attempts.len()];
    {
        let late = &mut lock(&shared.queue).late;
        if !late.is_empty() {
            for (attempt, was_late) in attempts.iter().zip(&mut was_late) {
                *was_late = late.remove(&attempt.delivery);
            }
            let mut at = was_late.iter();
            attempts.retain(|_| at.next() == Some(&false));
        }
    }
    let outcomes = if attempts.is_empty() { Vec::new() } else { place.write(&attempts) };
    debug_assert_eq!(outcomes.len(), attempts.len(), "a place reports on each delivery");
    let (mut outcomes, mut was_late) = (outcomes.into_iter(), was_late.into_iter());
    for Call { batch, reply } in &mut calls.into_iter() {
        let told: Vec<Outcome> = was_late
            .by_ref()
            .take(batch.len())
            .filter_map(|late| if late { Some(Ok(Ack::new())) } else { outcomes.next() })
            .collect();
        if let Err(untold) = reply.send(told) {
            shared.remember(batch.iter().zip(&untold));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use postrider::clock::{Clock, SystemClock};
    use postrider::event::NewEvent;

    use super::*;

    /// Longest that anything here may take.
    const DEADLINE: Duration = Duration::from_secs(5);

    /// Writes nothing until it is let through, then reports the types that it was given.
    struct Gate {
        entered: mpsc::Sender<Vec<String>>,
        let_through: mpsc::Receiver<bool>,
    }

    impl Place for Gate {
        fn write(&mut self, batch: &[&Attempt]) -> Vec<Outcome> {
            let types = batch.iter().map(|a| a.event.event_type().to_string()).collect();
            self.entered.send(types).unwrap();
            assert!(self.let_through.recv_timeout(DEADLINE).unwrap(), "told to panic");
            batch.iter().map(|_| Ok(Ack::new())).collect()
        }

        fn check(&mut self) -> Result<(), Nack> {
            Ok(())
        }

        fn close(&mut self) -> Result<(), Error> {
            Ok(())
        }

        fn reset(&mut self) {
            self.entered.send(vec!["reset".into()]).unwrap();
        }
    }

    type Gated = (Arc<Writer<Gate>>, mpsc::Receiver<Vec<String>>, mpsc::Sender<bool>);

    fn gated(group_max: usize) -> Gated {
        let (entered, seen) = mpsc::channel();
        let (open, let_through) = mpsc::channel();
        (Arc::new(Writer::new("gate", group_max, Gate { entered, let_through })), seen, open)
    }

    fn attempt(kind: &str) -> Attempt {
        let event = NewEvent::raw(kind, "1").unwrap().id(kind.parse().unwrap());
        let event = Arc::new(event.seal(&SystemClock, 10).unwrap());
        let delivery = DeliveryId::new("gate".parse().unwrap(), event.id().clone());
        Attempt::new(delivery, event, 1, SystemClock.now(), Duration::from_secs(1))
    }

    /// Starts a call and lets it reach the queue.
    fn start(writer: &Arc<Writer<Gate>>, kind: &str) -> tokio::task::JoinHandle<Vec<Outcome>> {
        let (writer, batch) = (Arc::clone(writer), [attempt(kind)]);
        tokio::spawn(async move { writer.deliver(&batch).await })
    }

    /// Waits until so many calls are queued.
    async fn queued(writer: &Writer<Gate>, count: usize) {
        let started = std::time::Instant::now();
        loop {
            let found = lock(&writer.0.queue).jobs.len();
            if found == count {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "{found} calls are queued, not {count}");
            tokio::task::yield_now().await;
        }
    }

    /// What waits during one write is written together by the next, up to the limit.
    #[tokio::test]
    async fn groups_what_waits() {
        let (writer, seen, open) = gated(2);
        let mut calls = vec![start(&writer, "a")];
        tokio::task::yield_now().await;
        assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), ["a"]);
        for kind in ["b", "c", "d"] {
            calls.push(start(&writer, kind));
            queued(&writer, calls.len() - 1).await;
        }
        for expect in [&["b", "c"][..], &["d"]] {
            open.send(true).unwrap();
            assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), expect);
        }
        open.send(true).unwrap();
        for call in calls {
            assert_eq!(call.await.unwrap(), [Ok(Ack::new())]);
        }
    }

    /// A hanging place with attempts that time out again and again: one thread, a queue that does
    /// not grow, nothing written that nobody waits for, and no second write of the one that hung.
    #[tokio::test]
    async fn a_hanging_write_is_neither_multiplied_nor_repeated() {
        let (writer, seen, open) = gated(10);
        let hung = start(&writer, "a");
        tokio::task::yield_now().await;
        assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), ["a"]);
        hung.abort();
        assert!(hung.await.unwrap_err().is_cancelled());
        for _ in 0..100 {
            for kind in ["a", "b"] {
                let late = start(&writer, kind);
                tokio::task::yield_now().await;
                late.abort();
                assert!(late.await.unwrap_err().is_cancelled());
            }
        }
        let (again, other) = (start(&writer, "a"), start(&writer, "c"));
        queued(&writer, 2).await;
        open.send(true).unwrap();
        assert_eq!(
            seen.recv_timeout(DEADLINE).unwrap(),
            ["c"],
            "\"a\" is not written twice, \"b\" not at all"
        );
        open.send(true).unwrap();
        assert_eq!(again.await.unwrap(), [Ok(Ack::new())]);
        assert_eq!(other.await.unwrap(), [Ok(Ack::new())]);
        // Only once: a delivery with this id that comes later is written.
        let later = start(&writer, "a");
        tokio::task::yield_now().await;
        assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), ["a"]);
        open.send(true).unwrap();
        assert_eq!(later.await.unwrap(), [Ok(Ack::new())]);
    }

    /// An answer that was sent and never read counts as given up, too.
    #[tokio::test]
    async fn an_unread_answer_is_remembered() {
        let (writer, seen, open) = gated(10);
        let batch = [attempt("a")];
        {
            let mut call = std::pin::pin!(writer.deliver(&batch));
            assert!(futures_poll(call.as_mut()).await.is_pending());
            assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), ["a"]);
            open.send(true).unwrap();
            writer.check().await.unwrap(); // The thread is past the write.
        }
        assert_eq!(writer.deliver(&batch).await, [Ok(Ack::new())]);
        assert!(seen.try_recv().is_err(), "written twice");
    }

    async fn futures_poll<F: Future>(
        mut future: std::pin::Pin<&mut F>,
    ) -> std::task::Poll<F::Output> {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await
    }

    #[tokio::test]
    async fn a_panic_is_reported_and_the_next_call_served() {
        let (writer, seen, open) = gated(10);
        let call = start(&writer, "a");
        tokio::task::yield_now().await;
        assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), ["a"]);
        open.send(false).unwrap();
        let outcomes = call.await.unwrap();
        assert_eq!(outcomes[0].as_ref().unwrap_err().cause(), Cause::Panic);
        open.send(true).unwrap();
        assert_eq!(start(&writer, "b").await.unwrap(), [Ok(Ack::new())]);
        for expect in ["reset", "b"] {
            assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), [expect]);
        }
    }
}
