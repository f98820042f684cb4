//! From `publish` to the first byte out, on a bus that has nothing else to do, beside one sync of the
//! same bytes.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use postrider::config::NetworkPolicy;
use postrider::delivery::Outcome;
use postrider::sink::{Attempt, CheckContext, Sink};
use postrider::store::LogStore;
use postrider::{Bus, Endpoint, EndpointId};
use postrider_sinks::http::{HttpSettings, HttpSink};
use tokio::sync::mpsc;

use super::raw::{RECORD_BYTES, Raw};
use crate::payload::matches_of_400;
use crate::report::{Goal, Report};
use crate::sinks::Nothing;
use crate::{Failure, Scale};

const SAMPLES: usize = 1_000;
/// Long enough that every thread is asleep when the next event comes.
const PAUSE: Duration = Duration::from_millis(4);
const WAIT_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn run(report: &mut Report, scale: Scale, seed: u64) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let samples = SAMPLES / scale.divisor;

    let (sender, called) = mpsc::unbounded_channel();
    let sink = Told { sink: Nothing { batch_max: 64 }, called: sender };
    let endpoint = Endpoint::builder("told", sink).build();
    sample(report, folder.path(), "Sink::deliver", samples, endpoint, called, seed).await?;

    let (sender, received) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/bench", listener.local_addr()?);
    let receiver = std::thread::spawn(move || receive(&listener, &sender));
    let network = NetworkPolicy::public_only().allow("127.0.0.0/8")?;
    let id: EndpointId = "bench".parse()?;
    let sink = HttpSink::new(&HttpSettings::new(&url), &CheckContext::new(&id, "bench", &network))?;
    let endpoint = Endpoint::builder("http", sink).build();
    sample(report, folder.path(), "the receiver's socket", samples, endpoint, received, seed)
        .await?;
    receiver.join().map_err(|_| "run the receiver: it panicked")??;
    Ok(())
}

async fn sample(
    report: &mut Report,
    folder: &Path,
    what: &str,
    samples: usize,
    endpoint: Endpoint,
    mut out: mpsc::UnboundedReceiver<Instant>,
    seed: u64,
) -> Result<(), Failure> {
    let mut raw = Raw::new(&folder.join("raw"))?;
    let bytes = [1; RECORD_BYTES];
    let store = LogStore::builder(folder.join(what)).open().await?;
    let bus = Bus::builder().endpoint(endpoint).store(store).open().await?;
    let events = matches_of_400(100, seed);
    let (mut took, mut syncs) = (Vec::new(), Vec::new());
    for (at, event) in events.iter().cycle().take(samples + samples / 10).enumerate() {
        tokio::time::sleep(PAUSE).await; // tidy: allow(sleep): an idle bus is what is measured
        let started = Instant::now();
        raw.write(&bytes)?;
        let sync = started.elapsed();
        tokio::time::sleep(PAUSE).await; // tidy: allow(sleep): as above
        let started = Instant::now();
        bus.publish(event).await?;
        let first = tokio::time::timeout(WAIT_MAX, out.recv()).await?;
        let first = first.ok_or("wait for the first byte")?;
        // The first ones warm up.
        if at >= samples / 10 {
            took.push(millis(first - started));
            syncs.push(millis(sync));
        }
    }
    let left = bus.shutdown(WAIT_MAX).await?;
    if !left.is_empty() {
        return Err(format!("count: {} deliveries are left", left.total()).into());
    }
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        let (took, sync) = (percentile(&mut took, part), percentile(&mut syncs, part));
        let goal = Goal::ValueAtMost(((sync + 0.3) * 1e3).round() / 1e3);
        let case = format!("publish to {what}, {name}");
        report.value("store", &case, "ms", took, Some(sync), Some(goal));
    }
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn percentile(figures: &mut [f64], part: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[(part * (figures.len() - 1) as f64).round() as usize]
}

/// Says when it is called.
struct Told {
    sink: Nothing,
    called: mpsc::UnboundedSender<Instant>,
}

#[async_trait]
impl Sink for Told {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        // Nobody listens any more when the bus is shut down.
        let _ = self.called.send(Instant::now());
        self.sink.deliver(batch).await
    }
}

/// Takes one connection, says when each request's first byte is there, and answers it.
fn receive(listener: &TcpListener, first: &mpsc::UnboundedSender<Instant>) -> io::Result<()> {
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut answers: TcpStream = stream.try_clone()?;
    let mut requests = BufReader::new(stream);
    let mut line = String::new();
    while !requests.fill_buf()?.is_empty() {
        // Nobody listens any more when the bus is shut down.
        let _ = first.send(Instant::now());
        let mut body = 0;
        loop {
            line.clear();
            requests.read_line(&mut line)?;
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                body = value.trim().parse().map_err(io::Error::other)?;
            }
            if line.trim_end().is_empty() {
                break;
            }
        }
        io::copy(&mut requests.by_ref().take(body), &mut io::sink())?;
        answers.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
    Ok(())
}
