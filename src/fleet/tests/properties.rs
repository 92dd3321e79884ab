//! The invariants of the fleet, against a toy VPSie that loses replies, refuses requests, and hides nodes,
//! with crashes in between. Without further faults, every billed VM must be accounted for in the end.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::cost::Usd;

#[derive(Clone, Copy, Debug)]
enum Reply {
    Accepted,
    LostAfterwards,
    LostBefore,
    Refused,
    Stockout,
    Unavailable,
    Crash { made: bool },
}

#[derive(Clone, Debug)]
enum Step {
    Increase {
        pool: usize,
        delta: i32,
    },
    Decrease {
        pool: usize,
        delta: i32,
    },
    DeleteNth {
        nth: usize,
    },
    DeleteInWrongPool {
        nth: usize,
    },
    DeleteForeign,
    Request {
        replies: Vec<Reply>,
    },
    Delete {
        accepted: bool,
        done: bool,
    },
    List {
        late: usize,
    },
    EmptyList,
    /// A listing and the time limits; only this number of changes is written before a crash.
    BrokenWrite {
        written: usize,
        /// In the order of a store of objects: [`by_kind`].
        by_kind: bool,
        /// The process continues, and reads the records again.
        survives: bool,
    },
    /// A listing and the passage of time; one record of the resulting changes is refused.
    RefusedWrite {
        nth: usize,
    },
    /// A user deletes a machine.
    Retire {
        nth: usize,
    },
    Drained {
        nth: usize,
    },
    /// A user deletes a NodeGroup, or creates it again.
    Close {
        policy: Option<DeletionPolicy>,
    },
    Wait {
        seconds: u64,
    },
    ClockJump {
        minutes: i64,
    },
    Crash,
    AddForeign,
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        6 => Just(Reply::Accepted),
        2 => Just(Reply::LostAfterwards),
        2 => Just(Reply::LostBefore),
        1 => Just(Reply::Refused),
        1 => Just(Reply::Stockout),
        2 => Just(Reply::Unavailable),
        1 => any::<bool>().prop_map(|made| Reply::Crash { made }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, 1..4i32).prop_map(|(pool, delta)| Step::Increase { pool, delta }),
        1 => (0..3usize, -4..0i32).prop_map(|(pool, delta)| Step::Decrease { pool, delta }),
        3 => (0..8usize).prop_map(|nth| Step::DeleteNth { nth }),
        1 => (0..8usize).prop_map(|nth| Step::DeleteInWrongPool { nth }),
        1 => Just(Step::DeleteForeign),
        5 => proptest::collection::vec(reply(), 1..4).prop_map(|replies| Step::Request { replies }),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(accepted, done)| Step::Delete { accepted, done }),
        6 => (0..3usize).prop_map(|late| Step::List { late }),
        1 => Just(Step::EmptyList),
        2 => (0..4usize, any::<bool>(), any::<bool>()).prop_map(|(written, by_kind, survives)| {
            Step::BrokenWrite { written, by_kind, survives }
        }),
        2 => (0..4usize).prop_map(|nth| Step::RefusedWrite { nth }),
        1 => (0..8usize).prop_map(|nth| Step::Retire { nth }),
        2 => (0..8usize).prop_map(|nth| Step::Drained { nth }),
        1 => prop_oneof![
            Just(None),
            Just(Some(DeletionPolicy::WhenEmpty)),
            Just(Some(DeletionPolicy::Drain))
        ].prop_map(|policy| Step::Close { policy }),
        4 => (1..400u64).prop_map(|seconds| Step::Wait { seconds }),
        1 => (-30..30i64).prop_map(|minutes| Step::ClockJump { minutes }),
        1 => Just(Step::Crash),
        1 => Just(Step::AddForeign),
    ]
}

struct World {
    hand: Hand,
    fleet: Fleet,
    /// The fleet that readers see: it only applies the changes.
    readers: Fleet,
    vms: Vec<(ListedNode, bool)>,
    made: u32,
    closed: Option<DeletionPolicy>,
}

