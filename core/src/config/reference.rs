//! The reference page of all keys, written from the schema.

use std::fmt::Write;

use figment::value::{Dict, Value};
use serde_json::{Map, Value as Json};

use super::clean::choices;
use super::layers::PREFIX;
use super::loader::FILE_NAMES;
use super::schema::{SINK_DEFAULT, Schema, is_secret};
use crate::sink::Registry;
use crate::store;

/// The reference page of every key, its type, default, bounds and meaning, as Markdown, for the
/// sinks of `registry` and these stores. The same registries give the same page.
pub fn reference_markdown(registry: &Registry, stores: &store::Registry) -> String {
    let schema = Schema::new(registry, stores);
    let files = FILE_NAMES.map(|name| format!("`{name}`")).join(", ");
    let mut page = format!(
        "# Configuration\n\n\
         <!-- Generated from the source by `cargo xtask codegen`; edit the comments there. \
         -->\n\n\
         One file, the first of {files} in the current folder, or the one named by `--config`. TOML \
         and JSON have the same keys; `null` in JSON says the same as an absent key. Later layers \
         win: built-in defaults, the file, environment variables, command-line flags.\n\n\
         A variable names a key by its levels: `{PREFIX}BUS__DATA_DIR` is `bus.data_dir`, \
         `{PREFIX}ENDPOINTS__0__URL` the `url` of the first endpoint. Lists and tables may be \
         written as JSON. An unknown key is an error; only in `webhook_config.json` it is a \
         warning.\n\n\
         Secrets are written as text, as `{{ env = \"NAME\" }}` or as `{{ file = \"PATH\" }}`, and \
         never printed. Relative paths in a file start at the file's folder.\n"
    );
    let root = schema.root();
    let mut writer = Writer { schema: &schema, page: &mut page };
    writer.section("## Top level", None, root, None, &|_| true);
    for (key, node) in properties(root) {
        let resolved = schema.resolve(node, &Value::from(0));
        match key.as_str() {
            "endpoints" => writer.endpoints(registry),
            "defaults" => {
                let described = node["description"].as_str();
                writer.section("## `[defaults]`", described, resolved, Some("defaults"), &|key| {
                    schema.is_policy(key)
                });
            }
            key if resolved.get("properties").is_some() => {
                let described = node["description"].as_str();
                writer.section(&format!("## `[{key}]`"), described, resolved, Some(key), &|_| true);
                if key == "bus" {
                    writer.stores(&resolved["properties"]["store"], stores);
                }
            }
            _ => {}
        }
    }
    page
}

struct Writer<'a> {
    schema: &'a Schema,
    page: &'a mut String,
}

