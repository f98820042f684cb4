//! Templates: JSON with `{{ path }}` in its texts.

use serde_json::Value as Json;

use super::{
    Impossible, InvalidTransform, OUTPUT_BYTES_MAX, PLACEHOLDERS_MAX, TEMPLATE_BYTES_MAX,
    TEMPLATE_DEPTH_MAX,
};
use crate::filter::value::Value;

/// What the first step of a path may be.
const ROOT: [&str; 6] = ["id", "type", "time", "key", "attributes", "payload"];

#[derive(Clone, Debug)]
pub(super) enum Template {
    /// Written as it is.
    Fixed(Box<str>),
    /// A text that is nothing but one placeholder: the value itself, whatever its kind.
    Value(Path),
    /// A text with placeholders in it.
    Text(Vec<Part>),
    List(Vec<Template>),
    /// Names as they are written into JSON.
    Table(Vec<(Box<str>, Template)>),
}

#[derive(Clone, Debug)]
pub(super) enum Part {
    Text(Box<str>),
    Path(Path),
}

/// Steps from the event's root.
type Path = Box<[Box<str>]>;

impl Template {
    pub(super) fn new(source: &Json) -> Result<Self, InvalidTransform> {
        let bytes = source.to_string().len();
        if bytes > TEMPLATE_BYTES_MAX {
            let message = format!("expected at most {TEMPLATE_BYTES_MAX} bytes, found {bytes}");
            return Err(InvalidTransform::new("template", message, ""));
        }
        let mut placeholders = 0;
        let template = compile(source, "template", TEMPLATE_DEPTH_MAX, &mut placeholders)?;
        if placeholders > PLACEHOLDERS_MAX {
            let message =
                format!("expected at most {PLACEHOLDERS_MAX} placeholders, found {placeholders}");
            return Err(InvalidTransform::new("template", message, ""));
        }
        Ok(template)
    }

    pub(super) fn write(&self, root: &Value<'_>, out: &mut Vec<u8>) -> Result<(), Impossible> {
        // One placeholder adds at most a payload, so that what is above the bound stays near it.
        if out.len() > OUTPUT_BYTES_MAX {
            return Err(Impossible::TooLarge);
        }
        match self {
            Self::Fixed(json) => out.extend_from_slice(json.as_bytes()),
            Self::Value(path) => find(root, path).unwrap_or(&Value::Null).write(out),
            Self::Text(parts) => {
                let text = join(root, parts)?;
                serde_json::to_writer(out, &text).expect("a Vec takes all that is written");
            }
            Self::List(items) => {
                out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    item.write(root, out)?;
                }
                out.push(b']');
            }
            Self::Table(entries) => {
                out.push(b'{');
                for (at, (name, item)) in entries.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(name.as_bytes());
                    out.push(b':');
                    item.write(root, out)?;
                }
                out.push(b'}');
            }
        }
        Ok(())
    }
}

/// A text with its placeholders filled in.
fn join(root: &Value<'_>, parts: &[Part]) -> Result<String, Impossible> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(fixed) => text.push_str(fixed),
            Part::Path(path) => match find(root, path) {
                None | Some(Value::Null) => {}
                Some(Value::Text(found)) => text.push_str(found),
                Some(other) => {
                    let mut json = Vec::new();
                    other.write(&mut json);
                    text.push_str(&String::from_utf8_lossy(&json));
                }
            },
        }
        if text.len() > OUTPUT_BYTES_MAX {
            return Err(Impossible::TooLarge);
        }
    }
    Ok(text)
}

fn find<'v, 'a>(root: &'v Value<'a>, path: &[Box<str>]) -> Option<&'v Value<'a>> {
    path.iter().try_fold(root, |value, step| match value {
        Value::List(items) => items.get(step.parse::<usize>().ok()?),
        _ => value.get(step),
    })
}

fn compile(
    source: &Json,
    key: &str,
    depth: usize,
    placeholders: &mut usize,
) -> Result<Template, InvalidTransform> {
    let Some(depth) = depth.checked_sub(1) else {
        let message = format!("nested deeper than {TEMPLATE_DEPTH_MAX} levels");
        return Err(InvalidTransform::new("template", message, ""));
    };
    match source {
        Json::String(text) => {
            let parts = parts(text, key)?;
            *placeholders += parts.iter().filter(|part| matches!(part, Part::Path(_))).count();
            Ok(match &parts[..] {
                [Part::Path(path)] => Template::Value(path.clone()),
                [] | [Part::Text(_)] => Template::Fixed(source.to_string().into()),
                _ => Template::Text(parts),
            })
        }
        Json::Array(items) => {
            let items = items
                .iter()
                .enumerate()
                .map(|(index, item)| compile(item, &format!("{key}.{index}"), depth, placeholders));
            items.collect::<Result<_, _>>().map(Template::List)
        }
        Json::Object(table) => {
            let entries = table.iter().map(|(name, item)| {
                let item = compile(item, &format!("{key}.{name}"), depth, placeholders)?;
                Ok((Json::from(name.as_str()).to_string().into(), item))
            });
            entries.collect::<Result<_, _>>().map(Template::Table)
        }
        scalar => Ok(Template::Fixed(scalar.to_string().into())),
    }
}