/// The order of a store that writes each object separately: the last state of each listed node, then of each
/// machine, then the removals. A node that is saved and removed appears twice.
pub(super) fn by_kind(changes: Vec<Change>) -> Vec<Change> {
    let mut last: BTreeMap<(u8, RecordKey), Change> = BTreeMap::new();
    for change in changes {
        let record = change.record();
        let noted = 0;
        let saved = 1;
        let gone = 2;
        let kind = match &change {
            Change::SaveMachine(_) => saved,
            Change::DropMachine(_) | Change::DropUnmanaged(_) => gone,
            _ => noted,
        };
        if kind != gone {
            last.remove(&(gone, record.clone()));
        }
        if matches!(change, Change::DropMachine(_)) {
            last.remove(&(saved, record.clone()));
        }
        last.insert((kind, record), change);
    }
    last.into_values().collect()
}

/// Cost limit of the first NodeGroup, USD per month.
const COST_LIMIT: u64 = 150;

const POOLS: [&str; 3] = [SMALL, LARGE, OTHER];

impl World {
    fn new() -> Self {
        let mut world = Self {
            hand: Hand::new(),
            fleet: fleet(),
            readers: fleet(),
            vms: Vec::new(),
            made: 0,
            closed: None,
        };
        world.close(None);
        world.make(2, false);
        world.vms[0].0.role = NodeRole::ControlPlane;
        world.make(2, false);
        world
    }

    fn make(&mut self, size: u64, ours: bool) {
        self.made += 1;
        self.vms.push((node(self.made, size), ours));
    }

    fn apply_to_readers(&mut self, changes: &[Change]) {
        for change in changes {
            self.readers.apply(change);
        }
        self.readers.share_transient_state(&self.fleet);
    }

    fn groups(&self) -> Vec<NodeGroup> {
        let mut groups = groups();
        groups[0].cost_limit.monthly = Some(Usd(COST_LIMIT.into()));
        groups[1].deletion = self.closed;
        groups
    }

    /// The pools of the extra VMs of a NodeGroup, from the records.
    fn extra_vms(&self, group: &NodeGroupName) -> Vec<PoolId> {
        let exists = |m: &&Machine| {
            m.vm().is_some() || m.requests.iter().any(|request| request.outcome != RequestOutcome::Lost)
        };
        let machines = self.fleet.machines().filter(|m| !m.counts()).filter(exists).map(|m| m.pool.clone());
        let unmanaged = self.fleet.unmanaged_nodes().filter_map(|unmanaged| match &unmanaged.kind {
            UnmanagedKind::Orphan { pool, .. } => Some(pool.clone()),
            _ => unmanaged.awaited_by.clone(),
        });
        machines.chain(unmanaged).filter(|pool| pool.node_group == *group).collect()
    }

    /// Cost of all VMs of a NodeGroup that may be paid for, USD per month, from the records.
    fn cost(&self, group: &NodeGroupName) -> u64 {
        let counting = self.fleet.machines().filter(|m| m.counts() && m.pool.node_group == *group);
        let extra_vms = self
            .extra_vms(group)
            .into_iter()
            .map(|pool| if pool.offer.as_str() == "large" { 40 } else { 20 });
        counting.map(|machine| 10 * machine.size.0).chain(extra_vms).sum()
    }

    fn close(&mut self, policy: Option<DeletionPolicy>) {
        self.closed = policy;
        self.fleet.declare(self.groups());
        self.readers.declare(self.groups());
    }

    fn crash(&mut self) {
        self.fleet = Fleet::restore(self.groups(), self.readers.records(), Reserved::default());
        self.readers = self.fleet.clone();
    }

    fn reload(&mut self) {
        self.fleet = self.readers.reloaded(self.readers.records());
        self.readers = self.fleet.clone();
    }

    fn list(&mut self, late: usize) {
        let shown = self.vms.len() - late.min(self.vms.len().saturating_sub(2));
        let nodes: Vec<_> = self.vms[..shown].iter().map(|(vm, _)| vm.clone()).collect();
        let changes = self.hand.observe(&mut self.fleet, &nodes);
        self.apply_to_readers(&changes);
        let changes = self.hand.pass(&mut self.fleet);
        self.apply_to_readers(&changes);
    }

