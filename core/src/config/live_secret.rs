//! A secret that is read again when its file changes.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::followed::Followed;
use super::secret::{Secret, read_secret_file};

/// A [`Secret`] whose `{ file = "PATH" }` is followed: a token that something else renews needs no
/// restart. A text and `{ env = "NAME" }` stay what they were when the configuration was loaded.
///
/// `Debug` shows no secret. Clones share what they have read.
#[derive(Clone)]
pub struct LiveSecret(Arc<Inner>);

struct Inner {
    file: Option<PathBuf>,
    now: Mutex<Read>,
}

struct Read {
    secret: Secret,
    followed: Followed,
}

impl LiveSecret {
    /// One that never changes.
    pub fn new(secret: Secret) -> Self {
        Self::of(secret, None, Followed::new([]))
    }

    fn of(secret: Secret, file: Option<PathBuf>, followed: Followed) -> Self {
        Self(Arc::new(Inner { file, now: Mutex::new(Read { secret, followed }) }))
    }

    /// What it is now. Looks at the file at most once a second; one that has changed and cannot be
    /// read, as while it is written, or is empty, leaves what was before, with a warning.
    pub fn current(&self) -> Secret {
        let mut now = self.0.now.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &self.0.file else { return now.secret.clone() };
        if let Some(seen) = now.followed.changed() {
            match read_secret_file(file) {
                Ok(text) if !text.is_empty() => {
                    now.secret = Secret::new(text);
                    now.followed.take(seen);
                }
                Ok(_) => {
                    let file = file.display();
                    tracing::warn!(%file, "secret not taken over: the file is empty");
                }
                Err(why) => tracing::warn!("secret not taken over: {why}"),
            }
        }
        now.secret.clone()
    }
}

impl fmt::Debug for LiveSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("••••")
    }
}

impl<'de> Deserialize<'de> for LiveSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let file = value.get("file").and_then(Value::as_str).map(PathBuf::from);
        let followed = Followed::new(file.clone());
        let secret = Secret::deserialize(value).map_err(D::Error::custom)?;
        Ok(Self::of(secret, file, followed))
    }
}

/// That of [`Secret`], with a mark by which the loader leaves the file's path.
impl JsonSchema for LiveSecret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "LiveSecret".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Secret::json_schema(generator);
        schema.insert(LIVE.to_owned(), json!(true));
        schema
    }
}

/// The mark of a secret whose file is followed.
pub(super) const LIVE: &str = "x-live";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_followed_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "one\n").unwrap();
        let secret: LiveSecret = serde_json::from_value(json!({ "file": &file })).unwrap();
        let looked_long_ago = || secret.0.now.lock().unwrap().followed.looked_long_ago();
        assert_eq!(secret.current().expose(), "one");
        fs::write(&file, "three\n").unwrap();
        assert_eq!(secret.current().expose(), "one", "not looked at twice a second");
        looked_long_ago();
        assert_eq!(secret.current().expose(), "three");
        for broken in ["", "\n"] {
            fs::write(&file, broken).unwrap();
            looked_long_ago();
            assert_eq!(secret.current().expose(), "three");
        }
        fs::remove_file(&file).unwrap();
        looked_long_ago();
        assert_eq!(secret.current().expose(), "three");
        fs::write(&file, "seven77").unwrap();
        looked_long_ago();
        assert_eq!(secret.clone().current().expose(), "seven77");
        assert_eq!(format!("{secret:?}"), "••••");
    }
}
