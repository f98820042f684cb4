//! From a capture to a rule, and to a test in Rust that asks for the same.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::capture::Record;

/// A scenario that answers requests like this one as this one was answered.
pub(crate) fn scenario(record: &Record) -> Value {
    let mut matcher = json!({ "method": record.method, "path": record.path });
    if let Some(query) = &record.query {
        let pairs = form_urlencoded::parse(query.as_bytes()).into_owned();
        matcher["query"] = pairs.map(|(name, value)| (name, Value::from(value))).collect();
    }
    if let Some(event) = record.event() {
        matcher["event"] = event.into();
    }
    let answer = record.status.map_or_else(|| json!({ "hang": true }), |status| json!(status));
    let name = format!("as request {}", record.seq);
    json!({ "seed": 0, "rules": [{ "name": name, "match": matcher, "answers": [answer] }] })
}

/// A test in Rust that waits for a request like this one.
pub(crate) fn test(record: &Record) -> String {
    let Record { bin, method, path, .. } = record;
    let bin: &str = bin;
    let mut matcher = format!("Matcher::new().method({method:?}).path({path:?})");
    if let Some(query) = &record.query {
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let _ = write!(matcher, ".query({name:?}, {value:?})"); // A string cannot fail.
        }
    }
    if let Some(event) = record.event() {
        let _ = write!(matcher, ".event({:?})", &*event);
    }
    let answer =
        record.status.map_or_else(|| "Response::hang()".to_owned(), |code| code.to_string());
    let name: String =
        bin.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!(
        "use std::time::Duration;\n\n\
        use mock_receiver::{{Matcher, Receiver, Response}};\n\n\
        #[tokio::test]\n\
        async fn {name}_receives_it() {{\n    \
            let receiver = Receiver::start().await.unwrap();\n    \
            receiver.on({bin:?}).respond({answer});\n\n    \
            // Here the sender under test sends to receiver.url({bin:?}).\n\n    \
            let wanted = {matcher};\n    \
            let wait = receiver.wait({bin:?}).matching(wanted);\n    \
            let seen = wait.within(Duration::from_secs(5)).await.unwrap();\n    \
            assert_eq!(seen[0].body.len(), {});\n\
        }}\n",
        record.body.len()
    )
}
