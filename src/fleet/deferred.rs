//! Changes that wait while records are refused.

use std::collections::BTreeSet;

use super::ids::Hostname;
use super::record::{Change, RecordKey, UnmanagedKind, UnmanagedNode};

/// The changes of a list that wait while some of its records are refused. Without the refused record, they would lose
/// track of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeferredChanges {
    records: BTreeSet<RecordKey>,
    /// Unmanaged nodes whose records stay, because the new record of their VM is deferred.
    retained: BTreeSet<Hostname>,
}

impl DeferredChanges {
    /// Selects the changes that wait while `refused` cannot be written.
    ///
    /// A machine keeps its VM, or the request that made it, until the listed node is recorded. It keeps a request that it
    /// would drop until the ledger is recorded. An orphan, or the ledger, takes no request that the machine keeps. The
    /// ledger keeps an abandoned request until the node that it explains is
    /// recorded. A listed node's record stays until the machine with its VM is recorded.
    pub fn new(changes: &[Change], refused: BTreeSet<RecordKey>) -> Self {
        let mut records = refused;
        loop {
            let before = records.len();
            for (at, change) in changes.iter().enumerate() {
                let next = changes.get(at + 1);
                if records.contains(&change.record()) {
                    records.extend(dependent(change, next));
                }
                // A request is used up or abandoned once.
                if next.is_some_and(|next| moves_request(change, next) && records.contains(&next.record())) {
                    records.insert(change.record());
                }
            }
            if records.len() == before {
                break;
            }
        }
        let mut held = Self { records, retained: BTreeSet::new() };
        let vm = |change: &Change| match change {
            Change::SaveMachine(machine) if held.contains(change) => {
                machine.vm().map(|vm| vm.hostname.clone())
            }
            _ => None,
        };
        held.retained = changes.iter().filter_map(vm).collect();
        held
    }

    /// Whether the change is deferred.
    pub fn contains(&self, change: &Change) -> bool {
        self.records.contains(&change.record())
            || matches!(change, Change::DropUnmanaged(hostname) if self.retained.contains(hostname))
    }

    /// Records whose changes are all deferred.
    pub fn records(&self) -> &BTreeSet<RecordKey> {
        &self.records
    }

    /// Whether no change is deferred.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds the deferred changes of another list.
    pub fn extend(&mut self, other: Self) {
        self.records.extend(other.records);
        self.retained.extend(other.retained);
    }
}

/// Whether the first change records a request that the machine drops in the second.
fn moves_request(change: &Change, next: &Change) -> bool {
    match (change, next) {
        (
            Change::SaveUnmanaged(UnmanagedNode { kind: UnmanagedKind::Orphan { pool, .. }, .. }),
            Change::SaveMachine(m),
        ) => m.pool == *pool,
        (Change::SaveLedger(_), Change::SaveMachine(_)) => true,
        _ => false,
    }
}

/// The record that must wait with this change. If the change does not name it, it is that of the next change in the
/// list.
fn dependent(change: &Change, next: Option<&Change>) -> Option<RecordKey> {
    match (change, next) {
        (Change::SaveUnmanaged(unmanaged), next) => match (&unmanaged.kind, next) {
            (UnmanagedKind::Gone { machine, .. }, _) => Some(RecordKey::Machine(machine.clone())),
            (UnmanagedKind::Orphan { .. }, Some(next)) => moves_request(change, next).then(|| next.record()),
            (UnmanagedKind::Foreign, Some(ledger @ Change::SaveLedger(_))) => Some(ledger.record()),
            _ => None,
        },
        (Change::SaveLedger(_), Some(next)) => moves_request(change, next).then(|| next.record()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tests::{Hand, OTHER, fleet};
    use crate::fleet::{CreationOutcome, Ledger, Machine};

    fn foreign(hostname: &str) -> Change {
        Change::SaveUnmanaged(UnmanagedNode {
            hostname: Hostname::new(hostname),
            id: None,
            first_seen: jiff::Timestamp::UNIX_EPOCH,
            kind: UnmanagedKind::Foreign,
            awaited_by: None,
        })
    }

    fn ledger() -> Change {
        Change::SaveLedger(Ledger::default())
    }

    fn machine() -> Machine {
        let mut hand = Hand::new();
        let mut fleet = fleet();
        hand.observe(&mut fleet, &[]);
        hand.increase(&mut fleet, OTHER, 1).unwrap();
        hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
        fleet.machines().next().unwrap().clone()
    }

    #[test]
    fn keeps_an_abandoned_request_until_its_node_is_recorded() {
        let node = foreign("ams-slave-1");
        let held = DeferredChanges::new(&[node.clone(), ledger()], BTreeSet::from([node.record()]));
        assert!(held.contains(&ledger()));
        let held = DeferredChanges::new(&[foreign("ams-slave-2"), ledger()], BTreeSet::from([node.record()]));
        assert!(!held.contains(&ledger()));
    }

    #[test]
    fn defers_changes_that_depend_on_a_later_one() {
        let node = foreign("ams-slave-1");
        let machine = Change::SaveMachine(machine());
        let changes = [ledger(), machine.clone(), node.clone(), ledger()];
        let held = DeferredChanges::new(&changes, BTreeSet::from([node.record()]));
        assert!(held.contains(&machine), "it drops a request that the ledger does not have");
    }
}
