//! The HTTP sink beside a bare hyper client: the same requests, byte for byte, over the same number
//! of connections to the same receiver.
//!
//! The limit clones a finished head and body for each request, sends it and reads the answer. The
//! sink makes body and headers for each event, keeps its pool, its time limits and the mark that
//! tells a stale connection from a failure, and says what the answer means. Through the whole bus,
//! publishing, claiming and settling come on top.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use postrider::clock::{Clock as _, SystemClock};
use postrider::config::{NetworkPolicy, Secret};
use postrider::delivery::DeliveryId;
use postrider::event::Envelope;
use postrider::sink::{Attempt, CheckContext, Sink as _};
use postrider::store::{LogStore, MemoryStore, WhenFull};
use postrider::{Bus, Endpoint, EndpointId};
use postrider_sinks::http::{HttpSettings, HttpSink};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::measure::{Side, Stopwatch, Took, alternate};
use crate::nginx::Nginx;
use crate::payload::{Match, envelopes, matches};
use crate::receiver::{Received, Receiver};
use crate::report::{Goal, Report};
use crate::sinks::{Acks, Counted};
use crate::{Failure, Scale};

const CONNECTIONS: [usize; 3] = [1, 16, 64];
const POSTS: usize = 6_400;
const WAIT_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn run(report: &mut Report, scale: Scale, seed: u64) -> Result<(), Failure> {
    report.begin(
        "http",
        &format!(
            "POSTs of the guide's match; limit: a bare hyper client, same bytes, connections and \
             receiver; {} posts a slice (1 connection: a quarter)",
            POSTS / scale.divisor
        ),
    );
    let mut receiver = Receiver::start()?;
    for connections in CONNECTIONS {
        let posts = POSTS / scale.divisor / if connections == 1 { 4 } else { 1 };
        let case = |what: &str| match connections {
            1 => format!("{what}, 1 connection"),
            _ => format!("{what}, {connections} connections"),
        };
        let goal = (connections == 64).then_some(Goal::AtLeast(0.8));
        let kilo = posts as f64 / 1e3;

        let mut limit = Limit::open(receiver.port, connections, posts, seed).await?;
        let before = receiver.received()?;
        limit.slice().await?;
        let each = each(before, receiver.received()?, posts)?;

        let settings = HttpSettings::new(url(receiver.port));
        let mut subject = Deliver::open(&settings, connections, posts, seed)?;
        let before = receiver.received()?;
        let pairs = alternate(scale, &mut subject, &mut limit).await?;
        check(before, receiver.received()?, (scale.pairs + 1) * 2, each)?;
        subject.sink.close().await?;
        report.rate("http", &case("Sink::deliver"), "1000/s", kilo, &pairs, None);
        report.cpu("http", &case("Sink::deliver"), posts, &pairs, None);

        let mut subject = ThroughBus::open(receiver.port, None, connections, posts, seed).await?;
        let before = receiver.received()?;
        let pairs = alternate(scale, &mut subject, &mut limit).await?;
        check(before, receiver.received()?, (scale.pairs + 1) * 2, each)?;
        subject.bus.shutdown(WAIT_MAX).await?;
        report.rate("http", &case("whole bus"), "1000/s", kilo, &pairs, goal);
        report.cpu("http", &case("whole bus"), posts, &pairs, None);
    }
    signed(report, scale, seed, &receiver).await?;
    durable(report, scale, seed).await
}

const CONNECTIONS_MAX: usize = 64;

/// What a signature costs, beside the same without.
async fn signed(
    report: &mut Report,
    scale: Scale,
    seed: u64,
    receiver: &Receiver,
) -> Result<(), Failure> {
    let posts = POSTS / scale.divisor;
    let mut settings = HttpSettings::new(url(receiver.port));
    let mut plain = Deliver::open(&settings, CONNECTIONS_MAX, posts, seed)?;
    settings.secrets = vec![Secret::new("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")];
    let mut signed = Deliver::open(&settings, CONNECTIONS_MAX, posts, seed)?;
    let pairs = alternate(scale, &mut signed, &mut plain).await?;
    plain.sink.close().await?;
    signed.sink.close().await?;
    let goal = Some(Goal::AtMost(1.1));
    report.cpu("http", "Sink::deliver, signed, beside unsigned", posts, &pairs, goal);
    Ok(())
}

