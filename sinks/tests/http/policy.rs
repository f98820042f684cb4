//! Whom the sink may connect to.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use postrider::config::NetworkPolicy;
use postrider::delivery::{Cause, Verdict};
use postrider::sink::{CheckContext, Sink as _, SinkFactory as _};
use postrider_sinks::http::{
    Client, ClientError, HttpFactory, HttpSettings, HttpSink, Options, Resolve, guard,
};
use serde_json::{Value, json};

use crate::peer::{OK, Peer};
use crate::{delivers, endpoint, local, refused, settings, sink, sink_with};

fn vectors(file: &str) -> Vec<Value> {
    let path = format!("{}/../tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    vectors["cases"].as_array().unwrap().clone()
}

#[test]
fn address_vectors() {
    let cases = vectors("addresses.json");
    assert!(cases.len() > 90, "{}", cases.len());
    for case in cases {
        let address: IpAddr = case["address"].as_str().unwrap().parse().unwrap();
        let found = guard::verdict(address);
        assert_eq!(found.is_ok(), case["verdict"] == "allow", "{case}: {found:?}");
        let permitted = guard::permit(address, &NetworkPolicy::public_only());
        assert_eq!(permitted, found, "{case}");
    }
}

#[test]
fn allowed_networks_pass_the_guard() {
    let check = |allow: &str, address: &str, expect: bool| {
        let policy = NetworkPolicy::public_only().allow(allow).unwrap();
        let found = guard::permit(address.parse().unwrap(), &policy);
        assert_eq!(found.is_ok(), expect, "{allow} {address}: {found:?}");
    };
    check("10.1.0.0/16", "10.1.2.3", true);
    check("10.1.0.0/16", "10.2.2.3", false);
    check("10.1.0.0/16", "8.8.8.8", true);
    check("::1", "::1", true);
    check("::1", "127.0.0.1", false);
    // Mapped is the same machine; a translator's address is another way to it.
    check("127.0.0.0/8", "::ffff:127.0.0.1", true);
    check("127.0.0.0/8", "64:ff9b::127.0.0.1", false);
}

#[test]
fn url_vectors_at_configuration() {
    let cases = vectors("urls.json");
    assert!(cases.len() >= 30, "{}", cases.len());
    let (id, public) = (endpoint(), NetworkPolicy::public_only());
    let context = CheckContext::new(&id, "orders", &public);
    for case in cases {
        let url = case["url"].as_str().unwrap();
        let problems = HttpFactory.check(&settings(url), &context);
        let made = Client::new(url, Options::new(public.clone()));
        match case["verdict"].as_str().unwrap() {
            "allow" => {
                assert_eq!(problems, [], "{case}");
                assert!(made.is_ok(), "{case}: {made:?}");
            }
            verdict => {
                let [problem] = &problems[..] else { panic!("{case}: {problems:?}") };
                assert_eq!(problem.key, "url", "{case}");
                let forbidden = verdict == "deny";
                assert_eq!(problem.message.contains("network policy"), forbidden, "{case}");
                assert_eq!(problem.remedy.contains("[network]"), forbidden, "{case}");
                assert!(HttpSink::new(&settings(url), &context).is_err(), "{case}");
                match made {
                    Err(ClientError::Forbidden(_)) => assert!(forbidden, "{case}"),
                    Err(ClientError::Url(_)) => assert!(!forbidden, "{case}"),
                    other => panic!("{case}: {other:?}"),
                }
            }
        }
    }
}

/// What the remedy says to write does help.
#[test]
fn the_remedy_helps() {
    let id = endpoint();
    for url in [
        "http://10.1.2.3/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://localhost/",
        "http://metadata.google.internal/",
    ] {
        let problems = |policy: &NetworkPolicy| {
            HttpFactory.check(&settings(url), &CheckContext::new(&id, "orders", policy))
        };
        let mut policy = NetworkPolicy::public_only();
        let remedy = problems(&policy)[0].remedy.clone();
        let networks: Vec<&str> = remedy.split('"').skip(1).step_by(2).collect();
        assert!(!networks.is_empty(), "{remedy}");
        for network in networks {
            policy = policy.allow(network).unwrap();
        }
        assert_eq!(problems(&policy), [], "{url}: {remedy}");
    }
}

/// Answers each question with the next list, the last one for ever; counts questions.
struct Scripted(Mutex<(usize, VecDeque<Vec<IpAddr>>)>);

impl Scripted {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |list: &&[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Self(Mutex::new((0, answers.iter().map(parse).collect()))))
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap().0
    }
}

#[async_trait]
impl Resolve for Scripted {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let mut state = self.0.lock().unwrap();
        state.0 += 1;
        let next = if state.1.len() > 1 { state.1.pop_front() } else { state.1.front().cloned() };
        Ok(next.expect("a script has an answer"))
    }
}

