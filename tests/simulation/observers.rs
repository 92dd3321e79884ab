//! Observers of VPSie's replies and of the replies to Cluster Autoscaler. They count creations, VMs and
//! increases independently of the provider.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;
use vpsie_autoscaler::fleet::{MachineId, Records, RequestOutcome};
use vpsie_autoscaler::simulator::{Simulator, Vm, VmKind};

use super::checks::MAXIMA;
use super::hazards::{Hazard, Hazards};

/// VMs that may be paid for above the maxima of all NodeGroups: the margin of docs/designs/runaway-guard.md
/// and the exceptions in its section Limits.
fn paid_vm_margin(simulator: &Simulator, hazards: &Hazards, unanswered: &UnansweredCreations) -> usize {
    let maxima: u32 = MAXIMA.iter().map(|(_, max)| max).sum();
    let surges: u32 = MAXIMA.iter().map(|(_, max)| (max / 10).max(2)).sum();
    let stated = surges as usize + 1;
    // VMs can appear more than an hour after their request: at most as many as the VM limit of the guard.
    let late_vms = if hazards.has(Hazard::LateVms) { maxima as usize + stated } else { 0 };
    // Each open request may create two VMs, and a deleted VM may run again. The guard counts these VMs once
    // they are listed.
    let unrequested_vms = if hazards.has_unrequested_vms() { maxima as usize + late_vms } else { 0 };
    stated + unrequested_vms + late_vms + unanswered.unseen_vms(simulator)
}

/// Creations whose reply did not reach the provider.
#[derive(Clone, Default)]
pub(crate) struct UnansweredCreations(Arc<Mutex<Vec<UnansweredCreation>>>);

/// A creation without a reply.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct UnansweredCreation {
    /// Group at VPSie.
    group: u64,
    begun: jiff::Timestamp,
}

/// Time for which the guard counts a creation whose reply was lost.
const LOST_REPLY_COUNTS_FOR: SignedDuration = SignedDuration::from_secs(45);

/// Maximum time from a request to the creation of its VM. VPSie may list the VM later.
const MAX_CREATION_DELAY: SignedDuration = SignedDuration::from_mins(2);

impl UnansweredCreations {
    /// Adds a creation that is being sent.
    pub(crate) fn begin(&self, path: &str, simulator: &Simulator) -> Option<UnansweredCreation> {
        let creation = UnansweredCreation { group: group_of(path)?, begun: simulator.overview().now };
        self.0.lock().unwrap().push(creation);
        Some(creation)
    }

    /// Removes a creation whose reply showed whether VPSie accepted it.
    pub(crate) fn remove(&self, creation: UnansweredCreation) {
        let mut open = self.0.lock().unwrap();
        if let Some(index) = open.iter().position(|other| *other == creation) {
            open.swap_remove(index);
        }
    }

    /// Number of VMs of these creations that VPSie listed only after the guard had stopped counting them, at
    /// most one for each creation. Deleted VMs count too: the guard attributed such a VM to another creation,
    /// and does not count the VM of that creation until it is listed.
    fn unseen_vms(&self, simulator: &Simulator) -> usize {
        let mut unseen: Vec<Vm> =
            simulator.vms().into_iter().chain(simulator.gone()).map(|vm| vm.vm).collect();
        unseen.retain(|vm| vm.listed_at > later(vm.created_at, LOST_REPLY_COUNTS_FOR));
        unseen.sort_by_key(|vm| vm.created_at);
        let mut count = 0;
        for creation in self.0.lock().unwrap().iter() {
            let window = creation.begun..=later(creation.begun, MAX_CREATION_DELAY);
            let its_vm = |vm: &Vm| vm.group == Some(creation.group) && window.contains(&vm.created_at);
            if let Some(index) = unseen.iter().position(its_vm) {
                unseen.remove(index);
                count += 1;
            }
        }
        count
    }
}

fn later(time: jiff::Timestamp, by: SignedDuration) -> jiff::Timestamp {
    time.checked_add(by).unwrap_or(jiff::Timestamp::MAX)
}

/// Group at VPSie in the path of a creation.
fn group_of(path: &str) -> Option<u64> {
    path.rsplit('/').next().and_then(|id| id.parse().ok())
}

