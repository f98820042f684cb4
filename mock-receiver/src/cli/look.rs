//! `wait`, `ls` and `show`: questions to a running receiver.

use std::{
    fmt::Write as _,
    io::{self, Write},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Method;
use mock_receiver::Matcher;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{Remote, client::call, printable};

/// How many requests `ls` asks for at once.
const PAGE: usize = 1_000;

#[derive(Deserialize)]
struct Page {
    requests: Vec<Box<RawValue>>,
    #[serde(default)]
    next: Option<u64>,
    #[serde(default)]
    evicted: u64,
}

/// What a line shows of a request.
#[derive(Deserialize)]
struct Row {
    seq: u64,
    received_at: String,
    method: String,
    path: String,
    query: Option<String>,
    status: Option<u16>,
    event: Option<String>,
    body_bytes: u64,
    problem: Option<String>,
}

#[derive(Deserialize)]
struct Shown {
    head_base64: String,
    body: Option<String>,
    body_bytes: u64,
}

#[derive(Deserialize)]
struct Signatures {
    verdict: String,
    secrets: usize,
    account: String,
}

pub(super) async fn wait(
    remote: &Remote,
    bin: &str,
    count: usize,
    timeout: Duration,
    matcher: Option<&Matcher>,
) -> Result<(), String> {
    let millis = timeout.as_millis() as u64;
    let body = json!({ "bin": bin, "count": count, "timeout_ms": millis, "match": matcher.cloned().unwrap_or_default() });
    let path = "/api/v1/wait";
    let page: Page = ask(remote, Method::POST, path, body.to_string(), timeout).await?;
    print(&rows(&page, remote.json)?)
}

pub(super) async fn ls(
    remote: &Remote,
    bin: Option<&str>,
    filter: Option<&str>,
) -> Result<(), String> {
    let mut after = Some(0);
    let mut evicted = 0;
    while let Some(from) = after {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("after", &from.to_string()).append_pair("limit", &PAGE.to_string());
        for (name, value) in [("bin", bin), ("filter", filter)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let path = format!("/api/v1/requests?{}", query.finish());
        let page: Page = ask(remote, Method::GET, &path, String::new(), Duration::ZERO).await?;
        print(&rows(&page, remote.json)?)?;
        (after, evicted) = (page.next, page.evicted);
    }
    if evicted > 0 {
        eprintln!("mock-receiver: {evicted} older requests were dropped to make room");
    }
    Ok(())
}

pub(super) async fn show(remote: &Remote, seq: u64) -> Result<(), String> {
    let path = format!("/api/v1/requests/{seq}");
    if remote.json {
        let document: Box<RawValue> =
            ask(remote, Method::GET, &path, String::new(), Duration::ZERO).await?;
        return print(&format!("{document}\n"));
    }
    let shown: Shown = ask(remote, Method::GET, &path, String::new(), Duration::ZERO).await?;
    let head = STANDARD.decode(&shown.head_base64).map_err(|error| error.to_string())?;
    let head = String::from_utf8_lossy(&head).replace("\r\n", "\n");
    let body = shown.body.unwrap_or_else(|| {
        let bytes = shown.body_bytes;
        format!("({bytes} bytes that are not text; GET {path}/body gives them)")
    });
    let signature = format!("{path}/signature");
    let known: Signatures =
        ask(remote, Method::GET, &signature, String::new(), Duration::ZERO).await?;
    let account = match known.verdict.as_str() {
        "missing" if known.secrets == 0 => String::new(), // Nobody expects one.
        _ => format!("\n{}\n", known.account),
    };
    print(&format!("{}{}\n{}", printable(&head), printable(&body), printable(&account)))
}

pub(super) async fn ask<T: for<'a> Deserialize<'a>>(
    remote: &Remote,
    method: Method,
    path: &str,
    body: String,
    waits: Duration,
) -> Result<T, String> {
    let answer = call(remote, method, path, body, waits).await?;
    let answer = answer.map_err(|refusal| refusal.to_string())?;
    serde_json::from_slice(&answer)
        .map_err(|error| format!("the receiver at {} answered oddly: {error}", remote.admin))
}

fn rows(page: &Page, json: bool) -> Result<String, String> {
    let mut text = String::new();
    for request in &page.requests {
        if json {
            text.push_str(request.get());
        } else {
            let row: Row =
                serde_json::from_str(request.get()).map_err(|error| error.to_string())?;
            let line = row.line();
            text.push_str(&printable(&line));
        }
        text.push('\n');
    }
    Ok(text)
}

impl Row {
    fn line(&self) -> String {
        let status = self.status.map_or_else(|| "---".to_owned(), |status| status.to_string());
        let mut line = format!(
            "#{:<6} {}  {status}  {} {}",
            self.seq, self.received_at, self.method, self.path
        );
        if let Some(query) = &self.query {
            let _ = write!(line, "?{query}"); // Writing to a string cannot fail.
        }
        let _ = write!(line, "  {} B", self.body_bytes);
        for note in [&self.event, &self.problem].into_iter().flatten() {
            let _ = write!(line, "  {}", note.escape_debug());
        }
        line
    }
}

pub(super) fn print(text: &str) -> Result<(), String> {
    print_bytes(text.as_bytes())
}

/// A reader that has seen enough closes the pipe: that is no failure.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}"))
        }
        _ => Ok(()),
    }
}
