//! An endpoint whose receiver wants nothing any more stays held over a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postrider::config::{Config, Format};
use postrider::delivery::{Cause, Nack};
use postrider::endpoint::Hold;
use postrider::sink::{CheckContext, Registry, Sink, SinkFactory};
use postrider::store::{MemoryStore, Store};
use postrider::testing::{Call, FaultyStore, RecordingSink, Step, TestClock};
use postrider::{Bus, Endpoint, EndpointId, Error, ErrorKind, NewEvent};

const SECOND: Duration = Duration::from_secs(1);

type Faulty = FaultyStore<MemoryStore>;

fn gone() -> Step {
    Step::Nack(Nack::disable(Cause::Status, "410").status(410))
}

fn endpoint(sink: &RecordingSink) -> Endpoint {
    Endpoint::builder("a", sink.clone()).build()
}

fn a() -> EndpointId {
    "a".parse().unwrap()
}

async fn open(store: &Faulty, endpoints: impl IntoIterator<Item = Endpoint>) -> Bus {
    let clock = Arc::new(TestClock::following_tokio());
    Bus::builder().clock(clock).store(store.clone()).endpoints(endpoints).open().await.unwrap()
}

async fn publish(bus: &Bus) {
    // The clock of each bus makes the same ids.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let id = format!("e{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let event = NewEvent::raw("match", "1").unwrap().id(id.parse().unwrap());
    bus.publish(event).await.unwrap();
    bus.flush(60 * SECOND).await.unwrap();
}

/// Without a shutdown: what the bus leaves behind is let end, as it does with its process.
async fn crash(bus: Bus) {
    drop(bus);
    // tidy: allow(sleep): the clock is paused
    tokio::time::sleep(SECOND).await;
}

/// A store whose endpoint `a` has said 410; its bus is gone.
async fn said_gone() -> (Faulty, RecordingSink) {
    let store = FaultyStore::new(MemoryStore::default());
    let sink = RecordingSink::scripted([gone()]);
    let bus = open(&store, [endpoint(&sink)]).await;
    publish(&bus).await;
    assert_eq!(bus.is_open(&a()), Some(false));
    crash(bus).await;
    (store, sink)
}

/// The restart used to ask the receiver again, which had said for good that it wants nothing.
#[tokio::test(start_paused = true)]
async fn stays_held_until_it_is_enabled() {
    let (store, sink) = said_gone().await;
    let bus = open(&store, [endpoint(&sink)]).await;
    publish(&bus).await;
    assert_eq!((sink.attempts().len(), bus.is_open(&a())), (1, Some(false)));
    let Some(Hold::Gone(hold)) = bus.hold(&a()) else { panic!("{:?}", bus.hold(&a())) };
    assert_eq!((hold.status, hold.delivery), (Some(410), sink.attempts()[0].delivery.clone()));
    assert_eq!(hold.since, sink.attempts()[0].now);

    bus.enable(&a()).await.unwrap();
    bus.flush(60 * SECOND).await.unwrap();
    assert_eq!((sink.events().len(), bus.hold(&a())), (1, None));
    crash(bus).await;
    let bus = open(&store, [endpoint(&sink)]).await;
    assert_eq!(bus.is_open(&a()), Some(true), "enabled for good");
}

/// Enabling what the store cannot remember as enabled changes nothing, so that both agree.
#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_forget_keeps_it_held() {
    let (store, sink) = said_gone().await;
    let bus = open(&store, [endpoint(&sink)]).await;
    store.fail(Call::Keep, 1);
    assert_eq!(bus.enable(&a()).await.unwrap_err().kind(), ErrorKind::Store);
    assert_eq!(bus.is_open(&a()), Some(false));
    bus.enable(&a()).await.unwrap();
    assert_eq!(bus.is_open(&a()), Some(true));
    let unknown = bus.enable(&"b".parse().unwrap()).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}

/// Whoever gives the endpoint another place, or takes it out, has touched it: also for the next
/// start.
#[tokio::test(start_paused = true)]
async fn touched_is_open_for_good() {
    for takes_it_out in [false, true] {
        let (store, sink) = said_gone().await;
        let bus = open(&store, [endpoint(&sink)]).await;
        let new = RecordingSink::default();
        let endpoints = if takes_it_out { vec![] } else { vec![endpoint(&new)] };
        bus.set_endpoints(endpoints).await.unwrap();
        tokio::time::sleep(SECOND).await;
        assert!(store.notes().await.unwrap().is_empty());
        crash(bus).await;
        let bus = open(&store, [endpoint(&new)]).await;
        publish(&bus).await;
        assert_eq!(new.events().len(), 1);
    }
}

