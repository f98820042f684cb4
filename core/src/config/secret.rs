//! Values that must not be shown.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Largest file that a secret is read from, in bytes.
pub const SECRET_FILE_BYTES_MAX: u64 = 64 << 10;

/// A value from the configuration that is never printed: `Debug` and `Display` show `••••`.
///
/// Written as the text itself, as `{ env = "NAME" }`, or as `{ file = "PATH" }` (one line break at
/// the end of the file is cut, as editors add it). References are resolved when the configuration
/// is loaded.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The value itself; the one way to see it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn from_env(name: &str) -> Result<Self, String> {
        if !is_variable_name(name) {
            return Err(NO_VARIABLE_NAME.to_owned());
        }
        match std::env::var(name) {
            Ok(text) => Ok(Self(text)),
            Err(std::env::VarError::NotPresent) => {
                Err(format!("environment variable {name} is not set; set it before starting"))
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(format!("environment variable {name} is not valid UTF-8"))
            }
        }
    }
}

/// What is wrong with `{ env = "…" }` where no variable can be meant.
pub(super) const NO_VARIABLE_NAME: &str =
    "expected the name of an environment variable: letters, digits and _";

/// Whether a text may be a variable's name. What is none may be the secret itself, written at the
/// wrong place, and is not printed.
pub(super) fn is_variable_name(text: &str) -> bool {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts_well && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Reads the file of a `{ file = "PATH" }`; one line break at its end is cut. `Err` in words.
pub(super) fn read_secret_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(SECRET_FILE_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|error| format!("cannot read file {}: {error}", path.display()))?;
    if text.len() as u64 > SECRET_FILE_BYTES_MAX {
        return Err(format!("file {} is too large: a secret has at most 64 KiB", path.display()));
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("••••")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("••••")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrReference;
        impl<'de> Visitor<'de> for TextOrReference {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, { env = \"NAME\" } or { file = \"PATH\" }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
                let found = match map.next_key::<String>()?.as_deref() {
                    Some("env") => Secret::from_env(&map.next_value::<String>()?),
                    Some("file") => {
                        read_secret_file(Path::new(&map.next_value::<String>()?)).map(Secret)
                    }
                    Some(key) => return Err(de::Error::unknown_field(key, &["env", "file"])),
                    None => {
                        return Err(de::Error::custom(
                            "expected env or file, found an empty table",
                        ));
                    }
                };
                if map.next_key::<IgnoredAny>()?.is_some() {
                    return Err(de::Error::custom("expected either env or file, found more keys"));
                }
                found.map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(TextOrReference)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A secret: the text itself, or better where to read it. Never printed.",
            "writeOnly": true,
            "oneOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": { "env": { "type": "string", "description": "Name of an environment variable." } },
                    "required": ["env"],
                    "additionalProperties": false,
                },
                {
                    "type": "object",
                    "properties": { "file": { "type": "string", "description": "Path of a file that holds it." } },
                    "required": ["file"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "•••• ••••");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn read_from_text_environment_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "from file\r\n").unwrap();
        let read = |json: serde_json::Value| serde_json::from_value::<Secret>(json);
        let check = |json: serde_json::Value, expect: &str| {
            assert_eq!(read(json).unwrap().expose(), expect);
        };
        check(serde_json::json!("plain"), "plain");
        check(serde_json::json!({ "file": path }), "from file");
        check(serde_json::json!({ "env": "CARGO_PKG_NAME" }), "postrider");
        for wrong in [
            serde_json::json!({ "env": "POSTRIDER_TEST_NOT_SET" }),
            serde_json::json!({ "file": dir.path().join("none") }),
            serde_json::json!({ "evn": "X" }),
            serde_json::json!({}),
            serde_json::json!({ "env": "CARGO_PKG_NAME", "file": "x" }),
            serde_json::json!(7),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
        // The secret itself where a name should be.
        let error = read(serde_json::json!({ "env": "whsec_MfKQ+9r8=" })).unwrap_err();
        assert!(!error.to_string().contains("MfKQ"), "{error}");
    }
}
