//! When an endpoint is disabled, and what happens to what it is owed then, as they are written.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::HumanDuration;
use crate::endpoint::{DISABLE_AFTER_DEFAULT, DISABLE_AFTER_MAX, WhenDisabled};

/// `false` or a duration.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawDisableAfter(pub(super) Option<Duration>);

const EXPECTED: &str = "false or 1s to 7d";

impl<'de> Deserialize<'de> for RawDisableAfter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SwitchOrTime;
        impl Visitor<'_> for SwitchOrTime {
            type Value = RawDisableAfter;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(EXPECTED)
            }
            fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<RawDisableAfter, E> {
                Ok(RawDisableAfter(is_on.then_some(DISABLE_AFTER_DEFAULT)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawDisableAfter, E> {
                if let Ok(is_on) = text.parse() {
                    return self.visit_bool(is_on);
                }
                match text.parse::<HumanDuration>() {
                    Ok(HumanDuration(time))
                        if (Duration::from_secs(1)..=DISABLE_AFTER_MAX).contains(&time) =>
                    {
                        Ok(RawDisableAfter(Some(time)))
                    }
                    _ => Err(E::custom(format!("expected {EXPECTED}, found {text:?}"))),
                }
            }
        }
        deserializer.deserialize_any(SwitchOrTime)
    }
}

impl Serialize for RawDisableAfter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => false.serialize(serializer),
            Some(time) => HumanDuration(time).serialize(serializer),
        }
    }
}

impl JsonSchema for RawDisableAfter {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DisableAfter".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["boolean", "string"],
            "x-type": "`false` or duration",
            "default": HumanDuration(DISABLE_AFTER_DEFAULT),
        })
    }
}

/// What happens to what is owed to an endpoint while it is disabled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "WhenDisabled")]
pub(super) enum RawWhenDisabled {
    /// It is kept, and sent when the endpoint is enabled.
    #[default]
    Hold,
    /// It is given up: dead, with the reason disabled.
    Drop,
}

impl From<RawWhenDisabled> for WhenDisabled {
    fn from(when_disabled: RawWhenDisabled) -> Self {
        match when_disabled {
            RawWhenDisabled::Hold => Self::Hold,
            RawWhenDisabled::Drop => Self::Drop,
        }
    }
}
