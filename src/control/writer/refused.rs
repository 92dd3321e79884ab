//! Records that the store refuses: the other records of a batch are written, and refused ones are retried with backoff.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::backoff::Backoff;
use crate::fleet::{Change, DeferredChanges, RecordKey};
use crate::store::{RefusedRecord, StoreError};

/// Changes of a batch that are deferred.
#[derive(Default)]
pub(super) struct Deferred {
    held: DeferredChanges,
    /// The problem of each refused record.
    problems: BTreeMap<RecordKey, String>,
}

impl Deferred {
    /// Defers the refused records, and the changes that wait for them.
    pub(super) fn add(&mut self, changes: &[Change], refused: BTreeMap<RecordKey, String>) {
        self.held.extend(DeferredChanges::new(changes, refused.keys().cloned().collect()));
        self.problems.extend(refused);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Returns true iff the change is deferred.
    pub(super) fn contains(&self, change: &Change) -> bool {
        self.held.contains(change)
    }

    /// The error for callers whose change is deferred.
    pub(super) fn error(&self) -> Arc<StoreError> {
        let refused = self.held.records().iter().map(|record| {
            let problem = self.problems.get(record).cloned();
            let problem = problem.unwrap_or_else(|| "it waits for another record that is refused".to_owned());
            RefusedRecord { record: record.clone(), problem }
        });
        Arc::new(StoreError::Refused(refused.collect()))
    }
}

/// The records that a commit refused. Any other failure stays an error.
pub(super) fn split_refused(committed: Result<(), StoreError>) -> Result<Vec<RefusedRecord>, StoreError> {
    match committed {
        Ok(()) => Ok(Vec::new()),
        Err(StoreError::Refused(refused)) => Ok(refused),
        Err(error) => Err(error),
    }
}

/// Records that were refused at their last write.
#[derive(Default)]
pub(super) struct RefusedRecords(BTreeMap<RecordKey, (Backoff, String)>);

impl RefusedRecords {
    /// Records among the changes whose backoff is not over, with the reason of their refusal.
    pub(super) fn standing(&self, changes: &[Change]) -> BTreeMap<RecordKey, String> {
        if self.0.is_empty() {
            return BTreeMap::new();
        }
        let keys: BTreeSet<RecordKey> = changes.iter().map(Change::record).collect();
        let waits = |record: RecordKey| {
            let (backoff, problem) = self.0.get(&record)?;
            (!backoff.is_ready()).then(|| (record, problem.clone()))
        };
        keys.into_iter().filter_map(waits).collect()
    }

    /// Updates the backoffs with the result of a write.
    pub(super) fn update_backoffs(&mut self, written: &[Change], refused: &[RefusedRecord]) {
        for change in written {
            let record = change.record();
            if self.0.contains_key(&record) && refused.iter().all(|refused| refused.record != record) {
                self.0.remove(&record);
            }
        }
        for RefusedRecord { record, problem } in refused {
            let wait = Backoff::new(Duration::from_secs(30), Duration::from_mins(10));
            let (backoff, reported) = self.0.entry(record.clone()).or_insert((wait, String::new()));
            backoff.record_failure(None);
            reported.clone_from(problem);
        }
    }
}
