//! Rules: which answer for which request.

use std::time::Duration;

use mock_receiver::{Delay, Matcher, Receiver, Response, Rule, Scenario};
use serde_json::json;

use crate::support::{call, post};

async fn status(receiver: &Receiver, target: &str, body: &str) -> u16 {
    post(receiver, target, "", body).await[9..12].parse().expect("a status")
}

#[tokio::test]
async fn the_first_rule_that_matches_answers_by_priority_and_order() {
    let receiver = Receiver::start().await.unwrap();
    let orders = Matcher::new().path("/a/orders/{id}");
    receiver.on("a").scenario(
        Scenario::new()
            .rule(Rule::when(Matcher::new().text("refund")).respond(402))
            .rule(Rule::when(orders.clone().query("dry", "1")).respond(202))
            .rule(Rule::when(orders.clone()).respond([500, 201]))
            .rule(Rule::when(Matcher::new().pointer("/data/n", 3)).respond(203))
            .rule(Rule::when(Matcher::new().method("POST")).and(|r| r.body == "odd").respond(409))
            .rule(Rule::when(orders.event("urgent")).priority(5).respond(299).times(1)),
    );
    for (target, body, expect) in [
        ("/a/orders/1", "", 500),
        ("/a/orders/2", "", 201),
        ("/a/orders/2?dry=1", "", 202),
        ("/a/orders/2?dry=1", "a refund", 402),
        ("/a/orders/2", r#"{"event":"urgent"}"#, 299),
        ("/a/orders/2", r#"{"event":"urgent"}"#, 201),
        ("/a/orders/2/lines", r#"{"data":{"n":3}}"#, 203),
        ("/a/orders/2/lines", r#"{"data":{"n":4}}"#, 200),
        ("/a/x", "odd", 409),
        ("/a/x", "even", 200),
    ] {
        assert_eq!(status(&receiver, target, body).await, expect, "{target} {body}");
    }
}

#[tokio::test]
async fn chance_follows_the_seed() {
    let receiver = Receiver::start().await.unwrap();
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let rule = Rule::any().weighted([(3, 200), (1, 503)]);
        receiver.on("a").scenario(Scenario::new().seed(seed).rule(rule));
        let mut run = Vec::new();
        for _ in 0..60 {
            run.push(status(&receiver, "/a", "").await);
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    let failures = runs[0].iter().filter(|&&status| status == 503).count();
    assert!((5..30).contains(&failures), "{failures}");
}

#[tokio::test]
async fn a_rate_is_kept_with_429_and_a_wait_that_helps() {
    let receiver = Receiver::start().await.unwrap();
    let rule = Rule::any().rate(2, Duration::from_secs(2));
    receiver.on("a").scenario(Scenario::new().rule(rule));
    assert_eq!(status(&receiver, "/a", "").await, 200);
    assert_eq!(status(&receiver, "/a", "").await, 200);
    let answer = post(&receiver, "/a", "", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after: 1\r\n"),
        "{answer}"
    );
    let began = std::time::Instant::now();
    while status(&receiver, "/a", "").await == 429 {
        assert!(began.elapsed() < Duration::from_secs(2), "never let in again");
    }
    assert!(began.elapsed() > Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_template_is_filled_from_the_request() {
    let receiver = Receiver::start().await.unwrap();
    let text = "{{request.method}} {{param.id}} {{request.json./data/n}} {{request.json./name}} \
        {{request.query.q}} {{request.header.x-a}}{{request.header.none}} {{request.body}}";
    let rule =
        Rule::when(Matcher::new().path("/a/{id}")).respond(Response::status(200).template(text));
    receiver.on("a").scenario(Scenario::new().rule(rule));
    let body = r#"{"data":{"n":30},"name":"m"}"#;
    let answer = post(&receiver, "/a/17?q=x%20y", "X-A: v\r\n", body).await;
    let expect = format!("POST 17 30 m x y v {body}");
    assert!(answer.ends_with(&format!("\r\n\r\n{expect}")), "{answer}");
}

#[tokio::test]
async fn a_scenario_goes_in_and_comes_out_over_the_api() {
    let receiver = Receiver::start().await.unwrap();
    let scenario = json!({ "seed": 3, "rules": [
        { "name": "limited", "match": { "method": "PUT" }, "answers": [200], "priority": 1,
          "times": 9, "rate": { "limit": 5, "per_ms": 1000 } },
        { "answers": [
            { "status": 500, "weight": 1, "delay": { "kind": "uniform", "min_ms": 0, "max_ms": 1 } },
            { "template": "{{request.path}}", "weight": 2, "fault": { "kind": "truncate_body", "after_bytes": 1 } },
        ] },
        { "answers": [{ "retry_after": { "secs": 5, "as": "date" } }, { "body_base64": "/w==" }, { "hang": true }] },
    ] });
    let set = call(&receiver, "PUT", "bins/a", &json!({ "scenario": scenario }).to_string()).await;
    assert_eq!(set.status, 200, "{}", String::from_utf8_lossy(&set.body));
    let shown = set.json();
    assert_eq!(shown["answers"], json!(null), "it is more than a sequence");
    let shown = &shown["scenario"];
    assert_eq!(shown["rules"][0]["rate"], json!({ "limit": 5, "per_ms": 1000 }));
    assert_eq!(shown["rules"][1]["answers"][1]["template"], "{{request.path}}");
    assert_eq!(shown["rules"][2]["answers"][0]["status"], 429);
    let again = call(&receiver, "PUT", "bins/b", &json!({ "scenario": shown }).to_string()).await;
    assert_eq!(&again.json()["scenario"], shown, "what is shown can be set");

    for (wrong, named) in [
        (json!({ "rules": [{}] }), "scenario.rules[0].exactly one"),
        (json!({ "rules": [{ "answers": [{ "weight": 1 }, 200] }] }), "answers[1].weight"),
        (json!({ "rules": [{ "answers": [{ "weight": 0 }] }] }), "above 0"),
        (json!({ "rules": [{ "answer": 99 }] }), "rules[0].answer.status: 99"),
        (json!({ "rules": [{ "answer": { "template": "{{nope}}" } }] }), "nope"),
        (json!({ "rules": [{ "answer": { "body": "a", "template": "b" } }] }), "only one of body"),
        (
            json!({ "rules": [{ "answer": 200, "rate": { "limit": 0, "per_ms": 1 } }] }),
            "rate: limit",
        ),
        (
            json!({ "rules": [{ "answer": { "delay": { "kind": "pareto", "min_ms": 1.0, "shape": 0.0 } } }] }),
            "delay.shape",
        ),
        (
            json!({ "rules": [{ "answer": { "fault": { "kind": "drip_body", "bytes": 0, "every_ms": 1 } } }] }),
            "fault.bytes",
        ),
        (json!({ "rules": [{ "answer": { "fault": { "kind": "nope" } } }] }), "nope"),
        (json!({ "rules": [{ "answer": 200, "macth": {} }] }), "macth"),
    ] {
        let body = json!({ "scenario": wrong }).to_string();
        let answer = call(&receiver, "PUT", "bins/a", &body).await;
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(answer.detail().contains(named), "{wrong}: {}", answer.detail());
    }
}

#[tokio::test]
async fn delays_are_waited() {
    let receiver = Receiver::start().await.unwrap();
    receiver
        .on("a")
        .respond(Response::status(200).delay(Delay::Uniform { min_ms: 80, max_ms: 90 }));
    let began = std::time::Instant::now();
    assert_eq!(status(&receiver, "/a", "").await, 200);
    assert!(began.elapsed() >= Duration::from_millis(80), "{:?}", began.elapsed());
}

/// One language: the same scenario as TOML, YAML and JSON, read from a file.
#[tokio::test]
async fn files_say_what_bins_answer_in_three_notations() {
    let toml = r#"
[bins.a]
notes = "fails twice"
seed = 4
[[bins.a.rules]]
match = { method = "POST", path = "/a/{id}" }
answers = [500, { status = 503, headers = { "x-n" = ["1", "2"] } }, 201]
times = 3
[bins.b]
answer = 204
fault = { kind = "close_out", after_bytes = 0 }
"#;
    let yaml = r#"
bins:
  a:
    notes: fails twice
    seed: 4
    rules:
      - match: { method: POST, path: "/a/{id}" }
        answers: [500, { status: 503, headers: { x-n: ["1", "2"] } }, 201]
        times: 3
  b:
    answer: 204
    fault: { kind: close_out, after_bytes: 0 }
"#;
    let rule = json!({
        "match": { "method": "POST", "path": "/a/{id}" },
        "answers": [500, { "status": 503, "headers": { "x-n": ["1", "2"] } }, 201],
        "times": 3,
    });
    let json = json!({ "bins": {
        "a": { "notes": "fails twice", "seed": 4, "rules": [rule] },
        "b": { "answer": 204, "fault": { "kind": "close_out", "after_bytes": 0 } },
    } });
    let dir = std::env::temp_dir().join(format!("mock-receiver-scenario-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mut shown = Vec::new();
    for (name, text) in [("s.toml", toml), ("s.yaml", yaml), ("s.json", &json.to_string())] {
        std::fs::write(dir.join(name), text).unwrap();
        let receiver = Receiver::builder().scenario_file(dir.join(name)).start().await.unwrap();
        let bin = call(&receiver, "GET", "bins/a", "").await.json();
        shown.push((bin["scenario"].clone(), bin["notes"].clone()));
        for expect in [500, 503, 201, 200] {
            assert_eq!(status(&receiver, "/a/7", "").await, expect, "{name}");
        }
        assert_eq!(post(&receiver, "/b", "", "").await, "", "{name}");
    }
    assert!(shown[0] == shown[1] && shown[1] == shown[2], "{shown:?}");
    assert_eq!(shown[0].1, "fails twice");
    for (name, text, named) in [
        ("w.toml", "[bins.a]\nanswer = 99", "w.toml: bins.a: answer.status: 99"),
        ("w.yaml", "bins: { a: { answr: 1 } }", "answr"),
        ("w.json", "{\"bins\":{\"a/b\":{\"answer\":1}}}", "no slash"),
        ("w.txt", "", "must end in .toml"),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
        let error = Receiver::builder().scenario_file(dir.join(name)).start().await.unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn a_capture_becomes_a_scenario_and_a_test() {
    let receiver = Receiver::builder().script("a", [418]).start().await.unwrap();
    post(&receiver, "/a/x?q=1", "", r#"{"event":"match"}"#).await;
    let scenario = call(&receiver, "GET", "requests/1/scenario", "").await.json();
    let set = call(&receiver, "PUT", "bins/a", &json!({ "scenario": scenario }).to_string()).await;
    assert_eq!(set.status, 200, "{}", String::from_utf8_lossy(&set.body));
    assert_eq!(status(&receiver, "/a/x?q=1", r#"{"event":"match"}"#).await, 418);
    assert_eq!(status(&receiver, "/a/x?q=2", r#"{"event":"match"}"#).await, 200);
    let test = call(&receiver, "GET", "requests/1/test", "").await;
    let text = String::from_utf8(test.body).unwrap();
    let matcher = r#"Matcher::new().method("POST").path("/a/x").query("q", "1").event("match")"#;
    assert!(text.contains(matcher) && text.contains("respond(418)"), "{text}");
}

#[tokio::test]
async fn bins_have_notes_and_unguessable_names_on_request() {
    let receiver = Receiver::start().await.unwrap();
    let made = call(&receiver, "POST", "bins", "").await;
    let bin = made.json()["bin"].as_str().unwrap().to_owned();
    assert_eq!((made.status, bin.len()), (201, 22));
    assert_ne!(call(&receiver, "POST", "bins", "").await.json()["bin"], json!(bin));
    let path = format!("bins/{bin}");
    let noted = call(&receiver, "PUT", &path, r#"{"notes":"from staging"}"#).await;
    assert_eq!(noted.json()["notes"], "from staging");
    let none = call(&receiver, "PUT", &path, r#"{"notes":null}"#).await;
    assert_eq!(none.json()["notes"], json!(null));
    let long = json!({ "notes": "x".repeat(4097) }).to_string();
    let long = call(&receiver, "PUT", &path, &long).await;
    assert!(long.detail().contains("at most 4096"), "{}", long.detail());
}
