//! What receivers said that want nothing any more, as notes in the store: it survives a restart.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{STORE_WAIT_MAX, STORE_WAIT_MIN, Shared};
use crate::endpoint::{Endpoint, EndpointId, Gone};
use crate::error::Error;
use crate::lane::Lane;
use crate::store::{Note, Store};

/// Keys of these notes: this and the endpoint's id.
const PREFIX: &str = "gone/";

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    #[serde(flatten)]
    gone: Gone,
    /// [`Endpoint::fingerprint`] then.
    fingerprint: Option<u16>,
}

impl Record {
    /// What the receiver said, if nobody has touched the endpoint since: its settings are the same, and
    /// it was not disabled.
    pub(super) fn holds(self, endpoint: &Endpoint) -> Option<Gone> {
        let is_changed = matches!(
            (endpoint.fingerprint, self.fingerprint),
            (Some(now), Some(then)) if now != then
        );
        (endpoint.enabled && !is_changed).then_some(self.gone)
    }
}

fn key(endpoint: &EndpointId) -> String {
    format!("{PREFIX}{endpoint}")
}

fn note(endpoint: &Endpoint, gone: Gone) -> Result<Note, Error> {
    let record = Record { version: VERSION, gone, fingerprint: endpoint.fingerprint };
    let json = serde_json::to_vec(&record).expect("a record has nothing that JSON cannot hold");
    Note::new(key(&endpoint.id), json)
}

/// What receivers have said before, also those of endpoints that are not served now.
///
/// # Errors
/// Those of [`Store::notes`].
pub(super) async fn load(store: &dyn Store) -> Result<HashMap<EndpointId, Record>, Error> {
    let mut records = HashMap::new();
    if !store.capabilities().history {
        return Ok(records);
    }
    for note in store.notes().await? {
        let Some(endpoint) = note.key.strip_prefix(PREFIX) else { continue };
        let Ok(endpoint) = endpoint.parse::<EndpointId>() else { continue };
        match serde_json::from_slice::<Record>(note.value.as_deref().unwrap_or_default()) {
            Ok(record) if record.version == VERSION => {
                records.insert(endpoint, record);
            }
            _ => {
                tracing::warn!(%endpoint, "a note about this endpoint cannot be read; it is not held");
            }
        }
    }
    Ok(records)
}

/// The lane of an endpoint that was not served so far: held, if its receiver said so before and nobody
/// has touched it since. Otherwise adds it to `touched`, if there is a note to forget.
pub(super) fn lane(
    endpoint: Endpoint,
    records: &mut HashMap<EndpointId, Record>,
    touched: &mut Vec<EndpointId>,
) -> Lane {
    let Some(record) = records.remove(&endpoint.id) else { return Lane::new(endpoint, None) };
    let gone = record.holds(&endpoint);
    match &gone {
        Some(Gone { since, status, .. }) => tracing::warn!(
            endpoint = %endpoint.id, %since, status,
            "endpoint is held: its receiver wanted nothing any more"
        ),
        None => touched.push(endpoint.id.clone()),
    }
    Lane::new(endpoint, gone)
}

/// Notes what the lane's receiver has said, if that still holds.
///
/// # Errors
/// Those of [`Store::keep`].
pub(super) async fn keep(shared: &Shared, lane: &Lane) -> Result<(), Error> {
    if !shared.keeps_history {
        return Ok(());
    }
    // With it, a note is never written after the one that removes it.
    let _one_at_a_time = shared.noting.lock().await;
    let Some(gone) = lane.gone() else { return Ok(()) };
    shared.store.keep(note(&lane.serving().endpoint, gone)?).await
}

/// Tries the lane's receiver again; removes the note first, so that a failure changes nothing.
///
/// # Errors
/// Those of [`Store::keep`].
pub(super) async fn clear(shared: &Shared, lane: &Lane) -> Result<(), Error> {
    let _one_at_a_time = shared.noting.lock().await;
    if shared.keeps_history && lane.gone().is_some() {
        shared.store.keep(Note::removed(key(lane.id()))).await?;
    }
    lane.clear_gone();
    Ok(())
}

/// Removes the notes of endpoints that were configured anew; tries again until that is done or the
/// engine stops.
pub(super) async fn forget(shared: Arc<Shared>, endpoints: Vec<EndpointId>) {
    for endpoint in endpoints {
        let mut wait = STORE_WAIT_MIN;
        loop {
            let one_at_a_time = shared.noting.lock().await;
            if shared.lane(&endpoint).is_some_and(|lane| lane.gone().is_some()) {
                // It has said so again meanwhile.
                break;
            }
            let Err(error) = shared.store.keep(Note::removed(key(&endpoint))).await else { break };
            if shared.stop_claiming.is_cancelled() || error.is_closed() {
                tracing::warn!(%endpoint, error = error.chain(), "an outdated note was not removed");
                return;
            }
            drop(one_at_a_time);
            tokio::select! {
                () = shared.stop_claiming.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(STORE_WAIT_MAX);
        }
    }
}
