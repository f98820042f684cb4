//! Connections that are kept, and what happens when the receiver closes one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use postrider::delivery::Cause;
use postrider::sink::Sink as _;
use postrider_sinks::http::{AGE_MAX, HttpSink, IDLE_MAX};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::peer::{OK, Peer, eventually};
use crate::{delivers, refused, settings, sink};

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let peer = Peer::answering(OK).await;
    let sink = sink(&settings(&peer.url()));
    for _ in 0..50 {
        delivers(&sink).await;
    }
    assert_eq!((peer.seen().len(), peer.connections()), (50, 1));
}

/// As above where hyper's task and the sink's run on different threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_serves_many_requests_across_threads() {
    let peer = Peer::answering(OK).await;
    let sink = Arc::new(sink(&settings(&peer.url())));
    tokio::spawn(async move {
        for _ in 0..200 {
            delivers(&sink).await;
        }
    })
    .await
    .unwrap();
    assert_eq!((peer.seen().len(), peer.connections()), (200, 1));
}

#[tokio::test]
async fn connection_close_is_obeyed() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok").await;
    })
    .await;
    let sink = sink(&settings(&peer.url()));
    for _ in 0..3 {
        delivers(&sink).await;
    }
    assert_eq!((peer.seen().len(), peer.connections()), (3, 3));
}

async fn deliver_together(sink: &Arc<HttpSink>, events: usize) {
    let mut deliveries = JoinSet::new();
    for _ in 0..events {
        let sink = Arc::clone(sink);
        deliveries.spawn(async move { delivers(&sink).await });
    }
    while let Some(outcome) = deliveries.join_next().await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn no_more_idle_connections_than_allowed() {
    // Answers only when all eight are there, so that eight connections are open at once.
    let waiting = Arc::new(AtomicUsize::new(0));
    let open = Arc::new(AtomicUsize::new(0));
    let (arrived, still_open) = (Arc::clone(&waiting), Arc::clone(&open));
    let peer = Peer::start(move |mut connection| {
        let (waiting, open) = (Arc::clone(&arrived), Arc::clone(&still_open));
        async move {
            open.fetch_add(1, Ordering::SeqCst);
            while connection.request().await.is_some() {
                waiting.fetch_add(1, Ordering::SeqCst);
                let all = || waiting.load(Ordering::SeqCst) >= 8;
                eventually(all, || format!("{waiting:?} of 8 requests")).await;
                connection.send(OK).await;
            }
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let mut settings = settings(&peer.url());
    settings.connections_idle_max = 3;
    let sink = Arc::new(sink(&settings));
    deliver_together(&sink, 8).await;
    assert_eq!(peer.connections(), 8);
    let left = || open.load(Ordering::SeqCst);
    eventually(|| left() == 3, || format!("{} connections are open", left())).await;

    sink.close().await.unwrap();
    eventually(|| left() == 0, || format!("{} connections are open after close", left())).await;
}

/// A receiver may close an idle connection at any moment; a request that was just put on it meets a
/// closed door. That is nobody's failure.
#[tokio::test]
async fn kept_connection_closed_under_the_request() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        connection.send(OK).await;
        // Takes the next request in and goes away without a word.
        if connection.number == 0 {
            connection.request().await;
        } else {
            connection.until_closed().await;
        }
    })
    .await;
    let sink = sink(&settings(&peer.url()));
    delivers(&sink).await;
    delivers(&sink).await;
    let on: Vec<_> = peer.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(on, [0, 0, 1]);
    assert_eq!(sink.resent(), 1);
    let seen = peer.seen();
    assert_eq!((&seen[1].head, &seen[1].body), (&seen[2].head, &seen[2].body));
}

#[tokio::test]
async fn kept_connection_reset_under_the_request() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        connection.send(OK).await;
        connection.request().await;
        if connection.number == 0 {
            connection.reset();
        }
    })
    .await;
    let sink = sink(&settings(&peer.url()));
    delivers(&sink).await;
    delivers(&sink).await;
    assert_eq!(peer.connections(), 2);
}

/// Once, not for ever: the second closed door is the receiver's failure.
#[tokio::test]
async fn the_new_connection_is_not_replaced_again() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        if connection.number == 0 {
            connection.send(OK).await;
            connection.request().await;
        }
    })
    .await;
    let sink = sink(&settings(&peer.url()));
    delivers(&sink).await;
    assert_eq!(refused(&sink).await.cause(), Cause::Closed);
    assert_eq!((peer.seen().len(), peer.connections()), (3, 2));
    assert_eq!(sink.resent(), 1);
}

/// A receiver that began to answer has read the request: sending again is the engine's decision.
#[tokio::test]
async fn begun_answer_is_not_sent_again() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
        connection.send(OK).await;
        connection.request().await;
        connection.send(b"HTTP/1.1 5").await;
    })
    .await;
    let sink = sink(&settings(&peer.url()));
    delivers(&sink).await;
    assert_eq!(refused(&sink).await.cause(), Cause::Closed);
    assert_eq!((peer.seen().len(), peer.connections()), (2, 1));
    assert_eq!(sink.resent(), 0);
}

/// A connection that the receiver closed while it was idle costs not even a second request.
#[tokio::test]
async fn connection_closed_while_idle() {
    let peer = Peer::answering_once(OK).await;
    let sink = sink(&settings(&peer.url()));
    for done in 1..=5 {
        delivers(&sink).await;
        assert_eq!((peer.seen().len(), peer.connections()), (done, done));
    }
}

#[tokio::test]
async fn idle_connection_is_closed_in_time() {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let peer = Peer::start(move |mut connection| {
        let closed = Arc::clone(&count);
        async move {
            while connection.request().await.is_some() {
                connection.send(OK).await;
            }
            closed.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let sink = sink(&settings(&peer.url()));
    delivers(&sink).await;
    // The exchange is over and nothing moves on the socket until the timer does: from here the
    // clock may run ahead.
    tokio::time::pause();
    let paused = Instant::now();
    let gone = || closed.load(Ordering::SeqCst) == 1;
    while !gone() && paused.elapsed() < IDLE_MAX * 3 {
        // tidy: allow(sleep): the clock is paused
        tokio::time::sleep(IDLE_MAX / 30).await;
        // Lets the socket's end be seen, which takes no time on the paused clock.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    let idle = paused.elapsed();
    assert!(gone() && idle >= IDLE_MAX * 9 / 10 && idle < IDLE_MAX * 2, "closed after {idle:?}");
    tokio::time::resume();
    delivers(&sink).await;
    assert_eq!(peer.connections(), 2);
}

/// Under steady load no connection is ever idle for long; a name that moved is followed even so.
#[tokio::test]
async fn busy_connection_is_replaced_in_time() {
    let peer = Peer::answering(OK).await;
    let sink = sink(&settings(&peer.url()));
    let step = IDLE_MAX / 2;
    let steps = AGE_MAX.as_secs() / step.as_secs();
    for done in 0..=steps + 3 {
        delivers(&sink).await;
        let expect = if done <= steps { 1 } else { 2 };
        assert_eq!(peer.connections(), expect, "after {:?}", step * done as u32);
        // Moves the clock while nothing is under way.
        tokio::time::pause();
        tokio::time::advance(step).await;
        tokio::time::resume();
    }
}

#[tokio::test]
async fn check_connects_and_sends_nothing() {
    let peer = Peer::start(|mut connection| async move {
        connection.request().await;
    })
    .await;
    let sink = sink(&settings(&peer.url()));
    sink.check().await.unwrap();
    eventually(|| peer.connections() == 1, || "nothing connected".to_owned()).await;
    assert!(peer.seen().is_empty());
}
