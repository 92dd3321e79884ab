//! Changes that must wait while records are refused.

use std::collections::BTreeSet;

use super::ids::Hostname;
use super::record::{Change, RecordKey, StrangerKind};

/// The changes of a list that must wait while some of its records are refused. Writing one without the other would
/// lose track of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldBack {
    records: BTreeSet<RecordKey>,
    /// Listed nodes whose records stay, because the record that takes over their VM is held back.
    kept: BTreeSet<Hostname>,
}

impl HeldBack {
    /// Finds the changes that wait while `refused` cannot be written.
    ///
    /// A machine keeps its VM, or the request that made it, until the listed node is recorded. It keeps a request that it
    /// would drop until the ledger is recorded. A listed node's record stays until the machine with its VM is recorded.
    pub fn new(changes: &[Change], refused: BTreeSet<RecordKey>) -> Self {
        let mut records = refused;
        for (at, change) in changes.iter().enumerate() {
            if records.contains(&change.record()) {
                records.extend(dependent(change, changes.get(at + 1)));
            }
        }
        let mut held = Self { records, kept: BTreeSet::new() };
        let vm = |change: &Change| match change {
            Change::SaveMachine(machine) if held.holds(change) => machine.vm().map(|vm| vm.hostname.clone()),
            _ => None,
        };
        held.kept = changes.iter().filter_map(vm).collect();
        held
    }

    /// Whether the change must wait.
    pub fn holds(&self, change: &Change) -> bool {
        self.records.contains(&change.record())
            || matches!(change, Change::DropStranger(hostname) if self.kept.contains(hostname))
    }

    /// Records whose changes all wait.
    pub fn records(&self) -> &BTreeSet<RecordKey> {
        &self.records
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds the waiting changes of another list.
    pub fn extend(&mut self, other: Self) {
        self.records.extend(other.records);
        self.kept.extend(other.kept);
    }
}

/// The machine whose record must wait with this change. If the record does not name a machine, it is the next machine
/// in the list.
fn dependent(change: &Change, next: Option<&Change>) -> Option<RecordKey> {
    match (change, next) {
        (Change::SaveStranger(stranger), next) => match (&stranger.kind, next) {
            (StrangerKind::Gone { machine, .. }, _) => Some(RecordKey::Machine(machine.clone())),
            (StrangerKind::Orphan { pool, .. }, Some(Change::SaveMachine(machine))) => {
                (machine.pool == *pool).then(|| RecordKey::Machine(machine.id.clone()))
            }
            _ => None,
        },
        (Change::SaveLedger(_), Some(next @ Change::SaveMachine(_))) => Some(next.record()),
        _ => None,
    }
}
