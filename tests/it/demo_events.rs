//! The dashboard of the examples: the guide's events, typed, through all three sinks at once.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use mock_receiver::Receiver;
use postrider_tests::{DEADLINE, eventually, program, run};

/// The guide's own three events arrive with the guide's bodies, to the byte, at all three places.
#[tokio::test]
async fn the_guides_events_arrive_everywhere() {
    let receiver = Receiver::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("postrider.toml"),
        format!(
            "[[endpoints]]\nname = 'My App'\nurl = '{}'\n\
             [[endpoints]]\nsink = 'file'\nname = 'audit'\npath = 'events.ndjson'\n\
             [[endpoints]]\nsink = 'stdout'\nname = 'console'\n\
             [network]\nallow = ['127.0.0.0/8']\n",
            receiver.url("dashboard")
        ),
    )
    .unwrap();
    let mut dashboard = std::process::Command::new(program("dashboard"));
    let ran = run(dashboard.current_dir(dir.path()).args(["--config", "postrider.toml"]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let expect = BTreeMap::from([
        (
            "match",
            r#"{"event":"match","timestamp":"2025-11-30T14:30:45.123Z","data":{"best_model":"ray_ban_glasses.glb","confidence":0.87,"source_image":"ray_ban_glasses.jpg","model_url":"https://jigu.s3.eu-west-1.wasabisys.com/ray_ban_glasses.glb?...","timestamp":"2025-11-30T14:30:45.123Z","images_count":3}}"#,
        ),
        (
            "upload",
            r#"{"event":"upload","timestamp":"2025-11-30T14:30:45.123Z","data":{"model_name":"new_glasses.glb","has_thumbnail":true,"uploaded_by":"api_key_name"}}"#,
        ),
        (
            "rebuild",
            r#"{"event":"rebuild","timestamp":"2025-11-30T14:30:45.123Z","data":{"models_count":167,"success":true}}"#,
        ),
    ]);
    let seen = receiver.requests("dashboard");
    let bodies: BTreeMap<String, &str> = seen
        .iter()
        .map(|seen| (seen.event().unwrap().into_owned(), seen.text().unwrap()))
        .collect();
    assert_eq!(seen.len(), 3);
    assert!(
        bodies.iter().map(|(kind, body)| (kind.as_str(), *body)).eq(expect.clone()),
        "{bodies:#?}"
    );
    let file = std::fs::read_to_string(dir.path().join("events.ndjson")).unwrap();
    for text in [&file, &ran.stdout] {
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        for line in lines {
            let body: serde_json::Value =
                serde_json::from_str(expect[line["event"].as_str().unwrap()]).unwrap();
            assert_eq!(line["data"], body["data"]);
            assert!(seen.iter().any(|seen| seen.header("webhook-id") == line["id"].as_str()));
        }
    }
}

/// A child that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a request over a connection of its own; the answer's status and body.
fn send(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    (head[9..12].parse().expect(head), body.to_owned())
}

/// With `--listen` the dashboard publishes what is posted to it, refuses by name what its types
/// refuse, and ends well when asked.
#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_publishes_what_is_posted() {
    let receiver = Receiver::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "[[endpoints]]\nname = 'My App'\nurl = '{}'\n[network]\nallow = ['127.0.0.0/8']\n",
        receiver.url("dashboard")
    );
    std::fs::write(dir.path().join("postrider.toml"), config).unwrap();
    let mut dashboard = Command::new(program("dashboard"));
    dashboard.current_dir(dir.path()).args(["--events", "0", "--listen", "127.0.0.1:0"]);
    dashboard.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut dashboard = Ended(dashboard.spawn().unwrap());
    let stderr = dashboard.0.stderr.take().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let line = lines.recv_timeout(DEADLINE).expect("the dashboard says where it listens");
    let address = line.strip_prefix("listening on http://").expect(&line);

    let found = |confidence: f64| {
        format!(
            r#"{{"best_model":"a.glb","confidence":{confidence},"source_image":"a.jpg","model_url":"https://x/a","timestamp":"2025-11-30T14:30:45.123Z","images_count":3}}"#
        )
    };
    let post = |kind: &str, body: &str| send(address, "POST", &format!("/api/events/{kind}"), body);
    let mut ids = Vec::new();
    for (kind, body) in [("match", found(0.5).as_str()), ("my.own", r#"{"any": 1.0e0}"#)] {
        let (status, answer) = post(kind, body);
        assert_eq!(status, 202, "{answer}");
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["endpoints"], 1);
        ids.push(answer["id"].as_str().expect("an id").to_owned());
        let seen = eventually("the event arrives", async || {
            let seen = receiver.requests("dashboard");
            (seen.len() == ids.len(), seen)
        })
        .await;
        let seen = seen.last().unwrap();
        assert_eq!(seen.header("webhook-id"), ids.last().map(String::as_str));
        assert!(seen.text().unwrap().ends_with(&format!(r#""data":{body}}}"#)), "{seen:?}");
    }

    let refused = |(status, answer): (u16, String), expect: u16, names: &str| {
        assert!(status == expect && answer.contains(names), "{status} {answer}");
    };
    refused(post("match", &found(1.5)), 422, "confidence: expected a value of at least 0 and");
    refused(post("upload", r#"{"model_name":"a.glb"}"#), 422, "has_thumbnail");
    refused(post("match", "{"), 400, "EOF");
    refused(post("my.own", "{"), 400, "its payload is not valid JSON");
    refused(post("postrider.mine", "{}"), 400, "belong to the bus");
    refused(post("my.own", &format!("\"{}\"", "x".repeat(1 << 20))), 413, "1048576 bytes");
    refused(send(address, "GET", "/api/events/match", ""), 405, "posted");
    refused(send(address, "POST", "/api/events", "{}"), 404, "/api/events/TYPE");

    let pid = dashboard.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ended = eventually("the dashboard ends", async || {
        let ended = dashboard.0.try_wait().unwrap();
        (ended.is_some(), ended)
    })
    .await;
    assert_eq!(ended.and_then(|status| status.code()), Some(0), "{ended:?}");
    assert_eq!(receiver.requests("dashboard").len(), 2, "what was refused arrived");
}
