//! Why an event does not pass, for people.

use std::fmt;

use serde_json::Value as Json;

use super::PAYLOAD_DEPTH_MAX;
use super::test::{Node, Test};
use super::value::Value;

/// Longest value that is shown, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// The first condition that does not hold, for whoever published the event: `Display` shows the
/// value that was found, which is a part of the payload. Not for logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    path: String,
    what: String,
}

impl Mismatch {
    /// Where the condition stands in the event: `payload.user.tier`; empty for the event as a whole.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn too_deep() -> Self {
        let what =
            format!("nests deeper than {PAYLOAD_DEPTH_MAX} levels, where filters do not look");
        Self { path: "payload".to_owned(), what }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)
    }
}

pub(super) fn explain(root: &Node, value: &Value<'_>) -> Result<(), Mismatch> {
    match failing(root, Some(value), &mut Vec::new()) {
        None => Ok(()),
        Some(mismatch) => Err(mismatch),
    }
}

/// The first part of `node` that does not hold; `None` where all do.
fn failing<'n>(
    node: &'n Node,
    value: Option<&Value<'_>>,
    path: &mut Vec<&'n str>,
) -> Option<Mismatch> {
    if node.holds(value) {
        return None;
    }
    let says = |path: &[&str], what: String| Some(Mismatch { path: path.join("."), what });
    match node {
        Node::Fields(_) if matches!(value, Some(Value::List(_))) => {
            says(path, "no element of the list passes".to_owned())
        }
        Node::Fields(fields) => fields.iter().find_map(|(name, node)| {
            path.push(name);
            let found = failing(node, value.and_then(|value| value.get(name)), path);
            path.pop();
            found
        }),
        Node::Elements(_) => {
            says(path, format!("expected a list with all of the values, found {}", shown(value)))
        }
        Node::All(nodes) => nodes.iter().find_map(|node| failing(node, value, path)),
        Node::Any(nodes) => {
            let first = failing(&nodes[0], value, path)?;
            says(path, format!("no alternative of $or holds; the first: {first}"))
        }
        Node::Not(_) => says(path, "what $not excludes holds".to_owned()),
        Node::Test(test) => {
            says(path, format!("expected {}, found {}", wanted(test), shown(value)))
        }
    }
}

fn wanted(test: &Test) -> String {
    let list = |items: &[Json]| cut(Json::from(items).to_string());
    let texts = |name: &str, texts: &[String]| match texts {
        [only] => format!("{name} {only:?}"),
        several => format!("{name} {several:?}"),
    };
    match test {
        Test::Eq { wanted, is_plain: true } => cut(wanted.to_string()),
        Test::Eq { wanted, .. } => format!("$eq {}", cut(wanted.to_string())),
        Test::Ne(unwanted) => format!("$ne {}", cut(unwanted.to_string())),
        Test::In(wanted) => format!("$in {}", list(wanted)),
        Test::Nin(unwanted) => format!("$nin {}", list(unwanted)),
        Test::Order { sign, wanted } => format!("{sign} {}", cut(wanted.to_string())),
        Test::StartsWith(starts) => texts("$startsWith", starts),
        Test::EndsWith(ends) => texts("$endsWith", ends),
        Test::Contains(part) => format!("$contains {}", cut(part.to_string())),
        Test::Regex(regex) => format!("$regex {:?}", regex.as_str()),
        Test::Exists(true) => "a value".to_owned(),
        Test::Exists(false) => "no value".to_owned(),
    }
}

fn shown(value: Option<&Value<'_>>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(Value::Null) => "null".to_owned(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Number(number)) => cut((*number).to_owned()),
        Some(Value::Text(text)) => {
            cut(serde_json::to_string(&**text).expect("a text always encodes"))
        }
        Some(Value::List(_)) => "a list".to_owned(),
        Some(Value::Table(_)) => "a table".to_owned(),
    }
}

fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(SHOWN_CHARS_MAX) {
        text.truncate(at);
        text.push('…');
    }
    text
}