/// Checks the number of requested workers that are paid for at the same time against the maxima and the
/// margin. Uses the simulator's list of VMs, not the provider's count.
pub(crate) fn check_paid_vms(
    simulator: &Simulator,
    hazards: &Hazards,
    unanswered: &UnansweredCreations,
) -> Result<(), String> {
    let paid =
        simulator.vms().iter().filter(|vm| vm.vm.kind == VmKind::Worker && vm.vm.end.is_none()).count();
    let max = MAXIMA.iter().map(|(_, max)| max).sum::<u32>() as usize;
    if paid <= max {
        return Ok(());
    }
    let margin = paid_vm_margin(simulator, hazards, unanswered);
    if paid > max + margin {
        return Err(format!("M: {paid} VMs are paid for, must be at most {max} and a margin of {margin}"));
    }
    Ok(())
}

/// Observes the creations that VPSie accepted and whose replies reached the provider. The provider must not
/// repeat such a creation before its VM is listed.
#[derive(Clone)]
pub(crate) struct RequestObserver {
    /// Whether listings show the sizes of workers. Otherwise a VM may fulfil a request for another size.
    sizes_listed: bool,
    state: Arc<Mutex<RequestState>>,
}

#[derive(Default)]
struct RequestState {
    accepted: Vec<Accepted>,
    /// Groups at VPSie with a creation whose outcome became unclear, and that time. For [`AWAITED_FOR`] from
    /// then on, their VMs cannot be attributed to creations.
    unclear_groups: BTreeMap<u64, Instant>,
    /// Time of the last clock jump. A jump can time out a request early, and its VM then fulfils a later
    /// request.
    clock_jumped: Option<Instant>,
}

struct Accepted {
    at: Instant,
    vm: u64,
    group: u64,
}

/// A creation in flight. Its outcome is unclear if it is dropped before its reply, because the process has
/// ended.
pub(crate) struct CreationInFlight {
    group: u64,
    begun: jiff::Timestamp,
    /// None once the reply has arrived.
    state: Option<Arc<Mutex<RequestState>>>,
}

impl Drop for CreationInFlight {
    fn drop(&mut self) {
        if let Some(state) = &self.state {
            state.lock().unwrap().unclear_groups.insert(self.group, Instant::now());
        }
    }
}

/// Time for which the VM of an accepted creation is expected: less than the provider's create timeout of ten
/// minutes.
const AWAITED_FOR: Duration = Duration::from_mins(9);

impl RequestObserver {
    pub(crate) fn new(sizes_listed: bool) -> Self {
        Self { sizes_listed, state: Arc::default() }
    }

    /// Notes a jump of the provider's clock, which can time out requests early.
    pub(crate) fn note_clock_jump(&self) {
        self.state.lock().unwrap().clock_jumped = Some(Instant::now());
    }

    /// Treats all accepted creations as unclear, after a restart or a clock jump. A process that ended before
    /// it recorded a reply repeats that request, and the first VM may fulfil a later request.
    pub(crate) fn forget_accepted(&self) {
        let mut state = self.state.lock().unwrap();
        for accepted in std::mem::take(&mut state.accepted) {
            state.unclear_groups.insert(accepted.group, Instant::now());
        }
    }

    /// Checks a creation that is being sent: it must have a recorded request, in addition to one for each
    /// accepted creation whose VM is not listed yet.
    pub(crate) fn begin(
        &self,
        path: &str,
        simulator: &Simulator,
        records: &Records,
    ) -> Result<Option<CreationInFlight>, String> {
        let Some(group) = group_of(path) else { return Ok(None) };
        let Some(size) = simulator.groups().iter().find(|g| g.id == group).map(|g| g.size) else {
            return Ok(None);
        };
        let begun = simulator.overview().now;
        let mut state = self.state.lock().unwrap();
        state.accepted.retain(|accepted| accepted.at.elapsed() < AWAITED_FOR);
        state.unclear_groups.retain(|_, since| since.elapsed() < AWAITED_FOR);
        let clock_jumped = state.clock_jumped.is_some_and(|since| since.elapsed() < AWAITED_FOR);
        let vms = simulator.vms();
        let unlisted =
            |id: u64| vms.iter().any(|vm| vm.vm.id == id && vm.vm.listed_at > begun && vm.vm.end.is_none());
        // If listings do not show sizes, a VM may fulfil a request for another size.
        let is_relevant = |other: u64| !self.sizes_listed || other == group;
        let awaited = state.accepted.iter().filter(|a| is_relevant(a.group) && unlisted(a.vm)).count();
        let requests = records.machines.iter().filter(|m| !self.sizes_listed || m.size.0 == size);
        let live = requests
            .flat_map(|m| &m.requests)
            .filter(|request| request.outcome != RequestOutcome::Lost)
            .count();
        let is_unclear = clock_jumped || state.unclear_groups.keys().any(|group| is_relevant(*group));
        if !is_unclear && live < awaited + 1 {
            return Err(format!(
                "6: {path} repeats a creation: {awaited} accepted VMs are not listed yet, and {live} requests are recorded"
            ));
        }
        let state = Some(self.state.clone());
        Ok(Some(CreationInFlight { group, begun, state }))
    }

