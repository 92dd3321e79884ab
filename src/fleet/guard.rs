//! PURE. The runaway guard: halts growth when more VMs may be paid for than NodeGroups allow, independent
//! of the fleet's own accounting.
//!
//! It uses raw listings, the calls of this process, and the declared maxima. It ignores sizes and the
//! machines that the fleet binds nodes to. Time is the running time of the process, so clock jumps have no
//! effect.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::extra_vms::surge;
use super::halt::Halt;
use super::ids::{Hostname, NodeGroupName, VmId};
use super::listing::{ListedNode, NodeRole};

/// Time that an accepted creation without a VM counts, and that a vanished VM counts.
const CREATION_MEMORY: Duration = Duration::from_hours(24);
/// Time that an accepted creation without a VM counts, if VPSie's own counts show no node beyond those
/// listed.
const DISPROVED_MEMORY: Duration = Duration::from_hours(1);
/// Time that a creation with a lost reply counts without a VM. It is less than the minute after which the
/// fleet repeats the request: otherwise one restart during a scale-up would halt growth. A VM that appears
/// later counts from then on.
const UNCLEAR_MEMORY: Duration = Duration::from_secs(45);
/// Time after which VPSie's counts disprove a vanished VM.
const DISPROVED_AFTER: Duration = Duration::from_mins(10);
/// Time after the last creation in which a node beyond the number of creations counts as a possible result,
/// and time in which a lost reply explains a node.
const SUSPICION: Duration = Duration::from_hours(1);
/// Time after the first request to delete a VM in which VPSie may still list it.
const OVERDUE: Duration = Duration::from_mins(30);
/// Number of listings without a VM that confirm its accepted deletion.
const LISTINGS_TO_CONFIRM: u32 = 2;
/// Maximum of remembered nodes that are not listed.
const MAX_KNOWN: usize = 1000;

/// The permission for one creation, and its identity in the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreationPermit(u64);

/// The result of a creation, as far as the guard needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardOutcome {
    /// VPSie accepted it.
    Accepted,
    /// The reply was lost.
    Unclear,
    /// VPSie created nothing.
    Nothing,
}

fn count_workers(listed: &[ListedNode]) -> u32 {
    listed.iter().filter(|node| node.role != NodeRole::ControlPlane).count() as u32
}

/// Whether growth is allowed, and by how many VMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardStatus {
    /// Number of creations that are allowed now.
    pub headroom: u32,
    /// The cause of the halt, if no creation is allowed.
    pub halt: Option<Halt>,
    /// VMs that may be paid for.
    pub counted: u32,
    /// The VM limit: the maximum of VMs that may be paid for.
    pub limit: u32,
    /// Number of unexplained nodes among them.
    pub unexplained: u32,
}

/// A listed node that may be the result of a creation.
#[derive(Clone, Debug, Default)]
struct TrackedNode {
    /// VPSie's identity of the VM, once it is known.
    id: Option<VmId>,
    /// No creation explains it.
    unexplained: bool,
    /// Time of the first of the consecutive listings without it, and their number.
    missing: Option<(Duration, u32)>,
    /// Time of the first request for its deletion.
    deletion: Option<Duration>,
    /// VPSie accepted its deletion.
    deleted: bool,
}

