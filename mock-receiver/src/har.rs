//! Captures as an HTTP archive (HAR 1.2), for the tools that read such.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{Capture, capture::Record};

/// The archive. Of the answers it has what a capture has: the status.
pub(crate) fn har(captures: &[Capture]) -> Value {
    let entries: Vec<Value> = captures.iter().map(|capture| entry(capture)).collect();
    json!({ "log": {
        "version": "1.2",
        "creator": { "name": "mock-receiver", "version": env!("CARGO_PKG_VERSION") },
        "entries": entries,
    } })
}

fn entry(record: &Record) -> Value {
    let host = record.header("host").unwrap_or("unknown");
    let query = record.query.as_deref();
    let target = query.map_or_else(String::new, |query| format!("?{query}"));
    let pairs: Vec<Value> = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    let headers: Vec<Value> = record
        .headers
        .to_pairs()
        .into_iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    let millis = record.duration.as_micros() as f64 / 1000.0;
    let mut request = json!({
        "method": record.method,
        "url": format!("http://{host}{}{target}", record.path),
        "httpVersion": record.version,
        "headers": headers,
        "queryString": pairs,
        "cookies": [],
        "headersSize": record.head().len(),
        "bodySize": record.body_bytes,
    });
    if !record.body.is_empty() {
        let mime = record.header("content-type").unwrap_or("application/octet-stream");
        request["postData"] = match record.text() {
            Some(text) => json!({ "mimeType": mime, "text": text }),
            // Not in the format, but what its writers agree on for bytes.
            None => json!({
                "mimeType": mime, "text": STANDARD.encode(&record.body), "encoding": "base64",
            }),
        };
    }
    json!({
        "startedDateTime": format!("{:.3}", record.at),
        "time": millis,
        "request": request,
        "response": {
            // 0 is the format's way to say that there was no answer.
            "status": record.status.unwrap_or(0),
            "statusText": "",
            "httpVersion": record.version,
            "headers": [],
            "cookies": [],
            "content": { "size": 0, "mimeType": "" },
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": -1,
        },
        "cache": {},
        "timings": { "send": 0, "wait": millis, "receive": 0 },
        "connection": record.connection.to_string(),
        "_seq": record.seq,
        "_bin": &*record.bin,
    })
}