/// Everything on: a log with a sync before each receipt, and a receiver that answers at once.
async fn durable(report: &mut Report, scale: Scale, seed: u64) -> Result<(), Failure> {
    let Some(nginx) = Nginx::start()? else {
        println!("  SKIPPED whole bus to nginx: nginx is missing. Type: cargo xtask setup");
        return Ok(());
    };
    let posts = POSTS / scale.divisor;
    let folder = tempfile::tempdir()?;
    let mut limit = Limit::open(nginx.port, CONNECTIONS_MAX, posts, seed).await?;
    let log = Some(folder.path());
    let mut subject = ThroughBus::open(nginx.port, log, CONNECTIONS_MAX, posts, seed).await?;
    let before = nginx.requests()?;
    let pairs = alternate(scale, &mut subject, &mut limit).await?;
    subject.bus.shutdown(WAIT_MAX).await?;
    let (sent, came) = ((scale.pairs + 1) * 2 * posts, nginx.requests()? - before - 1);
    if came != sent as u64 {
        return Err(format!("count: {sent} requests sent, nginx counted {came}").into());
    }
    let case = format!("whole bus, log, nginx, {CONNECTIONS_MAX} connections");
    report.rate("http", &case, "1000/s", posts as f64 / 1e3, &pairs, Some(Goal::AtLeast(0.8)));
    report.cpu("http", &case, posts, &pairs, None);
    Ok(())
}

/// What one slice brings to the receiver.
fn each(before: Received, after: Received, posts: usize) -> Result<Received, Failure> {
    let each =
        Received { requests: after.requests - before.requests, bytes: after.bytes - before.bytes };
    if each.requests == posts as u64 {
        Ok(each)
    } else {
        Err(format!("count: {posts} requests sent, {} received", each.requests).into())
    }
}

/// Whether both sides have sent the same number of requests and bytes in every slice.
fn check(before: Received, after: Received, slices: usize, each: Received) -> Result<(), Failure> {
    let slices = slices as u64;
    let expected = Received {
        requests: before.requests + slices * each.requests,
        bytes: before.bytes + slices * each.bytes,
    };
    if after == expected {
        Ok(())
    } else {
        Err(format!("count: the receiver has {after:?}, expected {expected:?}").into())
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/bench")
}

/// Different events; a slice sends them again and again.
fn events(seed: u64) -> Vec<Match> {
    matches(256, seed)
}

fn sink(settings: &HttpSettings) -> Result<HttpSink, Failure> {
    let network = NetworkPolicy::public_only().allow("127.0.0.0/8")?;
    let id: EndpointId = "bench".parse()?;
    let context = CheckContext::new(&id, "bench", &network);
    Ok(HttpSink::new(settings, &context)?)
}

/// A bare client: one task for each connection.
struct Limit {
    senders: Vec<http1::SendRequest<Full<Bytes>>>,
    requests: Arc<Vec<(HeaderMap, Bytes)>>,
    posts: usize,
}

impl Limit {
    async fn open(port: u16, connections: usize, posts: usize, seed: u64) -> Result<Self, Failure> {
        let mut senders = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            senders.push(sender);
        }
        let envelopes = envelopes(&events(seed))?;
        let requests: Result<_, Failure> =
            envelopes.iter().map(|event| Ok((head(event, port)?, body(event)))).collect();
        Ok(Self { senders, requests: Arc::new(requests?), posts })
    }
}

/// The sink's headers, in its order.
fn head(event: &Envelope, port: u16) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::try_from(format!("127.0.0.1:{port}"))?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let agent = concat!("Postrider/", env!("CARGO_PKG_VERSION"));
    headers.insert(USER_AGENT, HeaderValue::from_static(agent));
    let id = HeaderValue::try_from(event.id().to_string())?;
    headers.insert(HeaderName::from_static("webhook-id"), id);
    let seconds = HeaderValue::from(SystemClock.now().as_seconds());
    headers.insert(HeaderName::from_static("webhook-timestamp"), seconds);
    Ok(headers)
}

