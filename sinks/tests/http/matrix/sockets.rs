//! Connections that end, break or hang, at each phase of a request.

use postrider::delivery::Cause;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Case, Script, answers_once, exhausted, run, script};

/// Reads a request, sends `answer` and resets.
fn resets_after(answer: &'static str) -> Script {
    script(move |mut connection| async move {
        connection.request().await;
        connection.send(answer.as_bytes()).await;
        connection.reset();
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn phases() {
    let closed = || exhausted(Cause::Closed, "before the head of the answer was complete");
    let half = "HTTP/1.1 200 OK\r\ncontent-le";
    run(vec![
        Case::new(
            "reset at once",
            script(|connection| async move { connection.reset() }),
            closed(),
        )
        .or(exhausted(Cause::Connect, "connection reset")),
        Case::new("closed at once", script(|connection| async move { drop(connection) }), closed()),
        Case::new(
            "reset in the request",
            script(|mut connection| async move {
                let _ = connection.stream.read_exact(&mut [0; 100]).await;
                connection.reset();
            }),
            closed(),
        )
        .large(),
        Case::new(
            "closed in the request",
            script(|mut connection| async move {
                let _ = connection.stream.read_exact(&mut [0; 100]).await;
            }),
            closed(),
        )
        .large(),
        Case::new("reset after the request", resets_after(""), closed()),
        Case::new("closed after the request", answers_once(""), closed()),
        Case::new("reset in the head", resets_after(half), closed()),
        Case::new("closed in the head", answers_once(half), closed()),
        Case::new(
            "half closed, then silent",
            script(|mut connection| async move {
                connection.request().await;
                let _ = connection.stream.shutdown().await;
                connection.until_closed().await;
            }),
            closed(),
        ),
        Case::new(
            "reset in the body",
            resets_after("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf"),
            exhausted(Cause::Closed, "before the body of the answer was complete").status(200),
        )
        .or(closed()),
        Case::new(
            "closed in the body",
            answers_once("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf"),
            exhausted(Cause::Closed, "before the body of the answer was complete").status(200),
        ),
        Case::new(
            "silent",
            script(|mut connection| async move {
                connection.request().await;
                connection.until_closed().await;
            }),
            exhausted(Cause::Timeout, "timed out waiting for the answer"),
        ),
        Case::new(
            "reads nothing",
            script(|connection| async move {
                // Held open, for longer than the attempt lasts, and never read.
                let _connection = connection;
                std::future::pending::<()>().await;
            }),
            exhausted(Cause::Timeout, "timed out waiting for the answer"),
        )
        .large(),
    ])
    .await;
}
