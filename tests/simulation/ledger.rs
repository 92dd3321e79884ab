//! Records VPSie's answers and the answers to Cluster Autoscaler, independently of the provider.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;
use vpsie_autoscaler::fleet::{MachineId, Records, RequestOutcome};
use vpsie_autoscaler::simulator::{Simulator, Vm, VmKind};

use super::checks::MAXIMA;
use super::hazards::{Hazard, Hazards};

/// VMs that may be paid for beyond the maxima of all NodeGroups, as docs/designs/runaway-guard.md states it.
fn margin(simulator: &Simulator, hazards: &Hazards, unanswered: &Unanswered) -> usize {
    let maxima: u32 = MAXIMA.iter().map(|(_, max)| max).sum();
    let surges: u32 = MAXIMA.iter().map(|(_, max)| (max / 10).max(2)).sum();
    let stated = surges as usize + 1;
    // VMs that appear after an hour: of as many requests again as the bound.
    let late = if hazards.has(Hazard::LateVms) { maxima as usize + stated } else { 0 };
    // Each open request may make a VM more than was asked for, and deleted VMs come back: the guard counts them only
    // once they are listed.
    let beyond = if hazards.vms_beyond_requests() { maxima as usize + late } else { 0 };
    stated + beyond + late + unanswered.unseen_vms(simulator)
}

/// Creations whose reply was lost, or never awaited.
#[derive(Clone, Default)]
pub(crate) struct Unanswered(Arc<Mutex<Vec<Unclear>>>);

/// A creation that has no answer yet.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Unclear {
    /// VPSie's group.
    group: u64,
    begun: jiff::Timestamp,
}

/// How long the guard counts a creation whose reply was lost.
const LOST_REPLY_COUNTS_FOR: SignedDuration = SignedDuration::from_secs(45);

/// How long VPSie takes at most between a request and its VM, which then may still not be listed.
const SLOWEST_REPLY: SignedDuration = SignedDuration::from_mins(2);

impl Unanswered {
    /// A creation is sent.
    pub(crate) fn begin(&self, path: &str, simulator: &Simulator) -> Option<Unclear> {
        let creation = Unclear { group: group_of(path)?, begun: simulator.overview().now };
        self.0.lock().unwrap().push(creation);
        Some(creation)
    }

    /// Its reply tells whether it was accepted.
    pub(crate) fn answered(&self, creation: Unclear) {
        let mut open = self.0.lock().unwrap();
        if let Some(index) = open.iter().position(|other| *other == creation) {
            open.swap_remove(index);
        }
    }

