//! Changes that wait while the store refuses records.

use std::collections::BTreeSet;

use super::ids::Hostname;
use super::record::{Change, RecordKey, UnmanagedKind};

/// The changes of a list that wait while some of its records are refused. Without the refused record, they
/// would lose track of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeferredChanges {
    records: BTreeSet<RecordKey>,
    /// Unmanaged nodes whose records stay, because the new record of their VM is deferred.
    retained: BTreeSet<Hostname>,
}

impl DeferredChanges {
    /// Selects the changes that wait while `refused` cannot be written.
    ///
    /// A machine keeps its VM, or the request that created it, until the listed node is recorded. It keeps a
    /// request that it would drop until the request history is recorded. A listed node's record stays until
    /// the machine with its VM is recorded.
    pub fn new(changes: &[Change], refused: BTreeSet<RecordKey>) -> Self {
        let mut records = refused;
        loop {
            let before = records.len();
            for (at, change) in changes.iter().enumerate() {
                let next = changes.get(at + 1);
                if records.contains(&change.record()) {
                    records.extend(dependent(change, next));
                }
            }
            if records.len() == before {
                break;
            }
        }
        let mut deferred = Self { records, retained: BTreeSet::new() };
        let vm = |change: &Change| match change {
            Change::SaveMachine(machine) if deferred.contains(change) => {
                machine.vm().map(|vm| vm.hostname.clone())
            }
            _ => None,
        };
        deferred.retained = changes.iter().filter_map(vm).collect();
        deferred
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

/// The record that must wait with this change. That of an abandoned request is the next in the list.
fn dependent(change: &Change, next: Option<&Change>) -> Option<RecordKey> {
    match (change, next) {
        (Change::SaveUnmanaged(unmanaged), _) => match &unmanaged.kind {
            UnmanagedKind::Gone { machine, .. } => Some(RecordKey::Machine(machine.clone())),
            UnmanagedKind::Orphan { .. } => {
                unmanaged.request.as_ref().map(|request| RecordKey::Machine(request.machine.clone()))
            }
            UnmanagedKind::Foreign => None,
        },
        (Change::SaveRequestHistory(history), Some(next @ Change::SaveMachine(machine))) => {
            history.moved.iter().any(|moved| moved.request.machine == machine.id).then(|| next.record())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::record::UnmanagedNode;
    use crate::fleet::tests::{Hand, OTHER, fleet};
    use crate::fleet::{CreationOutcome, Machine, MovedRequest, RequestHistory};

    fn machine() -> Machine {
        let mut hand = Hand::new();
        let mut fleet = fleet();
        hand.observe(&mut fleet, &[]);
        hand.increase(&mut fleet, OTHER, 1).unwrap();
        hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
        fleet.machines().next().unwrap().clone()
    }

    #[test]
    fn a_machine_keeps_its_request_until_its_orphan_is_recorded() {
        let machine = machine();
        let orphan = Change::SaveUnmanaged(UnmanagedNode {
            hostname: Hostname::new("ams-slave-1"),
            id: None,
            first_seen: jiff::Timestamp::UNIX_EPOCH,
            kind: UnmanagedKind::Orphan { pool: machine.pool.clone(), size: None },
            awaited_by: None,
            request: Some(machine.request_ref(&machine.requests[0])),
            abandoned_request: None,
        });
        let saved = Change::SaveMachine(machine);
        let changes = [orphan.clone(), saved.clone()];
        assert!(DeferredChanges::new(&changes, BTreeSet::from([orphan.record()])).contains(&saved));
        let deferred = DeferredChanges::new(&changes, BTreeSet::from([saved.record()]));
        assert!(!deferred.contains(&orphan), "it names its request, which is not used again");
    }

    #[test]
    fn a_machine_keeps_its_request_until_the_history_is_recorded() {
        let machine = machine();
        let other = Change::SaveMachine(Machine { id: "batch-2".into(), ..machine.clone() });
        let request = machine.request_ref(&machine.requests[0]);
        let moved = vec![MovedRequest { request, moved_at: jiff::Timestamp::UNIX_EPOCH }];
        let history = Change::SaveRequestHistory(RequestHistory { moved, ..RequestHistory::default() });
        let saved = Change::SaveMachine(machine);
        let refused = || BTreeSet::from([history.record()]);
        assert!(DeferredChanges::new(&[history.clone(), saved.clone()], refused()).contains(&saved));
        assert!(!DeferredChanges::new(&[history.clone(), other.clone(), saved], refused()).contains(&other));
    }
}
