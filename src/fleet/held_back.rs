//! Which changes must wait while records are refused.

use std::collections::BTreeSet;

use super::ids::Hostname;
use super::record::{Change, RecordKey, StrangerKind};

/// The changes of a list that must wait while some of its records are refused: with one written and not the other, a VM
/// would be forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldBack {
    records: BTreeSet<RecordKey>,
    /// Nodes whose records stay, because the record that takes their VM over is held back.
    kept: BTreeSet<Hostname>,
}

impl HeldBack {
    /// What waits while `refused` cannot be written.
    ///
    /// A machine keeps its VM, or the request that made it, until the node's record is written. It keeps a request that it
    /// is to forget until the ledger is written. A node's record stays until that of the machine with its VM is written.
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

    /// Records of which all changes wait.
    pub fn records(&self) -> &BTreeSet<RecordKey> {
        &self.records
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds what waits of another list.
    pub fn extend(&mut self, other: Self) {
        self.records.extend(other.records);
        self.kept.extend(other.kept);
    }
}

/// The machine whose record must wait with this change. Where a record does not name the machine, it is the one that is
/// changed next.
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
