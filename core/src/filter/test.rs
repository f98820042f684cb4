//! Conditions, and whether they hold.

use std::cmp::Ordering;

use regex::Regex;
use serde_json::Value as Json;

use super::number;
use super::value::Value;

/// A condition on a value, or on one that is missing.
pub(super) enum Node {
    /// Each name's value; a list passes where one of its elements does.
    Fields(Vec<(Box<str>, Node)>),
    /// A list in which each of these holds for some element.
    Elements(Vec<Node>),
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Test(Test),
}

pub(super) enum Test {
    /// The value itself; `is_plain` where it is written without `$eq`.
    Eq {
        wanted: Json,
        is_plain: bool,
    },
    Ne(Json),
    In(Vec<Json>),
    Nin(Vec<Json>),
    /// `$gt`, `$gte`, `$lt`, `$lte`.
    Order {
        sign: &'static str,
        wanted: Json,
    },
    StartsWith(Vec<String>),
    EndsWith(Vec<String>),
    Contains(Json),
    Regex(Box<Regex>),
    Exists(bool),
}

impl Node {
    pub(super) fn holds(&self, value: Option<&Value<'_>>) -> bool {
        match self {
            Self::Fields(fields) => match value {
                Some(Value::List(items)) => items.iter().any(|item| self.holds(Some(item))),
                _ => fields
                    .iter()
                    .all(|(name, node)| node.holds(value.and_then(|value| value.get(name)))),
            },
            Self::Elements(nodes) => match value {
                Some(Value::List(items)) => {
                    nodes.iter().all(|node| items.iter().any(|item| node.holds(Some(item))))
                }
                _ => false,
            },
            Self::All(nodes) => nodes.iter().all(|node| node.holds(value)),
            Self::Any(nodes) => nodes.iter().any(|node| node.holds(value)),
            Self::Not(node) => !node.holds(value),
            Self::Test(test) => test.holds(value),
        }
    }
}

impl Test {
    fn holds(&self, value: Option<&Value<'_>>) -> bool {
        match self {
            Self::Exists(wanted) => return value.is_some() == *wanted,
            Self::Ne(unwanted) => return !is_one_of(value, std::slice::from_ref(unwanted)),
            Self::Nin(unwanted) => return !is_one_of(value, unwanted),
            Self::Eq { wanted, .. } => return is_one_of(value, std::slice::from_ref(wanted)),
            Self::In(wanted) => return is_one_of(value, wanted),
            _ => {}
        }
        match (value, self) {
            (None, _) => false,
            // Of a list, an element itself: the texts in it are not searched.
            (Some(Value::List(items)), Self::Contains(wanted)) => {
                items.iter().any(|item| item.is(wanted))
            }
            (Some(Value::List(items)), _) => items.iter().any(|item| self.holds_for(item)),
            (Some(value), _) => self.holds_for(value),
        }
    }

    /// Of a single value.
    fn holds_for(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::Order { sign, wanted }, _) => {
                let order = match (value, wanted) {
                    (Value::Number(found), Json::Number(wanted)) => {
                        number::compare(found, &wanted.to_string())
                    }
                    (Value::Text(found), Json::String(wanted)) => (**found).cmp(wanted.as_str()),
                    _ => return false,
                };
                match *sign {
                    "$gt" => order == Ordering::Greater,
                    "$gte" => order != Ordering::Less,
                    "$lt" => order == Ordering::Less,
                    _ => order != Ordering::Greater,
                }
            }
            (Self::StartsWith(starts), Value::Text(text)) => {
                starts.iter().any(|start| text.starts_with(start))
            }
            (Self::EndsWith(ends), Value::Text(text)) => ends.iter().any(|end| text.ends_with(end)),
            (Self::Contains(Json::String(part)), Value::Text(text)) => text.contains(part.as_str()),
            (Self::Regex(regex), Value::Text(text)) => regex.is_match(text),
            _ => false,
        }
    }
}

/// Whether the value, or an element of it where it is a list, is one of these.
fn is_one_of(value: Option<&Value<'_>>, wanted: &[Json]) -> bool {
    let Some(value) = value else { return false };
    wanted.iter().any(|wanted| match value {
        Value::List(items) if items.iter().any(|item| item.is(wanted)) => true,
        _ => value.is(wanted),
    })
}
