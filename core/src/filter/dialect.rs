//! The filter dialects of the `CloudEvents` Subscriptions API (§3.2.4.1): `exact`, `prefix`,
//! `suffix`, `all`, `any`, `not`.

use serde_json::{Map, Value as Json};

use super::compile::Compiler;
use super::test::{Node, Test};

/// Filters of which all must hold.
pub(super) fn list(compiler: &mut Compiler, filters: &[Json]) -> Option<Node> {
    several(compiler, filters, 0).map(Node::All)
}

fn several(compiler: &mut Compiler, filters: &[Json], depth: usize) -> Option<Vec<Node>> {
    let filters = compiler.list(filters)?.iter().enumerate();
    let nodes: Vec<_> = filters
        .map(|(index, filter)| compiler.below(&index, |compiler| one(compiler, filter, depth)))
        .collect();
    nodes.into_iter().collect()
}

fn one(compiler: &mut Compiler, filter: &Json, depth: usize) -> Option<Node> {
    compiler.count(depth)?;
    let table = filter.as_object().filter(|table| table.len() == 1);
    let Some((dialect, operand)) = table.and_then(|table| table.iter().next()) else {
        let example = "such as { prefix = { type = \"order.\" } }";
        return compiler.mistake("expected a table with one dialect", example);
    };
    compiler.below(dialect.as_str(), |compiler| match (dialect.as_str(), operand) {
        ("exact" | "prefix" | "suffix", Json::Object(attributes)) => {
            texts(compiler, dialect, attributes)
        }
        ("exact" | "prefix" | "suffix", _) => {
            compiler.mistake("expected a table of attributes and texts", "")
        }
        ("all", Json::Array(filters)) => several(compiler, filters, depth + 1).map(Node::All),
        ("any", Json::Array(filters)) => several(compiler, filters, depth + 1).map(Node::Any),
        ("all" | "any", _) => compiler.mistake("expected a list of filters", ""),
        ("not", filter) => Some(Node::Not(Box::new(one(compiler, filter, depth + 1)?))),
        _ => {
            compiler.mistake("unknown dialect", "known here: exact, prefix, suffix, all, any, not")
        }
    })
}

/// Attributes of which each must be so.
fn texts(compiler: &mut Compiler, dialect: &str, wanted: &Map<String, Json>) -> Option<Node> {
    if wanted.is_empty() {
        return compiler.mistake("an empty table says nothing", "name an attribute");
    }
    let mut nodes = Vec::new();
    for (name, text) in wanted {
        let node = compiler.below(name.as_str(), |compiler| {
            let text = match text {
                Json::String(text) if !text.is_empty() => text.clone(),
                _ => return compiler.mistake("expected a text that is not empty", ""),
            };
            let test = Node::Test(match dialect {
                "exact" => Test::Eq { wanted: text.into(), is_plain: true },
                "prefix" => Test::StartsWith(vec![text]),
                _ => Test::EndsWith(vec![text]),
            });
            let field = |name: &str, node| Node::Fields(vec![(name.into(), node)]);
            Some(match name.as_str() {
                "type" | "id" => field(name, test),
                "partitionkey" => field("key", test),
                "specversion" | "source" | "datacontenttype" | "dataschema" | "time" => {
                    let message = "not an attribute that tells this endpoint's events apart: the \
                                   same for every event, or its time";
                    return compiler.mistake(message, "take it out");
                }
                _ => field("attributes", field(name, test)),
            })
        });
        nodes.push(node);
    }
    nodes.into_iter().collect::<Option<Vec<_>>>().map(Node::All)
}
