//! The admin API: who may use it, and what its calls do.

use std::time::Duration;

use mock_receiver::Receiver;
use serde_json::{Value, json};

use crate::support::{call, call_as, post};

#[tokio::test]
async fn only_the_token_opens_it() {
    let receiver = Receiver::start().await.unwrap();
    let token = receiver.token().to_owned();
    assert!(token.len() >= 32, "unguessable: {token}");
    assert_ne!(Receiver::start().await.unwrap().token(), token);
    let most = &token[..token.len() - 1];
    for wrong in [
        String::new(),
        "Authorization: Bearer\r\n".into(),
        "Authorization: Bearer \r\n".into(),
        format!("Authorization: {token}\r\n"),
        format!("Authorization: Basic {token}\r\n"),
        format!("Authorization: Bearer {most}\r\n"),
        format!("Authorization: Bearer {most}!\r\n"),
        format!("Authorization: Bearer {token}x\r\n"),
        format!("X-Token: {token}\r\n"),
    ] {
        for (method, path) in
            [("GET", "requests"), ("DELETE", "requests"), ("PUT", "bins/a"), ("GET", "x")]
        {
            let answer = call_as(&receiver, method, path, "", "localhost", &wrong).await;
            assert_eq!(answer.status, 401, "{wrong:?}");
            assert!(answer.head.contains("www-authenticate: Bearer\r\n"), "{}", answer.head);
            assert!(!answer.detail().contains(&token));
        }
    }
    let right = format!("authorization: bearer {token}\r\n");
    assert_eq!(call_as(&receiver, "GET", "requests", "", "localhost", &right).await.status, 200);
}

/// DNS rebinding: a page of another site, whose name was made to point here.
#[tokio::test]
async fn another_sites_name_is_refused_even_with_the_token() {
    let receiver = Receiver::start().await.unwrap();
    let token = format!("Authorization: Bearer {}\r\n", receiver.token());
    for host in ["evil.example", "127.0.0.1.evil.example:4011", "192.0.2.1", ""] {
        let answer = call_as(&receiver, "GET", "requests", "", host, &token).await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(answer.detail().contains("Host"));
    }
    for host in ["localhost:1", "127.0.0.1", "[::1]:4011"] {
        assert_eq!(
            call_as(&receiver, "GET", "requests", "", host, &token).await.status,
            200,
            "{host}"
        );
    }
}

#[tokio::test]
async fn a_listing_goes_on_where_it_stopped() {
    let receiver = Receiver::start().await.unwrap();
    for at in 0..7 {
        let body =
            format!(r#"{{"event":"{}","n":{at}}}"#, if at == 3 { "upload" } else { "match" });
        post(&receiver, if at < 6 { "/a/x" } else { "/b" }, "", &body).await;
    }
    let mut seqs = Vec::new();
    let mut after = json!(0);
    while !after.is_null() {
        let page = call(&receiver, "GET", &format!("requests?bin=a&limit=4&after={after}"), "")
            .await
            .json();
        seqs.extend(
            page["requests"].as_array().unwrap().iter().map(|one| one["seq"].as_u64().unwrap()),
        );
        after = page["next"].clone();
    }
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);

    for (filter, expect) in [
        ("event:match%20path:/a", vec![1, 2, 3, 5, 6]),
        ("-event:match", vec![4]),
        ("body:%22%5C%22n%5C%22:1%22", vec![]),
        ("body:upload", vec![4]),
        ("/b", vec![7]),
        ("method:post%20-path:/a", vec![7]),
        ("status:2xx%20-header:x-none%20header:Host=a%20upload", vec![4]),
        ("status:500", vec![]),
    ] {
        let page = call(&receiver, "GET", &format!("requests?filter={filter}"), "").await.json();
        let seqs: Vec<_> =
            page["requests"].as_array().unwrap().iter().map(|one| one["seq"].clone()).collect();
        assert_eq!(seqs, expect, "{filter}");
        assert_eq!(page["total"], 7);
    }
    let page =
        call(&receiver, "GET", "requests?filter=event:match&limit=2&after=1", "").await.json();
    assert_eq!((&page["next"], page["requests"].as_array().unwrap().len()), (&json!(3), 2));
    let one = &page["requests"][0];
    assert_eq!(
        (&one["event"], &one["bin"], &one["status"]),
        (&json!("match"), &json!("a"), &json!(200))
    );
    let at = one["received_at"].as_str().unwrap();
    assert!(at.len() == 24 && at.ends_with('Z'), "{at}");

    assert_eq!(
        call(&receiver, "DELETE", "requests?bin=a", "").await.json(),
        json!({ "deleted": 6 })
    );
    let left = call(&receiver, "GET", "requests", "").await.json();
    assert_eq!(
        (&left["total"], &left["evicted"], &left["requests"][0]["seq"]),
        (&json!(1), &json!(0), &json!(7))
    );
    assert_eq!(call(&receiver, "DELETE", "requests", "").await.json(), json!({ "deleted": 1 }));
    post(&receiver, "/a", "", "").await;
    assert_eq!(receiver.requests("a")[0].seq, 8, "numbers are not given twice");
}

