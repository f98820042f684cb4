//! From JSON to conditions; finds every mistake at once.

use regex::RegexBuilder;
use serde_json::{Map, Value as Json};

use super::test::{Node, Test};
use super::{
    CONDITIONS_MAX, DEPTH_MAX, InvalidFilter, LIST_MAX, REGEX_BYTES_MAX, REGEX_COMPILED_BYTES_MAX,
    dialect,
};

/// What a filter's table may name of an event.
const ROOT: [&str; 5] = ["type", "id", "key", "attributes", "payload"];
const OPERATORS: [&str; 15] = [
    "$eq",
    "$ne",
    "$in",
    "$nin",
    "$gt",
    "$gte",
    "$lt",
    "$lte",
    "$exists",
    "$startsWith",
    "$endsWith",
    "$contains",
    "$regex",
    "$and",
    "$or",
];

/// The condition, and whether it asks for the payload.
pub(super) fn compile(source: &Json) -> Result<(Node, bool), Vec<InvalidFilter>> {
    let mut compiler = Compiler::default();
    let node = match source {
        Json::Array(filters) => dialect::list(&mut compiler, filters),
        Json::Object(table) => compiler.table(table, 0, true),
        _ => compiler.mistake(
            "expected a table of conditions",
            "write for example filter = { payload = { amount = { \"$gte\" = 100 } } }",
        ),
    };
    match node {
        Some(node) if compiler.mistakes.is_empty() => Ok((node, compiler.asks_payload)),
        _ => Err(compiler.mistakes),
    }
}

#[derive(Default)]
pub(super) struct Compiler {
    pub(super) path: Vec<String>,
    mistakes: Vec<InvalidFilter>,
    conditions: usize,
    asks_payload: bool,
}

impl Compiler {
    /// Notes what is wrong at the current path. Bounded by the number of conditions.
    pub(super) fn mistake<T>(&mut self, message: &str, remedy: &str) -> Option<T> {
        self.mistakes.push(InvalidFilter::new(&self.path, message, remedy));
        None
    }

    /// Compiles what stands one step further down.
    pub(super) fn below<T>(
        &mut self,
        step: &(impl ToString + ?Sized),
        compile: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        self.path.push(step.to_string());
        let compiled = compile(self);
        self.path.pop();
        compiled
    }

    /// Counts a condition; `None` where there are too many, or they nest too deep.
    pub(super) fn count(&mut self, depth: usize) -> Option<()> {
        self.conditions += 1;
        if depth > DEPTH_MAX {
            return self.mistake(&format!("nested deeper than {DEPTH_MAX} levels"), "");
        }
        match self.conditions.cmp(&(CONDITIONS_MAX + 1)) {
            std::cmp::Ordering::Less => Some(()),
            std::cmp::Ordering::Equal => {
                self.mistake(&format!("more than {CONDITIONS_MAX} conditions"), "use $in or $regex")
            }
            std::cmp::Ordering::Greater => None,
        }
    }

    fn node(&mut self, source: &Json, depth: usize, is_root: bool) -> Option<Node> {
        match source {
            Json::Object(table) => self.table(table, depth, is_root),
            _ if is_root => self.mistake("expected a table of conditions", ""),
            Json::Array(items) => {
                let items = self.list(items)?;
                self.nodes(items, depth, false).map(Node::Elements)
            }
            scalar => {
                self.count(depth)?;
                Some(Node::Test(Test::Eq { wanted: scalar.clone(), is_plain: true }))
            }
        }
    }

    /// Names and operators; all must hold.
    fn table(&mut self, table: &Map<String, Json>, depth: usize, is_root: bool) -> Option<Node> {
        self.count(depth)?;
        if table.is_empty() {
            let remedy = "take it out, or write { \"$exists\" = true }";
            return self.mistake("an empty table says nothing", remedy);
        }
        let (mut fields, mut nodes) = (Vec::new(), Vec::new());
        for (name, source) in table {
            self.below(name.as_str(), |this| {
                if name.starts_with('$') {
                    nodes.push(this.operator(name, source, depth + 1, is_root)?);
                    return Some(());
                }
                if is_root && !ROOT.contains(&name.as_str()) {
                    let meant = match name.as_str() {
                        "data" | "body" => Some("payload"),
                        "headers" | "metadata" => Some("attributes"),
                        "topic" | "event" => Some("type"),
                        name => nearest(name, &ROOT),
                    };
                    return this.mistake("unknown key", &did_you_mean(meant, &ROOT));
                }
                this.asks_payload |= is_root && name == "payload";
                fields.push((name.as_str().into(), this.node(source, depth + 1, false)?));
                Some(())
            });
        }
        if !fields.is_empty() {
            nodes.push(Node::Fields(fields));
        }
        if nodes.len() == 1 { nodes.pop() } else { Some(Node::All(nodes)) }
    }

