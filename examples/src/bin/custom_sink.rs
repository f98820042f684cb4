//! A sink of your own, in one file: messages to a Slack-like incoming webhook.
//!
//! It has what the built-in sinks have: settings that are checked with the rest of the configuration,
//! a name there (`sink = "slack"`), retries, a lane of its own. The HTTP part is the guarded client
//! that the webhook sink uses, so network policy and time limits hold here too. The test at the end
//! runs the public contract suite against it.
//!
//! The program starts a receiver in Slack's place, publishes an event, and shows what arrived.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use mock_receiver::Receiver;
use postrider::config::{Config, Format, Secret};
use postrider::delivery::Outcome;
use postrider::sink::{Attempt, CheckContext, Problem, Sink, SinkFactory};
use postrider::{Bus, Error, ErrorKind};
use postrider_examples::Match;
use postrider_sinks::http::{Client, Options};
use schemars::JsonSchema;
use serde::Deserialize;

/// What an endpoint of this kind may be told, beside the keys that all endpoints have.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The incoming webhook's URL. It is the only key to the channel, so it is a secret.
    webhook_url: Secret,
    /// The channel to post to, beginning with `#`. Default: the webhook's own.
    channel: Option<String>,
}

/// Makes Slack sinks.
struct SlackFactory;

impl SinkFactory for SlackFactory {
    type Settings = Settings;

    fn name(&self) -> &'static str {
        "slack"
    }

    fn check(&self, settings: &Settings, context: &CheckContext<'_>) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Err(error) = client(settings, context) {
            problems.push(Problem::new("webhook_url", error));
        }
        if settings.channel.as_ref().is_some_and(|channel| !channel.starts_with('#')) {
            problems.push(Problem::new("channel", "expected a name that begins with #"));
        }
        problems
    }

    fn target(&self, settings: &Settings) -> String {
        settings.channel.clone().unwrap_or_else(|| "the webhook's channel".to_owned())
    }

    fn build(
        &self,
        settings: &Settings,
        context: &CheckContext<'_>,
    ) -> Result<Arc<dyn Sink>, Error> {
        let client = client(settings, context).map_err(|error| {
            Error::new(ErrorKind::Sink, format!("set up endpoint {:?}: {error}", context.name))
        })?;
        Ok(Arc::new(SlackSink { client, channel: settings.channel.clone() }))
    }
}

fn client(settings: &Settings, context: &CheckContext<'_>) -> Result<Client, String> {
    let options = Options::new(context.network.clone());
    Client::new(settings.webhook_url.expose(), options).map_err(|error| error.to_string())
}

/// Posts each event as one message.
struct SlackSink {
    client: Client,
    channel: Option<String>,
}

#[async_trait]
impl Sink for SlackSink {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for attempt in batch {
            outcomes.push(self.post(attempt).await);
        }
        outcomes
    }
}

impl SlackSink {
    /// Reports what happened; whether and when to try again is the bus's affair.
    async fn post(&self, attempt: &Attempt) -> Outcome {
        let event = &attempt.event;
        // Slack cuts messages at 40,000 characters; so long an event is no message anyway.
        let data: String = event.payload_str().chars().take(3_000).collect();
        let message = serde_json::json!({
            "channel": self.channel,
            "text": format!("*{}* {data}", event.event_type()),
        });
        let headers =
            HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let body = message.to_string().into();
        let answer = self.client.send(http::Method::POST, &headers, body, attempt.timeout).await?;
        answer.outcome(attempt.now)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let slack = Receiver::start().await?;
    slack.on("T0").respond([500, 200]);

    // The built-in sinks, and ours beside them.
    let registry = postrider_sinks::registry().with(SlackFactory);
    let config = Config::loader()
        .registry(&registry)
        .text(
            Format::Toml,
            format!(
                "[[endpoints]]\n\
                 sink = 'slack'\n\
                 name = 'Team channel'\n\
                 webhook_url = '{}'\n\
                 channel = '#glasses'\n\
                 events = ['match']\n\
                 retry = {{ schedule = ['50ms'] }}\n\
                 [network]\n\
                 allow = ['127.0.0.0/8']  # The receiver stands on this machine.\n",
                slack.url("T0")
            ),
        )
        .load()?;
    let bus = Bus::open(config).await?;
    bus.publish(&Match {
        best_model: "ray_ban_glasses.glb".into(),
        confidence: 0.87,
        source_image: "ray_ban_glasses.jpg".into(),
        model_url: "https://example.com/ray_ban_glasses.glb".into(),
        timestamp: "2025-11-30T14:30:45.123Z".parse()?,
        images_count: 3,
    })
    .await?;
    bus.flush(Duration::from_secs(10)).await?;
    for request in slack.wait("T0").count(2).within(Duration::from_secs(10)).await? {
        println!("{} {} {}", request.method, request.path, request.text().unwrap_or("(binary)"));
    }
    bus.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use postrider::EndpointId;
    use postrider::config::NetworkPolicy;
    use postrider::testing::sink::contract;

    use super::*;

    fn build(url: &str) -> Arc<dyn Sink> {
        let network = NetworkPolicy::public_only().allow("127.0.0.0/8").unwrap();
        let id: EndpointId = "slack".parse().unwrap();
        let settings = Settings { webhook_url: Secret::new(url), channel: None };
        SlackFactory.build(&settings, &CheckContext::new(&id, "Slack", &network)).unwrap()
    }

    /// The one line that shows that the sink keeps the contract.
    #[tokio::test(flavor = "multi_thread")]
    async fn passes_the_contract() {
        let slack = Receiver::start().await.unwrap();
        contract(async || build(&slack.url("T0"))).await;
    }
}
