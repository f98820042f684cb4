//! What bad endpoints cost the others: 1,000 endpoints under a steady load, with and without twenty
//! that hang or fail.
//!
//! Each event goes to one endpoint, in turn, over HTTP to a receiver on a thread of its own that takes
//! down when it came. The load is half of what this machine delivers when it is given everything at
//! once. Runs with and without bad endpoints alternate, each on a bus and a log of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use postrider::config::NetworkPolicy;
use postrider::sink::CheckContext;
use postrider::store::LogStore;
use postrider::{Bus, Endpoint, EndpointId, NewEvent};
use postrider_sinks::http::{HttpSettings, HttpSink};

use crate::listen::{listen, number};
use crate::report::{Goal, Report};
use crate::{Failure, Scale};

const ENDPOINTS: usize = 1_000;
/// Endpoints that only cost memory.
const IDLE_ENDPOINTS: usize = 100_000;
/// One in so many hangs, and the one after it answers 500.
const BAD_EVERY: usize = 100;
/// Events of one run at full scale; at half of the capacity, some seconds.
const EVENTS: usize = 60_000;
/// An endpoint that hangs holds its calls so long.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often what is due is published.
const TICK: Duration = Duration::from_millis(2);
const WAIT_MAX: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Hangs,
    Fails,
}

fn kind(endpoint: usize, with_bad: bool) -> Kind {
    match endpoint % BAD_EVERY {
        7 if with_bad => Kind::Hangs,
        8 if with_bad => Kind::Fails,
        _ => Kind::Good,
    }
}

pub(crate) async fn run(report: &mut Report, scale: Scale, _seed: u64) -> Result<(), Failure> {
    let events = EVENTS / scale.divisor;
    report.begin(
        "isolation",
        &format!(
            "publish to arrival at healthy endpoints, {ENDPOINTS} in all, steady load at half of \
             capacity; limit: without the 1 % that hang and the 1 % that answer 500; {events} events \
             a run"
        ),
    );
    let rounds = if scale.divisor == 1 { 5 } else { 1 };
    let capacity = measure(events, None, false).await?.rate;
    let rate = capacity / 2.0;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let mut growth = 0.0_f64;
    for _ in 0..rounds {
        without.push(measure(events, Some(rate), false).await?);
        let run = measure(events, Some(rate), true).await?;
        growth = growth.max(run.growth);
        with.push(run);
    }
    report.value("isolation", "capacity", "1000/s", capacity / 1e3, None, None);
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        // The best of the runs: what others on this machine do makes a run worse, never better.
        let best = |runs: &mut [Run]| {
            let all = runs.iter_mut().map(|run| percentile(&mut run.latencies, part));
            all.fold(f64::INFINITY, f64::min)
        };
        let (with, without) = (best(&mut with), best(&mut without));
        let goal = (name == "p99").then_some(Goal::AtMost(1.2));
        report.value("isolation", name, "ms", with, Some(without), goal);
    }
    for (name, with_url) in [("lane", false), ("lane and its http sink", true)] {
        let bytes = idle(with_url).await? / IDLE_ENDPOINTS as f64;
        let case = format!("an idle endpoint, {name}");
        report.value("isolation", &case, "B", bytes, Some(1024.0), Some(Goal::AtMost(1.0)));
    }
    let first = without.iter().map(|run| run.growth).fold(0.0, f64::max);
    report.value("isolation", "memory a run with bad ones adds", "MB", growth, Some(first), None);
    Ok(())
}

/// What a bus with many endpoints grows by, in bytes, that get nothing.
async fn idle(with_url: bool) -> Result<f64, Failure> {
    struct Nowhere;
    #[async_trait::async_trait]
    impl postrider::sink::Sink for Nowhere {
        async fn deliver(
            &self,
            batch: &[postrider::sink::Attempt],
        ) -> Vec<postrider::delivery::Outcome> {
            batch.iter().map(|_| Ok(postrider::delivery::Ack::new())).collect()
        }
    }
    let shared: Arc<dyn postrider::sink::Sink> = Arc::new(Nowhere);
    let before = resident()?;
    let endpoints: Result<Vec<Endpoint>, Failure> = (0..IDLE_ENDPOINTS)
        .map(|number| {
            if with_url {
                return endpoint(number, 9, Kind::Good);
            }
            let name = format!("e{number}");
            Ok(Endpoint::builder_shared(name, Arc::clone(&shared)).events(["never"])?.build())
        })
        .collect();
    let bus = Bus::builder().endpoints(endpoints?).open().await?;
    let grown = resident()? - before;
    bus.shutdown(Duration::ZERO).await?;
    Ok(grown)
}

/// What one run gave.
struct Run {
    /// Of events to endpoints that are always healthy, in milliseconds.
    latencies: Vec<f64>,
    /// Arrivals a second.
    rate: f64,
    /// Resident memory at its end over that at its start, in MB.
    growth: f64,
}