/// An application may bring its endpoints after the start: they are held all the same.
#[tokio::test(start_paused = true)]
async fn stays_held_where_it_is_added_later() {
    let (store, sink) = said_gone().await;
    let bus = open(&store, []).await;
    bus.set_endpoints(vec![endpoint(&sink)]).await.unwrap();
    assert_eq!(bus.is_open(&a()), Some(false));
    bus.set_endpoints(vec![]).await.unwrap();
    bus.set_endpoints(vec![endpoint(&sink)]).await.unwrap();
    assert_eq!(bus.is_open(&a()), Some(true), "taken out and put back is touched");
}

/// As within a process: disabling an endpoint and enabling it again opens it.
#[tokio::test(start_paused = true)]
async fn disabled_and_enabled_is_touched() {
    let (store, sink) = said_gone().await;
    let off = Endpoint::builder("a", sink.clone()).enabled(false).build();
    let bus = open(&store, [off]).await;
    assert_eq!(bus.hold(&a()), Some(Hold::Disabled));
    tokio::time::sleep(SECOND).await;
    let refused = bus.enable(&a()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    crash(bus).await;
    let bus = open(&store, [endpoint(&sink)]).await;
    assert_eq!(bus.is_open(&a()), Some(true));
}

/// The note comes before the settlement: a crash between them asks the receiver once more, and loses
/// nothing.
#[tokio::test(start_paused = true)]
async fn is_noted_before_it_is_settled() {
    let store = FaultyStore::new(MemoryStore::default());
    let sink = RecordingSink::scripted([gone()]);
    let bus = open(&store, [endpoint(&sink)]).await;
    store.fail(Call::Keep, 3);
    store.panic(Call::Keep, 1);
    let receipt = bus.publish(NewEvent::raw("match", "1").unwrap()).await.unwrap();
    sink.attempted(1).await;
    store.begun(Call::Keep, 2).await;
    let delivery = receipt.deliveries().next().unwrap();
    assert!(!bus.delivery(&delivery).await.unwrap().unwrap().state.is_final());
    bus.flush(60 * SECOND).await.unwrap();
    tokio::time::sleep(60 * SECOND).await;
    assert!(bus.delivery(&delivery).await.unwrap().unwrap().state.is_final());
    assert_eq!(store.notes().await.unwrap().len(), 1);
}

/// `flush` returned as soon as the endpoint was held, before the answer that held it was settled: the
/// command line told of a delivery that was given up as held, with exit code 0.
#[tokio::test(start_paused = true)]
async fn flush_waits_for_the_answer_that_holds() {
    let store = FaultyStore::new(MemoryStore::default());
    let sink = RecordingSink::scripted([gone()]);
    let bus = open(&store, [endpoint(&sink)]).await;
    store.fail(Call::Keep, 3);
    let receipts = bus.publish_all((0..40).map(|n| NewEvent::raw("match", n.to_string()).unwrap()));
    let receipts = receipts.await.unwrap();
    bus.flush(60 * SECOND).await.unwrap();
    let first = receipts[0].deliveries().next().unwrap();
    let record = bus.delivery(&first).await.unwrap().unwrap();
    assert!(record.state.is_final(), "{record:?}");
    assert!(bus.backlog().await.unwrap().total() > 0, "the rest is held");
}

/// The endpoint's sink in a configuration.
struct Recorder(RecordingSink);

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Where to.
    place: String,
}

impl SinkFactory for Recorder {
    type Settings = Settings;

    fn name(&self) -> &'static str {
        "recorder"
    }

    fn target(&self, settings: &Settings) -> String {
        settings.place.clone()
    }

    fn build(&self, _: &Settings, _: &CheckContext<'_>) -> Result<Arc<dyn Sink>, Error> {
        Ok(Arc::new(self.0.clone()))
    }
}

/// A configured endpoint stays held as long as its sink's settings are the same; its policy and what
/// it asks for do not matter.
#[tokio::test(start_paused = true)]
async fn other_settings_open_it() {
    let store = FaultyStore::new(MemoryStore::default());
    let sink = RecordingSink::scripted([gone()]);
    let open = async |toml: &str| {
        let registry = Registry::new().with(Recorder(sink.clone()));
        let loader = Config::loader().registry(&registry).environment(false);
        let toml = format!("[[endpoints]]\nname = 'a'\nsink = 'recorder'\n{toml}\n");
        let config = loader.text(Format::Toml, &toml).load().unwrap();
        let clock = Arc::new(TestClock::following_tokio());
        Bus::builder().config(config).clock(clock).store(store.clone()).open().await.unwrap()
    };
    let bus = open("place = 'here'").await;
    publish(&bus).await;
    crash(bus).await;
    let same = open("place = 'here'\ntimeout = '3s'\nevents = ['*', 'postrider.*']").await;
    assert_eq!(same.is_open(&a()), Some(false));
    crash(same).await;
    let other = open("place = 'there'").await;
    assert_eq!(other.is_open(&a()), Some(true));
    crash(other).await;
    let back = open("place = 'here'").await;
    assert_eq!(back.is_open(&a()), Some(true), "the note went with the change");
}