fn body(event: &Envelope) -> Bytes {
    let (kind, time, data) = (event.event_type(), event.time(), event.payload_str());
    format!(r#"{{"event":"{kind}","timestamp":"{time}","data":{data}}}"#).into()
}

impl Side for Limit {
    async fn slice(&mut self) -> Result<Took, Failure> {
        let watch = Stopwatch::start();
        let mut tasks = JoinSet::new();
        let share = self.posts / self.senders.len();
        for (number, mut sender) in self.senders.drain(..).enumerate() {
            let requests = Arc::clone(&self.requests);
            tasks.spawn(async move {
                let skip = number * share % requests.len();
                for (head, body) in requests.iter().cycle().skip(skip).take(share) {
                    let mut request = Request::new(Full::new(body.clone()));
                    *request.method_mut() = Method::POST;
                    *request.uri_mut() = hyper::Uri::from_static("/bench");
                    *request.headers_mut() = head.clone();
                    sender.ready().await?;
                    let answer = sender.send_request(request).await?;
                    if answer.status() != 200 {
                        return Err(format!("post: answered {}", answer.status()).into());
                    }
                    answer.into_body().collect().await?;
                }
                Ok::<_, Failure>(sender)
            });
        }
        while let Some(ended) = tasks.join_next().await {
            self.senders.push(ended??);
        }
        Ok(watch.stop())
    }
}

/// The sink alone: one task for each connection, as the engine has one for each call.
struct Deliver {
    sink: Arc<HttpSink>,
    attempts: Arc<Vec<Attempt>>,
    connections: usize,
    posts: usize,
}

impl Deliver {
    fn open(
        settings: &HttpSettings,
        connections: usize,
        posts: usize,
        seed: u64,
    ) -> Result<Self, Failure> {
        let endpoint: EndpointId = "bench".parse()?;
        let attempts = envelopes(&events(seed))?.into_iter().map(|event| {
            let delivery = DeliveryId::new(endpoint.clone(), event.id().clone());
            Attempt::new(delivery, event, 1, SystemClock.now(), WAIT_MAX)
        });
        let attempts = Arc::new(attempts.collect());
        Ok(Self { sink: Arc::new(sink(settings)?), attempts, connections, posts })
    }
}

impl Side for Deliver {
    async fn slice(&mut self) -> Result<Took, Failure> {
        let watch = Stopwatch::start();
        let mut tasks = JoinSet::new();
        let share = self.posts / self.connections;
        for number in 0..self.connections {
            let (sink, attempts) = (Arc::clone(&self.sink), Arc::clone(&self.attempts));
            tasks.spawn(async move {
                let skip = number * share % attempts.len();
                for batch in attempts.chunks(1).cycle().skip(skip).take(share) {
                    if let Some(nack) = sink.deliver(batch).await.into_iter().find_map(Result::err)
                    {
                        return Err(format!("deliver: {}", nack.message()).into());
                    }
                }
                Ok::<_, Failure>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(watch.stop())
    }
}

struct ThroughBus {
    bus: Bus,
    acks: Arc<Acks>,
    events: Vec<Match>,
    posts: usize,
    /// Events of one call of `publish_all`; 1: `publish`.
    batch: usize,
}

impl ThroughBus {
    /// On a log in `folder`, to which it publishes in batches; or in memory, one by one.
    async fn open(
        port: u16,
        folder: Option<&Path>,
        connections: usize,
        posts: usize,
        seed: u64,
    ) -> Result<Self, Failure> {
        let (sink, acks) = Counted::new(sink(&HttpSettings::new(url(port)))?);
        let endpoint = Endpoint::builder("bench", sink).concurrency(connections).build();
        let builder = Bus::builder().endpoint(endpoint);
        let (builder, batch) = if let Some(folder) = folder {
            (builder.store(LogStore::builder(folder.join("log")).open().await?), 500)
        } else {
            let store = MemoryStore::builder().events_max(10_000).when_full(WhenFull::Wait);
            (builder.store(store.build()), 1)
        };
        Ok(Self { bus: builder.open().await?, acks, events: events(seed), posts, batch })
    }
}

impl Side for ThroughBus {
    async fn slice(&mut self) -> Result<Took, Failure> {
        self.acks.expect(self.posts);
        let watch = Stopwatch::start();
        let mut events = self.events.iter().cycle().take(self.posts);
        if self.batch == 1 {
            for event in events {
                self.bus.publish(event).await?;
            }
        } else {
            for _ in 0..self.posts.div_ceil(self.batch) {
                self.bus.publish_all(events.by_ref().take(self.batch)).await?;
            }
        }
        self.acks.reached().await?;
        let took = watch.stop();
        self.bus.flush(WAIT_MAX).await?;
        Ok(took)
    }
}
