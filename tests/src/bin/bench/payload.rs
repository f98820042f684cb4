//! The events that are published: the guide's match, with values that differ.

use std::sync::Arc;

use postrider::clock::{Clock, SystemClock};
use postrider::event::{Envelope, Event, Invalid};
use postrider::{NewEvent, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// The seed of this run: `POSTRIDER_SEED`, else a new one.
pub(crate) fn seed() -> Result<u64, Failure> {
    match std::env::var("POSTRIDER_SEED") {
        Ok(text) => {
            text.parse().map_err(|error| format!("read POSTRIDER_SEED={text:?}: {error}").into())
        }
        Err(_) => Ok(SystemClock.random() >> 32),
    }
}

/// The guide's match event, checked as an application would.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Match {
    best_model: String,
    confidence: f64,
    source_image: String,
    model_url: String,
    timestamp: String,
    images_count: u32,
}

impl Event for Match {
    const TYPE: &'static str = "match";

    fn validate(&self) -> Result<(), Invalid> {
        if (0.0..=1.0).contains(&self.confidence) {
            Ok(())
        } else {
            Err(Invalid::new("confidence", "0 to 1", self.confidence))
        }
    }
}

/// `count` matches of about 400 bytes of JSON, the model's URL signed as in the guide. All have the
/// same length, so that a slice has the same bytes whichever of them it publishes.
pub(crate) fn matches(count: usize, seed: u64) -> Vec<Match> {
    signed_matches(count, 64, seed)
}

/// Matches of exactly 400 bytes.
pub(crate) fn matches_of_400(count: usize, seed: u64) -> Vec<Match> {
    signed_matches(count, 118, seed)
}

fn signed_matches(count: usize, signature: usize, seed: u64) -> Vec<Match> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count)
        .map(|_| {
            let name = format!("ray_ban_{:06}", random.u32(0..1_000_000));
            let signature: String = (0..signature).map(|_| random.char('a'..='f')).collect();
            Match {
                model_url: format!(
                    "https://jigu.s3.eu-west-1.wasabisys.com/{name}.glb?X-Amz-Date=20251130T143045Z\
                     &X-Amz-Expires=3600&X-Amz-Signature={signature}"
                ),
                best_model: format!("{name}.glb"),
                // Two digits that stay two when printed.
                confidence: f64::from(random.u32(1..10) * 10 + random.u32(1..10)) / 100.0,
                source_image: format!("{name}.jpg"),
                timestamp: Timestamp::from_millis(1_764_513_045_123).to_string(),
                images_count: random.u32(1..10),
            }
        })
        .collect()
}

/// The same events as a sink gets them.
pub(crate) fn envelopes(events: &[Match]) -> Result<Vec<Arc<Envelope>>, Failure> {
    let sealed = events.iter().map(|event| {
        let event = NewEvent::of(event)?.seal(&SystemClock, usize::MAX)?;
        Ok(Arc::new(event))
    });
    sealed.collect()
}
