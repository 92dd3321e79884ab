//! Requests that are used, although the records of their machines still have them.

use std::collections::{BTreeSet, HashSet};

use jiff::{SignedDuration, Timestamp};

use super::ids::MachineId;
use super::machine::{Machine, RequestRef};
use super::record::Change;
use super::state::Fleet;

impl Fleet {
    /// Removes requests from machines if a VM's record, or the request history, names them. A write that was
    /// interrupted or refused leaves a request in both records. Returns these requests.
    pub(super) fn remove_used_requests(&mut self, changes: &mut Vec<Change>) -> HashSet<RequestRef> {
        let mut open: HashSet<RequestRef> = HashSet::new();
        for machine in self.machines.values() {
            open.extend(machine.requests.iter().map(|request| machine.request_ref(request)));
        }
        if open.is_empty() {
            return open;
        }
        let used: HashSet<RequestRef> =
            self.used_requests().filter(|request| open.contains(request)).cloned().collect();
        let machines: BTreeSet<MachineId> = used.iter().map(|request| request.machine.clone()).collect();
        for id in machines {
            let Some(mut machine) = self.machines.get(&id).cloned() else { continue };
            machine
                .requests
                .retain(|request| !used.contains(&RequestRef { machine: id.clone(), at: request.at }));
            self.push_change(changes, Change::SaveMachine(machine));
        }
        used
    }

    /// The requests that VMs and the request history name.
    pub(super) fn used_requests(&self) -> impl Iterator<Item = &RequestRef> {
        let bound = self.machines.values().filter_map(|machine| machine.vm()?.request.as_ref());
        let unmanaged = self.unmanaged.values().filter_map(|unmanaged| unmanaged.request.as_ref());
        let moved = self.request_history.moved.iter().map(|moved| &moved.request);
        bound.chain(unmanaged).chain(moved)
    }

    /// `now`, or the last time before it that names no other request of the machine, open or used.
    pub(super) fn request_time(&self, machine: &Machine, own: Option<usize>, now: Timestamp) -> Timestamp {
        let others = machine.requests.iter().enumerate().filter(|(at, _)| Some(*at) != own);
        let others = others.map(|(_, request)| request.at);
        let used = self.used_requests().filter(|used| used.machine == machine.id).map(|used| used.at);
        unused_time(&others.chain(used).collect(), now)
    }
}

/// The last time, up to `now`, that is not taken.
pub(super) fn unused_time(taken: &HashSet<Timestamp>, now: Timestamp) -> Timestamp {
    let mut at = now;
    while taken.contains(&at) {
        at -= SignedDuration::from_nanos(1);
    }
    at
}
