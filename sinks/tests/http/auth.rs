//! Who we say we are: tokens from files, and tokens that OAuth 2.0 gives out.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider::config::{Config, Format as Text};
use postrider::delivery::{Cause, Outcome};
use postrider::sink::Sink as _;
use postrider_sinks::http::{HttpSettings, HttpSink};
use serde_json::json;
use tokio::task::JoinSet;

use crate::peer::{OK, Peer};
use crate::{DEADLINE, attempt, deliver, delivers, event, refused, settings, sink};

fn with_auth(url: &str, auth: serde_json::Value) -> HttpSettings {
    let mut settings = settings(url);
    settings.auth = serde_json::from_value(auth).unwrap();
    settings
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// A token server that gives out `t1`, `t2`, … and takes a while for each.
async fn token_server(life: u64) -> (Peer, Arc<AtomicUsize>) {
    let given = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&given);
    let peer = Peer::start(move |mut connection| {
        let counter = Arc::clone(&counter);
        async move {
            while connection.request().await.is_some() {
                let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                // tidy: allow(sleep): the time that a token takes
                tokio::time::sleep(Duration::from_millis(50)).await;
                let body = json!({
                    "access_token": format!("t{number}"), "token_type": "bearer", "expires_in": life,
                });
                connection.send(&answer("200 OK", &body.to_string())).await;
            }
        }
    });
    (peer.await, given)
}

/// A receiver that takes only this token.
async fn receiver_of(token: &'static str) -> Peer {
    Peer::start(move |mut connection| async move {
        while let Some(seen) = connection.request().await {
            let is_known = seen.header("authorization") == format!("Bearer {token}");
            connection
                .send(if is_known { OK } else { b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n" })
                .await;
        }
    })
    .await
}

fn oauth(peer: &Peer, tokens: &Peer) -> HttpSink {
    let auth = json!({ "oauth2": {
        "token_url": tokens.url(), "client_id": "id:1", "client_secret": "s e", "scope": "a b",
        "audience": "https://api.example",
    } });
    sink(&with_auth(&peer.url(), auth))
}

#[tokio::test]
async fn a_bearer_token_in_a_file_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "one\n").unwrap();
    let peer = Peer::answering(OK).await;
    let sink = sink(&with_auth(&peer.url(), json!({ "bearer": { "file": &file } })));
    delivers(&sink).await;
    fs::write(&file, "second\n").unwrap();
    // tidy: allow(sleep): the file is looked at once a second
    tokio::time::sleep(Duration::from_millis(1100)).await;
    delivers(&sink).await;
    let sent: Vec<String> =
        peer.seen().iter().map(|seen| seen.header("authorization").to_owned()).collect();
    assert_eq!(sent, ["Bearer one", "Bearer second"]);
}

/// The loader resolves other secrets to their text; the path of this one must get through, relative
/// to the configuration's folder.
#[test]
fn a_file_in_a_configuration_is_relative_to_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), "t\n").unwrap();
    let load = |file: &str| {
        let path = folder.path().join("postrider.toml");
        let text = format!(
            "[[endpoints]]\nname = 'a'\nurl = 'https://a.example'\nauth = {{ bearer = {{ file = '{file}' }} }}\n"
        );
        fs::write(&path, text).unwrap();
        let registry = postrider_sinks::registry();
        let loaded = Config::loader().registry(&registry).file(&path).environment(false).load();
        loaded.map(drop).map_err(|errors| errors.to_string())
    };
    assert_eq!(load("token"), Ok(()));
    let told = load("none").unwrap_err();
    assert!(told.contains("endpoints[0].auth.bearer: cannot read file"), "{told}");
}

#[tokio::test]
async fn many_deliveries_fetch_one_token() {
    let (tokens, given) = token_server(3600).await;
    let peer = receiver_of("t1").await;
    let sink = Arc::new(oauth(&peer, &tokens));
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let sink = Arc::clone(&sink);
        calls.spawn(async move { deliver(&sink).await });
    }
    for outcome in calls.join_all().await {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    assert_eq!(given.load(Ordering::SeqCst), 1);
    let asked = tokens.only();
    // "id%3A1:s+e": each is form-encoded before they are joined (RFC 6749 §2.3.1).
    assert_eq!(asked.header("authorization"), "Basic aWQlM0ExOnMrZQ==");
    assert_eq!(asked.header("content-type"), "application/x-www-form-urlencoded");
    let form = "grant_type=client_credentials&scope=a+b&audience=https%3A%2F%2Fapi.example";
    assert_eq!(String::from_utf8(asked.body).unwrap(), form);
}

