//! Bodies for receivers that everybody knows.

use serde_json::json;

use super::Impossible;
use crate::event::Envelope;
use crate::filter::value::Value;

/// Most names of a flat object.
pub(super) const NAMES_MAX: usize = 1000;
/// Longest message to Slack, in characters: what it advises; it cuts above ten times as much.
const SLACK_CHARS_MAX: usize = 4000;
/// Longest `content` that Discord takes, in characters.
const DISCORD_CHARS_MAX: usize = 2000;
/// Longest message to Teams, in characters, so that the whole stays below its 28 KB.
const TEAMS_CHARS_MAX: usize = 4000;

/// A well-known receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preset {
    /// An incoming webhook of Slack: `{"text": …}`.
    Slack,
    /// A webhook of Discord: `{"content": …}`, which mentions nobody.
    Discord,
    /// A webhook of Microsoft Teams' Workflows: a message with one Adaptive Card.
    Teams,
    /// A catch hook of Zapier: one flat object, `user__name` for what was `{"user":{"name":…}}`.
    Zapier,
}

impl Preset {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "slack" => Self::Slack,
            "discord" => Self::Discord,
            "teams" => Self::Teams,
            "zapier" => Self::Zapier,
            _ => return None,
        })
    }

    pub(super) fn write(
        self,
        event: &Envelope,
        payload: &Value<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Impossible> {
        let kind = event.event_type().as_str();
        let body = match self {
            Self::Zapier => return flat(event, payload, out),
            Self::Slack => {
                // What Slack reads as control characters, and nothing else, is escaped. A type has
                // none of them.
                let shown = shown(payload, SLACK_CHARS_MAX - 300, "```");
                let shown = shown.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                json!({ "text": fenced(&format!("*{kind}*"), &shown) })
            }
            Self::Discord => {
                let shown = shown(payload, DISCORD_CHARS_MAX - 300, "```");
                let content = fenced(&format!("**{kind}**"), &shown);
                json!({ "content": content, "allowed_mentions": { "parse": [] } })
            }
            Self::Teams => json!({
                "type": "message",
                "attachments": [{
                    "contentType": "application/vnd.microsoft.card.adaptive",
                    "contentUrl": null,
                    "content": {
                        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                        "type": "AdaptiveCard",
                        "version": "1.4",
                        "body": [
                            { "type": "TextBlock", "text": kind, "weight": "bolder", "wrap": true },
                            {
                                "type": "TextBlock",
                                "text": shown(payload, TEAMS_CHARS_MAX, "\0"),
                                "fontType": "monospace",
                                "wrap": true,
                            },
                        ],
                    },
                }],
            }),
        };
        serde_json::to_writer(out, &body).expect("a Vec takes all that is written");
        Ok(())
    }
}

fn fenced(title: &str, shown: &str) -> String {
    format!("{title}\n```\n{shown}\n```")
}

