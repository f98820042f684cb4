//! The JSON Schema of a configuration, and look-ups in it.
//!
//! The schema is more than a file for editors: unknown keys, bounds, secrets and paths are known
//! from it alone, for our tables and for a third party's sink alike.

use figment::value::Value;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json, json};

use super::path::{KeyPath, Step};
use super::raw::{RawConfig, RawEndpoint, RawPolicy};
use crate::sink::Registry;
use crate::store;

/// The sink of an endpoint that names none.
pub(super) const SINK_DEFAULT: &str = "http";

/// The JSON Schema (draft 2020-12) of configurations for the sinks of `registry` and these stores.
pub fn json_schema(registry: &Registry, stores: &store::Registry) -> Json {
    Schema::new(registry, stores).root
}

/// A schema with look-ups.
pub(super) struct Schema {
    root: Json,
    identity: Map<String, Json>,
    policy: Map<String, Json>,
    /// An endpoint whose sink is unknown.
    common: Json,
}

/// What the schema says about one key.
pub(super) struct Located<'a> {
    /// The schema of the value, if the key is known.
    pub(super) node: Option<&'a Json>,
    /// Whether the value may be secret: it, or a table around it, is marked `writeOnly` or is a
    /// `headers` table.
    pub(super) hidden: bool,
    /// What the key means, in the words of whoever named it.
    pub(super) description: Option<&'a str>,
}

impl Schema {
    pub(super) fn new(registry: &Registry, stores: &store::Registry) -> Self {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let mut root = generator.root_schema_for::<RawConfig>().to_value();
        let identity = properties_of::<RawEndpoint>(&mut generator);
        let policy = properties_of::<RawPolicy>(&mut generator);

        let mut branches = Vec::new();
        let mut defaults = policy.clone();
        for name in registry.names() {
            let settings = registry.schema(name, &mut generator).expect("a registered name");
            let settings = settings.to_value();
            let required: Vec<&str> = settings["required"]
                .as_array()
                .map(|keys| keys.iter().filter_map(Json::as_str).collect())
                .unwrap_or_default();
            for (key, schema) in settings["properties"].as_object().into_iter().flatten() {
                if required.contains(&key.as_str()) || identity.contains_key(key) {
                    continue;
                }
                match defaults.get_mut(key) {
                    None => drop(defaults.insert(key.clone(), schema.clone())),
                    // Two sinks that mean different things: each endpoint checks its own.
                    Some(other) if other != schema && !policy.contains_key(key) => {
                        *other = json!({ "description": other["description"] });
                    }
                    Some(_) => {}
                }
            }
            branches.push(branch(name, &settings, &required, &identity, &policy));
        }

        let endpoints = &mut root["properties"]["endpoints"];
        endpoints["items"] = json!({ "oneOf": branches });
        let described = root["properties"]["defaults"]["description"].clone();
        root["properties"]["defaults"] = json!({
            "description": described,
            "type": "object",
            "properties": defaults,
            "additionalProperties": false,
        });
        let stores: Vec<Json> = stores
            .names()
            .map(|name| {
                let settings = stores.schema(name, &mut generator).expect("a registered name");
                store_branch(name, settings.to_value())
            })
            .collect();
        let mut definitions = generator.take_definitions(true);
        if !stores.is_empty() {
            let described = definitions["Bus"]["properties"]["store"]["description"].clone();
            // Of one that nobody knows, what all have.
            let mut common = definitions.remove("Store").unwrap_or_default();
            common["description"] = described;
            common["oneOf"] = Json::Array(stores);
            definitions["Bus"]["properties"]["store"] = common;
        }
        // Their keys stand in the tables above.
        definitions.remove("Endpoint");
        definitions.remove("Policy");
        root["$defs"] = Json::Object(definitions);
        let mut properties = identity.clone();
        properties.extend(policy.clone());
        let common =
            json!({ "type": "object", "properties": properties, "additionalProperties": true });
        Self { root, identity, policy, common }
    }

    pub(super) fn root(&self) -> &Json {
        &self.root
    }

    /// An endpoint with the keys that all have, and no others known.
    pub(super) fn common(&self) -> &Json {
        &self.common
    }

    /// Whether every endpoint has this key, whatever its sink: who it is, what it asks for.
    pub(super) fn is_identity(&self, key: &str) -> bool {
        self.identity.contains_key(key)
    }

