//! What a job makes, how fast, what it waits for, and how it ends.

use std::sync::Arc;

use postrider::delivery::StateKind;
use postrider::replay::{JOBS_ENDED_MAX, JOBS_OPEN_MAX, JOBS_RUNNING_MAX, JobState, Request};
use postrider::store::{MemoryStore, Query};
use postrider::testing::{Call, RecordingSink, TestClock};
use postrider::{Bus, Endpoint, ErrorKind};

use super::shared::Told;
use super::{DAY, SECOND, delivered, ended, endpoint, event, open, rejected, runs, store};

fn slow(rate: &str) -> Request {
    Request::new(Query::new()).rate(rate.parse().unwrap())
}

/// An event that is dead at one endpoint goes to that one again, with its id and bytes, and to no
/// other.
#[tokio::test(start_paused = true)]
async fn sends_again_only_what_the_query_finds() {
    let (a, b) = (RecordingSink::scripted([rejected()]), RecordingSink::default());
    let bus = open(store(), [endpoint("a", &a), endpoint("b", &b)]).await;
    bus.publish_all((0..3).map(event)).await.unwrap();
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    let request = Request::new(Query::new().state(StateKind::Dead));
    let preview = bus.preview_replay(&request).await.unwrap();
    assert_eq!((preview.events, preview.total()), (1, 1));
    assert_eq!(a.attempts().len(), 3, "a preview makes nothing");

    let job = bus.replay(request).await.unwrap();
    let job = ended(&bus, job.id).await;
    assert_eq!((job.state, job.counts.found, job.counts.made), (JobState::Done, 1, 1));
    assert!(job.started_at.is_some() && job.ended_at.is_some());
    let attempts = a.attempts();
    assert_eq!((attempts.len(), b.attempts().len()), (4, 3));
    assert_eq!(attempts[3].event, attempts[0].event);
    assert_eq!((attempts[3].delivery.run(), attempts[3].number), (1, 1));
}

/// A job ends: it covers what was accepted before it was made, and nothing of what comes meanwhile.
#[tokio::test(start_paused = true)]
async fn covers_what_was_accepted_before() {
    let (store, sink) = (store(), RecordingSink::default());
    let bus = delivered(&store, &sink, 10).await;
    let job = bus.replay(slow("5/s")).await.unwrap();
    for number in 0..40 {
        bus.publish(event(number)).await.unwrap();
        tokio::time::sleep(SECOND / 10).await;
    }
    assert_eq!(ended(&bus, job.id).await.counts.made, 10);
    assert_eq!(runs(&store, "a").await, [[1; 10].as_slice(), &[0; 40]].concat());
}

/// The rate is kept smoothly, from the first delivery on.
#[tokio::test(start_paused = true)]
async fn keeps_its_rate() {
    let (store, sink) = (store(), RecordingSink::default());
    let bus = delivered(&store, &sink, 60).await;
    for (rate, least, most) in [("20/s", 2_900, 3_200), ("120/m", 29_000, 31_000)] {
        let before = sink.attempts().len();
        let job = bus.replay(slow(rate)).await.unwrap();
        ended(&bus, job.id).await;
        let times: Vec<i64> =
            sink.attempts()[before..].iter().map(|attempt| attempt.now.as_millis()).collect();
        assert_eq!(times.len(), 60);
        let took = times[59] - times[0];
        assert!((least..=most).contains(&took), "{rate}: {took} ms");
        let per_second = if rate == "20/s" { 20 } else { 2 };
        for window in times.windows(per_second + 2) {
            assert!(window[per_second + 1] - window[0] >= 950, "{rate}: a burst: {window:?}");
        }
    }
}