/// An endpoint at `hooks.example` on the peer's port.
fn named(peer: &Peer, network: &NetworkPolicy, resolver: &Arc<Scripted>) -> HttpSink {
    let mut settings = settings(&format!("http://hooks.example:{}/", peer.address.port()));
    settings.connections_idle_max = 0;
    let resolver = Arc::clone(resolver);
    sink_with(&settings, network, |options| options.resolver(resolver))
}

#[tokio::test]
async fn a_name_with_one_forbidden_answer_is_refused_whole() {
    let peer = Peer::answering(OK).await;
    let allowed = NetworkPolicy::public_only().allow("127.0.0.1").unwrap();
    for answers in [&["127.0.0.1", "10.0.0.7"][..], &["10.0.0.7", "127.0.0.1"], &["10.0.0.7"]] {
        let sink = named(&peer, &allowed, &Scripted::new(&[answers]));
        for nack in [refused(&sink).await, sink.check().await.unwrap_err()] {
            assert_eq!(nack.cause(), Cause::Policy);
            // The name may change, so a later attempt may succeed.
            assert_eq!(nack.verdict(), Verdict::Retry { after: None });
            assert_eq!(
                nack.message(),
                "the network policy forbids hooks.example: it resolves to 10.0.0.7, which is \
                 private 10/8 (RFC 1918), not a public address"
            );
        }
    }
    assert_eq!(peer.connections(), 0);
}

/// DNS rebinding: harmless at first, then the inside. Each connect asks once and goes to what was
/// judged.
#[tokio::test]
async fn every_connect_is_judged_by_the_answer_that_it_uses() {
    let peer = Peer::answering(OK).await;
    let allowed = NetworkPolicy::public_only().allow("127.0.0.1").unwrap();
    let resolver = Scripted::new(&[&["127.0.0.1"], &["169.254.169.254"]]);
    let sink = named(&peer, &allowed, &resolver);
    delivers(&sink).await;
    assert_eq!(resolver.asked(), 1);
    assert_eq!(refused(&sink).await.cause(), Cause::Policy);
    assert_eq!(resolver.asked(), 2);
    assert_eq!(peer.connections(), 1);
    let host = format!("hooks.example:{}", peer.address.port());
    assert_eq!(peer.only().header("host"), host);
}

#[tokio::test]
async fn the_next_address_is_tried_where_one_refuses() {
    let peer = Peer::answering(OK).await;
    let sink = named(&peer, &local(), &Scripted::new(&[&["127.0.0.2", "127.0.0.1"]]));
    delivers(&sink).await;
    let sink = named(&peer, &local(), &Scripted::new(&[&["127.0.0.2", "127.0.0.3"]]));
    let message = format!("connection refused by 127.0.0.3:{}", peer.address.port());
    assert_eq!(refused(&sink).await.message(), message);
}

/// RFC 6761 §6.3: whatever DNS says, localhost is this machine.
#[tokio::test]
async fn localhost_is_loopback_without_dns() {
    let peer = Peer::answering(OK).await;
    let resolver = Scripted::new(&[&["8.8.8.8"]]);
    for host in ["localhost", "LOCALHOST.", "app.localhost"] {
        let settings = settings(&format!("http://{host}:{}/", peer.address.port()));
        let resolver = Arc::clone(&resolver);
        let sink = sink_with(&settings, &local(), |options| options.resolver(resolver));
        delivers(&sink).await;
    }
    assert_eq!((resolver.asked(), peer.connections()), (0, 3));
}

/// The demo's case: a literal loopback address, allowed openly.
#[tokio::test]
async fn allowed_literal_is_connected_to() {
    let peer = Peer::answering(OK).await;
    delivers(&sink(&settings(&peer.url()))).await;
}

/// What `check` says of `url` under `policy` and the endpoint's own `network`.
fn judged(url: &str, policy: &NetworkPolicy, own: Value) -> Vec<String> {
    let id = endpoint();
    let mut settings = settings(url);
    settings.network = serde_json::from_value(own).unwrap();
    let problems = HttpFactory.check(&settings, &CheckContext::new(&id, "orders", policy));
    problems.into_iter().map(|it| format!("{}: {}", it.key, it.message)).collect()
}

