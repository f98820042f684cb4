//! Deliveries, checks, differences and exports.

use std::time::Duration;

use mock_receiver::{ErrorKind, Key, Matcher, Receiver, Response, diff};
use serde_json::{Value, json};

use crate::support::{call, post};

async fn send(receiver: &Receiver, id: &str, body: &str) {
    post(receiver, "/a", &format!("Webhook-Id: {id}\r\n"), body).await;
}

#[tokio::test]
async fn requests_are_grouped_into_deliveries() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("a").respond([500, 200, 503, 200, 200, 200]);
    for (id, body) in [("1", "x"), ("2", "y"), ("1", "x"), ("1", "x"), ("3", "z"), ("2", "changed")]
    {
        send(&receiver, id, body).await;
    }
    post(&receiver, "/a", "", "no id").await;
    let deliveries = receiver.deliveries("a", &Key::Known);
    let facts: Vec<_> = deliveries
        .list
        .iter()
        .map(|one| {
            let seqs: Vec<_> = one.attempts.iter().map(|attempt| attempt.seq).collect();
            let late = one.after_success().len();
            (one.id.as_str(), seqs, one.successes(), late, one.out_of_order, one.is_stable())
        })
        .collect();
    assert_eq!(
        facts,
        [
            ("1", vec![1, 3, 4], 1, 0, true, true),
            ("2", vec![2, 6], 2, 1, false, false),
            ("3", vec![5], 1, 0, false, true),
        ]
    );
    assert_eq!(deliveries.keyless.iter().map(|one| one.seq).collect::<Vec<_>>(), [7]);

    let document =
        call(&receiver, "GET", "deliveries?bin=a&schedule=1h&tolerance=0.1", "").await.json();
    assert_eq!(document["without_id"], json!([7]));
    let one = &document["deliveries"][0];
    assert_eq!(
        (&one["id"], &one["successes"], &one["duplicates"], &one["out_of_order"]),
        (&json!("1"), &json!(1), &json!(0), &json!(true))
    );
    assert_eq!(one["attempts"][0]["gap_ms"], Value::Null);
    assert!(one["attempts"][1]["gap_ms"].as_u64().unwrap() < 10_000);
    assert_eq!(document["deliveries"][1]["attempts"][1]["after_success"], true);
    let misses = one["schedule_misses"].as_array().unwrap();
    assert!(misses[0].as_str().unwrap().contains("expected 3600s"), "{misses:?}");
    assert!(misses[1].as_str().unwrap().contains("the schedule ends"), "{misses:?}");
}

