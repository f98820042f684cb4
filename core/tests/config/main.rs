//! Configuration as its users meet it: files, variables and flags in, a `Config` or errors out.

mod layers;
mod load;
mod mistakes;
mod property;
mod schema;
mod secrets;
mod sinks;
mod store;

use postrider::config::{Config, ConfigErrors, Format};

/// The sample of the design, with the sinks that are known here.
const SAMPLE: &str = r#"
enabled = true                         # the guide's main switch

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
order = "none"
format = "guide"
retry = { schedule = ["5s", "5m", "30m", "2h", "5h", "10h", "10h"], jitter = 0.2 }

[network]
allow = ["127.0.0.0/8", "::1/128"]

[server]
listen = "127.0.0.1:8787"
tokens = [{ name = "backend", token = { env = "POSTRIDER_TOKEN" }, scopes = ["publish"] }]
"#;

/// The variables that the sample refers to.
const VARIABLES: [(&str, &str); 3] = [
    ("MY_APP_TOKEN", "Bearer abc"),
    ("MY_APP_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ("POSTRIDER_TOKEN", "server token"),
];

/// Loads a text, with these variables and no others.
fn load(format: Format, text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::loader()
        .registry(&sinks::registry())
        .stores(&sinks::stores())
        .text(format, text)
        .environment_from(variables.iter().copied())
        .load()
}

/// Everything that a configuration says, secrets too; not where it was read from.
fn fingerprint(config: &Config) -> String {
    let Config { enabled, bus, store, endpoints, network, server, .. } = config;
    let tokens: Vec<&str> = server.tokens.iter().map(|token| token.token.expose()).collect();
    let targets: Vec<String> = endpoints.iter().map(|one| one.sink.target()).collect();
    format!(
        "{enabled} {bus:#?} {store:#?} {endpoints:#?} {network:#?} {server:#?} {tokens:#?} {targets:#?}"
    )
}
