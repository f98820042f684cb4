//! The file sink beside plain buffered writes of the same bytes into the same folder.
//!
//! The limit is handed finished lines and writes them from one buffer, a write for each batch. The
//! sink encodes each event's line, hands the batch to its thread and back, looks whether somebody
//! moved the file, and answers for each event. Through the whole bus, publishing comes on top.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postrider::clock::{Clock as _, SystemClock};
use postrider::delivery::DeliveryId;
use postrider::event::write_line;
use postrider::sink::{Attempt, Sink as _};
use postrider::store::{MemoryStore, WhenFull};
use postrider::{Bus, Endpoint};
use postrider_sinks::file::{BATCH_MAX_DEFAULT, FileSink, Fsync, Settings};

use crate::measure::{Side, Stopwatch, Took, alternate};
use crate::payload::{Match, envelopes, matches};
use crate::report::{Goal, Report};
use crate::sinks::{Acks, Counted};
use crate::{Failure, Scale};

/// Different events; a slice writes them again and again.
const EVENTS: usize = 8_192;
const WAIT_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn run(report: &mut Report, scale: Scale, seed: u64) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    report.begin(
        "file",
        &format!(
            "lines of the guide's match through the file sink in batches of {BATCH_MAX_DEFAULT}; \
             limit: buffered writes of the same bytes, a flush for each batch; in {}",
            folder.path().display()
        ),
    );
    for (fsync, batches) in [(Fsync::Never, 128), (Fsync::Batch, 32)] {
        let batches = (batches / scale.divisor).max(2);
        let work = Work::new(folder.path(), fsync, batches, seed)?;
        let policy = if fsync == Fsync::Never { "no sync" } else { "sync per batch" };

        let mut limit = Limit { work: &work };
        let mut subject = Deliver { work: &work };
        let pairs = alternate(scale, &mut subject, &mut limit).await?;
        let goal = Some(Goal::AtLeast(0.8));
        work.report(report, &format!("Sink::deliver, {policy}"), &pairs, goal);

        let mut subject = ThroughBus::open(&work).await?;
        let pairs = alternate(scale, &mut subject, &mut limit).await?;
        subject.bus.shutdown(WAIT_MAX).await?;
        work.report(report, &format!("whole bus, {policy}"), &pairs, None);
    }
    Ok(())
}

/// What a slice writes.
struct Work {
    events: Vec<Match>,
    attempts: Vec<Attempt>,
    lines: Vec<Vec<u8>>,
    path: PathBuf,
    fsync: Fsync,
    batches: usize,
}

impl Work {
    fn new(folder: &Path, fsync: Fsync, batches: usize, seed: u64) -> Result<Self, Failure> {
        let events = matches(EVENTS, seed);
        let envelopes = envelopes(&events)?;
        let lines = envelopes.iter().map(|event| {
            let mut line = Vec::new();
            write_line(event, &mut line);
            line
        });
        let lines = lines.collect();
        let endpoint: postrider::EndpointId = "file".parse()?;
        let attempts = envelopes.into_iter().map(|event| {
            let delivery = DeliveryId::new(endpoint.clone(), event.id().clone());
            Attempt::new(delivery, event, 1, SystemClock.now(), WAIT_MAX)
        });
        let attempts = attempts.collect();
        let path = folder.join("events.ndjson");
        Ok(Self { events, attempts, lines, path, fsync, batches })
    }

    fn settings(&self) -> Settings {
        Settings::new(self.path.to_string_lossy()).fsync(self.fsync)
    }

    fn count(&self) -> usize {
        self.batches * BATCH_MAX_DEFAULT
    }

    fn bytes(&self) -> usize {
        self.lines.iter().cycle().take(self.count()).map(Vec::len).sum()
    }

    fn report(
        &self,
        report: &mut Report,
        case: &str,
        pairs: &crate::measure::Pairs,
        goal: Option<Goal>,
    ) {
        report.rate("file", case, "MB/s", self.bytes() as f64 / 1e6, pairs, goal);
        report.cpu("file", case, self.count(), pairs, None);
    }

    /// Checks what a slice has written, and takes it away: all lines whole, and `exact`ly those of
    /// the limit where the ids are the same.
    fn check(&self, exact: bool) -> Result<(), Failure> {
        let written = fs::read(&self.path)?;
        fs::remove_file(&self.path)?;
        let lines = written.split_inclusive(|byte| *byte == b'\n');
        let expected = self.lines.iter().cycle().take(self.count());
        let all_well = if exact {
            lines.eq(expected)
        } else {
            lines.map(<[u8]>::len).eq(expected.map(Vec::len))
        };
        if all_well {
            Ok(())
        } else {
            Err(format!("check {}: its lines are not those written", self.path.display()).into())
        }
    }
}

struct Limit<'a> {
    work: &'a Work,
}

impl Side for Limit<'_> {
    async fn slice(&mut self) -> Result<Took, Failure> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&self.work.path)?);
        let watch = Stopwatch::start();
        let mut lines = self.work.lines.iter().cycle();
        for _ in 0..self.work.batches {
            for line in lines.by_ref().take(BATCH_MAX_DEFAULT) {
                file.write_all(line)?;
            }
            file.flush()?;
            if self.work.fsync == Fsync::Batch {
                file.get_ref().sync_data()?;
            }
        }
        let took = watch.stop();
        self.work.check(true)?;
        Ok(took)
    }
}

struct Deliver<'a> {
    work: &'a Work,
}

impl Side for Deliver<'_> {
    async fn slice(&mut self) -> Result<Took, Failure> {
        let sink = FileSink::new(&self.work.settings())?;
        // Opens the file, as the limit does before its time begins.
        sink.check().await.map_err(|nack| nack.message().to_owned())?;
        let watch = Stopwatch::start();
        for batch in self.work.attempts.chunks(BATCH_MAX_DEFAULT).cycle().take(self.work.batches) {
            let outcomes = sink.deliver(batch).await;
            if let Some(nack) = outcomes.into_iter().find_map(Result::err) {
                return Err(format!("deliver: {}", nack.message()).into());
            }
        }
        let took = watch.stop();
        sink.close().await?;
        self.work.check(true)?;
        Ok(took)
    }
}

struct ThroughBus<'a> {
    work: &'a Work,
    bus: Bus,
    acks: Arc<Acks>,
}

impl<'a> ThroughBus<'a> {
    async fn open(work: &'a Work) -> Result<Self, Failure> {
        let (sink, acks) = Counted::new(FileSink::new(&work.settings())?);
        let store = MemoryStore::builder().events_max(20_000).when_full(WhenFull::Wait).build();
        let endpoint = Endpoint::builder("file", sink).build();
        let bus = Bus::builder().endpoint(endpoint).store(store).open().await?;
        Ok(Self { work, bus, acks })
    }
}

impl Side for ThroughBus<'_> {
    async fn slice(&mut self) -> Result<Took, Failure> {
        self.acks.expect(self.work.count());
        let watch = Stopwatch::start();
        for event in self.work.events.iter().cycle().take(self.work.count()) {
            self.bus.publish(event).await?;
        }
        self.acks.reached().await?;
        let took = watch.stop();
        self.bus.flush(WAIT_MAX).await?;
        self.work.check(false)?;
        Ok(took)
    }
}
