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
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(status(&receiver, "/a", "").await, 200);
    assert_eq!(status(&receiver, "/a", "").await, 429);
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