#[tokio::test]
async fn a_refused_token_is_fetched_anew_once() {
    let (tokens, given) = token_server(3600).await;
    let peer = receiver_of("t2").await;
    let sink = oauth(&peer, &tokens);
    delivers(&sink).await;
    delivers(&sink).await;
    assert_eq!((given.load(Ordering::SeqCst), peer.seen().len()), (2, 3));

    // Refused for ever: two tries in an attempt, and no more.
    let stubborn = receiver_of("never").await;
    let sink = oauth(&stubborn, &tokens);
    let nack = refused(&sink).await;
    assert_eq!((nack.cause(), stubborn.seen().len()), (Cause::Status, 2), "{nack:?}");
}

#[tokio::test]
async fn a_token_is_not_used_at_its_end() {
    // Of two seconds, the last two tenths are not used.
    let (tokens, given) = token_server(2).await;
    let peer = Peer::answering(OK).await;
    let sink = oauth(&peer, &tokens);
    delivers(&sink).await;
    delivers(&sink).await;
    assert_eq!(given.load(Ordering::SeqCst), 1);
    // tidy: allow(sleep): the token's life
    tokio::time::sleep(Duration::from_millis(1900)).await;
    delivers(&sink).await;
    assert_eq!(given.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_goes_wrong_with_a_token_is_said_without_it() {
    let check = async |reply: Vec<u8>, cause: Cause, words: &str| {
        let tokens = Peer::answering(reply).await;
        let peer = Peer::answering(OK).await;
        let nack = refused(&oauth(&peer, &tokens)).await;
        assert_eq!(nack.cause(), cause, "{nack:?}");
        let start = format!("fetching the OAuth2 token from {}", tokens.url());
        assert!(nack.message().starts_with(start.trim_end_matches('/')), "{nack:?}");
        assert!(nack.message().contains(words), "{words}: {nack:?}");
        assert!(!format!("{nack:?}").contains("sesame"), "{nack:?}");
        assert!(peer.seen().is_empty(), "nothing is sent without a token");
    };
    let refused = answer("401 Unauthorized", r#"{"error":"invalid_client","x":"sesame"}"#);
    check(refused, Cause::Status, "answered 401 Unauthorized, invalid_client").await;
    check(answer("500 No", "sesame"), Cause::Status, "answered 500").await;
    check(answer("200 OK", "sesame"), Cause::Protocol, "holds no access_token").await;
    let mac = answer("200 OK", r#"{"access_token":"sesame","token_type":"mac"}"#);
    check(mac, Cause::Protocol, "token_type is not Bearer").await;
    let broken = answer("200 OK", r#"{"access_token":"sesame\n1","token_type":"Bearer"}"#);
    check(broken, Cause::Protocol, "cannot be sent in a header").await;
    let large = format!(r#"{{"access_token":"{}","token_type":"Bearer"}}"#, "t".repeat(70_000));
    check(answer("200 OK", &large), Cause::Protocol, "holds no access_token").await;
    // It hangs: the attempt's own time ends it.
    let tokens = Peer::start(|mut connection| async move { connection.until_closed().await }).await;
    let peer = Peer::answering(OK).await;
    let sink = oauth(&peer, &tokens);
    let short = attempt(event("{}"), Duration::from_millis(300));
    let outcomes: Vec<Outcome> = sink.deliver(&[short]).await;
    let nack = outcomes[0].as_ref().unwrap_err();
    assert_eq!(nack.cause(), Cause::Timeout, "{nack:?}");
    assert!(DEADLINE > Duration::from_secs(1));
}

/// A token server is under the network policy, too.
#[test]
fn mistakes_are_told() {
    let check = |auth: &str, more: &str, words: &str| {
        let text =
            format!("[[endpoints]]\nname = 'a'\nurl = 'https://a.example'\nauth = {auth}\n{more}");
        let registry = postrider_sinks::registry();
        let loader = Config::loader().registry(&registry).text(Text::Toml, &text);
        let told = loader.environment(false).load().map(drop).unwrap_err().to_string();
        assert!(told.contains(words), "{auth}: {told}");
        assert!(!told.contains("hunter2"), "{told}");
    };
    check("{ bearer = 'hunter2 x' }", "", "endpoints[0].auth.bearer: the token is empty or has");
    let oauth = |url: &str| {
        format!(
            "{{ oauth2 = {{ token_url = '{url}', client_id = 'i', client_secret = 'hunter2' }} }}"
        )
    };
    let forbidden = "auth.oauth2.token_url: the network policy forbids 127.0.0.1";
    check(&oauth("http://127.0.0.1/t"), "", forbidden);
    check(&oauth("ftp://a.example"), "", "auth.oauth2.token_url: ");
    let both = oauth("https://t.example/").replacen("{ ", "{ bearer = 'hunter2', ", 1);
    check(&both, "", "auth: expected one of bearer and oauth2, found both");
    let header = "headers = { authorization = 'hunter2' }";
    check("{ bearer = 'hunter2' }", header, "auth: another setting makes the authorization, too");
}
