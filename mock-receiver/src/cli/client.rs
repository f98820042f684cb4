//! A small client of the admin API.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{net::TcpStream, time::timeout};

use super::Remote;

/// How long a call may take beyond what it waits for itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer of the API that says why not.
#[derive(Deserialize)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) detail: String,
    /// What came instead, where a wait ended without it.
    pub(super) account: Option<String>,
    /// The report of a check that failed, where one was asked for.
    pub(super) html: Option<String>,
    pub(super) har: Option<Box<RawValue>>,
}

/// Calls and returns the answer's body; `waits` is how long the call itself may take.
pub(super) async fn call(
    remote: &Remote,
    method: Method,
    path: &str,
    body: String,
    waits: Duration,
) -> Result<Result<Bytes, Refusal>, String> {
    let admin = remote.admin;
    let failed = |error: &dyn std::fmt::Display| {
        format!("cannot reach a receiver at {admin} (--admin): {error}")
    };
    let exchange = async {
        let stream = TcpStream::connect(admin).await.map_err(|error| failed(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, admin.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", remote.token))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| "the token (--token) holds characters that no header can".to_owned())?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| failed(&error))?.to_bytes();
        if head.status.is_success() {
            return Ok(Ok(body));
        }
        serde_json::from_slice(&body).map(Err).map_err(|_| {
            format!("what listens at {admin} (--admin) is no mock-receiver: status {}", head.status)
        })
    };
    match timeout(waits + CALL_TIMEOUT, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(failed(&"no answer in time")),
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.account {
            Some(account) => f.write_str(account),
            None => write!(f, "{} ({})", self.detail, self.status),
        }
    }
}
