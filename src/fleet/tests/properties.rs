//! The invariants of the fleet, against a toy VPSie that loses replies, refuses, hides and forgets, with
//! crashes in between. After the weather clears, everything that is billed must be accounted for.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

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
    Ask {
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
    /// A listing and what time does, of which only so many changes are written before a crash.
    BrokenWrite {
        kept: usize,
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
        5 => proptest::collection::vec(reply(), 1..4).prop_map(|replies| Step::Ask { replies }),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(accepted, done)| Step::Delete { accepted, done }),
        6 => (0..3usize).prop_map(|late| Step::List { late }),
        1 => Just(Step::EmptyList),
        2 => (0..4usize).prop_map(|kept| Step::BrokenWrite { kept }),
        4 => (1..400u64).prop_map(|seconds| Step::Wait { seconds }),
        1 => (-30..30i64).prop_map(|minutes| Step::ClockJump { minutes }),
        1 => Just(Step::Crash),
        1 => Just(Step::AddForeign),
    ]
}

struct World {
    hand: Hand,
    fleet: Fleet,
    /// What a follower that only ever applies the changes has.
    follower: Fleet,
    vms: Vec<(ListedNode, bool)>,
    made: u32,
}

const POOLS: [&str; 3] = [SMALL, LARGE, OTHER];

impl World {
    fn new() -> Self {
        let mut world =
            Self { hand: Hand::new(), fleet: fleet(), follower: fleet(), vms: Vec::new(), made: 0 };
        world.make(2, false);
        world.vms[0].0.role = NodeRole::ControlPlane;
        world.make(2, false);
        world
    }

    fn make(&mut self, size: u64, ours: bool) {
        self.made += 1;
        self.vms.push((node(self.made, size), ours));
    }

    fn take(&mut self, changes: &[Change]) {
        for change in changes {
            self.follower.apply(change);
        }
    }

    fn crash(&mut self) {
        self.fleet = Fleet::restore(groups(), self.follower.records(), Reserved::default());
    }

    fn list(&mut self, late: usize) {
        let shown = self.vms.len() - late.min(self.vms.len().saturating_sub(2));
        let nodes: Vec<_> = self.vms[..shown].iter().map(|(vm, _)| vm.clone()).collect();
        let changes = self.hand.observe(&mut self.fleet, &nodes);
        self.take(&changes);
        let changes = self.hand.pass(&mut self.fleet);
        self.take(&changes);
    }

    fn ask(&mut self, replies: &[Reply]) {
        // Always on a fresh listing, as provision does.
        self.list(0);
        let wanted = self.fleet.wanted();
        for ((id, size), reply) in wanted.into_iter().zip(replies) {
            let changes = self.fleet.ask(std::slice::from_ref(&id), self.hand.now);
            if changes.is_empty() {
                continue;
            }
            self.take(&changes);
            let failure = |reason| Failure { reason, message: String::new() };
            let outcome = match reply {
                Reply::Accepted => Outcome::Accepted,
                Reply::LostAfterwards | Reply::LostBefore => Outcome::Unclear,
                Reply::Refused => Outcome::Refused(failure(FailureReason::Refused)),
                Reply::Stockout => Outcome::Refused(failure(FailureReason::Stockout)),
                Reply::Unavailable => Outcome::Unavailable(failure(FailureReason::ApiUnavailable)),
                Reply::Crash { made } => {
                    if *made {
                        self.make(size.0, true);
                    }
                    return self.crash();
                }
            };
            if matches!(reply, Reply::Accepted | Reply::LostAfterwards) {
                self.make(size.0, true);
            }
            let changes = self.fleet.answered(&id, outcome, self.hand.now, &self.hand.policy);
            self.take(&changes);
        }
    }

