//! Transforms, from the configuration to what a receiver gets.

use mock_receiver::Receiver;
use postrider::NewEvent;
use postrider::delivery::{Cause, DeadReason, State};
use postrider_tests::{DEADLINE, bus};

/// Each preset is the whole body; a template stands where the payload would, in any format; and what
/// is sent is what is signed.
#[tokio::test]
async fn presets_and_templates_arrive() {
    let receiver = Receiver::start().await.unwrap();
    let endpoints = [
        ("slack", "transform = 'slack'"),
        ("zapier", "transform = 'zapier'\nformat = 'standard'"),
        (
            "raw",
            "format = 'raw'\ntransform = { template = { n = '{{ payload.n }}', of = ['{{type}}'] } }",
        ),
        ("guide", "transform = { template = 'n is {{ payload.n }}' }"),
    ];
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let endpoints = endpoints.map(|(name, more)| {
        let url = receiver.url(name);
        format!("[[endpoints]]\nname = '{name}'\nurl = '{url}'\nsecrets = ['{secret}']\n{more}\n")
    });
    let bus = bus(&endpoints.concat()).await;
    let time = "2025-11-30T14:30:45.123Z".parse().unwrap();
    bus.publish(NewEvent::raw("match", r#"{"n": 1.50}"#).unwrap().time(time)).await.unwrap();
    assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
    let key: postrider::sign::Key = secret.parse().unwrap();
    let one = |bin: &str| {
        let seen = receiver.requests(bin).pop().unwrap_or_else(|| panic!("nothing in {bin}"));
        let sent = seen.header("webhook-timestamp").unwrap().parse().unwrap();
        let signature = key.sign(seen.header("webhook-id").unwrap(), sent, &seen.body);
        assert_eq!(seen.header("webhook-signature"), signature.as_deref(), "{bin}");
        seen.text().unwrap().to_owned()
    };
    assert_eq!(one("slack"), r#"{"text":"*match*\n```\n{\"n\":1.50}\n```"}"#);
    assert!(one("zapier").ends_with(r#","event_time":"2025-11-30T14:30:45.123Z","n":1.50}"#));
    assert_eq!(one("raw"), r#"{"n":1.50,"of":["match"]}"#);
    let guide = r#"{"event":"match","timestamp":"2025-11-30T14:30:45.123Z","data":"n is 1.50"}"#;
    assert_eq!(one("guide"), guide);
}

/// What cannot be brought into the form is dead at once, with the reason; others are delivered.
#[tokio::test]
async fn what_cannot_be_transformed_is_dead_with_the_reason() {
    let receiver = Receiver::start().await.unwrap();
    let url = receiver.url("app");
    let bus =
        bus(&format!("[[endpoints]]\nname = 'app'\nurl = '{url}'\ntransform = 'zapier'\n")).await;
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    let receipt = bus.publish(NewEvent::raw("match", deep).unwrap()).await.unwrap();
    bus.publish(NewEvent::raw("match", "{}").unwrap()).await.unwrap();
    assert!(bus.flush(DEADLINE).await.unwrap().is_empty());
    let delivery = receipt.deliveries().next().unwrap();
    let record = bus.delivery(&delivery).await.unwrap().unwrap();
    assert!(matches!(record.state, State::Dead { reason: DeadReason::Rejected, .. }), "{record:?}");
    assert_eq!(record.attempts[0].cause, Some(Cause::Format));
    assert!(record.attempts[0].message.contains("nested up to 128 levels"), "{record:?}");
    assert_eq!(receiver.requests("app").len(), 1);
}

/// The example of each preset is a valid configuration.
#[test]
fn the_example_of_presets_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/presets.toml");
    let loader = postrider::config::Config::loader().registry(&postrider_sinks::registry());
    let config = loader.file(path).load().unwrap();
    assert_eq!(config.endpoints.len(), 5);
}

/// Mistakes name the key below the transform.
#[test]
fn mistakes_name_their_key() {
    let check = |transform: &str, expect: &str| {
        let text = format!("[[endpoints]]\nurl = 'https://a.example'\ntransform = {transform}");
        let loader = postrider::config::Config::loader().registry(&postrider_sinks::registry());
        let loader = loader.environment_from([("", ""); 0]);
        let told =
            loader.text(postrider::config::Format::Toml, &text).load().unwrap_err().to_string();
        assert!(told.contains(expect), "{transform}: {told}");
    };
    check("'slcak'", "endpoints[0].transform: expected the name of a preset");
    check(
        "{ template = { a = '{{ data }}' } }",
        "endpoints[0].transform.template.a: no such place",
    );
    check("{ jq = '.' }", "endpoints[0].transform.jq: not yet supported");
    check("'slack'\nformat = 'cloudevents'", "endpoints[0].transform: a preset is the whole body");
}
