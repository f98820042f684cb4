//! Through a proxy: what it is asked for, and what may not be reached through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postrider::config::{Config, Format, NetworkPolicy};
use postrider::delivery::{Cause, Nack};
use postrider::sink::{CheckContext, Egress, Sink as _, SinkFactory as _};
use postrider_sinks::http::{HttpFactory, HttpSettings, HttpSink};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use crate::peer::{OK, Peer};
use crate::tls::{Authority, Loopback};
use crate::{deliver_within, delivers, endpoint, local, refused, settings, sink, sink_with};

const TUNNEL: &[u8] = b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n";

/// A proxy that opens a tunnel to `to`, whatever it is asked for.
async fn tunnelling(to: SocketAddr) -> Peer {
    Peer::start(move |mut connection| async move {
        connection.request().await;
        connection.send(TUNNEL).await;
        let (_, mut stream) = connection.into_stream();
        let mut receiver = TcpStream::connect(to).await.unwrap();
        let _ = copy_bidirectional(&mut stream, &mut receiver).await;
    })
    .await
}

fn through(url: &str, proxy: &str) -> HttpSettings {
    let mut settings = settings(url);
    settings.network = serde_json::from_value(json!({ "proxy": proxy })).unwrap();
    settings
}

fn place(peer: &Peer, user: &str) -> String {
    format!("http://{user}{}", peer.address)
}

/// The proxy looks the name up: nobody here does. One connection serves several requests.
#[tokio::test]
async fn plain_http_in_absolute_form() {
    let proxy = Peer::answering(OK).await;
    let url = "http://u:p@receiver.example:8080/hook?a=%20b";
    let sink = sink(&through(url, &place(&proxy, "us%40er:pa:ss@")));
    delivers(&sink).await;
    delivers(&sink).await;
    assert_eq!((proxy.seen().len(), proxy.connections()), (2, 1));
    let seen = &proxy.seen()[0];
    let line = "POST http://receiver.example:8080/hook?a=%20b HTTP/1.1\r\n";
    assert!(seen.head.starts_with(line), "{}", seen.head);
    assert_eq!(seen.header("host"), "receiver.example:8080");
    // "us@er:pa:ss" for the proxy, "u:p" for the receiver.
    assert_eq!(seen.header("proxy-authorization"), "Basic dXNAZXI6cGE6c3M=");
    assert_eq!(seen.header("authorization"), "Basic dTpw");
}

