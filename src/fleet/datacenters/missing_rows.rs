//! Listings that lack many VMs of one datacenter: they do not prove the end of a VM there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::breaker::DatacenterState;
use crate::catalog::DatacenterId;
use crate::fleet::age::age;
use crate::fleet::machine::{Machine, Phase};
use crate::fleet::record::Change;
use crate::fleet::state::Fleet;

/// Time after which a missing row proves the end of its VM although the datacenter is suspect.
const MAX_MISSING_TIME: Duration = Duration::from_hours(1);
/// Time after which the missing row of the only VM of a datacenter proves its end, if another datacenter is listed
/// completely. A listing that lacks the datacenter looks the same.
const ONLY_VM_MISSING_TIME: Duration = Duration::from_mins(10);

impl Fleet {
    /// Notes the datacenters of which a complete listing lacks more than half of the VMs, and at least two. VMs whose
    /// deletion was accepted do not count.
    pub(in crate::fleet) fn note_missing_rows(
        &mut self,
        changes: &mut Vec<Change>,
        missing: &[Machine],
        now: Timestamp,
    ) {
        if self.datacenters.watched.is_empty() {
            self.transient.datacenters.missing_rows = None;
            self.transient.datacenters.missing_since.clear();
            self.transient.datacenters.overdue.clear();
            self.transient.datacenters.only_vm_missing.clear();
            return;
        }
        let is_expected = |machine: &Machine| {
            machine.vm().is_some() && !matches!(machine.phase, Phase::Deleting { accepted_at: Some(_), .. })
        };
        let count = |machines: &mut dyn Iterator<Item = &Machine>| {
            let mut counts: BTreeMap<DatacenterId, u32> = BTreeMap::new();
            for machine in machines.filter(|machine| is_expected(machine)) {
                *counts.entry(machine.pool.datacenter.clone()).or_default() += 1;
            }
            counts
        };
        let lacking = count(&mut missing.iter());
        let all = count(&mut self.machines.values());
        let is_suspect = |(datacenter, lacking): &(&DatacenterId, &u32)| {
            self.datacenters.watched.contains(*datacenter)
                && **lacking >= 2
                && 2 * **lacking > all.get(*datacenter).copied().unwrap_or(0)
        };
        let suspect: BTreeSet<DatacenterId> =
            lacking.iter().filter(is_suspect).map(|(datacenter, _)| datacenter.clone()).collect();
        let observations = &mut self.transient.datacenters;
        observations.missing_rows = Some(suspect);
        let known = std::mem::take(&mut observations.missing_since);
        let since = |machine: &Machine| known.get(&machine.id).copied().unwrap_or(now).min(now);
        let missing = || missing.iter().filter(|machine| is_expected(machine));
        observations.missing_since = missing().map(|machine| (machine.id.clone(), since(machine))).collect();
        // Without a datacenter that is listed completely, the listing itself may be wrong.
        let proves_something = all.keys().any(|datacenter| !lacking.contains_key(datacenter));
        let only_vm_time = if proves_something { ONLY_VM_MISSING_TIME } else { MAX_MISSING_TIME };
        let is_kept_only_vm = |machine: &&Machine| {
            let datacenter = &machine.pool.datacenter;
            self.datacenters.watched.contains(datacenter)
                && all.get(datacenter) == Some(&1)
                && age(since(machine), now) < only_vm_time
        };
        observations.only_vm_missing =
            missing().filter(is_kept_only_vm).map(|machine| machine.pool.datacenter.clone()).collect();
        let overdue =
            missing().filter(|machine| proves_something && age(since(machine), now) >= MAX_MISSING_TIME);
        observations.overdue = overdue.map(|machine| machine.pool.datacenter.clone()).collect();
        self.advance_datacenters(changes, now);
    }

    /// Whether a missing VM of the datacenter must not count as vanished: the datacenter is suspect, or it is its only VM. While the row of another one is missing for an hour,
    /// and another datacenter is listed completely, the ordinary rule applies.
    pub(in crate::fleet) fn keeps_missing_vms(&self, datacenter: &DatacenterId) -> bool {
        let is_suspect = |missing: &BTreeSet<DatacenterId>| missing.contains(datacenter);
        let observations = &self.transient.datacenters;
        !observations.overdue.contains(datacenter)
            && (matches!(self.datacenters.history.state(datacenter), DatacenterState::Open { .. })
                || observations.only_vm_missing.contains(datacenter)
                || observations.missing_rows.as_ref().is_some_and(is_suspect))
    }
}