impl TrackedNode {
    /// Whether the listed node with its hostname is another VM.
    fn is_other(&self, node: &ListedNode) -> bool {
        self.id.is_some() && node.id.is_some() && self.id != node.id
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CreationState {
    InFlight,
    Accepted,
    Unclear,
}

/// A creation without a VM so far.
#[derive(Clone, Debug)]
struct OpenCreation {
    permit: CreationPermit,
    at: Duration,
    state: CreationState,
}

/// Records of earlier processes.
#[derive(Clone, Debug, Default)]
pub struct PriorRecords {
    /// Nodes that no request can have created. None if there is no record yet.
    pub known: Option<BTreeSet<Hostname>>,
    /// Nodes that are the result of requests, by the fleet's records.
    pub ours: BTreeSet<Hostname>,
    /// Accepted requests without a VM, by the fleet's records.
    pub accepted: u32,
    /// Requests whose reply was lost with the process that sent them, or shortly before.
    pub unclear: u32,
    /// Lost and abandoned requests of the last day, by the fleet's records: VPSie may have accepted them.
    pub late: u32,
}

/// The declared maxima.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maxima {
    /// `maxNodes` of each NodeGroup.
    pub groups: BTreeMap<NodeGroupName, u32>,
    /// `maxClusterWorkers`.
    pub cluster: Option<u32>,
}

impl Maxima {
    /// The VM limit, the maximum of VMs that may be paid for: the sum of the NodeGroups' maxima with their
    /// surges, and one more, so that a full cluster may replace nodes.
    pub fn vm_limit(&self) -> u32 {
        let with_surge = |max: u32| max.saturating_add(surge(max));
        let groups = self.groups.values().fold(0u32, |sum, max| sum.saturating_add(with_surge(*max)));
        self.cluster.map_or(groups, |cluster| groups.min(with_surge(cluster))).saturating_add(1)
    }
}

/// The runaway guard.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// VMs of earlier processes that are not listed yet.
    ours: BTreeSet<Hostname>,
    /// Lost and abandoned requests of earlier processes, until the maxima are known.
    late: u32,
    known: Option<BTreeSet<Hostname>>,
    seen: BTreeMap<Hostname, TrackedNode>,
    unseen: Vec<OpenCreation>,
    /// Whether there was a listing.
    listed: bool,
    /// Number of permits so far.
    permits: u64,
    last_creation: Option<Duration>,
    /// VPSie's last count of workers.
    counted: u32,
    /// Number of counted workers that are not listed.
    hidden: u32,
    /// Times of released creations: VPSie's counts disproved them, or an earlier process abandoned them.
    /// Their VMs may still appear.
    released: VecDeque<Duration>,
    /// Times of creations with a lost reply that no longer count. Their VMs may still appear.
    lost: VecDeque<Duration>,
    maxima: Maxima,
    /// Number of VMs that NodeGroups keep from before their maximum was lowered.
    peaks: BTreeMap<NodeGroupName, u32>,
}

impl Guard {
    /// A guard with the records of earlier processes. Without records, nodes of the first listing that are
    /// not results of requests count as existing before.
    pub fn new(before: PriorRecords) -> Self {
        let PriorRecords { known, ours, accepted, unclear, late } = before;
        let mut guard = Self { ours, late, known, ..Self::default() };
        for (count, state) in [(accepted, CreationState::Accepted), (unclear, CreationState::Unclear)] {
            for _ in 0..count {
                guard.note_creation(Duration::ZERO, state);
            }
        }
        guard
    }

    /// Sets the declared maxima and the number of VMs of each NodeGroup. A NodeGroup whose maximum was
    /// lowered keeps its VMs.
    pub fn declare(&mut self, maxima: &Maxima, vm_counts: &BTreeMap<NodeGroupName, u32>) {
        let names: BTreeSet<_> = maxima.groups.keys().chain(self.peaks.keys()).cloned().collect();
        let first = self.maxima == Maxima::default() && self.peaks.is_empty();
        let names: BTreeSet<_> =
            names.into_iter().chain(vm_counts.keys().filter(|_| first).cloned()).collect();
        for name in names {
            let max = maxima.groups.get(&name).copied().unwrap_or(0);
            let vms = vm_counts.get(&name).copied().unwrap_or(0);
            let peak = if first { vms } else { self.peaks.get(&name).copied().unwrap_or(0).min(vms) };
            if peak.max(max) > 0 {
                self.peaks.insert(name, peak.max(max));
            } else {
                self.peaks.remove(&name);
            }
        }
        self.maxima = maxima.clone();
        if first {
            self.release_abandoned();
        }
    }

    /// Treats lost and abandoned requests of an earlier process as released, up to the VM limit. The rest are
    /// lost replies, which that process did not count either; counting them would halt growth for a day.
    fn release_abandoned(&mut self) {
        let late = std::mem::take(&mut self.late).min(self.maxima.vm_limit());
        self.released.extend((0..late).map(|_| Duration::ZERO));
    }

    /// Nodes that no request can have created, to be recorded before the first creation.
    pub fn known_before(&self) -> Option<&BTreeSet<Hostname>> {
        self.known.as_ref()
    }

