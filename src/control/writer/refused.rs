//! Records that the store refuses: the other records of a batch are written, and refused ones are retried
//! with backoff.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::backoff::Backoff;
use crate::fleet::{Change, DeferredChanges, Hostname, RecordKey};
use crate::store::{RefusedRecord, StoreError};

/// The problem of a record that waits for a refused one.
const NOT_WRITTEN_YET: &str = "not written yet: it depends on a record that the API server refused";

/// Changes of a batch that are deferred.
#[derive(Default)]
pub(super) struct Deferred {
    changes: DeferredChanges,
    /// The problem of each refused record.
    problems: BTreeMap<RecordKey, String>,
}

impl Deferred {
    /// Defers the refused records, and the changes that depend on them.
    pub(super) fn add(&mut self, changes: &[Change], refused: BTreeMap<RecordKey, String>) {
        self.changes.extend(DeferredChanges::new(changes, refused.keys().cloned().collect()));
        self.problems.extend(refused);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Returns true iff the change is deferred.
    pub(super) fn contains(&self, change: &Change) -> bool {
        self.changes.contains(change)
    }

    /// The error for callers whose change is deferred.
    pub(super) fn error(&self) -> Arc<StoreError> {
        let refused = self.changes.records().iter().map(|record| {
            let problem = self.problems.get(record).cloned();
            let problem = problem.unwrap_or_else(|| NOT_WRITTEN_YET.to_owned());
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

/// Time that a backoff is kept after its end. The next attempt follows within minutes, or never.
const BACKOFF_KEPT: Duration = Duration::from_hours(1);

/// Backoffs of the records that were refused at their last write.
#[derive(Default)]
pub(super) struct RecordBackoffs(BTreeMap<BackoffKey, RecordBackoff>);

/// Identifies a refused change across its attempts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum BackoffKey {
    Record(RecordKey),
    /// A machine with this VM. A machine that takes over an existing VM has another name at each attempt.
    MachineOf(Hostname),
}

impl BackoffKey {
    fn new(change: &Change) -> Self {
        match change {
            Change::SaveMachine(machine) => match machine.vm() {
                Some(vm) => Self::MachineOf(vm.hostname.clone()),
                None => Self::Record(change.record()),
            },
            _ => Self::Record(change.record()),
        }
    }
}

struct RecordBackoff {
    backoff: Backoff,
    problem: String,
}

impl RecordBackoffs {
    /// Records among the changes whose backoff is not over, with the problem of their last write.
    pub(super) fn waiting(&self, changes: &[Change]) -> BTreeMap<RecordKey, String> {
        if self.0.is_empty() {
            return BTreeMap::new();
        }
        let waits = |change: &Change| {
            let refused = self.0.get(&BackoffKey::new(change))?;
            (!refused.backoff.is_ready()).then(|| (change.record(), refused.problem.clone()))
        };
        changes.iter().filter_map(waits).collect()
    }

    /// Updates the backoffs with the result of a write.
    pub(super) fn update(&mut self, written: &[Change], refused: &[RefusedRecord]) {
        if self.0.is_empty() && refused.is_empty() {
            return;
        }
        let problems: BTreeMap<&RecordKey, &String> =
            refused.iter().map(|refused| (&refused.record, &refused.problem)).collect();
        let mut failed = BTreeMap::new();
        for change in written {
            let key = BackoffKey::new(change);
            match problems.get(&change.record()) {
                Some(problem) => drop(failed.insert(key, (*problem).clone())),
                None => drop(self.0.remove(&key)),
            }
        }
        for (key, problem) in failed {
            let backoff = Backoff::new(Duration::from_secs(30), Duration::from_mins(10));
            let refused = self.0.entry(key).or_insert(RecordBackoff { backoff, problem: String::new() });
            refused.backoff.record_failure(None);
            refused.problem = problem;
        }
        let now = Instant::now();
        self.0.retain(|_, refused| now < refused.backoff.until() + BACKOFF_KEPT);
    }
}
