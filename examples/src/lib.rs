//! The events of the AI glasses dashboard, as the examples publish them.
//!
//! The fields stand in the order of the guide, which is the order on the wire: the bytes that serde
//! writes once are the bytes that are signed and sent.

use postrider::Event;
use serde::{Deserialize, Serialize};

/// AI found a 3D model that matches the user's images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "match", key = "best_model")]
pub struct Match {
    /// File name of the matched model.
    #[event(not_empty)]
    pub best_model: String,
    /// How sure the match is.
    #[event(range = 0.0..=1.0)]
    pub confidence: f64,
    /// The reference image used for matching.
    pub source_image: String,
    /// Signed URL of the model, valid for one hour.
    #[event(url)]
    pub model_url: String,
    /// When the match was performed.
    pub timestamp: postrider::Timestamp,
    /// Images that the user uploaded: signed, so that a wrong count from outside reads and is refused
    /// with its name instead of as a type error.
    #[event(range = 0..)]
    pub images_count: i64,
}

/// A new model was uploaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "upload", key = "model_name")]
pub struct Upload {
    /// File name of the model.
    #[event(not_empty)]
    pub model_name: String,
    /// Whether it came with a thumbnail.
    pub has_thumbnail: bool,
    /// Name of the API key that uploaded it.
    pub uploaded_by: String,
}

/// The embeddings were rebuilt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "rebuild")]
pub struct Rebuild {
    /// Models in the new index.
    #[event(range = 0..)]
    pub models_count: i64,
    /// Whether all went well.
    pub success: bool,
}

/// The README's Rust is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

#[cfg(test)]
mod tests {
    use super::*;

    /// The guide's match event.
    fn found() -> Match {
        Match {
            best_model: "ray_ban_glasses.glb".into(),
            confidence: 0.87,
            source_image: "ray_ban_glasses.jpg".into(),
            model_url: "https://jigu.s3.eu-west-1.wasabisys.com/ray_ban_glasses.glb?...".into(),
            timestamp: "2025-11-30T14:30:45.123Z".parse().unwrap(),
            images_count: 3,
        }
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let check = |event: Match, expect: &str| {
            let error = postrider::NewEvent::of(&event).unwrap_err();
            assert_eq!(error.kind(), postrider::ErrorKind::Invalid);
            assert_eq!(error.to_string(), format!("publish a \"match\" event: {expect}"));
        };
        assert!(postrider::NewEvent::of(&found()).is_ok());
        for confidence in [0.0, 1.0] {
            assert!(postrider::NewEvent::of(&Match { confidence, ..found() }).is_ok());
        }
        check(
            Match { confidence: 1.01, ..found() },
            "confidence: expected a value of at least 0 and at most 1, found 1.01",
        );
        check(
            Match { confidence: f64::NAN, ..found() },
            "confidence: expected a value of at least 0 and at most 1, found NaN",
        );
        check(
            Match { model_url: "ftp://x/y".into(), ..found() },
            "model_url: expected an absolute http or https URL, found one that does not begin with \
             https:// or http://",
        );
        check(
            Match { images_count: -1, ..found() },
            "images_count: expected a value of at least 0, found -1",
        );
        check(
            Match { best_model: String::new(), ..found() },
            "best_model: expected a value that is not empty, found 0 characters",
        );
    }
}
