//! A receiver as a seed makes it: it acks, fails, hangs, panics, answers late, or says that it wants
//! nothing any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use postrider::Error;
use postrider::clock::Clock;
use postrider::delivery::{Ack, Cause, Nack, Outcome};
use postrider::sink::{Attempt, Sink};
use postrider::testing::TestClock;

use super::plan::{For, Mutation, Place, random};
use super::world::World;

pub(crate) struct SimSink {
    pub(crate) world: Arc<World>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) place: Place,
    calls: AtomicUsize,
    is_closed: AtomicBool,
}

/// What one event meets.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Ack,
    Fail(Duration),
    Reject,
    Gone,
    Silent,
    Hang,
    Late,
    Panic,
}

/// A call under way: whatever ends it, its attempts are told how.
struct Call<'a> {
    sink: &'a SimSink,
    /// Those that did not end yet.
    left: Vec<(usize, usize)>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let sink = self.sink;
        let now = sink.clock.now();
        for key in &self.left {
            sink.world.break_off(*key, now, &sink.place);
        }
        sink.world.end_call();
        sink.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SimSink {
    pub(crate) fn new(world: &Arc<World>, clock: &Arc<TestClock>, place: Place) -> Self {
        Self {
            world: Arc::clone(world),
            clock: Arc::clone(clock),
            place,
            calls: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
        }
    }

    fn begin(&self, batch: &[Attempt]) -> Call<'_> {
        let keys = self.world.begin(&self.place, batch);
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let in_flight_max = self.world.plan.in_flight_max;
        let calls_max = self.place.concurrency.min(in_flight_max.div_ceil(2));
        if calls > calls_max || batch.len() > self.place.batch_max {
            let what = format!("{calls} calls into one sink, {} events in one", batch.len());
            self.world.lock().breaks(what);
        }
        if self.is_closed.load(Ordering::Relaxed) {
            self.world.lock().breaks("a closed sink is called".to_owned());
        }
        Call { sink: self, left: keys }
    }

    /// What happens to an event, and how long it takes.
    fn fate(&self, key: (usize, usize)) -> (Fate, Duration) {
        let (calls, is_calm) = {
            let mut inner = self.world.lock();
            (inner.seen(key).calls, inner.is_calm)
        };
        if is_calm {
            return (Fate::Ack, Duration::from_millis(3));
        }
        let what = [For::Answers as u64, key.0 as u64, key.1 as u64, u64::from(calls)];
        let mut rng = random(self.world.plan.seed, &what);
        let takes = Duration::from_millis(rng.u64(0..=self.place.temper.takes_ms));
        let temper = &self.place.temper;
        let mut left = rng.u8(0..100);
        let mut is = |percent: u8| {
            let is = left < percent;
            left = left.saturating_sub(percent);
            is
        };
        let fate = if is(temper.fails) {
            let wishes = [0, 0, 0, 30, 4_000];
            Fate::Fail(Duration::from_secs(wishes[rng.usize(0..wishes.len())]))
        } else if is(temper.rejects) {
            Fate::Reject
        } else if is(temper.gone) {
            Fate::Gone
        } else if is(temper.silent) {
            Fate::Silent
        } else if is(temper.hangs) {
            Fate::Hang
        } else if is(temper.late) {
            Fate::Late
        } else if is(temper.panics) {
            Fate::Panic
        } else {
            Fate::Ack
        };
        (fate, takes)
    }
}

#[async_trait]
impl Sink for SimSink {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        let mut call = self.begin(batch);
        let keys = call.left.clone();
        let fates: Vec<_> = keys.iter().map(|key| self.fate(*key)).collect();
        // The first decides for the call.
        match fates[0].0 {
            Fate::Hang => std::future::pending().await,
            // tidy: allow(sleep): time is simulated
            Fate::Late => tokio::time::sleep(self.place.timeout * 2 + Duration::from_secs(1)).await,
            _ => {}
        }
        // tidy: allow(sleep): time is simulated
        tokio::time::sleep(fates[0].1).await;
        if let Fate::Panic = fates[0].0 {
            panic!("simulated");
        }
        let now = self.clock.now();
        let mut outcomes = Vec::with_capacity(batch.len());
        call.left.clear();
        let mut answers = keys.into_iter().zip(fates);
        for (key, (fate, _)) in answers.by_ref() {
            let outcome = match fate {
                Fate::Fail(wished) => {
                    self.world.fail(key, now, wished, &self.place);
                    let nack = Nack::retry(Cause::Status, "simulated").status(503);
                    Err(if wished.is_zero() { nack } else { nack.after(wished) })
                }
                Fate::Reject | Fate::Gone => {
                    let is_gone = matches!(fate, Fate::Gone);
                    self.world.give_up(key, is_gone, now, &self.place);
                    Err(if is_gone {
                        Nack::disable(Cause::Status, "simulated")
                    } else {
                        Nack::reject(Cause::Status, "simulated")
                    })
                }
                Fate::Silent => {
                    self.world.fail(key, now, Duration::ZERO, &self.place);
                    break;
                }
                Fate::Ack | Fate::Hang | Fate::Late | Fate::Panic => {
                    let mutation = self.world.plan.mutation;
                    if mutation == Some(Mutation::AcksForNothing) && key.0 % 5 == 4 {
                        self.world.fail(key, now, Duration::ZERO, &self.place);
                    } else {
                        self.world.ack(key, now, &self.place);
                    }
                    Ok(Ack::new())
                }
            };
            outcomes.push(outcome);
        }
        // What follows a silent one gets no answer either.
        for (key, _) in answers {
            self.world.fail(key, now, Duration::ZERO, &self.place);
        }
        outcomes
    }

    fn batch_max(&self) -> usize {
        self.place.batch_max
    }

    async fn close(&self) -> Result<(), Error> {
        if self.is_closed.swap(true, Ordering::Relaxed) {
            self.world.lock().breaks("a sink is closed twice".to_owned());
        }
        if self.calls.load(Ordering::Relaxed) > 0 {
            self.world.lock().breaks("a sink is closed while it is called".to_owned());
        }
        Ok(())
    }
}