#[tokio::test]
async fn the_id_is_found_where_senders_put_it() {
    let receiver = Receiver::start().await.unwrap();
    for (headers, body, key, id) in [
        ("X-GitHub-Delivery: g1\r\n", "{}", Key::Known, Some("g1")),
        ("svix-id: s1\r\n", "{}", Key::Known, Some("s1")),
        ("ce-id: c1\r\n", "{}", Key::Known, Some("c1")),
        ("", r#"{"specversion":"1.0","id":"c2"}"#, Key::Known, Some("c2")),
        ("", r#"{"object":"event","id":"evt_1"}"#, Key::Known, Some("evt_1")),
        ("", r#"{"id":"not one of these"}"#, Key::Known, None),
        ("X-A: 5\r\n", "", Key::parse("x-a").unwrap(), Some("5")),
        ("", r#"{"data":{"n":7}}"#, Key::parse("/data/n").unwrap(), Some("7")),
        ("", r#"{"data":{"n":[7]}}"#, Key::parse("/data/n").unwrap(), None),
    ] {
        post(&receiver, "/a", headers, body).await;
        let last = receiver.requests("a").pop().unwrap();
        assert_eq!(key.of(&last).as_deref(), id, "{headers}{body}");
    }
    assert_eq!(Key::parse("").unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn checks_hold_or_say_who_offends() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("a").respond([503, 200]);
    let began = std::time::Instant::now();
    send(&receiver, "1", r#"{"n":9}"#).await;
    // tidy: allow(sleep): the gap between two attempts is what is measured
    tokio::time::sleep(Duration::from_millis(300)).await;
    send(&receiver, "1", r#"{"n":9}"#).await;
    let gap = began.elapsed();
    send(&receiver, "2", r#"{"n":10}"#).await;

    let check = || receiver.check("a");
    assert_eq!(check().exactly_once().unwrap(), 2);
    check().ordered_by("/n").unwrap();
    check().backoff(&[gap], 0.5).unwrap();
    check().none_within(Duration::from_millis(20)).await.unwrap();

    let error = check().backoff(&[Duration::from_secs(60)], 0.1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unmet);
    let text = error.to_string();
    assert!(text.contains("1 offences in 3 requests") && text.contains("expected 60s"), "{text}");
    let text = check().backoff(&[], 0.1).unwrap_err().to_string();
    assert!(text.contains("the schedule ends with attempt 1"), "{text}");

    send(&receiver, "2", r#"{"n":8}"#).await;
    let text = check().ordered_by("/n").unwrap_err().to_string();
    assert!(text.contains(r#""8" (#4) came behind "10" (#3)"#), "{text}");
    let text = check().exactly_once().unwrap_err().to_string();
    assert!(text.contains(r#"taken over 2 times: "2": #3 → 200, +"#), "{text}");
    let only = Matcher::new().json(json!({ "n": 9 }));
    check().matching(only).exactly_once().unwrap();
    receiver.on("a").respond(Response::status(503));
    send(&receiver, "3", "{}").await;
    let text = check().exactly_once().unwrap_err().to_string();
    assert!(text.contains(r#"never taken over: "3": #5 → 503"#), "{text}");

    let calm = check();
    let (quiet, ()) = tokio::join!(calm.none_within(Duration::from_secs(5)), async {
        send(&receiver, "4", "{}").await;
    });
    assert!(quiet.unwrap_err().to_string().contains("#6 POST /a"));
    let text = check().signed_with("whsec_AAAA").unwrap_err().to_string();
    assert!(text.contains("6 offences") && !text.contains("AAAA"), "{text}");
}

#[tokio::test]
async fn a_failed_check_leaves_a_report() {
    let receiver = Receiver::start().await.unwrap();
    send(&receiver, "<script>1", r#"{"a":"</pre><script>alert(1)</script>"}"#).await;
    send(&receiver, "<script>1", r#"{"a":"other"}"#).await;
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("a report");
    let _ = std::fs::remove_dir_all(&folder);
    let text = receiver.check("a").report(&folder).exactly_once().unwrap_err().to_string();
    assert!(text.ends_with("a.html") && text.contains("\nreport: "), "{text}");
    let page = std::fs::read_to_string(folder.join("a.html")).unwrap();
    assert!(!page.contains("<script"), "what was sent is not run");
    for part in ["taken over 2 times", "json/a", "Timeline", "#1", "POST /a HTTP/1.1"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let har: Value = serde_json::from_slice(&std::fs::read(folder.join("a.har")).unwrap()).unwrap();
    assert_eq!(har["log"]["entries"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn two_captures_are_compared() {
    let receiver = Receiver::start().await.unwrap();
    for (target, headers, body) in [
        ("/a?x=1&y=2", "X-A: 1\r\n", r#"{"n":1,"m":{"l":[1,2]},"big":18446744073709551616}"#),
        ("/a?x=1&y=2", "X-A: 1\r\n", r#"{"n":1,"m":{"l":[1,2]},"big":18446744073709551616}"#),
        ("/a?y=2&x=3", "x-a: 1\r\n", r#"{"m":{"l":[1,2]},"n":1,"big":18446744073709551616}"#),
        ("/a", "X-B: 1\r\n", r#"{"n":2,"m":{"l":[1]},"big":18446744073709551617,"o":null}"#),
        ("/a", "", "plain"),
    ] {
        post(&receiver, target, headers, body).await;
    }
    let all = receiver.requests("a");
    let fields = |a: usize, b: usize| -> Vec<String> {
        diff(&all[a], &all[b]).differences.iter().map(|one| one.field.clone()).collect()
    };
    let same = diff(&all[0], &all[1]);
    assert!(same.identical && same.differences.is_empty(), "{same}");
    assert_eq!(fields(0, 2), ["query.x", "headers", "body"]);
    let printed = diff(&all[0], &all[2]);
    assert_eq!((printed.json_equal, printed.first_byte), (Some(true), Some(2)));
    assert_eq!(
        fields(0, 3),
        [
            "query.x",
            "query.y",
            "headers.content-length",
            "headers.x-a",
            "headers.x-b",
            "json/m/l/1",
            "json/n",
            "json/o"
        ]
    );
    assert_eq!(diff(&all[0], &all[4]).json_equal, None);

    let answer = call(&receiver, "GET", "diff?a=1&b=3", "").await.json();
    assert_eq!(answer["differences"][0], json!({ "field": "query.x", "a": "1", "b": "3" }));
    let account = answer["account"].as_str().unwrap();
    assert!(account.contains("the same JSON, printed differently"), "{account}");
}

#[tokio::test]
async fn an_archive_holds_what_was_sent() {
    let receiver = Receiver::start().await.unwrap();
    post(&receiver, "/a/p?q=1%202", "Content-Type: text/plain\r\n", "é").await;
    post(&receiver, "/b", "", "").await;
    let har = call(&receiver, "GET", "export.har?bin=a", "").await.json();
    let entries = har["log"]["entries"].as_array().unwrap();
    let request = &entries[0]["request"];
    assert_eq!((entries.len(), &har["log"]["version"]), (1, &json!("1.2")));
    assert_eq!(request["url"], "http://a/a/p?q=1%202");
    assert_eq!(request["queryString"], json!([{ "name": "q", "value": "1 2" }]));
    assert_eq!(request["postData"], json!({ "mimeType": "text/plain", "text": "é" }));
    assert_eq!(entries[0]["response"]["status"], 200);
    let har = call(&receiver, "GET", "export.har?filter=path:/b", "").await.json();
    assert_eq!(har["log"]["entries"][0]["_seq"], 2);
}

#[tokio::test]
async fn the_api_makes_the_checks_and_names_mistakes() {
    let receiver = Receiver::start().await.unwrap();
    send(&receiver, "1", r#"{"n":2}"#).await;
    let held = call(
        &receiver,
        "POST",
        "assert",
        r#"{"bin":"a","exactly_once":true,"ordered_by":"/n","backoff":{"schedule_ms":[5]},"none_within_ms":10}"#,
    )
    .await;
    let expect = json!({ "held": ["exactly_once", "ordered_by", "backoff", "none_within"] });
    assert_eq!((held.status, held.json()), (200, expect));
    send(&receiver, "1", r#"{"n":1}"#).await;
    let call_with = |body: &'static str| call(&receiver, "POST", "assert", body);
    let missed = call_with(r#"{"bin":"a","ordered_by":"/n","report":true}"#).await;
    assert_eq!(missed.status, 409);
    let document = missed.json();
    assert!(document["account"].as_str().unwrap().contains("came behind"), "{document}");
    assert!(document["html"].as_str().unwrap().starts_with("<!doctype html>"));
    assert_eq!(document["har"]["log"]["entries"].as_array().unwrap().len(), 2);
    let missed =
        call_with(r#"{"bin":"a","match":{"json":{"n":1}},"key":"x-none","exactly_once":true}"#);
    assert!(missed.await.detail().contains("1 offences in 1 requests"));
    for (method, path, body, status, named) in [
        ("POST", "assert", r#"{"bin":"a"}"#, 400, "exactly_once"),
        ("POST", "assert", r#"{"bin":"a","exactlyonce":true}"#, 400, "exactlyonce"),
        ("POST", "assert", r#"{"bin":"a","none_within_ms":600001}"#, 400, "600000"),
        ("POST", "assert", r#"{"bin":"a","signed_with":""}"#, 400, "4096"),
        ("GET", "assert", "", 405, "POST"),
        ("GET", "deliveries", "", 400, "bin"),
        ("GET", "deliveries?bin=a&schedule=5", "", 400, "5s,5m"),
        ("GET", "deliveries?bin=a&tolerance=-1", "", 400, "tolerance"),
        ("GET", "deliveries?bin=a&kye=x", "", 400, "kye"),
        ("GET", "diff?a=1", "", 400, "b=SEQ"),
        ("GET", "diff?a=1&b=99", "", 404, "99"),
        ("POST", "diff", "", 405, "GET"),
        ("GET", "export.har?seq=1", "", 400, "seq"),
    ] {
        let answer = call(&receiver, method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}");
        assert!(answer.detail().contains(named), "{method} {path}: {}", answer.detail());
    }
}