    fn request(&mut self, replies: &[Reply]) {
        // Always on a fresh listing, as provision does.
        self.list(0);
        let wanted = self.fleet.machines_to_request();
        for ((id, class), reply) in wanted.into_iter().zip(replies) {
            let changes = self.fleet.record_requests(std::slice::from_ref(&id), self.hand.now);
            if changes.is_empty() {
                continue;
            }
            self.apply_to_readers(&changes);
            let failure = |reason| Failure { reason, message: String::new() };
            let outcome = match reply {
                Reply::Accepted => CreationOutcome::Accepted,
                Reply::LostAfterwards | Reply::LostBefore => CreationOutcome::Unclear,
                Reply::Refused => CreationOutcome::Refused(failure(FailureReason::Refused)),
                Reply::Stockout => CreationOutcome::Refused(failure(FailureReason::Stockout)),
                Reply::Unavailable => CreationOutcome::Unavailable(failure(FailureReason::ApiUnavailable)),
                Reply::Crash { made } => {
                    if *made {
                        self.make(class.size.0, true);
                    }
                    return self.crash();
                }
            };
            if matches!(reply, Reply::Accepted | Reply::LostAfterwards) {
                self.make(class.size.0, true);
            }
            let changes = self.fleet.record_outcome(&id, outcome, self.hand.now, &self.hand.policy);
            self.apply_to_readers(&changes);
        }
    }