#[test]
fn denials_ports_and_https_only_at_configuration() {
    let public = NetworkPolicy::public_only();
    let check = |url: &str, policy: &NetworkPolicy, own: Value, expect: &[&str]| {
        assert_eq!(judged(url, policy, own), expect, "{url}");
    };
    let none = || json!({});
    // A denial wins, whether the address is public or allowed, and however it is written.
    let denied = local().deny("127.0.0.2").unwrap().deny("8.8.8.0/24").unwrap();
    check("http://127.0.0.1/", &denied, none(), &[]);
    for host in ["127.0.0.2", "8.8.8.8", "[::ffff:8.8.8.8]", "[64:ff9b::8.8.8.8]"] {
        let found = judged(&format!("http://{host}/"), &denied, none());
        assert!(found.len() == 1 && found[0].ends_with("it is in a network of deny"), "{found:?}");
    }
    check("http://8.8.4.4/", &denied, none(), &[]);
    let own = json!({ "deny": ["8.8.4.4"] });
    let words = "url: the network policy forbids 8.8.4.4: it is in a network of deny";
    check("http://8.8.4.4/", &denied, own.clone(), &[words]);
    // The section's denials stay.
    assert_eq!(judged("http://8.8.8.8/", &denied, own).len(), 1);
    let nowhere = local().deny("127.0.0.0/8").unwrap().deny("::1").unwrap();
    let words = "url: the network policy forbids localhost: it is in a network of deny";
    check("http://localhost/", &nowhere, none(), &[words]);

    let ports = public.clone().only_ports([443, 8443]);
    let words = "url: the network policy forbids hooks.example: port 80 is not in ports";
    check("https://hooks.example/", &ports, none(), &[]);
    check("http://hooks.example/", &ports, none(), &[words]);
    // An endpoint can take a port away and not add one.
    check("http://hooks.example/", &ports, json!({ "ports": [80, 443] }), &[words]);
    let words = "url: the network policy forbids hooks.example: port 8443 is not in ports";
    check("https://hooks.example:8443/", &ports, none(), &[]);
    check("https://hooks.example:8443/", &ports, json!({ "ports": [443] }), &[words]);

    let words = "url: the network policy forbids hooks.example: plain http, https_only is set";
    check("http://hooks.example/", &public, json!({ "https_only": true }), &[words]);
    check("https://hooks.example/", &public, json!({ "https_only": true }), &[]);
    let strict = public.clone().https_only();
    check("http://hooks.example/", &strict, json!({ "https_only": false }), &[words]);
}

#[test]
fn mistakes_in_an_endpoints_network() {
    let own = json!({
        "deny": ["10.0.0.0/8", "x"], "ports": [], "bind_address": ["127.0.0.1", "127.0.0.2", "y"],
    });
    let found = judged("https://hooks.example/", &NetworkPolicy::public_only(), own);
    let expect = [
        r#"network.deny.1: expected a network such as "127.0.0.0/8" or "::1/128", found "x""#,
        "network.ports: expected 1 to 1000 ports, found 0",
        "network.bind_address.1: a second address of the same family",
        r#"network.bind_address.2: expected an address such as "198.51.100.7""#,
    ];
    assert_eq!(found[..4], expect);
    // An endpoint may come from a user, and cannot widen anything.
    let widening = serde_json::from_value::<HttpSettings>(
        json!({ "url": "http://10.0.0.1/", "network": { "allow": ["10.0.0.0/8"] } }),
    );
    assert!(widening.unwrap_err().to_string().contains("unknown field `allow`"));
}

#[tokio::test]
async fn a_denial_holds_for_what_a_name_resolves_to() {
    let peer = Peer::answering(OK).await;
    let network = local().deny("127.0.0.1").unwrap();
    let sink = named(&peer, &network, &Scripted::new(&[&["127.0.0.1"]]));
    let nack = refused(&sink).await;
    assert_eq!(nack.cause(), Cause::Policy);
    assert_eq!(
        nack.message(),
        "the network policy forbids hooks.example: it resolves to 127.0.0.1, which is in a network \
         of deny"
    );
    assert_eq!(peer.connections(), 0);
}

/// The receiver sees the address that was bound: the bus's, or the endpoint's instead.
#[tokio::test]
async fn the_local_address_that_is_sent_from() {
    let sources = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sources);
    let peer = Peer::start(move |mut connection| {
        seen.lock().unwrap().push(connection.stream.peer_addr().unwrap().ip().to_string());
        async move {
            connection.request().await;
            connection.send(OK).await;
        }
    })
    .await;
    let network = local().bind(["127.0.0.5".parse().unwrap()]);
    let mut settings = settings(&peer.url());
    delivers(&sink_with(&settings, &network, |options| options)).await;
    settings.network.bind_address = vec!["127.0.0.6".to_owned()];
    delivers(&sink_with(&settings, &network, |options| options)).await;
    assert_eq!(*sources.lock().unwrap(), ["127.0.0.5", "127.0.0.6"]);

    // The other family would come from an address that no receiver was told.
    settings.network.bind_address = vec!["::1".to_owned()];
    let nack = refused(&sink_with(&settings, &network, |options| options)).await;
    let words = format!("cannot connect to {}: bind_address has no IPv4 address", peer.address);
    assert_eq!((nack.cause(), nack.message()), (Cause::Connect, &*words));
    // An address that is not this machine's.
    settings.network.bind_address = vec!["192.0.2.1".to_owned()];
    let nack = refused(&sink_with(&settings, &network, |options| options)).await;
    assert!(nack.message().starts_with("cannot send from bind_address 192.0.2.1: "), "{nack:?}");
    assert_eq!(peer.connections(), 2);
}