impl Writer<'_> {
    /// One table of keys, then those of the tables within it, unless `path` is absent.
    fn section(
        &mut self,
        title: &str,
        described: Option<&str>,
        node: &Json,
        path: Option<&str>,
        is_shown: &dyn Fn(&str) -> bool,
    ) {
        self.line(&format!("\n{title}\n"));
        if let Some(described) = described {
            self.line(&format!("{}\n", one_line(described)));
        }
        let shown: Vec<(&String, &Json)> =
            properties(node).filter(|(key, _)| is_shown(key)).collect();
        if shown.is_empty() {
            self.line("No keys of its own.");
            return;
        }
        self.line("| Key | Type | Default | Bounds | Meaning |\n|---|---|---|---|---|");
        let required = node["required"].as_array();
        let mut inner = Vec::new();
        for (key, node) in shown {
            let resolved = self.schema.resolve(node, &Value::from(0));
            let is_required =
                required.is_some_and(|keys| keys.iter().any(|one| one.as_str() == Some(key)));
            let default = match &node["default"] {
                _ if is_required => "**required**".to_owned(),
                Json::Null | Json::Object(_) => String::new(),
                Json::Array(items) if items.is_empty() => "none".to_owned(),
                default => format!("`{default}`"),
            };
            let description = node["description"].as_str().or(resolved["description"].as_str());
            self.line(&format!(
                "| `{key}` | {} | {default} | {} | {} |",
                self.kind(resolved),
                bounds(resolved),
                one_line(description.unwrap_or_default()).replace('|', "\\|"),
            ));
            let Some(path) = path else { continue };
            let below = format!("{path}.{key}");
            if resolved.get("properties").is_some() {
                inner.push((format!("### `[{below}]`"), resolved, below));
            } else if let Some(item) = resolved.get("items") {
                let item = self.schema.resolve(item, &Value::from(0));
                if item.get("properties").is_some() {
                    inner.push((format!("### `[[{below}]]`"), item, below));
                }
            }
        }
        for (title, node, path) in inner {
            self.section(&title, node["description"].as_str(), node, Some(&path), &|_| true);
        }
    }

    /// What each store has.
    fn stores(&mut self, node: &Json, stores: &store::Registry) {
        for name in stores.names() {
            let table = Value::from(Dict::from([("type".to_owned(), Value::from(name))]));
            let node = self.schema.resolve(node, &table);
            let title = format!("### `[bus.store]` with `type = \"{name}\"`");
            self.section(&title, node["description"].as_str(), node, None, &|key| key != "type");
        }
    }

    /// What all endpoints have, then what each sink adds.
    fn endpoints(&mut self, registry: &Registry) {
        let schema = self.schema;
        let is_own = |key: &str| !schema.is_identity(key) && !schema.is_policy(key);
        let described = "The places that events go to. Beside these keys an endpoint has those of \
                         its sink, and may have any of `[defaults]` for itself.";
        let common = schema.common();
        self.section("## `[[endpoints]]`", Some(described), common, Some("endpoints"), &|key| {
            schema.is_identity(key)
        });
        for name in registry.names() {
            let table = Dict::from([("sink".to_owned(), Value::from(name))]);
            let table = Value::from(table);
            let node = schema.endpoint(&table);
            let absent = if name == SINK_DEFAULT { " (or no `sink`)" } else { "" };
            let title = format!("## `[[endpoints]]` with `sink = \"{name}\"`{absent}");
            let described = node["description"].as_str();
            self.section(&title, described, node, Some("endpoints"), &is_own);
        }
    }

    /// A type for people.
    fn kind(&self, node: &Json) -> String {
        let inner = |node: &Json| self.kind(self.schema.resolve(node, &Value::from(0)));
        let choices = choices(node);
        if is_secret(node) {
            return "secret".to_owned();
        }
        if !choices.is_empty() {
            let quoted: Vec<String> = choices.iter().map(|one| format!("`\"{one}\"`")).collect();
            return quoted.join(", ");
        }
        if let Some(kind) = node["x-type"].as_str() {
            return kind.to_owned();
        }
        if let Some(item) = node.get("items").filter(|item| item.get("oneOf").is_none()) {
            return format!("list of {}", inner(item));
        }
        if let Some(value) = node.get("additionalProperties").filter(|value| value.is_object()) {
            return format!("table of {}", inner(value));
        }
        let names: Vec<&str> = match &node["type"] {
            Json::String(only) => vec![only],
            Json::Array(kinds) => kinds.iter().filter_map(Json::as_str).collect(),
            _ => Vec::new(),
        };
        let names = names.into_iter().filter_map(|name| match name {
            "string" if node["format"] == "path" => Some("path"),
            "string" => Some("text"),
            "integer" => Some("whole number"),
            "number" => Some("number"),
            "boolean" => Some("`true`, `false`"),
            "object" => Some("table"),
            "array" => Some("list of tables"),
            _ => None,
        });
        names.collect::<Vec<_>>().join(" or ")
    }

    fn line(&mut self, text: &str) {
        writeln!(self.page, "{text}").expect("a String takes everything");
    }
}

fn properties(node: &Json) -> impl Iterator<Item = (&String, &Json)> {
    node["properties"].as_object().into_iter().flat_map(Map::iter)
}

/// Bounds for people: `1 to 4096`, `at most 64MiB`.
fn bounds(node: &Json) -> String {
    let text = |key: &str| match &node[key] {
        Json::Null => None,
        Json::String(text) => Some(text.clone()),
        other => Some(other.to_string().trim_end_matches(".0").to_owned()),
    };
    let kinds = [
        ("minimum", "maximum", ""),
        ("x-min", "x-max", ""),
        ("minItems", "maxItems", " elements"),
        ("minLength", "maxLength", " characters"),
    ];
    let stated = kinds.into_iter().filter_map(|(low, high, unit)| match (text(low), text(high)) {
        // That a size is not negative needs no telling.
        (Some(low), None) if low == "0" => None,
        (Some(low), None) if low == "1" && unit == " characters" => Some("not empty".to_owned()),
        (Some(low), Some(high)) => Some(format!("{low} to {high}{unit}")),
        (Some(low), None) => Some(format!("at least {low}{unit}")),
        (None, Some(high)) => Some(format!("at most {high}{unit}")),
        (None, None) => None,
    });
    stated.collect::<Vec<_>>().join(", ")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