fn parts(text: &str, key: &str) -> Result<Vec<Part>, InvalidTransform> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((path, after)) = after.split_once("}}") else {
            let message = "a placeholder begins with {{ and does not end";
            return Err(InvalidTransform::new(key, message, "end it with }}"));
        };
        if !before.is_empty() {
            parts.push(Part::Text(before.into()));
        }
        let path: Path = path.trim().split('.').map(Into::into).collect();
        if !ROOT.contains(&&*path[0]) {
            let remedy = format!("begin it with one of {}", ROOT.join(", "));
            let message = format!("no such place in an event: {:?}", path.join("."));
            return Err(InvalidTransform::new(key, message, remedy));
        }
        if path.iter().any(|step| step.is_empty()) {
            return Err(InvalidTransform::new(key, "a path with an empty step", ""));
        }
        parts.push(Part::Path(path));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.into()));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::*;
    use crate::clock::SystemClock;
    use crate::event::NewEvent;

    fn apply(template: &Json, payload: String) -> Result<String, Impossible> {
        let transform = Transform::new(&json!({ "template": template })).unwrap();
        let event =
            NewEvent::raw("order.paid", payload).unwrap().key("k").attribute("tier", "gold");
        let event = event.seal(&SystemClock, usize::MAX).unwrap();
        transform.apply(&event).map(|body| String::from_utf8(body.to_vec()).unwrap())
    }

    fn check(template: &Json, payload: &str, expect: &str) {
        assert_eq!(apply(template, payload.to_owned()).unwrap(), expect, "{payload}");
    }

    #[test]
    fn placeholders_become_values_or_parts_of_texts() {
        check(&json!("{{ payload }}"), r#"{"a": 1.50, "b": [1e2]}"#, r#"{"a":1.50,"b":[1e2]}"#);
        check(
            &json!({"n": "{{payload.n}}"}),
            r#"{"n": 12345678901234567890123}"#,
            r#"{"n":12345678901234567890123}"#,
        );
        check(&json!("n = {{ payload.n }}!"), r#"{"n": 1.50}"#, r#""n = 1.50!""#);
        check(
            &json!(["{{type}} {{key}} {{attributes.tier}}", 3, null]),
            "{}",
            r#"["order.paid k gold",3,null]"#,
        );
        check(&json!("{{payload.items.1.id}}"), r#"{"items": [{"id": 1}, {"id": 2}]}"#, "2");
        check(
            &json!({"a": "{{payload.no}}", "b": "<{{payload.no}}>"}),
            "{}",
            r#"{"a":null,"b":"<>"}"#,
        );
        check(
            &json!("{{payload.t}} and {{payload.o}}"),
            r#"{"t": true, "o": {"x": "y"}}"#,
            r#""true and {\"x\":\"y\"}""#,
        );
    }

    /// Whatever a payload holds, it cannot break out of the text or name that it is put into, and
    /// what looks like a placeholder in it is none.
    #[test]
    fn payloads_are_encoded() {
        check(
            &json!({"text": "hello {{payload.name}}"}),
            r#"{"name": "\",\"admin\":true,\"x\":\"\n{{type}}"}"#,
            r#"{"text":"hello \",\"admin\":true,\"x\":\"\n{{type}}"}"#,
        );
    }

    #[test]
    fn what_is_made_is_bounded() {
        let large = format!(r#"{{"a": "{}"}}"#, "x".repeat(1 << 20));
        let many = |each: &str| Json::from(vec![each; PLACEHOLDERS_MAX]);
        assert_eq!(apply(&many("{{payload.a}}"), large.clone()), Err(Impossible::TooLarge));
        assert_eq!(
            apply(&json!("{{payload.a}}".repeat(400) + "."), large),
            Err(Impossible::TooLarge)
        );
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(apply(&json!("{{type}}"), deep), Err(Impossible::TooDeep));
    }

    #[test]
    fn mistakes() {
        let check = |source: &Json, key: &str, expect: &str| {
            let error = Transform::new(source).unwrap_err();
            assert_eq!(error.key, key, "{error}");
            assert!(error.message.contains(expect), "{error}");
        };
        check(&json!("slcak"), "", "name of a preset");
        check(&json!({"template": 1, "x": 2}), "", "template");
        check(&json!({"jq": "."}), "jq", "not yet supported");
        check(&json!({"template": {"a": ["{{ data.x }}"]}}), "template.a.0", "no such place");
        check(&json!({"template": {"a": "{{ type"}}), "template.a", "does not end");
        check(&json!({"template": "{{ payload..x }}"}), "template", "empty step");
        check(
            &json!({"template": "x".repeat(TEMPLATE_BYTES_MAX)}),
            "template",
            "at most 65536 bytes",
        );
        check(&json!({"template": vec!["{{id}}"; 501]}), "template", "at most 500 placeholders");
        let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
        check(&json!({ "template": deep }), "template", "nested deeper than 32");
    }
}
