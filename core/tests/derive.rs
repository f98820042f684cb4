//! The derive macro: what it implements. (What it refuses to compile is tested where it is defined.)

use std::borrow::Cow;
use std::collections::BTreeMap;

use postrider::event::{Attributes, Invalid, NewEvent};
use postrider::{ErrorKind, Event, Timestamp};
use serde::Serialize;

/// The guide's match event, with a rule of its own on top.
#[derive(Clone, Serialize, Event)]
#[event(type = "match", version = 2, validate = Self::check)]
#[event(expires_at = one_hour, attributes = "Match::source")]
#[serde(rename_all = "camelCase")]
struct Match {
    #[event(key, not_empty, length_max = 20)]
    best_model: String,
    #[event(range = 0.0..=1.0)]
    confidence: f64,
    #[event(url)]
    model_url: Option<String>,
    #[event(range = 0..)]
    #[serde(default, rename(serialize = "images"), skip_serializing_if = "is_never")]
    images_count: i64,
    #[serde(rename = "labels")]
    #[event(length_max = 2)]
    tags: Vec<String>,
    at: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for a reference.
fn is_never(_: &i64) -> bool {
    false
}

fn one_hour(event: &Match) -> Option<Timestamp> {
    Some(Timestamp::from_millis(event.at.checked_add(3_600_000)?))
}

impl Match {
    fn check(&self) -> Result<(), Invalid> {
        if self.at < 0 {
            return Err(Invalid::new("at", "a time after 1970", self.at));
        }
        Ok(())
    }

    fn source(&self) -> Attributes {
        BTreeMap::from([("source".into(), self.best_model.clone())])
    }
}

fn sample() -> Match {
    Match {
        best_model: "ray_ban_glasses.glb".into(),
        confidence: 0.87,
        model_url: Some("https://example.com/a.glb?sig=1".into()),
        images_count: 3,
        tags: Vec::new(),
        at: 0,
    }
}

#[test]
fn implements_the_trait() {
    assert_eq!(Match::TYPE, "match");
    assert_eq!(Match::VERSION, 2);
    let event = sample();
    assert_eq!(event.key().as_deref(), Some("ray_ban_glasses.glb"));
    assert_eq!(event.expires_at(), Some(Timestamp::from_millis(3_600_000)));
    assert_eq!(event.attributes()["source"], "ray_ban_glasses.glb");
    assert_eq!(event.validate(), Ok(()));
    assert_eq!(NewEvent::of(&event).unwrap().event_type().as_str(), "match");
}

/// Each check, with the field as the payload calls it.
#[test]
fn refuses_what_is_out_of_range() {
    let check = |change: fn(&mut Match), expect: &str| {
        let mut event = sample();
        change(&mut event);
        assert_eq!(event.validate().unwrap_err().to_string(), expect);
    };
    check(
        |it| it.confidence = 1.01,
        "confidence: expected a value of at least 0 and at most 1, found 1.01",
    );
    check(
        |it| it.confidence = f64::NAN,
        "confidence: expected a value of at least 0 and at most 1, found NaN",
    );
    check(
        |it| it.best_model.clear(),
        "bestModel: expected a value that is not empty, found 0 characters",
    );
    check(
        |it| it.best_model = "\u{e9}".repeat(21),
        "bestModel: expected at most 20 characters, found 21",
    );
    check(
        |it| it.model_url = Some("signed?secret".into()),
        "modelUrl: expected an absolute http or https URL, found one that does not begin with \
         https:// or http://",
    );
    check(|it| it.images_count = -1, "images: expected a value of at least 0, found -1");
    check(|it| it.tags = vec![String::new(); 3], "labels: expected at most 2 elements, found 3");
    check(|it| it.at = -1, "at: expected a time after 1970, found -1");
    // What is not there is not checked; 20 characters of two bytes are 20.
    let mut event = sample();
    event.model_url = None;
    event.best_model = "\u{e9}".repeat(20);
    assert_eq!(event.validate(), Ok(()));
}

/// The name in the error is the name in the payload, by serde itself.
#[test]
fn fields_are_called_as_serde_calls_them() {
    let payload = serde_json::to_value(sample()).unwrap();
    for name in ["bestModel", "confidence", "modelUrl", "images", "labels", "at"] {
        assert!(payload.get(name).is_some(), "{name}: {payload}");
    }
}

#[test]
fn publish_refuses_with_the_field() {
    let error = NewEvent::of(&Match { confidence: 87.0, ..sample() }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error
            .chain()
            .contains("confidence: expected a value of at least 0 and at most 1, found 87"),
        "{error:?}"
    );
}

#[derive(Serialize, Event)]
#[event(type = "plain")]
struct Plain;

#[derive(Serialize, Event)]
#[event(type = "choice", validate = "Choice::check")]
enum Choice {
    Left,
    Right { to: u8 },
}

impl Choice {
    fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::Right { to: 0 } => Err(Invalid::new("to", "a place", 0)),
            _ => Ok(()),
        }
    }
}

#[derive(Serialize, Event)]
#[event(type = "generic", key = "id")]
struct Generic<'a, T> {
    id: Option<u32>,
    #[event(not_empty)]
    list: &'a [T],
    #[event(length_max = 3)]
    text: Cow<'a, str>,
    r#type: u8,
}

#[derive(Serialize, Event)]
#[event(type = "tuple")]
struct Tuple(u8, #[event(range = 1..10, key)] u8);

#[test]
fn other_shapes() {
    assert_eq!((Plain::TYPE, Plain::VERSION, Plain.key()), ("plain", 1, None));
    assert_eq!(Plain.validate(), Ok(()));
    assert_eq!(Choice::Left.validate(), Ok(()));
    assert!(Choice::Right { to: 0 }.validate().is_err());
    let mut generic = Generic { id: Some(7), list: &[1], text: "abc".into(), r#type: 1 };
    assert_eq!(generic.key().as_deref(), Some("7"));
    assert_eq!(generic.validate(), Ok(()));
    generic.id = None;
    assert_eq!(generic.key(), None);
    generic.list = &[];
    assert_eq!(generic.validate().unwrap_err().field(), "list");
    assert!(NewEvent::of(&generic).is_err());
    assert_eq!(generic.r#type, 1);
    assert_eq!(Tuple(0, 9).key().as_deref(), Some("9"));
    assert_eq!(
        Tuple(0, 10).validate().unwrap_err().to_string(),
        "1: expected a value of at least 1 and below 10, found 10"
    );
}

macro_rules! reading {
    ($name:ident, $range:expr, $check:path) => {
        #[derive(Serialize, Event)]
        #[event(type = "reading", validate = $check)]
        struct $name {
            #[event(range = $range)]
            value: f64,
        }
    };
}

#[expect(clippy::unnecessary_wraps, reason = "the form that validate takes")]
fn check_reading(_: &Reading) -> Result<(), Invalid> {
    Ok(())
}

reading!(Reading, 0.0..=1.0, check_reading);

/// The range comes from the macro's caller, the type from the macro: the generated code's own names
/// (`value`, `self`) must not take the caller's hygiene.
#[test]
fn ranges_and_paths_of_a_macros_caller() {
    assert!(Reading { value: 0.5 }.validate().is_ok());
    assert!(Reading { value: 1.5 }.validate().is_err());
}
