//! What keeping an order costs, and that it is kept: one endpoint, 16 calls at once, events of many
//! keys over HTTP to a receiver on a thread of its own that looks at the order in which they come.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use postrider::config::NetworkPolicy;
use postrider::endpoint::Order;
use postrider::retry;
use postrider::sink::CheckContext;
use postrider::store::LogStore;
use postrider::{Bus, Endpoint, EndpointId, NewEvent};
use postrider_sinks::http::{HttpSettings, HttpSink};
use postrider_tests::Taken;

use crate::listen::{listen, number};
use crate::measure::{Side, Stopwatch, Took, alternate};
use crate::report::{Goal, Report};
use crate::{Failure, Scale};

const KEYS: usize = 10_000;
const CONCURRENCY: usize = 16;
/// Keys of the run with faults: so few that an event which is tried again meets its successor.
const KEYS_FAULTY: usize = 100;
/// Events of one slice.
const EVENTS: usize = 20_000;
/// Events of the run with faults.
const EVENTS_FAULTY: usize = 100_000;
const WAIT_MAX: Duration = Duration::from_mins(5);

pub(crate) async fn run(report: &mut Report, scale: Scale, _seed: u64) -> Result<(), Failure> {
    let events = EVENTS / scale.divisor;
    let faulty = EVENTS_FAULTY / scale.divisor;
    report.begin(
        "order",
        &format!(
            "one endpoint that keeps the order of {KEYS} keys, {CONCURRENCY} calls at once, log; \
             limit: the same without an order; {events} events a slice, {faulty} with faults"
        ),
    );
    let (mut key, mut none) =
        (Lane { order: Order::Key, events }, Lane { order: Order::None, events });
    let pairs = alternate(scale, &mut key, &mut none).await?;
    let thousands = events as f64 / 1e3;
    let goal = Some(Goal::AtLeast(0.8));
    report.rate("order", "publish_all to the last ack", "1000/s", thousands, &pairs, goal);
    report.cpu("order", "publish_all to the last ack", events, &pairs, None);
    let (_, with) = deliver(Order::Key, faulty, true).await?;
    let (_, without) = deliver(Order::None, faulty, true).await?;
    let (with, without) = (lock(&with).taken.late(), lock(&without).taken.late());
    let case = format!("taken over too late, {KEYS_FAULTY} keys, faults");
    report.value("order", &case, "events", with as f64, Some(without as f64), None);
    if with > 0 || without == 0 {
        return Err(format!("keep the order: {with} events too late, without it {without}").into());
    }
    Ok(())
}

struct Lane {
    order: Order,
    events: usize,
}

impl Side for Lane {
    async fn slice(&mut self) -> Result<Took, Failure> {
        Ok(deliver(self.order, self.events, false).await?.0)
    }
}

fn keys(with_faults: bool) -> usize {
    if with_faults { KEYS_FAULTY } else { KEYS }
}

/// What the receiver saw.
#[derive(Default)]
struct Seen {
    attempts: usize,
    taken: Taken,
}

/// Delivers so many events; where `with_faults`, every eleventh attempt is answered 500.
async fn deliver(
    order: Order,
    events: usize,
    with_faults: bool,
) -> Result<(Took, Arc<Mutex<Seen>>), Failure> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let taken = Arc::clone(&seen);
    let (port, _stop) = listen(move |request| answer(request, Arc::clone(&taken), with_faults))?;
    let folder = tempfile::tempdir()?;
    let store = LogStore::builder(folder.path().join("log")).open().await?;
    let id: EndpointId = "app".parse()?;
    let network = NetworkPolicy::public_only().allow("127.0.0.0/8")?;
    let settings = HttpSettings::new(format!("http://127.0.0.1:{port}/"));
    let sink = HttpSink::new(&settings, &CheckContext::new(&id, "app", &network))?;
    let schedule = vec![Duration::from_millis(20); 100];
    let endpoint = Endpoint::builder("app", sink)
        .concurrency(CONCURRENCY)
        .breaker(None)
        .order(order)
        .retry(retry::Policy::new(schedule, 0.2)?)
        .build();
    let bus = Bus::builder().store(store).endpoint(endpoint).open().await?;
    let watch = Stopwatch::start();
    for batch in (0..events).collect::<Vec<_>>().chunks(500) {
        let made = batch.iter().map(|event| {
            let key = format!("k{}", event % keys(with_faults));
            Ok(NewEvent::raw("match", format!("{{\"n\":{event}}}"))?.key(key))
        });
        bus.publish_all(made.collect::<Result<Vec<_>, Failure>>()?).await?;
    }
    if !bus.flush(WAIT_MAX).await?.is_empty() {
        return Err("deliver everything: some is still owed".into());
    }
    let took = watch.stop();
    bus.shutdown(Duration::ZERO).await?;
    let count = lock(&seen).taken.count();
    if count != events {
        return Err(format!("deliver everything: {count} of {events} came").into());
    }
    Ok((took, seen))
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().expect("no code panics while it holds this lock")
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Seen>>,
    with_faults: bool,
) -> hyper::Result<Response<Full<Bytes>>> {
    let mut answer = Response::new(Full::new(Bytes::new()));
    if let Some(event) = number(request.into_body()).await? {
        let mut seen = lock(&seen);
        seen.attempts += 1;
        if with_faults && seen.attempts.is_multiple_of(11) {
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        } else {
            seen.taken.take(event % keys(with_faults), event);
        }
    }
    Ok(answer)
}