    fn delete(&mut self, accepted: bool, done: bool) {
        for machine in self.fleet.unwanted().into_iter().cloned().collect::<Vec<_>>() {
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
                self.take(&changes);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let now = self.hand.now;
        match step {
            Step::Increase { pool, delta } => {
                let known = self.fleet.pool(POOLS[*pool]).unwrap();
                let (before, max) = (self.fleet.group_target(known), self.fleet.group(known).unwrap().max);
                let fits = before + *delta as u32 <= max;
                let answer = self.hand.increase(&mut self.fleet, POOLS[*pool], *delta);
                assert_eq!(answer.is_ok(), fits, "the maximum holds over the pools");
                self.take(&answer.unwrap_or_default());
            }
            Step::Decrease { pool, delta } => {
                let before = target(&self.fleet, POOLS[*pool]);
                let changes = self.fleet.decrease(POOLS[*pool], *delta).unwrap_or_default();
                assert_eq!(before as usize - changes.len(), target(&self.fleet, POOLS[*pool]) as usize);
                self.take(&changes);
            }
            Step::DeleteNth { nth } => {
                let Some(machine) = self.fleet.machines().nth(*nth).cloned() else { return };
                let id = machine.instance_id();
                let node = NodeRef { provider_id: id.clone(), name: id, fake: true };
                let before = target(&self.fleet, &machine.pool.to_string());
                let changes = self.fleet.delete_nodes(&machine.pool.to_string(), &[node], now).unwrap();
                let after = target(&self.fleet, &machine.pool.to_string());
                assert_eq!(before - after, u32::from(machine.counts()), "one slot, once");
                self.take(&changes);
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
                // Before the first listing it is not known, which is as good as gone.
                let answer = self.fleet.delete_nodes(SMALL, &[foreign], now);
                assert!(answer.is_err() || answer == Ok(vec![]));
                assert_eq!(before, self.fleet.records());
            }
            Step::Ask { replies } => self.ask(replies),
            Step::Delete { accepted, done } => self.delete(*accepted, *done),
            Step::List { late } => self.list(*late),
            Step::EmptyList => {
                let changes = self.hand.observe(&mut self.fleet, &[]);
                self.take(&changes);
            }
            Step::BrokenWrite { kept } => {
                let nodes: Vec<_> = self.vms.iter().map(|(vm, _)| vm.clone()).collect();
                let mut changes = self.hand.observe(&mut self.fleet, &nodes);
                changes.extend(self.hand.pass(&mut self.fleet));
                changes.truncate(*kept);
                self.take(&changes);
                self.crash();
            }
            Step::Wait { seconds } => self.hand.wait(Duration::from_secs(*seconds)),
            Step::ClockJump { minutes } => {
                self.hand.now += jiff::SignedDuration::from_mins(*minutes);
            }
            Step::Crash => self.crash(),
            Step::AddForeign => {
                // Somebody adds a worker; a listing shows it before anything else happens.
                if self.fleet.machines().all(|m| m.asks.is_empty()) {
                    self.make(2, false);
                    self.list(0);
                }
            }
        }
    }

    fn check(&self) {
        self.fleet.audit().unwrap();
        assert_eq!(self.fleet.records(), self.follower.records(), "the changes say all");
        for (vm, ours) in &self.vms {
            if !ours {
                assert!(self.fleet.machine_at(&vm.hostname).is_none(), "a foreign VM was bound: {vm:?}");
            }
        }
    }

    /// Fair weather for long enough.
    fn calm(&mut self) {
        for _ in 0..400 {
            self.hand.wait(Duration::from_secs(30));
            self.list(0);
            self.ask(&[Reply::Accepted; 8]);
            self.delete(true, true);
            self.check();
        }
    }

    fn check_calm(&self) {
        let ours: BTreeSet<_> =
            self.vms.iter().filter(|(_, ours)| *ours).map(|(vm, _)| vm.hostname.clone()).collect();
        let bound: BTreeSet<_> =
            self.fleet.machines().filter_map(Machine::vm).map(|vm| vm.hostname.clone()).collect();
        assert_eq!(ours, bound, "each VM of ours is a machine's, each machine's VM exists");
        for machine in self.fleet.machines() {
            assert!(matches!(machine.phase, Phase::Running { .. }), "{machine:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_vm_is_accounted_for(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.calm();
        world.check_calm();
    }
}
