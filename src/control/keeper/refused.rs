//! Records that are refused as they are: the others are kept, and these are written again with growing waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::pace::Backoff;
use crate::fleet::{Change, RecordKey};
use crate::store::{RefusedRecord, StoreError};

/// What was written of a batch.
pub(super) struct Kept {
    /// In their order.
    pub(super) changes: Vec<Change>,
    /// Records that are as they were before the batch, and why.
    pub(super) left_out: BTreeMap<RecordKey, String>,
}

impl Kept {
    /// The error for callers whose change was left out.
    pub(super) fn error(&self) -> Arc<StoreError> {
        let left_out = self.left_out.iter();
        let refused = left_out
            .map(|(record, problem)| RefusedRecord { record: record.clone(), problem: problem.clone() });
        Arc::new(StoreError::Refused(refused.collect()))
    }
}

/// The records that a commit was refused; else its failure.
pub(super) fn split_refused(committed: Result<(), StoreError>) -> Result<Vec<RefusedRecord>, StoreError> {
    match committed {
        Ok(()) => Ok(Vec::new()),
        Err(StoreError::Refused(refused)) => Ok(refused),
        Err(error) => Err(error),
    }
}

/// Records that were refused last time.
#[derive(Default)]
pub(super) struct Refusals(BTreeMap<RecordKey, (Backoff, String)>);

impl Refusals {
    /// Those of the changes that are not worth a write yet, and why.
    pub(super) fn standing(&self, changes: &[Change]) -> BTreeMap<RecordKey, String> {
        if self.0.is_empty() {
            return BTreeMap::new();
        }
        let waits = |record: &RecordKey| self.0.get(record).is_some_and(|(backoff, _)| !backoff.ready());
        let keys: BTreeSet<RecordKey> = changes.iter().map(Change::record).filter(waits).collect();
        let problem = |record: &RecordKey| self.0.get(record).map(|(_, problem)| problem.clone());
        let all = Change::with_dependent(changes, keys);
        all.into_iter().map(|record| (record.clone(), problem(&record).unwrap_or_default())).collect()
    }

    /// Notes what became of changes that were written.
    pub(super) fn note(&mut self, written: &[Change], refused: &[RefusedRecord]) {
        for change in written {
            let record = change.record();
            if self.0.contains_key(&record) && refused.iter().all(|refused| refused.record != record) {
                self.0.remove(&record);
            }
        }
        for RefusedRecord { record, problem } in refused {
            let wait = Backoff::new(Duration::from_secs(30), Duration::from_mins(10));
            let (backoff, told) = self.0.entry(record.clone()).or_insert((wait, String::new()));
            backoff.failure(None);
            told.clone_from(problem);
            tracing::error!(%record, problem, "a record is refused and will be written again later; the other records are saved");
        }
    }
}
