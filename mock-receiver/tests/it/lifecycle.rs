//! Beginning and end of a receiver.

use std::{net::SocketAddr, time::Duration};

use mock_receiver::{ErrorKind, Receiver, Response};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::support::{DEADLINE, call, post};

#[tokio::test]
async fn out_of_scope_frees_ports_and_ends_connections_at_once() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("quiet").respond(Response::hang());
    let capture = receiver.addr();
    let admin: SocketAddr = receiver.admin_url().replace("http://", "").parse().unwrap();
    let mut idle = TcpStream::connect(admin).await.unwrap();
    let mut hanging = TcpStream::connect(capture).await.unwrap();
    hanging.write_all(b"POST /quiet HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    receiver.wait("quiet").within(DEADLINE).await.unwrap();
    drop(receiver);
    for addr in [capture, admin] {
        std::net::TcpListener::bind(addr).expect("the port is free when drop returns");
    }
    for connection in [&mut idle, &mut hanging] {
        let end = timeout(DEADLINE, connection.read(&mut [0])).await.expect("ends");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_says_which() {
    let first = Receiver::start().await.unwrap();
    let error = Receiver::builder().listen(first.addr()).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bind);
    assert!(error.is_address_in_use());
    let text = error.to_string();
    assert!(text.contains(&first.addr().to_string()) && text.contains("--listen"), "{text}");
    let admin = first.admin_url().replace("http://", "").parse().unwrap();
    let error = Receiver::builder().admin(admin).start().await.unwrap_err();
    assert!(error.to_string().contains("--admin"), "{error}");
}

#[tokio::test]
async fn settings_are_taken_and_checked() {
    let receiver = Receiver::builder().token("chosen").threads(2).start().await.unwrap();
    assert_eq!(receiver.token(), "chosen");
    assert_eq!(call(&receiver, "GET", "requests", "").await.status, 200);
    assert!(!format!("{receiver:?}").contains("chosen"), "{receiver:?}");
    for wrong in ["", "two words", "umläut"] {
        let error = Receiver::builder().token(wrong).start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{wrong:?}");
    }
}

#[tokio::test]
async fn many_senders_at_once_are_all_kept_in_order() {
    let receiver = Receiver::builder().threads(2).start().await.unwrap();
    let bin = "/busy";
    let senders = (0..20).map(|_| async {
        for _ in 0..20 {
            assert!(post(&receiver, bin, "", "{}").await.starts_with("HTTP/1.1 200"));
        }
    });
    timeout(DEADLINE, futures_of(senders)).await.expect("all sent");
    let seen = receiver.wait("busy").count(400).within(Duration::ZERO).await.unwrap();
    let seqs: Vec<_> = seen.iter().map(|capture| capture.seq).collect();
    assert_eq!(seqs, (1..=400).collect::<Vec<_>>());
    let connections: std::collections::BTreeSet<_> = seen.iter().map(|c| c.connection).collect();
    assert_eq!(connections.len(), 400);
}

/// Runs all of them at once, on this task.
async fn futures_of(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut running: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        running.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Tests hand receivers and captures around among tasks and threads.
#[test]
fn everything_can_be_shared() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Receiver>();
    shared::<mock_receiver::Capture>();
    shared::<mock_receiver::Error>();
    shared::<Response>();
    sent::<mock_receiver::Wait>();
    sent::<mock_receiver::Builder>();
}