/// How far a job is can be told while it runs.
#[tokio::test(start_paused = true)]
async fn tells_how_far_it_is() {
    let (store, sink) = (store(), RecordingSink::default());
    let bus = delivered(&store, &sink, 100).await;
    let job = bus.replay(slow("10/s")).await.unwrap();
    assert_eq!((job.share_done(), job.to_look_at()), (0.0, 100));
    tokio::time::sleep(5 * SECOND).await;
    let job = bus.replay_job(job.id).await.unwrap();
    assert!((0.45..0.55).contains(&job.share_done()), "{job:?}");
    assert_eq!(job.deliveries_estimate(), Some(100));
    let job = ended(&bus, job.id).await;
    assert_eq!((job.share_done(), job.looked_at()), (1.0, 100));
}

/// An endpoint that was added later gets what it missed, once.
#[tokio::test(start_paused = true)]
async fn brings_what_an_endpoint_never_got() {
    let (store, a, b) = (store(), RecordingSink::default(), RecordingSink::default());
    let bus = delivered(&store, &a, 5).await;
    bus.set_endpoints(vec![endpoint("a", &a), endpoint("b", &b)]).await.unwrap();
    bus.publish(event(5)).await.unwrap();
    let request = || Request::new(Query::new().missing("b".parse().unwrap()));
    let job = bus.replay(request()).await.unwrap();
    let job = ended(&bus, job.id).await;
    assert_eq!((job.counts.made, b.events().len(), a.events().len()), (5, 6, 6));
    let again = bus.replay(request()).await.unwrap();
    assert_eq!(ended(&bus, again.id).await.counts.found, 0);
}

