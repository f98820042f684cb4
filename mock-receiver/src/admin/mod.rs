//! The admin address: the API under `/api/v1`, behind a bearer token.

mod api;
mod assert;
mod bins;
mod guard;
mod listener;
mod more;

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    body::Incoming,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::net::TcpStream;

use crate::receiver::Shared;

/// How long a connection may wait for the head of its (next) request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

type Reply = hyper::Response<Full<Bytes>>;

/// Serves one connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let Ok(local) = stream.local_addr() else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move {
            let reply = match guard::check(&request, local, &shared.token) {
                Ok(()) => api::route(&shared, request).await,
                Err(problem) => Err(problem),
            };
            Ok::<_, Infallible>(reply.unwrap_or_else(Problem::into_reply))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(error = %error, "admin connection ended");
    }
}

/// An RFC 9457 problem document on its way out.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    detail: String,
    more: Map<String, Value>,
    header: Option<(&'static str, &'static str)>,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), more: Map::new(), header: None }
    }

    fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    fn unauthorized() -> Self {
        let detail = "this needs `Authorization: Bearer TOKEN` with the token printed at start";
        let header = ("www-authenticate", "Bearer");
        Self { header: Some(header), ..Self::new(StatusCode::UNAUTHORIZED, detail) }
    }

    fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("the methods here are {allow}");
        let header = ("allow", allow);
        Self { header: Some(header), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, detail) }
    }

    /// Adds a member of its own to the document (RFC 9457 §3.2).
    fn with(mut self, name: &str, value: impl Serialize) -> Self {
        self.more.insert(name.into(), serde_json::to_value(value).unwrap_or_default());
        self
    }

    fn into_reply(self) -> Reply {
        let document = document(self.status, &self.detail, self.more);
        let mut reply = reply(self.status, "application/problem+json", document.into());
        if let Some((name, value)) = self.header {
            reply.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        reply
    }
}

/// The text of a problem document; also for the capture address.
pub(crate) fn problem_document(status: StatusCode, detail: &str) -> String {
    document(status, detail, Map::new())
}

fn document(status: StatusCode, detail: &str, more: Map<String, Value>) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        r#type: &'a str,
        title: &'a str,
        status: u16,
        detail: &'a str,
        #[serde(flatten)]
        more: Map<String, Value>,
    }
    let title = status.canonical_reason().unwrap_or("Error");
    let document = Document { r#type: "about:blank", title, status: status.as_u16(), detail, more };
    serde_json::to_string(&document).unwrap_or_default()
}

fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Reply::new(Full::new(body));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // What was captured is never shown as a page, nor kept by a cache.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

fn json_reply(document: &impl Serialize) -> Result<Reply, Problem> {
    let body = serde_json::to_vec(document)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(reply(StatusCode::OK, "application/json", body.into()))
}