/// The receiver proves who it is through the tunnel, and never sees what the proxy is told.
#[tokio::test]
async fn https_in_a_tunnel() {
    let authority = Authority::new("ours");
    let receiver = authority.receiver("receiver.example", |_| {}).await;
    let proxy = tunnelling(receiver.address).await;
    let settings = through("https://receiver.example/hook", &place(&proxy, "user:pass@"));
    let tls = authority.trusted();
    let sink = sink_with(&settings, &local(), |options| options.tls(tls));
    delivers(&sink).await;
    delivers(&sink).await;
    let asked = proxy.only();
    assert!(asked.head.starts_with("CONNECT receiver.example:443 HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.header("host"), "receiver.example:443");
    assert_eq!(asked.header("proxy-authorization"), "Basic dXNlcjpwYXNz");
    assert_eq!((receiver.seen().len(), receiver.connections()), (2, 1));
    let seen = &receiver.seen()[0];
    assert!(seen.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", seen.head);
    assert!(seen.headers("proxy-authorization").is_empty());

    // A proxy that reads along is found out.
    let stranger = Authority::new("theirs").receiver("receiver.example", |_| {}).await;
    let proxy = tunnelling(stranger.address).await;
    let settings = through("https://receiver.example/hook", &place(&proxy, ""));
    let sink = sink_with(&settings, &local(), |options| options.tls(authority.trusted()));
    assert_eq!(refused(&sink).await.cause(), Cause::Tls);
}

#[tokio::test]
async fn a_tunnel_that_is_not_opened() {
    let check = async |answer: &'static [u8], cause: Cause, words: &str| {
        let proxy = Peer::answering_once(answer).await;
        let settings = through("https://receiver.example/", &place(&proxy, "user:hunter2@"));
        let nack = refused(&sink(&settings)).await;
        let to = format!("the proxy {} opens no tunnel to receiver.example:443", proxy.address);
        assert_eq!(nack, Nack::retry(cause, format!("{to}: {words}")));
    };
    let wants = b"HTTP/1.1 407 No\r\nproxy-authenticate: Basic\r\n\r\n";
    check(wants, Cause::Connect, "it answered 407: it wants a user and a password").await;
    check(b"HTTP/1.1 503 Busy\r\n\r\n", Cause::Connect, "it answered 503").await;
    check(b"SSH-2.0-x\r\n\r\n", Cause::Protocol, "its answer is not valid HTTP").await;
    check(b"HTTP/1.1 20", Cause::Closed, "unexpected end of file").await;
    let endless: &[u8] = Box::leak(vec![b'a'; 64 << 10].into_boxed_slice());
    check(endless, Cause::Protocol, "its answer is not valid HTTP").await;

    let silent = Peer::start(|mut connection| async move { connection.until_closed().await }).await;
    let sink = sink(&through("https://receiver.example/", &place(&silent, "")));
    let nack = deliver_within(&sink, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(nack.cause(), Cause::Timeout, "{nack:?}");
    assert!(nack.message().starts_with("timed out waiting for the tunnel"), "{nack:?}");
}

fn judged(settings: &HttpSettings, policy: &NetworkPolicy) -> Vec<(String, String)> {
    let id = endpoint();
    let problems = HttpFactory.check(settings, &CheckContext::new(&id, "orders", policy));
    problems.into_iter().map(|it| (it.key, it.message)).collect()
}

/// The proxy's own place is under the policy, and a proxy reaches nothing that is forbidden.
#[tokio::test]
async fn the_policy_holds_with_a_proxy() {
    let check = |url: &str, proxy: &str, policy: &NetworkPolicy, expect: &[(&str, &str)]| {
        let found = judged(&through(url, proxy), policy);
        assert_eq!(found.len(), expect.len(), "{url} {proxy}: {found:?}");
        for ((key, message), (expected, words)) in found.iter().zip(expect) {
            assert!(key == expected && message.contains(words), "{words}: {key}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    };
    let public = NetworkPolicy::public_only();
    let hook = "https://hooks.example/";
    check(hook, "http://proxy.example:3128", &public, &[]);
    let loopback = "the proxy cannot be used: the network policy forbids 127.0.0.1";
    check(hook, "http://user:hunter2@127.0.0.1:3128", &public, &[("network.proxy", loopback)]);
    let port = "port 3128 is not in ports";
    let web = public.clone().only_ports([443]);
    check(hook, "http://proxy.example:3128", &web, &[("network.proxy", port)]);
    // The way to the proxy is plain; what it carries is not.
    check(hook, "http://proxy.example:3128", &public.clone().https_only(), &[]);
    let literal = ("url", "the network policy forbids 169.254.169.254");
    check("http://169.254.169.254/", "http://proxy.example", &public, &[literal]);
    for wrong in ["https://proxy.example", "http://proxy.example/x", "http://proxy.example/?a"] {
        check(hook, wrong, &public, &[("network.proxy", "an http URL without path and query")]);
    }
    check(hook, "user:hunter2@host", &public, &[("network.proxy", "no URL that can be used")]);

    // The operator's own is not gone around.
    let theirs = public.clone().through(postrider::config::Secret::new("http://proxy.example"));
    let around = ("network.proxy", "which no endpoint goes around");
    check(hook, "http://other.example", &theirs, &[around]);
    assert_eq!(judged(&settings(hook), &theirs), []);

    // A proxy by name is judged by what the name resolves to.
    let proxy = Peer::answering(OK).await;
    let named = format!("http://proxy.example:{}", proxy.address.port());
    let id = endpoint();
    let make = |policy: &NetworkPolicy| {
        let settings = through("http://receiver.example/", &named);
        let context = CheckContext::new(&id, "orders", policy);
        HttpSink::with_options(&settings, &context, |it| it.resolver(Arc::new(Loopback))).unwrap()
    };
    let nack = refused(&make(&public)).await;
    assert_eq!(nack.cause(), Cause::Policy, "{nack:?}");
    assert!(nack.message().contains("forbids proxy.example"), "{nack:?}");
    assert!(proxy.seen().is_empty());
    delivers(&make(&local())).await;
}

/// The section's proxy serves every endpoint, its checks, and the fetching of tokens.
#[tokio::test]
async fn the_sections_proxy_is_everybodys() {
    let token = br#"{"access_token":"t","token_type":"Bearer"}"#;
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", token.len());
    answer.push_str(std::str::from_utf8(token).unwrap());
    let proxy = Peer::answering(answer).await;
    let policy = local().through(postrider::config::Secret::new(place(&proxy, "")));
    let mut settings = settings("http://receiver.example/");
    settings.auth = serde_json::from_value(json!({ "oauth2": {
        "token_url": "http://tokens.example/t", "client_id": "i", "client_secret": "s",
    } }))
    .unwrap();
    let sink = sink_with(&settings, &policy, |options| options);
    sink.check().await.unwrap();
    assert!(crate::deliver(&sink).await.is_ok());
    let lines: Vec<String> =
        proxy.seen().iter().map(|it| it.head.lines().next().unwrap().to_owned()).collect();
    let fetched = "POST http://tokens.example/t HTTP/1.1";
    assert_eq!(lines, [fetched, "POST http://receiver.example/ HTTP/1.1"]);
    let id = endpoint();
    let context = CheckContext::new(&id, "orders", &policy);
    let egress = HttpFactory.egress(&settings, &context).unwrap().await;
    assert_eq!(egress, Ok(Egress::Proxy(proxy.address.to_string())));
}

/// In a configuration: secrets may hold it, and a mistake in the section is told at its key.
#[test]
fn the_proxy_of_a_configuration() {
    let load = |proxy: &str| {
        let text = format!("[network]\nproxy = {proxy}\n");
        let loader = Config::loader().registry(&postrider_sinks::registry());
        loader.text(Format::Toml, text).environment(false).load()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy");
    std::fs::write(&file, "http://user:hunter2@proxy.example:3128\n").unwrap();
    let config = load(&format!("{{ file = '{}' }}", file.display())).unwrap();
    let proxy = config.network.proxy().unwrap();
    assert_eq!(proxy.expose(), "http://user:hunter2@proxy.example:3128");
    assert!(!format!("{:?}", config.network).contains("hunter2"));
    let told = load("'https://user:hunter2@proxy.example'").map(drop).unwrap_err().to_string();
    assert!(told.contains("network.proxy: expected an http URL"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}