/// The payload as text of at most so many characters. `fence` cannot end early in it.
fn shown(payload: &Value<'_>, chars_max: usize, fence: &str) -> String {
    let mut json = Vec::new();
    payload.write(&mut json);
    let mut text = String::from_utf8_lossy(&json).replace(fence, "'''");
    if let Some((at, _)) = text.char_indices().nth(chars_max) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// One object without tables and lists in it: the event's own, then the payload's values by their
/// path, with two low lines between the steps.
fn flat(event: &Envelope, payload: &Value<'_>, out: &mut Vec<u8>) -> Result<(), Impossible> {
    let own = [
        ("event_id", event.id().to_string()),
        ("event_type", event.event_type().to_string()),
        ("event_time", event.time().to_string()),
    ];
    let mut names = 0;
    out.push(b'{');
    for (name, text) in own {
        entry(name, &Value::Text(text.into()), &mut names, out)?;
    }
    flatten("", payload, &mut names, out)?;
    out.push(b'}');
    Ok(())
}

fn flatten(
    path: &str,
    value: &Value<'_>,
    names: &mut usize,
    out: &mut Vec<u8>,
) -> Result<(), Impossible> {
    let below = |step: &str| match path {
        "" => step.to_owned(),
        path => format!("{path}__{step}"),
    };
    match value {
        Value::Table(entries) => {
            entries.iter().try_for_each(|(name, value)| flatten(&below(name), value, names, out))
        }
        Value::List(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(at, value)| flatten(&below(&at.to_string()), value, names, out)),
        scalar => entry(if path.is_empty() { "payload" } else { path }, scalar, names, out),
    }
}

fn entry(
    name: &str,
    value: &Value<'_>,
    names: &mut usize,
    out: &mut Vec<u8>,
) -> Result<(), Impossible> {
    if *names == NAMES_MAX {
        return Err(Impossible::TooManyNames);
    }
    if *names > 0 {
        out.push(b',');
    }
    *names += 1;
    Value::Text(name.into()).write(out);
    out.push(b':');
    value.write(out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::super::{Impossible, Transform};
    use super::*;
    use crate::clock::SystemClock;
    use crate::event::NewEvent;

    fn made(preset: &str, payload: &str) -> Result<Json, Impossible> {
        let event = NewEvent::raw("order.paid", payload.to_owned()).unwrap();
        let event = event.seal(&SystemClock, usize::MAX).unwrap();
        let body = Transform::new(&preset.into()).unwrap().apply(&event)?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    /// Slack: `text`, with `&`, `<` and `>` as entities, so that no payload makes a link or a mention.
    #[test]
    fn slack() {
        let body = made("slack", r#"{"a":"<!channel> & ```x"}"#).unwrap();
        let text = body["text"].as_str().unwrap();
        assert_eq!(text, "*order.paid*\n```\n{\"a\":\"&lt;!channel&gt; &amp; '''x\"}\n```");
        assert_eq!(body.as_object().unwrap().len(), 1);
    }

    /// Discord: `content` of at most 2,000 characters; `allowed_mentions` with nothing to parse.
    #[test]
    fn discord() {
        let long = format!(r#"{{"a":"@everyone {}"}}"#, "\u{1f600}".repeat(5000));
        let body = made("discord", &long).unwrap();
        let content = body["content"].as_str().unwrap();
        assert!(content.starts_with("**order.paid**\n```\n{\"a\":\"@everyone"));
        assert!(content.ends_with("…\n```"));
        assert!(content.encode_utf16().count() <= 2 * DISCORD_CHARS_MAX);
        assert!(content.chars().count() <= DISCORD_CHARS_MAX);
        assert_eq!(body["allowed_mentions"], serde_json::json!({ "parse": [] }));
    }

    /// Teams: a message with an Adaptive Card attached, below 28 KB.
    #[test]
    fn teams() {
        let body = made("teams", &format!(r#"{{"a":"{}"}}"#, "\u{1f600}".repeat(50_000))).unwrap();
        assert_eq!(body["type"], "message");
        let card = &body["attachments"][0];
        assert_eq!(card["contentType"], "application/vnd.microsoft.card.adaptive");
        assert_eq!(card["content"]["type"], "AdaptiveCard");
        assert_eq!(card["content"]["body"][0]["text"], "order.paid");
        assert!(card["content"]["body"][1]["text"].as_str().unwrap().starts_with("{\"a\":"));
        assert!(body.to_string().len() < 28 << 10, "{}", body.to_string().len());
    }

    /// Zapier: no value is a table or a list.
    #[test]
    fn zapier() {
        let body = made("zapier", r#"{"user":{"name":"Bo"},"tags":["x",true],"n":1.50}"#).unwrap();
        assert_eq!(body["event_type"], "order.paid");
        assert_eq!(body["user__name"], "Bo");
        assert_eq!(body["tags__0"], "x");
        assert_eq!(body["tags__1"], true);
        assert_eq!(body["n"], 1.5);
        assert!(
            body.as_object().unwrap().values().all(|value| !value.is_object() && !value.is_array())
        );
        assert_eq!(made("zapier", "3").unwrap()["payload"], 3);
        let many = serde_json::to_string(&vec![0; NAMES_MAX]).unwrap();
        assert_eq!(made("zapier", &many), Err(Impossible::TooManyNames));
    }
}
