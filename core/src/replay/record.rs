//! A job as a store keeps it: a note, written with the deliveries that it tells of.

use serde::{Deserialize, Serialize};

use super::{Job, JobId, JobState};
use crate::error::Error;
use crate::store::Note;
use crate::time::Timestamp;

/// Keys of the notes of jobs: this and the job's id.
pub(crate) const PREFIX: &str = "replay/";
/// Keys of the notes that ask another process to end its job.
pub(crate) const CANCEL_PREFIX: &str = "replay-cancel/";

const VERSION: u32 = 1;

/// What the note of a job holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) job: Job,
    /// Deliveries asked for in the write of this note, whose answers it cannot know yet.
    pub(crate) pending: u64,
    /// By its rate, the next write comes no sooner.
    pub(crate) not_before: Option<Timestamp>,
    /// Who runs it.
    pub(crate) runner: Option<Runner>,
}

/// The bus that runs a job, and until when nobody else may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Runner {
    pub(crate) name: Box<str>,
    pub(crate) until: Timestamp,
}

impl Record {
    pub(crate) fn new(job: Job) -> Self {
        Self { version: VERSION, job, pending: 0, not_before: None, runner: None }
    }

    /// The job of a note; `None` for a note of something else, or of a version that is not known.
    pub(crate) fn read(note: &Note) -> Option<Self> {
        note.key.strip_prefix(PREFIX)?;
        let value = note.value.as_ref()?;
        match serde_json::from_slice::<Self>(value) {
            Ok(record) if record.version == VERSION => Some(record),
            // It is not removed: whoever wrote it may be back.
            _ => None,
        }
    }

    pub(crate) fn note(&self) -> Result<Note, Error> {
        let json = serde_json::to_vec(self).expect("a record has nothing that JSON cannot hold");
        Note::new(Self::key(self.job.id), json)
    }

    pub(crate) fn key(id: JobId) -> String {
        format!("{PREFIX}{id}")
    }

    pub(crate) fn cancel_key(id: JobId) -> String {
        format!("{CANCEL_PREFIX}{id}")
    }

    /// Takes it up where somebody else stopped: what was asked for then was made.
    pub(crate) fn resume(&mut self) {
        self.job.counts.made += std::mem::take(&mut self.pending);
    }

    pub(crate) fn end(&mut self, state: JobState, now: Timestamp) {
        self.job.state = state;
        self.job.started_at.get_or_insert(now);
        self.job.ended_at = Some(now);
        self.runner = None;
        self.not_before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::Request;
    use crate::store::{Place, Query};

    fn record() -> Record {
        let now = Timestamp::from_millis(1_764_513_045_123);
        let query = Query::new().since(now).of_type("model.*".parse().unwrap());
        let request = Request::new(query).to("a".parse().unwrap()).rate("10/s".parse().unwrap());
        let range = Some((Place::new(3), Place::new(9)));
        let mut record = Record::new(Job::new(JobId::new(now, [7, 8]), request, now, range));
        record.pending = 5;
        record.not_before = Some(now);
        record.runner = Some(Runner { name: "r".into(), until: now });
        record
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let record = record();
        let note = record.note().unwrap();
        assert_eq!(&*note.key, format!("replay/{}", record.job.id));
        assert_eq!(Record::read(&note), Some(record));
    }

    /// A job's note of a later version, or a damaged one, is left alone.
    #[test]
    fn what_it_does_not_know_is_no_job() {
        let mut record = record();
        record.version = 2;
        assert_eq!(Record::read(&record.note().unwrap()), None);
        assert_eq!(Record::read(&Note::new("replay/x", "{").unwrap()), None);
        assert_eq!(Record::read(&Note::new("gone/a", "{}").unwrap()), None);
        assert_eq!(Record::read(&Note::removed("replay/x")), None);
    }
}