#[tokio::test]
async fn wait_answers_when_met_and_explains_when_not() {
    let receiver = Receiver::start().await.unwrap();
    post(&receiver, "/a", "", r#"{"event":"match","data":{"n":1}}"#).await;
    let body =
        r#"{"bin":"a","count":2,"timeout_ms":10000,"match":{"event":"match","json":{"data":{}}}}"#;
    let (answer, _) = tokio::join!(call(&receiver, "POST", "wait", body), async {
        // tidy: allow(sleep): the wait must be under way before the request that meets it
        tokio::time::sleep(Duration::from_millis(50)).await;
        post(&receiver, "/a", "", r#"{"event":"match","data":{"n":2}}"#).await
    });
    assert_eq!((answer.status, &answer.json()["matched"]), (200, &json!(2)));
    assert_eq!(answer.json()["requests"][1]["seq"], 2);

    let body = r#"{"bin":"a","timeout_ms":50,"match":{"event":"match","headers":{"X-A":"1"},"json":{"data":{"n":2}}}}"#;
    let answer = call(&receiver, "POST", "wait", body).await;
    assert_eq!(answer.status, 408);
    assert!(answer.detail().contains("0 of the 1 requests"), "{}", answer.detail());
    let miss = answer.json();
    assert_eq!(
        (&miss["received"], &miss["matched"], &miss["wanted"]),
        (&json!(2), &json!(0), &json!(1))
    );
    assert_eq!(miss["nearest"]["request"]["seq"], 2);
    assert_eq!(
        miss["nearest"]["mismatches"],
        json!([{ "field": "headers.x-a", "expected": "1", "found": null }])
    );
    let nothing = call(&receiver, "POST", "wait", r#"{"bin":"never","timeout_ms":1}"#).await.json();
    assert_eq!((&nothing["nearest"], &nothing["received"]), (&Value::Null, &json!(0)));
}

#[tokio::test]
async fn mistakes_are_named() {
    let receiver = Receiver::start().await.unwrap();
    post(&receiver, "/a", "", "").await;
    for (method, path, body, status, named) in [
        ("GET", "requests?bn=a", "", 400, "\"bn\""),
        ("GET", "requests?limit=0", "", 400, "limit must be a number from 1 to 1000"),
        ("GET", "requests?limit=1001", "", 400, "1000"),
        ("GET", "requests?after=-1", "", 400, "after"),
        ("GET", "requests?filter=colour:red", "", 400, "\"colour\""),
        ("GET", "requests?filter=body:%22open", "", 400, "open"),
        ("GET", "requests?filter=status:often", "", 400, "often"),
        ("GET", "requests?filter=event:", "", 400, "event"),
        ("GET", "requests/zero", "", 400, "zero"),
        ("GET", "requests/99", "", 404, "99"),
        ("GET", "requests/1?bin=a", "", 400, "bin"),
        ("GET", "requests/1/head", "", 404, "/api/v1/requests/1/head"),
        ("DELETE", "requests?filter=x", "", 400, "filter"),
        ("POST", "requests", "", 405, "GET, DELETE"),
        ("POST", "bins/a", "", 405, "PUT"),
        ("GET", "wait", "", 405, "POST"),
        ("POST", "wait", r#"{"count":1}"#, 400, "bin"),
        ("POST", "wait", r#"{"bin":"a","matches":{}}"#, 400, "matches"),
        ("POST", "wait", r#"{"bin":"a","match":{"header":{}}}"#, 400, "header"),
        ("POST", "wait", r#"{"bin":"a","count":0}"#, 400, "count"),
        ("POST", "wait", r#"{"bin":"a","timeout_ms":600001}"#, 400, "600000"),
        ("PUT", &format!("bins/{}", "b".repeat(129)), "{}", 400, "128"),
    ] {
        let answer = call(&receiver, method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}");
        assert!(answer.detail().contains(named), "{method} {path} {body}: {}", answer.detail());
    }
    let large = call(&receiver, "POST", "wait", &" ".repeat((1 << 20) + 1)).await;
    assert_eq!(large.status, 413);
}
