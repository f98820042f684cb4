//! `assert`, `deliveries`, `diff` and `export`: further questions to a running receiver.

use std::{fmt::Write as _, path::Path, time::Duration};

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Remote,
    client::call,
    look::{ask, print},
    printable,
};

const NOW: Duration = Duration::ZERO;

/// `GET path`, as a document.
async fn get<T: for<'a> Deserialize<'a>>(remote: &Remote, path: &str) -> Result<T, String> {
    ask(remote, Method::GET, path, String::new(), NOW).await
}

fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

/// Prints a delivery per line: `msg_1: #1 503, +5020 ms #4 200`.
pub(super) async fn deliveries(
    remote: &Remote,
    bin: &str,
    key: Option<&str>,
    schedule: Option<&str>,
) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Page {
        deliveries: Vec<Box<RawValue>>,
        without_id: Vec<u64>,
    }
    #[derive(Deserialize)]
    struct Delivery {
        id: String,
        attempts: Vec<Attempt>,
        duplicates: usize,
        out_of_order: bool,
        body_stable: bool,
        #[serde(default)]
        schedule_misses: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Attempt {
        seq: u64,
        gap_ms: Option<u64>,
        status: Option<u16>,
    }
    let query = query(&[("bin", Some(bin)), ("key", key), ("schedule", schedule)]);
    let page: Page = get(remote, &format!("/api/v1/deliveries?{query}")).await?;
    let mut text = String::new();
    for raw in &page.deliveries {
        if remote.json {
            text.push_str(raw.get());
            text.push('\n');
            continue;
        }
        let one: Delivery = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
        let attempts: Vec<String> = one
            .attempts
            .iter()
            .map(|attempt| {
                let gap = attempt.gap_ms.map_or(String::new(), |gap| format!("+{gap} ms "));
                let status =
                    attempt.status.map_or_else(|| "---".to_owned(), |status| status.to_string());
                format!("{gap}#{} {status}", attempt.seq)
            })
            .collect();
        // Writing to a string cannot fail.
        let _ = write!(text, "{}: {}", one.id.escape_debug(), attempts.join(", "));
        if one.duplicates > 0 {
            let _ = write!(text, "; {} behind its success", one.duplicates);
        }
        for (holds, note) in
            [(one.out_of_order, "; out of order"), (!one.body_stable, "; body changed")]
        {
            text.push_str(if holds { note } else { "" });
        }
        for miss in one.schedule_misses {
            let _ = write!(text, "\n  {miss}");
        }
        text.push('\n');
    }
    print(&printable(&text))?;
    if !page.without_id.is_empty() {
        eprintln!("mock-receiver: {} requests have no id (see --key)", page.without_id.len());
    }
    Ok(())
}

pub(super) async fn diff(remote: &Remote, a: u64, b: u64) -> Result<(), String> {
    let document: Box<RawValue> = get(remote, &format!("/api/v1/diff?a={a}&b={b}")).await?;
    if remote.json {
        return print(&format!("{document}\n"));
    }
    let document: Value =
        serde_json::from_str(document.get()).map_err(|error| error.to_string())?;
    let account = document["account"].as_str().unwrap_or_default();
    print(&printable(&format!("{account}\n")))
}

/// How `export` writes requests.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Format {
    /// An HTTP archive (HAR 1.2)
    Har,
    /// A JSON document per line, as of `show --json`
    Ndjson,
    /// A curl command per request
    Curl,
    /// Heads and bodies as they were sent, one behind the other
    Raw,
}

/// A request, as far as it must be known to be written again.
#[derive(Deserialize)]
struct Exported {
    seq: u64,
    method: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, String)>,
    head_base64: String,
    body: Option<String>,
    body_base64: Option<String>,
}

/// Which requests `export` writes.
pub(super) struct Wanted<'a> {
    pub(super) seqs: &'a [u64],
    pub(super) bin: Option<&'a str>,
    pub(super) filter: Option<&'a str>,
}

pub(super) async fn export(
    remote: &Remote,
    format: Format,
    wanted: Wanted<'_>,
    to: &str,
) -> Result<(), String> {
    let Wanted { seqs, bin, filter } = wanted;
    if matches!(format, Format::Har) {
        if !seqs.is_empty() {
            return Err("har is of a bin or of all: leave out the numbers, or use --filter".into());
        }
        let query = query(&[("bin", bin), ("filter", filter)]);
        let har: Box<RawValue> = get(remote, &format!("/api/v1/export.har?{query}")).await?;
        return print(&format!("{har}\n"));
    }
    let seqs = if seqs.is_empty() { listed(remote, bin, filter).await? } else { seqs.to_vec() };
    for seq in seqs {
        let raw: Box<RawValue> = get(remote, &format!("/api/v1/requests/{seq}")).await?;
        if matches!(format, Format::Ndjson) {
            print(&format!("{raw}\n"))?;
            continue;
        }
        let one: Exported = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
        match format {
            Format::Curl => print(&one.curl(to))?,
            _ => super::look::print_bytes(&one.raw()?)?,
        }
    }
    Ok(())
}

