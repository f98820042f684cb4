//! The dashboard's backend: takes `POST /api/events/TYPE` and publishes the body. It knows no
//! endpoint; who gets what stands in the configuration.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use postrider::{Bus, Error, ErrorKind, Event, EventId, NewEvent};
use postrider_examples::{Match, Rebuild, Upload};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Where events are posted to; the type follows.
const EVENTS: &str = "/api/events/";
/// Largest body.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Longest wait for the rest of a body.
const BODY_WAIT: Duration = Duration::from_secs(30);
/// Longest wait for the head of a connection's (next) request.
const HEAD_WAIT: Duration = Duration::from_secs(30);
/// Connections at once; others wait in the system's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long requests under way may take once the end was asked for. With the bus's own end it stays
/// within five seconds.
const REQUESTS_WAIT: Duration = Duration::from_millis(500);
/// Rest before accepting again where the system refused to, as it does when it has no descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Serves until ctrl-c or SIGTERM; on return no request is under way.
pub(crate) async fn serve(bus: &Bus, listener: TcpListener) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    eprintln!("listening on http://{}", listener.local_addr()?);

    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
        };
        let stream = match stream {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("dashboard: failed to accept a connection: {error}");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let bus = bus.clone();
        let service = service_fn(move |request| {
            let bus = bus.clone();
            async move { Ok::<_, Infallible>(answer(&bus, request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT)
            .serve_connection(TokioIo::new(stream), service);
        // A client that breaks off harms nobody else.
        let connection = graceful.watch(connection);
        connections.spawn(async move { drop(connection.await) });
    }
    drop(listener);
    let _ = tokio::time::timeout(REQUESTS_WAIT, graceful.shutdown()).await;
    connections.shutdown().await;
    Ok(())
}

/// Why a request was refused.
type Refused = (StatusCode, String);

async fn answer(bus: &Bus, request: Request<Incoming>) -> Response<String> {
    #[derive(Serialize)]
    struct Accepted<'a> {
        id: &'a EventId,
        endpoints: usize,
    }
    let (status, body) = match publish(bus, request).await {
        Ok(receipt) => {
            let accepted = Accepted { id: receipt.event(), endpoints: receipt.endpoints().len() };
            (
                StatusCode::ACCEPTED,
                serde_json::to_string(&accepted).expect("an id and a number are JSON"),
            )
        }
        Err((status, reason)) => (status, serde_json::json!({ "error": reason }).to_string()),
    };
    let mut response = Response::new(body + "\n");
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

async fn publish(bus: &Bus, request: Request<Incoming>) -> Result<postrider::Receipt, Refused> {
    let path = request.uri().path();
    let Some(kind) = path.strip_prefix(EVENTS).filter(|kind| !kind.is_empty()) else {
        return Err((StatusCode::NOT_FOUND, format!("events are posted to {EVENTS}TYPE")));
    };
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "events are posted".into()));
    }
    // A page in somebody's browser must not post to a port of this machine.
    if request.headers().contains_key(http::header::ORIGIN) {
        return Err((StatusCode::FORBIDDEN, "browsers may not post here".into()));
    }
    let kind = kind.to_owned();
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(BODY_WAIT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let reason = format!("a body has at most {BODY_BYTES_MAX} bytes");
            return Err((StatusCode::PAYLOAD_TOO_LARGE, reason));
        }
        Ok(Err(error)) => return Err((StatusCode::BAD_REQUEST, format!("the body: {error}"))),
        Err(_) => {
            let reason = format!("the body did not come within {} s", BODY_WAIT.as_secs());
            return Err((StatusCode::REQUEST_TIMEOUT, reason));
        }
    };
    let event = match kind.as_str() {
        Match::TYPE => typed::<Match>(&body)?,
        Upload::TYPE => typed::<Upload>(&body)?,
        Rebuild::TYPE => typed::<Rebuild>(&body)?,
        kind => NewEvent::raw(kind, body).map_err(|error| refused(&error))?,
    };
    bus.publish(event).await.map_err(|error| refused(&error))
}

/// Reads a body as the type that the dashboard knows, so that a wrong value is refused by its name:
/// 400 where it is no JSON, 422 where it is JSON that the type does not take.
fn typed<E: Event + DeserializeOwned>(body: &[u8]) -> Result<NewEvent, Refused> {
    let event: E = serde_json::from_slice(body).map_err(|error| {
        let status = match error.classify() {
            serde_json::error::Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::BAD_REQUEST,
        };
        (status, format!("read a {:?} event: {error}", E::TYPE))
    })?;
    NewEvent::of(&event).map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error.chain()))
}

fn refused(error: &Error) -> Refused {
    let status = match error.kind() {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Full | ErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, error.chain())
}