    /// `is_root`: beside `type` and `payload`, where no single value is to be compared.
    fn operator(&mut self, name: &str, source: &Json, depth: usize, is_root: bool) -> Option<Node> {
        match name {
            "$and" | "$or" => {
                let Json::Array(items) = source else {
                    return self.mistake("expected a list of conditions", "");
                };
                let items = self.list(items)?;
                let nodes = self.nodes(items, depth, is_root)?;
                return Some(if name == "$and" { Node::All(nodes) } else { Node::Any(nodes) });
            }
            "$not" => return Some(Node::Not(Box::new(self.node(source, depth, is_root)?))),
            _ if is_root && OPERATORS.contains(&name) => {
                return self
                    .mistake("no value to compare here", "put it below type, key or payload");
            }
            _ => {}
        }
        self.count(depth)?;
        let source = source.clone();
        let test = match name {
            "$eq" => Test::Eq { wanted: source, is_plain: false },
            "$ne" | "$neq" => Test::Ne(source),
            "$in" | "$nin" => {
                let Json::Array(items) = source else {
                    return self
                        .mistake("expected a list", "for one value use $eq, for a part $contains");
                };
                self.list(&items)?;
                if name == "$in" { Test::In(items) } else { Test::Nin(items) }
            }
            "$gt" | "$gte" | "$lt" | "$lte" => {
                if !source.is_number() && !source.is_string() {
                    return self.mistake("expected a number or a text", "");
                }
                let sign = OPERATORS.iter().find(|sign| **sign == name)?;
                Test::Order { sign, wanted: source }
            }
            "$exists" | "$exist" => match source {
                Json::Bool(wanted) => Test::Exists(wanted),
                _ => return self.mistake("expected true or false", ""),
            },
            "$startsWith" => Test::StartsWith(self.texts(source)?),
            "$endsWith" => Test::EndsWith(self.texts(source)?),
            "$contains" if source.is_array() || source.is_object() => {
                return self.mistake("expected a single value", "for several use $and");
            }
            "$contains" => Test::Contains(source),
            "$regex" => Test::Regex(Box::new(self.regex(&source)?)),
            _ => {
                let remedy = did_you_mean(nearest(name, &OPERATORS), &OPERATORS);
                return self.mistake("unknown operator", &remedy);
            }
        };
        Some(Node::Test(test))
    }

    fn nodes(&mut self, items: &[Json], depth: usize, is_root: bool) -> Option<Vec<Node>> {
        let nodes: Vec<_> = items
            .iter()
            .enumerate()
            .map(|(index, item)| self.below(&index, |this| this.node(item, depth + 1, is_root)))
            .collect();
        nodes.into_iter().collect()
    }

    /// A list that is neither empty nor too long.
    pub(super) fn list<'j>(&mut self, items: &'j [Json]) -> Option<&'j [Json]> {
        match items.len() {
            0 => self.mistake("an empty list says nothing", "take it out"),
            1..=LIST_MAX => Some(items),
            found => {
                self.mistake(&format!("expected at most {LIST_MAX} values, found {found}"), "")
            }
        }
    }

    /// One text or a list of texts.
    fn texts(&mut self, source: Json) -> Option<Vec<String>> {
        let items = match source {
            Json::Array(items) => {
                self.list(&items)?;
                items
            }
            one => vec![one],
        };
        let texts = items.into_iter().map(|item| match item {
            Json::String(text) => Some(text),
            _ => None,
        });
        match texts.collect() {
            Some(texts) => Some(texts),
            None => self.mistake("expected a text or a list of texts", ""),
        }
    }

    fn regex(&mut self, source: &Json) -> Option<regex::Regex> {
        let Json::String(text) = source else { return self.mistake("expected a text", "") };
        if text.len() > REGEX_BYTES_MAX {
            let message = format!("expected at most {REGEX_BYTES_MAX} bytes, found {}", text.len());
            return self.mistake(&message, "");
        }
        let regex = RegexBuilder::new(text)
            .size_limit(REGEX_COMPILED_BYTES_MAX)
            .dfa_size_limit(REGEX_COMPILED_BYTES_MAX)
            .build();
        match regex {
            Ok(regex) => Some(regex),
            Err(error) => {
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
                let remedy = "there are no look-arounds and no back references, so that it always \
                              ends in time";
                self.mistake(&format!("not a regular expression that is taken: {why}"), remedy)
            }
        }
    }
}

fn did_you_mean(meant: Option<&str>, known: &[&str]) -> String {
    match meant {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = |known: &&&str| strsim::damerau_levenshtein(name, known);
    known.iter().min_by_key(near).filter(|known| near(known) <= 2).copied()
}