/// A name that nobody serves is a mistake; an endpoint that is served no more is skipped, and said.
#[tokio::test(start_paused = true)]
async fn makes_nothing_for_endpoints_that_are_not_served() {
    let (store, a, b) = (store(), RecordingSink::default(), RecordingSink::default());
    let bus = delivered(&store, &a, 3).await;
    let refused = bus.replay(Request::default().to("b".parse().unwrap())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    bus.set_endpoints(vec![endpoint("b", &b)]).await.unwrap();
    let job = bus.replay(Request::default()).await.unwrap();
    let job = ended(&bus, job.id).await;
    assert_eq!((job.counts.unserved, job.counts.made, job.counts.skipped()), (3, 0, 3));
}

/// What is owed comes anyway and is not made a second time.
#[tokio::test(start_paused = true)]
async fn skips_what_is_owed() {
    let (store, sink) = (store(), RecordingSink::default());
    let off = Endpoint::builder("a", sink.clone()).enabled(false).build();
    let bus = open(store.clone(), [off]).await;
    bus.publish_all((0..4).map(event)).await.unwrap();
    let job = bus.replay(Request::default()).await.unwrap();
    // Held deliveries are not waited for.
    while !bus.replay_job(job.id).await.unwrap().state.is_over() {
        tokio::time::sleep(SECOND).await;
    }
    let job = bus.replay_job(job.id).await.unwrap();
    assert_eq!((job.counts.found, job.counts.owed, job.counts.made), (4, 4, 0));
    assert_eq!(bus.preview_replay(&Request::default()).await.unwrap().owed, 4);
}

/// A cancelled job makes nothing more, now or after a restart.
#[tokio::test(start_paused = true)]
async fn cancelled_is_cancelled_for_good() {
    let (store, sink) = (store(), RecordingSink::default());
    let bus = delivered(&store, &sink, 50).await;
    let job = bus.replay(slow("10/s")).await.unwrap();
    tokio::time::sleep(2 * SECOND).await;
    let job = bus.cancel_replay(job.id).await.unwrap();
    assert_eq!(job.state, JobState::Cancelled);
    assert!((15..25).contains(&job.counts.made), "{job:?}");
    let made = sink.attempts().len();
    drop(bus);
    let bus = open(store.clone(), [endpoint("a", &sink)]).await;
    tokio::time::sleep(DAY).await;
    assert_eq!(sink.attempts().len(), made);
    assert_eq!(bus.replay_job(job.id).await.unwrap(), job);
    assert_eq!(bus.cancel_replay(job.id).await.unwrap(), job, "once more changes nothing");
}

/// While the backlog is full a job makes what fits, waits, says so, and goes on.
#[tokio::test(start_paused = true)]
async fn waits_while_the_backlog_is_full() {
    const EVENTS: usize = 50;
    let (a, off) = (RecordingSink::default(), RecordingSink::default());
    let endpoints = |enabled| {
        let off = Endpoint::builder("off", off.clone()).enabled(enabled).build();
        vec![endpoint("a", &a), off]
    };
    let filled = async |bytes_max: usize| {
        let memory = MemoryStore::builder().bytes_max(bytes_max).build();
        let bus = open(memory, endpoints(false)).await;
        let all = bus.publish_all((0..EVENTS).map(event)).await;
        bus.flush(DAY).await.unwrap();
        all.map(|receipts| (bus, receipts))
    };
    // The smallest store that takes the events and one delivery more: nothing is settled, so nothing
    // makes room.
    let mut bytes = 4_096;
    loop {
        if let Ok((bus, receipts)) = filled(bytes).await
            && bus.retry(&receipts[0].deliveries().next().unwrap()).await.is_ok()
        {
            break;
        }
        bytes += 500;
    }
    let (bus, _) = filled(bytes + 2_000).await.unwrap();
    let request = Request::new(Query::new().endpoint("a".parse().unwrap()));
    let job = bus.replay(request).await.unwrap();
    tokio::time::sleep(100 * SECOND).await;
    let waiting = bus.replay_job(job.id).await.unwrap();
    let JobState::Waiting { reason } = &waiting.state else { panic!("{waiting:?}") };
    assert!(reason.contains("backlog is full"), "{reason}");
    let made = waiting.counts.made;
    assert!((1..EVENTS as u64).contains(&made), "what fits is made: {waiting:?}");

    bus.set_endpoints(endpoints(true)).await.unwrap();
    let job = ended(&bus, job.id).await;
    assert_eq!(job.state, JobState::Done);
    assert_eq!(job.counts.made + job.counts.gone, EVENTS as u64, "{job:?}");
}

/// A store that fails and panics for a while delays a job; it makes each delivery once.
#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_loses_and_doubles_nothing() {
    let (store, sink) = (store(), RecordingSink::default());
    let bus = delivered(&store, &sink, 40).await;
    let job = bus.replay(slow("50/s")).await.unwrap();
    for call in [Call::Replay, Call::Find, Call::Notes, Call::Keep] {
        store.fail(call, 3);
        store.panic(call, 2);
    }
    let told = loop {
        tokio::time::sleep(SECOND / 10).await;
        if let Ok(job) = bus.replay_job(job.id).await
            && job.state != JobState::Running
        {
            break job;
        }
    };
    assert!(matches!(told.state, JobState::Waiting { .. }), "{told:?}");
    let job = loop {
        tokio::time::sleep(SECOND).await;
        match bus.replay_job(job.id).await {
            Ok(job) if job.state.is_over() => break job,
            _ => {}
        }
    };
    assert_eq!((job.state, job.counts.made), (JobState::Done, 40));
    assert!(bus.flush(DAY).await.unwrap().is_empty());
    assert_eq!(sink.attempts().len(), 80);
}