/// The numbers of all that match.
async fn listed(
    remote: &Remote,
    bin: Option<&str>,
    filter: Option<&str>,
) -> Result<Vec<u64>, String> {
    #[derive(Deserialize)]
    struct Page {
        requests: Vec<Row>,
        next: Option<u64>,
    }
    #[derive(Deserialize)]
    struct Row {
        seq: u64,
    }
    let mut seqs = Vec::new();
    let mut after = Some(0);
    while let Some(from) = after {
        let from = from.to_string();
        let query = query(&[
            ("after", Some(&from)),
            ("limit", Some("1000")),
            ("bin", bin),
            ("filter", filter),
        ]);
        let page: Page = get(remote, &format!("/api/v1/requests?{query}")).await?;
        seqs.extend(page.requests.into_iter().map(|row| row.seq));
        after = page.next;
    }
    Ok(seqs)
}

impl Exported {
    fn body(&self) -> Result<Vec<u8>, String> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        match (&self.body, &self.body_base64) {
            (Some(text), _) => Ok(text.clone().into_bytes()),
            (None, Some(text)) => STANDARD.decode(text).map_err(|error| error.to_string()),
            (None, None) => Ok(Vec::new()),
        }
    }

    fn raw(&self) -> Result<Vec<u8>, String> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let head = STANDARD.decode(&self.head_base64).map_err(|error| error.to_string())?;
        Ok([head, self.body()?].concat())
    }

    /// A command for a POSIX shell. curl frames the message itself, so those headers are left out;
    /// a body that is not text is read from the receiver's own copy by name.
    fn curl(&self, to: &str) -> String {
        let query = self.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
        let url = format!("{}{}{query}", to.trim_end_matches('/'), self.path);
        let mut parts =
            vec!["curl --path-as-is --globoff".to_owned(), format!("-X {}", quoted(&self.method))];
        let framing = ["content-length", "transfer-encoding", "connection", "host", "expect"];
        for (name, value) in &self.headers {
            if !framing.contains(&name.to_ascii_lowercase().as_str()) {
                // With a colon and nothing behind it curl would take the header away.
                let line =
                    if value.is_empty() { format!("{name};") } else { format!("{name}: {value}") };
                parts.push(format!("-H {}", quoted(&line)));
            }
        }
        match (&self.body, &self.body_base64) {
            (Some(text), _) if text.is_empty() => {}
            // An @ in front would name a file; --data-raw does not look for one.
            (Some(text), _) => parts.push(format!("--data-raw {}", quoted(text))),
            (None, Some(text)) => {
                parts.insert(0, format!("printf %s {} | base64 -d |", quoted(text)));
                parts.push("--data-binary @-".to_owned());
            }
            (None, None) => {}
        }
        if self.body.as_ref().is_some_and(|text| !text.is_empty()) || self.body_base64.is_some() {
            let typed = |(name, _): &(String, String)| name.eq_ignore_ascii_case("content-type");
            if !self.headers.iter().any(typed) {
                parts.push("-H 'Content-Type:'".to_owned()); // curl would add one of its own.
            }
        }
        parts.push(quoted(&url));
        format!("# request {}\n{}\n", self.seq, parts.join(" "))
    }
}

/// A word of a POSIX shell that stands for exactly this text.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Makes checks; a report is written into `report` where one fails.
pub(super) async fn assert(
    remote: &Remote,
    document: Value,
    waits: Duration,
    report: Option<&Path>,
) -> Result<(), String> {
    let mut document = document;
    document["report"] = json!(report.is_some());
    let answer = call(remote, Method::POST, "/api/v1/assert", document.to_string(), waits).await?;
    let refusal = match answer {
        Ok(body) if remote.json => return print(&format!("{}\n", String::from_utf8_lossy(&body))),
        Ok(_) => return Ok(()),
        Err(refusal) => refusal,
    };
    let mut text = refusal.to_string();
    if let (Some(folder), Some(page), Some(har)) = (report, &refusal.html, &refusal.har) {
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(folder.join("report.html"), page))
            .and_then(|()| std::fs::write(folder.join("report.har"), har.get()));
        let _ = match written {
            Ok(()) => write!(text, "\nreport: {}", folder.join("report.html").display()),
            Err(error) => write!(text, "\nno report in {} (--report): {error}", folder.display()),
        };
    }
    Err(printable(&text))
}