/// When each event was published and when it came, in nanoseconds since the start; 0: not yet.
struct Times {
    start: Instant,
    published: Vec<AtomicU64>,
    arrived: Vec<AtomicU64>,
}

impl Times {
    fn new(events: usize) -> Self {
        let zeros = || (0..events).map(|_| AtomicU64::new(0)).collect();
        Self { start: Instant::now(), published: zeros(), arrived: zeros() }
    }

    fn note(&self, of: &[AtomicU64], event: usize) {
        let now = self.start.elapsed().as_nanos() as u64;
        if let Some(time) = of.get(event) {
            // The first arrival counts.
            let _ = time.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

async fn measure(events: usize, rate: Option<f64>, with_bad: bool) -> Result<Run, Failure> {
    let times = Arc::new(Times::new(events));
    let seen = Arc::clone(&times);
    let (port, _stop) = listen(move |request| answer(request, Arc::clone(&seen)))?;
    let folder = tempfile::tempdir()?;
    let store = LogStore::builder(folder.path().join("log")).open().await?;
    let endpoints: Result<Vec<_>, Failure> =
        (0..ENDPOINTS).map(|number| endpoint(number, port, kind(number, with_bad))).collect();
    let bus = Bus::builder().store(store).endpoints(endpoints?).open().await?;
    let before = resident()?;
    let healthy = |event: &usize| kind(event % ENDPOINTS, true) == Kind::Good;

    let started = Instant::now();
    let mut next = 0;
    while next < events {
        let due = match rate {
            Some(rate) => (started.elapsed().as_secs_f64() * rate) as usize,
            None => next + 500,
        };
        let batch: Vec<usize> = (next..due.min(events)).collect();
        next += batch.len();
        for batch in batch.chunks(500) {
            let made = batch.iter().map(|event| {
                times.note(&times.published, *event);
                let kind = format!("to.{}", event % ENDPOINTS);
                NewEvent::raw(&kind, format!("{{\"n\":{event}}}"))
            });
            bus.publish_all(made.collect::<Result<Vec<_>, _>>()?).await?;
        }
        if rate.is_some() {
            tokio::time::sleep(TICK).await; // tidy: allow(sleep): the load's rhythm
        }
    }
    let has_come = |event: usize| times.arrived[event].load(Ordering::Acquire) > 0;
    let until = Instant::now() + WAIT_MAX;
    while !(0..events).filter(healthy).all(has_come) {
        if Instant::now() > until {
            return Err("wait for the events of healthy endpoints: some did not come".into());
        }
        tokio::time::sleep(TICK).await; // tidy: allow(sleep): as above
    }
    let took = started.elapsed().as_secs_f64();
    let growth = (resident()? - before) / 1e6;
    bus.shutdown(Duration::ZERO).await?;
    let came = (0..events).filter(|event| has_come(*event)).count();
    let nanos = |of: &AtomicU64| of.load(Ordering::Acquire) as f64;
    let latency = |event| (nanos(&times.arrived[event]) - nanos(&times.published[event])) / 1e6;
    // The first tenth opens the connections.
    let latencies = (events / 10..events).filter(healthy).map(latency).collect();
    Ok(Run { latencies, rate: came as f64 / took, growth })
}

fn endpoint(number: usize, port: u16, kind: Kind) -> Result<Endpoint, Failure> {
    let path = match kind {
        Kind::Good => "good",
        Kind::Hangs => "hangs",
        Kind::Fails => "fails",
    };
    let id: EndpointId = format!("e{number}").parse()?;
    let network = NetworkPolicy::public_only().allow("127.0.0.0/8")?;
    let settings = HttpSettings::new(format!("http://127.0.0.1:{port}/{path}"));
    let sink = HttpSink::new(&settings, &CheckContext::new(&id, id.as_str(), &network))?;
    let kind = format!("to.{number}");
    let endpoint = Endpoint::builder(id.as_str(), sink).events([kind.as_str()])?;
    Ok(endpoint.timeout(TIMEOUT).build())
}

async fn answer(
    request: Request<Incoming>,
    times: Arc<Times>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/hangs" => std::future::pending().await,
        "/fails" => {
            let mut answer = Response::new(Full::new(Bytes::new()));
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            Ok(answer)
        }
        _ => {
            if let Some(event) = number(body).await? {
                times.note(&times.arrived, event);
            }
            Ok(Response::new(Full::new(Bytes::new())))
        }
    }
}

/// Resident memory of this process, in bytes (`/proc/self/statm`, in pages of 4 KiB).
fn resident() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = text.split(' ').nth(1).ok_or("read the resident memory")?.parse()?;
    Ok(pages * 4096.0)
}

fn percentile(figures: &mut [f64], part: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[(part * (figures.len() - 1) as f64).round() as usize]
}