    fn delete(&mut self, accepted: bool, done: bool) {
        for machine in self.fleet.machines_to_delete().into_iter().cloned().collect::<Vec<_>>() {
            let vm = machine.vm().unwrap().clone();
            if done {
                let at = self.vms.iter().position(|(node, _)| node.id == vm.id);
                if let Some(at) = at {
                    let (_, ours) = self.vms.remove(at);
                    assert!(ours, "a foreign VM was deleted: {vm:?}");
                }
            }
            if accepted {
                let changes = self.fleet.deletion_accepted(&machine.id, self.hand.now);
                self.apply_to_readers(&changes);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let now = self.hand.now;
        match step {
            Step::Increase { pool, delta } => {
                let Some(known) = self.fleet.pool(POOLS[*pool]) else {
                    return assert!(
                        self.closed.is_some(),
                        "after a restart one that cannot grow is not shown"
                    );
                };
                let before = self.fleet.group_target(known);
                let max = self.fleet.group(known).unwrap().max;
                let cost = self.cost(&known.id.node_group) + 10 * known.offer.size.0 * *delta as u64;
                let paid = before + self.extra_vms(&known.id.node_group).len() as u32;
                let fits = before + *delta as u32 <= max
                    && paid + *delta as u32 <= max + surge(max)
                    && (*pool < 2 || self.closed.is_none())
                    && (*pool == 2 || cost <= COST_LIMIT);
                let limits = self.fleet.limits(known);
                if limits.target + *delta as u32 <= limits.max {
                    assert!(fits, "the reported maximum exceeds the headroom");
                }
                let answer = self.hand.increase(&mut self.fleet, POOLS[*pool], *delta);
                assert_eq!(answer.is_ok(), fits, "the maximum holds over the pools");
                self.apply_to_readers(&answer.unwrap_or_default());
            }
            Step::Decrease { pool, delta } => {
                let before = target(&self.fleet, POOLS[*pool]);
                let changes = self.fleet.decrease(POOLS[*pool], *delta).unwrap_or_default();
                assert_eq!(before as usize - changes.len(), target(&self.fleet, POOLS[*pool]) as usize);
                self.apply_to_readers(&changes);
            }
            Step::DeleteNth { nth } => {
                let Some(machine) = self.fleet.machines().nth(*nth).cloned() else { return };
                let id = machine.instance_id();
                let node = NodeRef { provider_id: id.clone(), name: id, fake: true };
                let before = target(&self.fleet, &machine.pool.to_string());
                let changes = self.fleet.delete_nodes(&machine.pool.to_string(), &[node], now).unwrap();
                let after = target(&self.fleet, &machine.pool.to_string());
                assert_eq!(
                    before - after,
                    u32::from(machine.counts()),
                    "a deletion frees one unit of the target size, once"
                );
                self.apply_to_readers(&changes);
            }
            Step::DeleteInWrongPool { nth } => {
                let Some(machine) = self.fleet.machines().nth(*nth).cloned() else { return };
                let id = machine.instance_id();
                let wrong = POOLS.iter().find(|pool| **pool != machine.pool.to_string()).unwrap();
                let node = NodeRef { provider_id: id.clone(), name: id, fake: true };
                assert!(self.fleet.delete_nodes(wrong, &[node], now).is_err());
            }
            Step::DeleteForeign => {
                let foreign = by_node(&self.vms[1].0);
                let before = self.fleet.records();
                // Before the first listing the machine is unknown, which counts as gone.
                let answer = self.fleet.delete_nodes(SMALL, &[foreign], now);
                assert!(answer.is_err() || answer == Ok(vec![]));
                assert_eq!(before, self.fleet.records());
            }
            Step::Request { replies } => self.request(replies),
            Step::Delete { accepted, done } => self.delete(*accepted, *done),
            Step::List { late } => self.list(*late),
            Step::EmptyList => {
                let changes = self.hand.observe(&mut self.fleet, &[]);
                self.apply_to_readers(&changes);
            }
            Step::Retire { nth } => {
                let Some(machine) = self.fleet.machines().nth(*nth).cloned() else { return };
                let changes = self.fleet.retire(&machine.id, DeletionReason::VPSieNodeDeleted, now);
                assert!(
                    !self.fleet.machines_to_delete().iter().any(|m| m.id == machine.id && machine.counts())
                );
                self.apply_to_readers(&changes);
            }
            Step::Drained { nth } => {
                let Some(id) = self.fleet.machines().nth(*nth).map(|m| m.id.clone()) else { return };
                let changes = self.fleet.note_drain(&id, DrainState::Done);
                self.apply_to_readers(&changes);
            }
            Step::Close { policy } => self.close(*policy),
            Step::BrokenWrite { written, by_kind: grouped, survives } => {
                let nodes: Vec<_> = self.vms.iter().map(|(vm, _)| vm.clone()).collect();
                let mut changes = self.hand.observe(&mut self.fleet, &nodes);
                changes.extend(self.hand.pass(&mut self.fleet));
                if *grouped {
                    changes = by_kind(changes);
                }
                changes.truncate(*written);
                self.apply_to_readers(&changes);
                if *survives { self.reload() } else { self.crash() }
            }
            Step::RefusedWrite { nth } => {
                let nodes: Vec<_> = self.vms.iter().map(|(vm, _)| vm.clone()).collect();
                let mut changes = self.hand.observe(&mut self.fleet, &nodes);
                changes.extend(self.hand.pass(&mut self.fleet));
                let records: BTreeSet<RecordKey> = changes.iter().map(Change::record).collect();
                let refused: BTreeSet<RecordKey> = records.into_iter().skip(*nth).take(1).collect();
                let deferred = DeferredChanges::new(&changes, refused);
                changes.retain(|change| !deferred.contains(change));
                self.apply_to_readers(&changes);
                self.fleet = self.readers.clone();
            }
            Step::Wait { seconds } => self.hand.wait(Duration::from_secs(*seconds)),
            Step::ClockJump { minutes } => {
                self.hand.now += jiff::SignedDuration::from_mins(*minutes);
            }
            Step::Crash => self.crash(),
            Step::AddForeign => {
                // A worker is added by hand; a listing shows it before the next step. An interrupted write
                // may have left requests that are used.
                let mut unused = self.fleet.clone();
                unused.remove_used_requests(&mut Vec::new());
                if unused.machines().all(|m| m.requests.is_empty()) {
                    self.make(2, false);
                    self.list(0);
                }
            }
        }
    }

    fn check(&self) {
        self.fleet.check_consistency().unwrap();
        assert_eq!(self.fleet.records(), self.readers.records(), "the changes are complete");
        for (vm, ours) in &self.vms {
            if !ours {
                assert!(self.fleet.machine_at(&vm.hostname).is_none(), "a foreign VM was bound: {vm:?}");
            }
        }
    }

    fn check_reader(&self) {
        let mut reader = self.readers.clone();
        reader.share_transient_state(&self.fleet);
        assert_eq!(reader, self.fleet, "the changes and the transient state are complete");
    }

    /// Enough steps without faults.
    fn calm(&mut self) {
        self.close(None);
        for _ in 0..400 {
            self.hand.wait(Duration::from_secs(30));
            self.list(0);
            self.request(&[Reply::Accepted; 8]);
            for id in self.fleet.machines().map(|m| m.id.clone()).collect::<Vec<_>>() {
                let changes = self.fleet.note_drain(&id, DrainState::Done);
                self.apply_to_readers(&changes);
            }
            self.delete(true, true);
            self.check();
        }
    }

    fn check_calm(&self) {
        let ours: BTreeSet<_> =
            self.vms.iter().filter(|(_, ours)| *ours).map(|(vm, _)| vm.hostname.clone()).collect();
        let bound: BTreeSet<_> =
            self.fleet.machines().filter_map(Machine::vm).map(|vm| vm.hostname.clone()).collect();
        assert_eq!(ours, bound, "each requested VM belongs to a machine, and each machine's VM exists");
        for machine in self.fleet.machines() {
            assert!(matches!(machine.phase, Phase::Running { .. }), "{machine:?}");
        }
    }
}

/// The invariants after each step, and after steps without faults.
fn check_steps(steps: &[Step]) {
    let mut world = World::new();
    for step in steps {
        world.step(step);
        world.check();
        world.check_reader();
    }
    world.calm();
    world.check_calm();
}

/// The clock jumps while a machine waits for its VM, and a crash interrupts the write that binds the VM.
#[test]
fn a_clock_jump_and_a_broken_write_lose_no_vm() {
    for survives in [false, true] {
        check_steps(&[
            Step::Increase { pool: 0, delta: 2 },
            Step::Request { replies: vec![Reply::Accepted] },
            Step::ClockJump { minutes: 10 },
            Step::EmptyList,
            Step::Increase { pool: 0, delta: 1 },
            Step::List { late: 1 },
            Step::BrokenWrite { written: 1, by_kind: true, survives },
        ]);
    }
}

/// A VM appears for a deleted machine, with and without a waiting machine that adopts it.
#[test]
fn a_refused_record_loses_no_late_vm() {
    for (waiting, nth) in (0..2).flat_map(|waiting| (0..4).map(move |nth| (waiting, nth))) {
        let mut steps = vec![
            Step::Increase { pool: 0, delta: 1 },
            Step::Request { replies: vec![Reply::Accepted] },
            Step::ClockJump { minutes: 10 },
            Step::EmptyList,
            Step::List { late: 1 },
        ];
        steps.extend((0..waiting).map(|_| Step::Increase { pool: 0, delta: 1 }));
        steps.push(Step::RefusedWrite { nth });
        check_steps(&steps);
    }
}

proptest! {
    #[test]
    fn every_vm_is_accounted_for(steps in proptest::collection::vec(step(), 1..60)) {
        check_steps(&steps);
    }

    #[test]
    fn a_clock_that_was_ahead_holds_up_nothing(steps in proptest::collection::vec(step(), 1..30)) {
        let mut world = World::new();
        let ahead = jiff::SignedDuration::from_hours(24 * 365);
        world.hand.now += ahead;
        for step in &steps {
            world.step(step);
        }
        world.hand.now -= ahead;
        world.list(0);
        let records = world.fleet.records();
        let stored = serde_json::json!([records.machines, records.unmanaged, records.request_history]);
        let latest = times(&stored).into_iter().max();
        prop_assert!(latest.is_none_or(|latest| latest <= world.hand.now), "{latest:?}");
        world.calm();
        world.check_calm();
        // A worker that is added by hand.
        world.make(2, false);
        world.list(0);
        world.check();
        prop_assert!(world.fleet.machines_to_delete().is_empty());
    }
}

/// Every time in a record, without the names of requests.
fn times(value: &serde_json::Value) -> Vec<Timestamp> {
    match value {
        serde_json::Value::String(text) => text.parse().into_iter().collect(),
        serde_json::Value::Array(values) => values.iter().flat_map(times).collect(),
        serde_json::Value::Object(values) => {
            values.iter().filter(|(key, _)| *key != "request").flat_map(|(_, value)| times(value)).collect()
        }
        _ => Vec::new(),
    }
}
