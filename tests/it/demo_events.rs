//! The dashboard of the examples: the guide's events, typed, through all three sinks at once.

use std::collections::BTreeMap;

use mock_receiver::Receiver;
use postrider_tests::{program, run};

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