    /// Whether every endpoint has this key, whatever its sink: how it is served.
    pub(super) fn is_policy(&self, key: &str) -> bool {
        self.policy.contains_key(key)
    }

    /// The schema of endpoints, one alternative for each sink.
    fn endpoints(&self) -> &Json {
        &self.root["properties"]["endpoints"]["items"]
    }

    /// The schema of an endpoint's table.
    pub(super) fn endpoint(&self, endpoint: &Value) -> &Json {
        self.resolve(self.endpoints(), endpoint)
    }

    pub(super) fn has_top_level(&self, key: &str) -> bool {
        self.root["properties"].get(key).is_some()
    }

    /// The key (dotted) that a variable named without level marks was most likely meant for.
    pub(super) fn nearest_variable(&self, name: &str) -> Option<String> {
        let mut keys = Vec::new();
        for (key, node) in self.root["properties"].as_object().into_iter().flatten() {
            keys.push(key.clone());
            let node = self.resolve(node, &Value::from(0));
            for below in node["properties"].as_object().into_iter().flat_map(Map::keys) {
                keys.push(format!("{key}.{below}"));
            }
        }
        let flat: Vec<String> = keys.iter().map(|key| key.replace('.', "_")).collect();
        let nearest = nearest(name, flat.iter().map(String::as_str))?;
        flat.iter().position(|key| key == nearest).map(|at| keys.swap_remove(at))
    }

    /// Follows references, optional values and, by the value's tags, alternatives.
    pub(super) fn resolve<'a>(&'a self, mut node: &'a Json, value: &Value) -> &'a Json {
        // A chain of references that is longer than this is a circle.
        for _ in 0..16 {
            if is_secret(node) {
                return node;
            }
            if let Some(name) = node["$ref"].as_str() {
                let name = name.rsplit('/').next().unwrap_or_default();
                node = &self.root["$defs"][name];
            } else if let Some(choices) = node["anyOf"].as_array() {
                let mut choices = choices.iter().filter(|choice| choice["type"] != "null");
                match (choices.next(), choices.next()) {
                    (Some(only), None) => node = only,
                    _ => return node,
                }
            } else if let (Some(choices), Some(table)) = (node["oneOf"].as_array(), value.as_dict())
            {
                let is_chosen = |choice: &&Json| {
                    let is_required = |key: &String| {
                        choice["required"].as_array().is_some_and(|keys| keys.contains(&json!(key)))
                    };
                    let mut tags = choice["properties"]
                        .as_object()
                        .into_iter()
                        .flatten()
                        .filter_map(|(key, schema)| Some((key, schema.get("const")?.as_str()?)))
                        .peekable();
                    tags.peek().is_some()
                        && tags.all(|(key, tag)| match table.get(key) {
                            Some(value) => value.as_str() == Some(tag),
                            None => !is_required(key),
                        })
                };
                match choices.iter().find(is_chosen) {
                    Some(choice) => node = choice,
                    // A sink that nobody knows has the keys that all have.
                    None if std::ptr::eq(node, self.endpoints()) => return &self.common,
                    None if node.get("properties").is_some() => return node,
                    None => return &Json::Null,
                }
            } else {
                return node;
            }
        }
        node
    }

    /// The schema of the value that `step` leads to from a resolved `node`.
    pub(super) fn child<'a>(node: &'a Json, step: &Step) -> Option<&'a Json> {
        match step {
            Step::Index(index) => node["prefixItems"].get(index).or_else(|| node.get("items")),
            Step::Key(key) => node["properties"]
                .get(key)
                .or_else(|| node.get("additionalProperties").filter(|schema| schema.is_object())),
        }
    }

    /// What the schema says about `path` in `tree`.
    pub(super) fn locate<'a>(&'a self, path: &KeyPath, tree: &Value) -> Located<'a> {
        let (mut node, mut value) = (Some(&self.root), Some(tree));
        let mut hidden = false;
        let nothing = Value::from(0);
        for step in path.steps() {
            let resolved = node.map(|node| self.resolve(node, value.unwrap_or(&nothing)));
            hidden |= resolved.is_some_and(is_secret) || hides(step);
            node = resolved.and_then(|node| Self::child(node, step));
            value = match (step, value) {
                (Step::Key(key), Some(Value::Dict(_, table))) => table.get(key),
                (Step::Index(index), Some(Value::Array(_, items))) => items.get(*index),
                _ => None,
            };
        }
        hidden |= path.steps().last().is_some_and(sounds_secret);
        let described = node;
        let node = node.map(|node| self.resolve(node, value.unwrap_or(&nothing)));
        hidden |= node.is_some_and(is_secret);
        let description =
            |node: Option<&'a Json>| node.and_then(|node| node["description"].as_str());
        Located { node, hidden, description: description(described).or(description(node)) }
    }
}