/// Few jobs run at once, the others wait for their turn; there is a most of both kinds.
#[tokio::test(start_paused = true)]
async fn jobs_are_bounded() {
    let (store, sink) = (store(), RecordingSink::default());
    let bus = delivered(&store, &sink, 2).await;
    let mut ids = Vec::new();
    for _ in 0..JOBS_OPEN_MAX {
        ids.push(bus.replay(slow("1/h")).await.unwrap().id);
    }
    let refused = bus.replay(slow("1/h")).await.unwrap_err();
    assert!(refused.is_full(), "{refused:?}");
    tokio::time::sleep(60 * SECOND).await;
    let jobs = bus.replays().await.unwrap();
    let started = jobs.iter().filter(|job| job.started_at.is_some()).count();
    assert_eq!((jobs.len(), started), (JOBS_OPEN_MAX, JOBS_RUNNING_MAX));
    for id in &ids {
        assert_eq!(bus.cancel_replay(*id).await.unwrap().state, JobState::Cancelled);
    }
    for _ in 0..5 {
        let job = bus.replay(Request::default()).await.unwrap();
        ended(&bus, job.id).await;
    }
    tokio::time::sleep(SECOND).await;
    let jobs = bus.replays().await.unwrap();
    assert!((JOBS_ENDED_MAX..=JOBS_ENDED_MAX + 1).contains(&jobs.len()), "{}", jobs.len());
    assert_eq!(jobs.last().unwrap().state, JobState::Done, "the newest are kept");
}

/// A job that ended is told of for a week.
#[tokio::test(start_paused = true)]
async fn an_old_job_is_forgotten() {
    let (store, sink) = (store(), RecordingSink::default());
    let clock = Arc::new(TestClock::following_tokio());
    let builder = Bus::builder().clock(clock.clone()).store(store.clone());
    let bus = builder.endpoint(endpoint("a", &sink)).open().await.unwrap();
    let first = bus.replay(Request::default()).await.unwrap();
    assert_eq!(first.state, JobState::Done, "there is nothing to send");
    clock.jump_ms(8 * 86_400_000);
    let second = bus.replay(Request::default()).await.unwrap();
    tokio::time::sleep(SECOND).await;
    let ids: Vec<_> = bus.replays().await.unwrap().into_iter().map(|job| job.id).collect();
    assert_eq!(ids, [second.id]);
    assert_eq!(bus.replay_job(first.id).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// A shutdown does not wait for a job; what is left of it goes on with the next start.
#[tokio::test(start_paused = true)]
async fn a_shutdown_stops_a_job_between_writes() {
    let (store, sink) = (store(), RecordingSink::default());
    drop(delivered(&store, &sink, 30).await);
    let outliving = Told::outliving(store.clone());
    let bus = open(outliving.clone(), [endpoint("a", &sink)]).await;
    let job = bus.replay(slow("10/s")).await.unwrap();
    tokio::time::sleep(SECOND).await;
    let started = tokio::time::Instant::now();
    let left = bus.shutdown(DAY).await.unwrap();
    assert!(left.is_empty() && started.elapsed() < SECOND, "{left:?} {:?}", started.elapsed());
    let made = runs(&store, "a").await;
    assert!(made.contains(&0) && made.contains(&1), "{made:?}");
    let bus = open(outliving, [endpoint("a", &sink)]).await;
    let job = ended(&bus, job.id).await;
    assert_eq!((job.state, job.counts.made, sink.attempts().len()), (JobState::Done, 30, 60));
}

/// A store without history has no replay, and says so.
#[tokio::test(start_paused = true)]
async fn needs_history() {
    let bus = open(Told::without_history(store()), []).await;
    let refused = bus.replay(Request::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    bus.shutdown(SECOND).await.unwrap();
}

/// While the store fails, whoever cancels a job learns that, and does not wait for the store; the job
/// ends when the store works again.
#[tokio::test(start_paused = true)]
async fn cancelling_does_not_wait_for_a_store_that_fails() {
    let (store, sink) = (store(), RecordingSink::default());
    let bus = delivered(&store, &sink, 60).await;
    let job = bus.replay(slow("1/s")).await.unwrap();
    tokio::time::sleep(2 * SECOND).await;
    let before = tokio::time::Instant::now();
    store.fail(Call::Keep, 20);
    let error = bus.cancel_replay(job.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.chain().contains("injected"), "{}", error.chain());
    assert!(before.elapsed() < SECOND, "{:?}", before.elapsed());
    let job = ended(&bus, job.id).await;
    assert_eq!(job.state, JobState::Cancelled);
    assert!(job.counts.made < 5, "{job:?}");
}
