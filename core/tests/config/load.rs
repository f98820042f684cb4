//! What is read from valid files.

use std::time::Duration;

use postrider::config::{Config, ConfigErrors, Format};

use crate::sinks::registry;

/// The sample of the design, with the sinks that are known here.
pub const SAMPLE: &str = r#"
enabled = true

[bus]
data_dir = "postrider-data"

[[endpoints]]
name = "My App"
url = "https://api.example.com/webhook"
events = ["match", "model.*"]
headers = { Authorization = { env = "MY_APP_TOKEN" } }
secrets = [{ env = "MY_APP_WEBHOOK_SECRET" }]

[[endpoints]]
sink = "file"
name = "audit"
path = "log/events.ndjson"
events = ["*"]

[[endpoints]]
sink = "print"
name = "console"
events = ["*"]

[defaults]
timeout = "10s"
concurrency = 16
format = "guide"
order = "none"
retry = { schedule = ["5s", "5m", "30m", "2h", "5h", "10h", "10h"], jitter = 0.2 }

[network]
allow = ["127.0.0.0/8", "::1/128"]

[server]
listen = "127.0.0.1:8787"
tokens = [{ name = "backend", token = { env = "POSTRIDER_TOKEN" }, scopes = ["publish"] }]
"#;

/// The variables that the sample refers to.
pub const VARIABLES: [(&str, &str); 3] = [
    ("MY_APP_TOKEN", "Bearer abc"),
    ("MY_APP_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ("POSTRIDER_TOKEN", "server token"),
];

pub fn toml(text: &str) -> Result<Config, ConfigErrors> {
    Config::loader()
        .registry(&registry())
        .text(Format::Toml, text)
        .environment_from(VARIABLES)
        .load()
}

#[test]
fn sample_of_the_design() {
    let config = toml(SAMPLE).unwrap();
    assert!(config.enabled);
    let names: Vec<&str> = config.endpoints.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["My App", "audit", "console"]);
    let ids: Vec<&str> = config.endpoints.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(ids, ["my-app", "audit", "console"]);
    assert_eq!(config.endpoints[0].sink.sink(), "http");
    assert_eq!(config.endpoints[0].policy.timeout, Duration::from_secs(10));
    assert_eq!(config.server.tokens[0].token.expose(), "server token");
    assert_eq!(config.network.allowed().len(), 2);
}