/// Whether values of this schema are secrets.
pub(super) fn is_secret(node: &Json) -> bool {
    node["writeOnly"] == true
}

/// Whether a key sounds like one for a secret; a third party's settings may hold such a value as
/// plain text.
fn sounds_secret(step: &Step) -> bool {
    let Step::Key(key) = step else { return false };
    let key = key.to_ascii_lowercase();
    ["secret", "token", "passw", "authorization", "api_key", "apikey", "credential"]
        .iter()
        .any(|word| key.contains(word))
}

/// Whether whatever stands below this key is treated as secret.
pub(super) fn hides(step: &Step) -> bool {
    matches!(step, Step::Key(key) if key == "headers")
}

/// Whether the schema allows this JSON type.
pub(super) fn allows(node: &Json, kind: &str) -> bool {
    match &node["type"] {
        Json::String(only) => only == kind,
        Json::Array(kinds) => kinds.iter().any(|one| one == kind),
        _ => false,
    }
}

/// The key that a wrong one was most likely meant to be: at most a third of it, and at least two
/// letters, may differ.
pub(super) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    // A key of the length of a page is no slip, and comparing takes the product of the lengths.
    if wrong.len() > 64 {
        return None;
    }
    let bound = (wrong.chars().count() / 3).max(2);
    known
        .map(|key| (strsim::damerau_levenshtein(&wrong, &key.to_lowercase()), key))
        .filter(|(distance, key)| *distance <= bound && *distance < key.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, key)| key)
}

fn properties_of<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Map<String, Json> {
    match T::json_schema(generator).to_value()["properties"].take() {
        Json::Object(properties) => properties,
        _ => Map::new(),
    }
}

/// The whole table of an endpoint with this sink.
fn branch(
    name: &str,
    settings: &Json,
    required: &[&str],
    identity: &Map<String, Json>,
    policy: &Map<String, Json>,
) -> Json {
    let mut properties = settings["properties"].as_object().cloned().unwrap_or_default();
    properties.extend(identity.clone());
    properties.extend(policy.clone());
    properties["sink"]["const"] = json!(name);
    if name != SINK_DEFAULT {
        properties["sink"].as_object_mut().expect("a schema").remove("default");
    }
    let mut required = required.to_vec();
    if name != SINK_DEFAULT {
        required.insert(0, "sink");
    }
    // Settings that are no plain table (an enum, a map) keep keys that are known only to serde.
    let is_open = settings.get("properties").is_none() && settings != &json!(true)
        || settings.get("additionalProperties").is_some_and(|schema| schema != false)
        || ["oneOf", "anyOf", "allOf"].iter().any(|key| settings.get(key).is_some());
    json!({
        "title": format!("endpoint with sink = \"{name}\""),
        "description": settings["description"],
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": is_open,
    })
}

/// The whole table of this store.
fn store_branch(name: &str, mut settings: Json) -> Json {
    settings["title"] = json!(format!("store with type = \"{name}\""));
    settings["properties"]["type"] = json!({
        "description": "Names this kind of store.",
        "type": "string",
        "const": name,
    });
    let mut required = vec![json!("type")];
    required.extend(settings["required"].as_array().into_iter().flatten().cloned());
    settings["required"] = Json::Array(required);
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_keys() {
        let known = ["timeout", "url", "events", "enabled", "endpoints"];
        let check = |wrong: &str, expect: Option<&str>| {
            assert_eq!(nearest(wrong, known.into_iter()), expect, "{wrong:?}");
        };
        check("tiemout", Some("timeout"));
        check("URL", Some("url"));
        check("event", Some("events"));
        check("endpoint", Some("endpoints"));
        check("colour", None);
        check("x", None);
        check(&"e".repeat(100_000), None);
    }
}