    /// Records that these nodes were added by hand. They no longer count.
    pub fn note_added_by_hand<'a>(&mut self, nodes: impl IntoIterator<Item = &'a Hostname>) {
        for node in nodes {
            self.seen.remove(node);
            if let Some(known) = &mut self.known {
                known.insert(node.clone());
            }
        }
    }

    /// Observes a listing.
    pub fn observe(&mut self, listed: &[ListedNode], now: Duration) {
        self.expire_explanations(now);
        let names: BTreeSet<&Hostname> = listed.iter().map(|node| &node.hostname).collect();
        let ours = &mut self.ours;
        let begins = !std::mem::replace(&mut self.listed, true);
        let known = self.known.get_or_insert_with(|| {
            names.iter().filter(|name| !ours.contains(**name)).map(|name| (*name).clone()).collect()
        });
        // Hidden workers that are listed now are hidden no more.
        self.hidden = self.hidden.min(self.counted.saturating_sub(count_workers(listed)));
        let mut new: Vec<&ListedNode> = Vec::new();
        for node in listed {
            let name = &node.hostname;
            // Another VM has the hostname of a deleted one.
            if self.seen.get(name).is_some_and(|seen| seen.deleted && seen.is_other(node)) {
                self.seen.remove(name);
                known.remove(name);
            }
            // The first listings may have lacked it, because they were incomplete.
            let is_ours = ours.remove(name);
            if let Some(seen) = self.seen.get_mut(name) {
                seen.missing = None;
                seen.id = node.id.clone().or(seen.id.take());
            } else if is_ours {
                self.seen.insert(name.clone(), TrackedNode { id: node.id.clone(), ..TrackedNode::default() });
            } else if !known.contains(name) {
                new.push(node);
            }
        }
        if known.len() > names.len() + MAX_KNOWN {
            known.retain(|name| names.contains(name));
        }
        for node in new {
            self.attribute_node(node, now, begins);
        }
        self.seen.retain(|name, seen| {
            if names.contains(name) {
                return true;
            }
            let missing = seen.missing.get_or_insert((now, 0));
            missing.1 += 1;
            !(seen.deleted && missing.1 >= LISTINGS_TO_CONFIRM)
        });
        self.expire(now, false);
    }

    /// Attributes a new node to the oldest creation, or to none. Nodes of the first listing count as results
    /// of unknown creations.
    fn attribute_node(&mut self, node: &ListedNode, now: Duration, begins: bool) {
        let oldest = self.unseen.iter().enumerate().min_by_key(|(_, creation)| creation.at).map(|(at, _)| at);
        let awaited = oldest.map(|at| self.unseen.remove(at)).is_some()
            || self.lost.pop_front().is_some()
            || self.released.pop_front().is_some();
        let suspect = self.last_creation.is_some_and(|at| now.saturating_sub(at) < SUSPICION);
        if awaited || begins || suspect {
            let unexplained = !awaited && !begins;
            let seen = TrackedNode { id: node.id.clone(), unexplained, ..TrackedNode::default() };
            self.seen.insert(node.hostname.clone(), seen);
        } else if let Some(known) = &mut self.known {
            known.insert(node.hostname.clone());
        }
    }

    /// Returns true iff VPSie's count of workers should be read: a VM that is not listed may be paid for.
    pub fn needs_count(&self, now: Duration) -> bool {
        let old = |since: Duration, than: Duration| now.saturating_sub(since) >= than;
        // A creation with a lost reply counts only for seconds, so the count is read at once.
        let doubtful = |creation: &OpenCreation| {
            creation.state != CreationState::Accepted || old(creation.at, DISPROVED_AFTER)
        };
        let missing = |seen: &TrackedNode| seen.missing.is_some_and(|(since, _)| old(since, DISPROVED_AFTER));
        self.hidden > 0 || self.unseen.iter().any(doubtful) || self.seen.values().any(missing)
    }

    /// Compares VPSie's own count of workers with a listing: if it is not higher, no worker is hidden.
    pub fn note_count(&mut self, counted: u32, listed: &[ListedNode], now: Duration) {
        self.counted = counted;
        self.hidden = counted.saturating_sub(count_workers(listed));
        if self.hidden == 0 {
            self.expire(now, true);
        }
    }

    /// Removes creations that are too old to explain a new node.
    fn expire_explanations(&mut self, now: Duration) {
        let younger = |since: Duration, than: Duration| now.saturating_sub(since) < than;
        self.released.retain(|at| younger(*at, CREATION_MEMORY));
        self.lost.retain(|at| younger(*at, SUSPICION));
    }

    fn expire(&mut self, now: Duration, disproved: bool) {
        let older = |since: Duration, than: Duration| now.saturating_sub(since) >= than;
        self.expire_explanations(now);
        // VPSie may still fulfil queued creations that its counts do not show. So no more are released in a
        // day than VMs may exist.
        let most = self.maxima.vm_limit() as usize;
        let (released, lost) = (&mut self.released, &mut self.lost);
        self.unseen.retain(|creation| {
            let disproved = disproved && released.len() < most && older(creation.at, DISPROVED_MEMORY);
            match creation.state {
                _ if older(creation.at, CREATION_MEMORY) => false,
                CreationState::Accepted if disproved => {
                    released.push_back(now);
                    false
                }
                CreationState::Unclear if older(creation.at, UNCLEAR_MEMORY) => {
                    if lost.len() < most && !older(creation.at, SUSPICION) {
                        lost.push_back(creation.at);
                    }
                    false
                }
                _ => true,
            }
        });
        let missing = if disproved { DISPROVED_AFTER } else { CREATION_MEMORY };
        self.seen.retain(|_, seen| !seen.missing.is_some_and(|(since, _)| older(since, missing)));
    }

    /// Allows a creation, or returns the cause of the halt. Must be called immediately before the creation.
    pub fn admit(&mut self, now: Duration) -> Result<CreationPermit, Halt> {
        self.expire(now, false);
        match self.status(now) {
            GuardStatus { halt: Some(halt), .. } => Err(halt),
            GuardStatus { halt: None, headroom: 0, counted, limit, .. } => {
                Err(self.too_many_vms(counted, limit))
            }
            GuardStatus { halt: None, .. } => Ok(self.note_creation(now, CreationState::InFlight)),
        }
    }

    fn too_many_vms(&self, counted: u32, limit: u32) -> Halt {
        let missing = self.seen.values().filter(|seen| seen.missing.is_some()).count() as u32;
        let unseen = self.unseen.len() as u32;
        let hidden = self.hidden;
        Halt::TooManyVms { counted, limit, unseen, missing, hidden }
    }

    fn note_creation(&mut self, now: Duration, state: CreationState) -> CreationPermit {
        let permit = CreationPermit(self.permits);
        self.permits += 1;
        self.unseen.push(OpenCreation { permit, at: now, state });
        self.last_creation = Some(now);
        permit
    }

    /// Records the outcome of a creation. Its VM may have been listed before.
    pub fn note_outcome(&mut self, permit: CreationPermit, outcome: GuardOutcome) {
        let state = match outcome {
            GuardOutcome::Nothing => return self.unseen.retain(|creation| creation.permit != permit),
            GuardOutcome::Accepted => CreationState::Accepted,
            GuardOutcome::Unclear => CreationState::Unclear,
        };
        for creation in self.unseen.iter_mut().filter(|creation| creation.permit == permit) {
            creation.state = state;
        }
    }

    /// Records that the deletion of a VM is requested.
    pub fn note_deletion_request(&mut self, vm: &Hostname, now: Duration) {
        if let Some(seen) = self.seen.get_mut(vm) {
            seen.deletion.get_or_insert(now);
        }
    }

    /// Records that VPSie accepted the deletion of a VM, or answered that it does not exist.
    pub fn note_deletion(&mut self, vm: &Hostname) {
        if let Some(seen) = self.seen.get_mut(vm) {
            seen.deleted = true;
        }
    }

    /// Whether growth is allowed now, and by how many VMs.
    pub fn status(&self, now: Duration) -> GuardStatus {
        let listed = self.seen.values().filter(|seen| seen.missing.is_none()).count() as u32;
        let counted = ((self.seen.len() + self.unseen.len()) as u32).max(listed + self.hidden);
        let allowed = self.maxima.vm_limit();
        let peaks = self.peaks.values().fold(0u32, |sum, peak| sum.saturating_add(*peak));
        let peaks = self.maxima.cluster.map_or(peaks, |cluster| cluster.min(peaks));
        let limit = allowed.max(peaks);
        let names = |which: &dyn Fn(&TrackedNode) -> bool| -> Vec<Hostname> {
            self.seen.iter().filter(|(_, seen)| which(seen)).map(|(name, _)| name.clone()).collect()
        };
        let unexplained = names(&|seen| seen.unexplained && seen.missing.is_none());
        let overdue = names(&|seen| {
            seen.missing.is_none() && seen.deletion.is_some_and(|at| now.saturating_sub(at) >= OVERDUE)
        });
        let few = surge(allowed) as usize;
        // With a lowered maximum there is no headroom, but no halt either.
        let too_many = if peaks > allowed { counted > peaks } else { counted >= allowed };
        let unexplained_count = unexplained.len() as u32;
        let halt = if overdue.len() > few {
            Some(Halt::DeletionsOverdue(overdue))
        } else if unexplained.len() > few {
            Some(Halt::UnexplainedNodes(unexplained))
        } else if too_many {
            Some(self.too_many_vms(counted, limit))
        } else {
            None
        };
        let headroom = if halt.is_some() { 0 } else { limit.saturating_sub(counted) };
        GuardStatus { headroom, halt, counted, limit, unexplained: unexplained_count }
    }
}
