//! What the program says of the network, and how it uses it.

use std::fs;
use std::net::UdpSocket;

use mock_receiver::Receiver;
use postrider_tests::{LOCAL, postrider, run};
use serde_json::{Value, json};

fn folder(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("postrider.toml"), text).unwrap();
    dir
}

/// Configured addresses come first, then those that the routes pick; nothing is sent, and a file is
/// not made for being asked.
#[test]
fn egress_tells_the_addresses_to_let_in() {
    // Nobody reads it: a packet would wait in it.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let port = silent.local_addr().unwrap().port();
    let dir = folder(&format!(
        "[[endpoints]]\nname = 'bound'\nurl = 'https://hooks.example/'\n\
         network = {{ bind_address = ['8.8.4.4', '10.1.2.3'] }}\n\
         [[endpoints]]\nname = 'routed'\nurl = 'http://127.0.0.1:{port}/'\n\
         [[endpoints]]\nname = 'log'\nsink = 'file'\npath = 'events.ndjson'\n{LOCAL}"
    ));
    let wrong = run(&mut postrider(dir.path(), ["egress"]));
    assert_eq!(wrong.code, Some(2), "two of one family: {wrong:?}");
    let text = fs::read_to_string(dir.path().join("postrider.toml")).unwrap();
    let text = text.replace("'8.8.4.4', '10.1.2.3'", "'10.1.2.3', '2600::7'");
    fs::write(dir.path().join("postrider.toml"), text).unwrap();

    let asked = run(&mut postrider(dir.path(), ["egress", "--json"]));
    assert_eq!(asked.code, Some(0), "{asked:?}");
    let report: Value = serde_json::from_str(&asked.stdout).unwrap();
    assert_eq!(report["addresses"], json!(["10.1.2.3", "127.0.0.1", "2600::7"]));
    let told: Vec<Value> = report["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| json!([it["name"], it["source"], it["addresses"], it["nat"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["bound", "bind_address", ["10.1.2.3", "2600::7"], true]),
            json!(["routed", "route", ["127.0.0.1"], false]),
            json!(["log", null, [], false]),
        ]
    );
    let people = run(&mut postrider(dir.path(), ["egress"]));
    for line in [
        "bound: 10.1.2.3 (not public: private 10/8 (RFC 1918)), 2600::7 (bind_address), to https://hooks.example/",
        "routed: 127.0.0.1 (not public: loopback 127/8 (RFC 1122)) (picked by the route), to ",
        "log: connects to nothing",
        "address of the NAT or gateway on the way",
    ] {
        assert!(people.stdout.contains(line), "{line}: {}", people.stdout);
    }
    assert!(silent.recv(&mut [0; 1]).is_err(), "a packet was sent");
    assert!(!dir.path().join("events.ndjson").exists());
}

/// What cannot be told is a failure with its reason; the rest is told all the same.
#[test]
fn egress_tells_what_it_cannot_tell() {
    let dir = folder(
        "[[endpoints]]\nname = 'six'\nurl = 'http://localhost:1/'\n\
         [network]\nallow = ['127.0.0.1', '::1']\nbind_address = ['127.0.0.1']\n\
         [[endpoints]]\nname = 'gone'\nurl = 'http://no-such-name.invalid/'\n",
    );
    let asked = run(&mut postrider(dir.path(), ["egress", "--json"]));
    assert_eq!(asked.code, Some(0), "bind_address needs no look-up: {asked:?}");
    let text = fs::read_to_string(dir.path().join("postrider.toml")).unwrap();
    let text = text.replace("bind_address = ['127.0.0.1']\n", "");
    fs::write(dir.path().join("postrider.toml"), text).unwrap();
    let asked = run(&mut postrider(dir.path(), ["egress", "--json"]));
    assert_eq!(asked.code, Some(1), "{asked:?}");
    assert!(asked.stderr.contains("1 of the endpoints could not be told"), "{asked:?}");
    let report: Value = serde_json::from_str(&asked.stdout).unwrap();
    let error = report["endpoints"][1]["error"].as_str().unwrap();
    assert!(error.contains("no-such-name.invalid"), "{error}");
    let addresses = report["endpoints"][0]["addresses"].as_array().unwrap();
    assert!(addresses.contains(&json!("127.0.0.1")), "{report}");
}

/// Proxies that the environment names get no connection.
#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_the_environment_are_ignored() {
    let (receiver, proxy) = (Receiver::start().await.unwrap(), Receiver::start().await.unwrap());
    let dir = folder(&format!("[[endpoints]]\nname = 'a'\nurl = '{}'\n{LOCAL}", receiver.url("a")));
    let place = proxy.url("proxy");
    let mut command = postrider(dir.path(), ["publish", "match"]);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
    {
        command.env(name, &place);
    }
    command.env_remove("NO_PROXY").env_remove("no_proxy");
    let published = run(&mut command);
    assert_eq!(published.code, Some(0), "{published:?}");
    assert_eq!(receiver.requests("a").len(), 1);
    assert!(proxy.requests("proxy").is_empty() && proxy.requests("a").is_empty());
}