    /// VMs of such creations that VPSie showed only after the guard had stopped counting them: one a creation. Deleted
    /// ones too: once listed, such a VM was attributed to a creation whose own VM is then not counted.
    fn unseen_vms(&self, simulator: &Simulator) -> usize {
        let mut unseen: Vec<Vm> =
            simulator.vms().into_iter().chain(simulator.gone()).map(|vm| vm.vm).collect();
        unseen.retain(|vm| vm.listed_at > later(vm.created_at, LOST_REPLY_COUNTS_FOR));
        unseen.sort_by_key(|vm| vm.created_at);
        let mut count = 0;
        for creation in self.0.lock().unwrap().iter() {
            let window = creation.begun..=later(creation.begun, SLOWEST_REPLY);
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

/// VPSie's group in the path of a creation.
fn group_of(path: &str) -> Option<u64> {
    path.rsplit('/').next().and_then(|id| id.parse().ok())
}

/// VMs of ours that are paid for at the same time are bounded, whatever VPSie did and whatever the provider counts.
pub(crate) fn bounded(
    simulator: &Simulator,
    hazards: &Hazards,
    unanswered: &Unanswered,
) -> Result<(), String> {
    let paid =
        simulator.vms().iter().filter(|vm| vm.vm.kind == VmKind::Worker && vm.vm.end.is_none()).count();
    let max = MAXIMA.iter().map(|(_, max)| max).sum::<u32>() as usize;
    if paid <= max {
        return Ok(());
    }
    let margin = margin(simulator, hazards, unanswered);
    if paid > max + margin {
        return Err(format!("M: {paid} VMs are paid for, of at most {max} and a margin of {margin}"));
    }
    Ok(())
}

/// Requests that VPSie accepted and whose answer reached the provider: none of them is asked for again while its VM
/// is still to come.
#[derive(Clone)]
pub(crate) struct Requests {
    /// Whether listings tell the size of a worker: otherwise a VM may be taken for one of another size.
    sizes_told: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    accepted: Vec<Accepted>,
    /// VPSie's groups with a request without a clear answer, and its time: VMs cannot be attributed for a while.
    unclear_groups: BTreeMap<u64, Instant>,
    /// When requests were given up early: their VMs count as those of later requests.
    clock_jumped: Option<Instant>,
}

struct Accepted {
    at: Instant,
    vm: u64,
    group: u64,
}

/// A creation in flight. If its process dies, it has no clear answer.
pub(crate) struct Creation {
    group: u64,
    begun: jiff::Timestamp,
    /// None once it is answered.
    state: Option<Arc<Mutex<State>>>,
}

impl Drop for Creation {
    fn drop(&mut self) {
        if let Some(state) = &self.state {
            state.lock().unwrap().unclear_groups.insert(self.group, Instant::now());
        }
    }
}

/// For so long an accepted request is waited for.
const WAITED_FOR: Duration = Duration::from_mins(9);

impl Requests {
    pub(crate) fn new(sizes_told: bool) -> Self {
        Self { sizes_told, state: Arc::default() }
    }

    /// The provider's clock jumps: it gives up requests early.
    pub(crate) fn note_clock_jump(&self) {
        self.state.lock().unwrap().clock_jumped = Some(Instant::now());
    }

    /// The process is another one, or its clock is. It may have died before it recorded an answer: that request
    /// counts as lost and is repeated, and its VM uses up a later request.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock().unwrap();
        for accepted in std::mem::take(&mut state.accepted) {
            state.unclear_groups.insert(accepted.group, Instant::now());
        }
    }

    /// A creation is sent: each request that was accepted and has no VM yet has its own record.
    pub(crate) fn begin(
        &self,
        path: &str,
        simulator: &Simulator,
        records: &Records,
    ) -> Result<Option<Creation>, String> {
        let Some(group) = group_of(path) else { return Ok(None) };
        let Some(size) = simulator.groups().iter().find(|g| g.id == group).map(|g| g.size) else {
            return Ok(None);
        };
        let begun = simulator.overview().now;
        let mut state = self.state.lock().unwrap();
        state.accepted.retain(|accepted| accepted.at.elapsed() < WAITED_FOR);
        state.unclear_groups.retain(|_, since| since.elapsed() < WAITED_FOR);
        let clock_jumped = state.clock_jumped.is_some_and(|since| since.elapsed() < WAITED_FOR);
        let vms = simulator.vms();
        let unlisted =
            |id: u64| vms.iter().any(|vm| vm.vm.id == id && vm.vm.listed_at > begun && vm.vm.end.is_none());
        // Where listings do not tell sizes, a VM may use up the request of another size.
        let together = |of_group: u64| !self.sizes_told || of_group == group;
        let waited_for = state.accepted.iter().filter(|a| together(a.group) && unlisted(a.vm)).count();
        let requests = records.machines.iter().filter(|m| !self.sizes_told || m.size.0 == size);
        let live = requests
            .flat_map(|m| &m.requests)
            .filter(|request| request.outcome != RequestOutcome::Lost)
            .count();
        let unclear_groups = clock_jumped || state.unclear_groups.keys().any(|group| together(*group));
        if !unclear_groups && live < waited_for + 1 {
            return Err(format!(
                "6: {path} is asked again: {waited_for} accepted VMs are still to come, and {live} requests are recorded"
            ));
        }
        let state = Some(self.state.clone());
        Ok(Some(Creation { group, begun, state }))
    }

    /// Its answer reached the provider, or did not.
    pub(crate) fn end(&self, mut creation: Creation, accepted: Option<bool>, simulator: &Simulator) {
        creation.state = None;
        let group = creation.group;
        let begun = creation.begun;
        let mut state = self.state.lock().unwrap();
        let known: BTreeSet<u64> = state.accepted.iter().map(|accepted| accepted.vm).collect();
        match accepted {
            None => drop(state.unclear_groups.insert(group, Instant::now())),
            Some(false) => {}
            Some(true) => {
                let made = simulator.vms().into_iter().find(|vm| {
                    vm.vm.kind == VmKind::Worker
                        && vm.vm.group == Some(group)
                        && vm.vm.created_at >= begun
                        && !known.contains(&vm.vm.id)
                });
                state.accepted.extend(made.map(|vm| Accepted { at: Instant::now(), vm: vm.vm.id, group }));
            }
        }
    }
}

/// Increases that Cluster Autoscaler asked for: an increase whose answer is an error leaves no machine.
#[derive(Clone, Default)]
pub(crate) struct Increases(Arc<Mutex<GrantedMachines>>);

#[derive(Default)]
struct GrantedMachines {
    machines: BTreeSet<MachineId>,
    /// What a call without an answer made is not known: the next look takes it for granted.
    unknown: bool,
    /// A call is under way.
    open: bool,
    failed: Option<Instant>,
}

/// How long the provider has to take back what a failed increase made.
const TAKEN_BACK: Duration = Duration::from_mins(2);

impl Increases {
    pub(crate) fn before(records: &Records) -> BTreeSet<MachineId> {
        records.machines.iter().map(|machine| machine.id.clone()).collect()
    }

    /// An increase was answered.
    pub(crate) fn answered(&self, done: bool, before: &BTreeSet<MachineId>, records: &Records) {
        let mut granted = self.0.lock().unwrap();
        granted.open = false;
        if done {
            granted.machines.extend(Self::before(records).difference(before).cloned());
        } else {
            granted.failed = Some(Instant::now());
        }
    }

    /// An increase begins; it may have no answer.
    pub(crate) fn begin(&self) {
        let mut granted = self.0.lock().unwrap();
        // Cluster Autoscaler makes one call at a time: the one before broke off.
        granted.unknown |= granted.open;
        granted.open = true;
    }

    /// The process died. A command whose records are all written by then stays done, and no answer tells of it.
    pub(crate) fn process_died(&self) {
        self.0.lock().unwrap().unknown = true;
    }

    /// Machines that count are those that an increase granted. Only when records can be read and written for long.
    pub(crate) fn check(&self, records: &Records, calm_for: Duration) -> Result<(), String> {
        let mut granted = self.0.lock().unwrap();
        granted.unknown |= std::mem::take(&mut granted.open);
        let counted = records.machines.iter().filter(|machine| machine.counts());
        let stray: Vec<MachineId> =
            counted.filter(|m| !granted.machines.contains(&m.id)).map(|m| m.id.clone()).collect();
        let failed = granted.failed.is_some();
        if std::mem::take(&mut granted.unknown) || !failed {
            granted.machines.extend(stray);
            return Ok(());
        }
        let over = granted.failed.is_some_and(|at| at.elapsed() > TAKEN_BACK) && calm_for > TAKEN_BACK;
        if over && !stray.is_empty() {
            return Err(format!("A: {stray:?} count, and the answer to their increase was an error"));
        }
        if over {
            granted.failed = None;
        }
        Ok(())
    }
}