    /// Notes the reply to a creation. `accepted` is None if the outcome is unclear.
    pub(crate) fn end(&self, mut creation: CreationInFlight, accepted: Option<bool>, simulator: &Simulator) {
        creation.state = None;
        let group = creation.group;
        let begun = creation.begun;
        let mut state = self.state.lock().unwrap();
        let known: BTreeSet<u64> = state.accepted.iter().map(|accepted| accepted.vm).collect();
        match accepted {
            None => drop(state.unclear_groups.insert(group, Instant::now())),
            Some(false) => {}
            Some(true) => {
                let created = simulator.vms().into_iter().find(|vm| {
                    vm.vm.kind == VmKind::Worker
                        && vm.vm.group == Some(group)
                        && vm.vm.created_at >= begun
                        && !known.contains(&vm.vm.id)
                });
                state.accepted.extend(created.map(|vm| Accepted { at: Instant::now(), vm: vm.vm.id, group }));
            }
        }
    }
}

/// Observes the increases of Cluster Autoscaler. An increase that was answered with an error must leave no
/// machine.
#[derive(Clone, Default)]
pub(crate) struct IncreaseObserver(Arc<Mutex<GrantedMachines>>);

#[derive(Default)]
struct GrantedMachines {
    machines: BTreeSet<MachineId>,
    /// Whether the result of a call is unknown because it had no reply. The next check accepts all machines.
    is_unknown: bool,
    /// Whether a call is in progress.
    is_open: bool,
    failed_at: Option<Instant>,
}

/// Time in which the provider must undo a failed increase.
const UNDO_TIME: Duration = Duration::from_mins(2);

impl IncreaseObserver {
    /// Ids of the recorded machines.
    pub(crate) fn machine_ids(records: &Records) -> BTreeSet<MachineId> {
        records.machines.iter().map(|machine| machine.id.clone()).collect()
    }

    /// Notes the reply to an increase. Machines that are not in `before` belong to it.
    pub(crate) fn end(&self, done: bool, before: &BTreeSet<MachineId>, records: &Records) {
        let mut granted = self.0.lock().unwrap();
        granted.is_open = false;
        if done {
            granted.machines.extend(Self::machine_ids(records).difference(before).cloned());
        } else {
            granted.failed_at = Some(Instant::now());
        }
    }

    /// Notes the start of an increase.
    pub(crate) fn begin(&self) {
        let mut granted = self.0.lock().unwrap();
        // Cluster Autoscaler makes one call at a time, so an open call had no reply.
        granted.is_unknown |= granted.is_open;
        granted.is_open = true;
    }

    /// Notes that the process ended. A command whose records are complete stays in force, although it had no
    /// reply.
    pub(crate) fn note_process_end(&self) {
        self.0.lock().unwrap().is_unknown = true;
    }

    /// Checks that each machine in a target size belongs to an increase that succeeded. `fault_free_for` is
    /// the time since the last failure of the store.
    pub(crate) fn check(&self, records: &Records, fault_free_for: Duration) -> Result<(), String> {
        let mut granted = self.0.lock().unwrap();
        granted.is_unknown |= std::mem::take(&mut granted.is_open);
        let counted = records.machines.iter().filter(|machine| machine.counts());
        let not_granted: Vec<MachineId> =
            counted.filter(|m| !granted.machines.contains(&m.id)).map(|m| m.id.clone()).collect();
        let has_failed = granted.failed_at.is_some();
        if std::mem::take(&mut granted.is_unknown) || !has_failed {
            granted.machines.extend(not_granted);
            return Ok(());
        }
        let is_due =
            granted.failed_at.is_some_and(|at| at.elapsed() > UNDO_TIME) && fault_free_for > UNDO_TIME;
        if is_due && !not_granted.is_empty() {
            return Err(format!(
                "A: {not_granted:?} are in a target size, and their increase was answered with an error"
            ));
        }
        if is_due {
            granted.failed_at = None;
        }
        Ok(())
    }
}
