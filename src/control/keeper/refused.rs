//! Records that are refused as they are: the others are kept, and these are written again with growing waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::pace::Backoff;
use crate::fleet::{Change, HeldBack, RecordKey};
use crate::store::{RefusedRecord, StoreError};

/// What was not written of a batch.
#[derive(Default)]
pub(super) struct LeftOut {
    held: HeldBack,
    /// By record, why it is as it was before the batch.
    problems: BTreeMap<RecordKey, String>,
}

impl LeftOut {
    /// Leaves out these records, and the changes of the list that must wait for them.
    pub(super) fn add(&mut self, changes: &[Change], refused: BTreeMap<RecordKey, String>) {
        self.held.extend(HeldBack::new(changes, refused.keys().cloned().collect()));
        self.problems.extend(refused);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether the change is not written.
    pub(super) fn holds(&self, change: &Change) -> bool {
        self.held.holds(change)
    }

    /// The error for callers whose change was left out.
    pub(super) fn error(&self) -> Arc<StoreError> {
        let refused = self.held.records().iter().map(|record| {
            let problem = self.problems.get(record).cloned();
            let problem = problem.unwrap_or_else(|| "waits for a record that is refused".to_owned());
            RefusedRecord { record: record.clone(), problem }
        });
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
    /// Records of the changes that are not worth a write yet, and why.
    pub(super) fn standing(&self, changes: &[Change]) -> BTreeMap<RecordKey, String> {
        if self.0.is_empty() {
            return BTreeMap::new();
        }
        let keys: BTreeSet<RecordKey> = changes.iter().map(Change::record).collect();
        let waits = |record: RecordKey| {
            let (backoff, problem) = self.0.get(&record)?;
            (!backoff.ready()).then(|| (record, problem.clone()))
        };
        keys.into_iter().filter_map(waits).collect()
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
        }
    }
}
