//! The runaway guard against faults of the accounting.

use super::*;

const MAX: u32 = 4;
/// `MAX`, its surge of 2, and 1.
const VM_LIMIT: u32 = 7;
/// Number of VMs at which a run ends.
const UNBOUNDED: u32 = 10 * VM_LIMIT;

/// A fault of the accounting or of VPSie.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    None,
    MachinesDoNotCount,
    DeletingLeavesLimits,
    NewVmsAreForeign,
    NewVmsAreControlPlane,
    RolesAreUnknown,
    RequestsAreForgotten,
    CreatesTwice,
    LimitsAreIgnored,
    BindsToWrongNode,
    ListingHidesRows,
    HidesRowsOfOld,
    DeletionsAreRefused,
    VmsAreHoursLate,
    RecordsAreLostHourly,
}

const BUGS: [Bug; 15] = [
    Bug::None,
    Bug::MachinesDoNotCount,
    Bug::DeletingLeavesLimits,
    Bug::NewVmsAreForeign,
    Bug::NewVmsAreControlPlane,
    Bug::RolesAreUnknown,
    Bug::RequestsAreForgotten,
    Bug::CreatesTwice,
    Bug::LimitsAreIgnored,
    Bug::BindsToWrongNode,
    Bug::ListingHidesRows,
    Bug::HidesRowsOfOld,
    Bug::DeletionsAreRefused,
    Bug::VmsAreHoursLate,
    Bug::RecordsAreLostHourly,
];

fn declared() -> Vec<NodeGroup> {
    vec![group("batch", 0, MAX, &[OTHER])]
}

struct World {
    bug: Bug,
    guarded: bool,
    hand: Hand,
    minute: u32,
    fleet: Fleet,
    guard: Guard,
    made: u32,
    /// VMs that are paid for, each with the minute of its first listing.
    vms: Vec<(u32, ListedNode)>,
    worst: u32,
}

impl World {
    fn new(bug: Bug, guarded: bool) -> Self {
        let fleet = Fleet::restore(declared(), records(), Reserved::default());
        let mut world = Self {
            bug,
            guarded,
            hand: Hand::new(),
            minute: 0,
            fleet,
            guard: Guard::new(PriorRecords::default()),
            made: 100,
            vms: Vec::new(),
            worst: 0,
        };
        world.declare();
        world
    }

    fn time(&self) -> Duration {
        Duration::from_mins(self.minute.into())
    }

    /// A fleet that ignores its limits gets other declarations than the guard.
    fn declare(&mut self) {
        let maxima = Maxima { groups: [("batch".into(), MAX)].into(), cluster: None };
        let vms = self.fleet.machines().filter(|m| m.vm().is_some()).count() as u32;
        self.guard.declare(&maxima, &[("batch".into(), vms)].into());
        if self.bug == Bug::LimitsAreIgnored {
            self.fleet.declare(vec![group("batch", 0, 1000, &[OTHER])]);
        }
    }

    fn listing(&self) -> Vec<ListedNode> {
        let before = ListedNode { role: NodeRole::ControlPlane, ..node(1, 2) };
        let shown = |(at, vm): &(u32, ListedNode)| {
            let number: u32 = vm.hostname.as_str().rsplit('-').next().unwrap().parse().unwrap();
            let hidden = match self.bug {
                Bug::ListingHidesRows => number.is_multiple_of(3),
                Bug::HidesRowsOfOld => self.minute > at + 60,
                _ => false,
            };
            (*at <= self.minute && !hidden).then(|| vm.clone())
        };
        [before, node(2, 2)].into_iter().chain(self.vms.iter().filter_map(shown)).collect()
    }

    fn make(&mut self) {
        self.made += 1;
        let role = match self.bug {
            Bug::NewVmsAreControlPlane => NodeRole::ControlPlane,
            Bug::RolesAreUnknown => NodeRole::Unknown,
            _ => NodeRole::Worker,
        };
        let late = if self.bug == Bug::VmsAreHoursLate { 180 } else { 1 };
        self.vms.push((self.minute + late, ListedNode { role, ..node(self.made, 2) }));
        self.worst = self.worst.max(self.vms.len() as u32);
    }

    /// Applies the fault to the fleet.
    fn spoil(&mut self) {
        for machine in self.fleet.machines().cloned().collect::<Vec<_>>() {
            match self.bug {
                Bug::MachinesDoNotCount if machine.vm().is_some() => {
                    self.fleet.apply(&Change::DropMachine(machine.id));
                }
                Bug::NewVmsAreForeign if machine.vm().is_some() => {
                    let vm = machine.vm().unwrap().clone();
                    let first_seen = self.hand.now;
                    let kind = UnmanagedKind::Foreign;
                    self.fleet.apply(&Change::DropMachine(machine.id));
                    let hostname = vm.hostname;
                    let id = vm.id;
                    let foreign = UnmanagedNode {
                        hostname,
                        id,
                        first_seen,
                        kind,
                        awaited_by: None,
                        request: None,
                        abandoned_request: None,
                    };
                    self.fleet.apply(&Change::SaveUnmanaged(foreign));
                }
                Bug::RequestsAreForgotten => {
                    self.fleet.apply(&Change::SaveMachine(Machine { requests: Vec::new(), ..machine }));
                }
                Bug::BindsToWrongNode
                    if machine.vm().is_some_and(|vm| vm.hostname != node(2, 2).hostname) =>
                {
                    let vm = Vm {
                        hostname: node(2, 2).hostname,
                        id: node(2, 2).id,
                        addresses: Vec::new(),
                        provider_id: None,
                        attached: None,
                        request: None,
                    };
                    self.fleet.apply(&Change::DropUnmanaged(vm.hostname.clone()));
                    let phase = Phase::Running { vm, since: self.hand.now };
                    self.fleet.apply(&Change::SaveMachine(Machine { phase, ..machine }));
                }
                _ => {}
            }
        }
        if self.bug == Bug::DeletingLeavesLimits {
            self.fleet.extra_vms.clear();
        }
    }

    fn restart(&mut self) {
        let mut records = self.fleet.records();
        if self.bug == Bug::RecordsAreLostHourly {
            records = Records { request_history: records.request_history, ..super::records() };
        }
        let ours =
            records.machines.iter().filter_map(|machine| Some(machine.vm()?.hostname.clone())).collect();
        let accepted = records.machines.iter().map(|machine| machine.requests.len() as u32).sum();
        let before = PriorRecords {
            known: records.request_history.known_before.clone(),
            ours,
            accepted,
            unclear: 0,
            late: 0,
        };
        self.fleet = Fleet::restore(declared(), records, Reserved::default());
        // Time continues; the guard's own time restarts.
        self.guard = Guard::new(before);
        self.declare();
    }

    fn ask_vpsie(&mut self) {
        let listed = self.listing();
        self.guard.observe(&listed, self.time());
        if self.guard.needs_count(self.time())
            && matches!(self.bug, Bug::ListingHidesRows | Bug::HidesRowsOfOld)
        {
            self.guard.note_count(1 + self.vms.len() as u32, &listed, self.time());
        }
        if self.guarded {
            self.fleet.set_guard_status(self.guard.status(self.time()));
        }
        self.hand.observe(&mut self.fleet, &listed);
        self.hand.pass(&mut self.fleet);
        self.spoil();
        self.fleet.note_known_before(self.guard.known_before().cloned().unwrap_or_default());
        for (id, _) in self.fleet.machines_to_request() {
            self.fleet.record_requests(std::slice::from_ref(&id), self.hand.now);
            let mut outcome = CreationOutcome::Accepted;
            for _ in 0..if self.bug == Bug::CreatesTwice { 2 } else { 1 } {
                match self.guard.admit(self.time()) {
                    Err(_) if self.guarded => {
                        let failure =
                            Failure { reason: FailureReason::QuotaExceeded, message: String::new() };
                        outcome = CreationOutcome::Unavailable(failure);
                    }
                    permit => {
                        self.make();
                        if let Ok(permit) = permit {
                            self.guard.note_outcome(permit, GuardOutcome::Accepted);
                        }
                    }
                }
            }
            self.fleet.record_outcome(&id, outcome, self.hand.now, &self.hand.policy);
            self.spoil();
        }
        if self.guarded {
            self.fleet.set_guard_status(self.guard.status(self.time()));
        }
    }

    fn delete_at_vpsie(&mut self) {
        for machine in self.fleet.machines_to_delete().into_iter().cloned().collect::<Vec<_>>() {
            let vm = machine.vm().unwrap().clone();
            self.guard.note_deletion_request(&vm.hostname, self.time());
            if !matches!(self.bug, Bug::DeletionsAreRefused | Bug::DeletingLeavesLimits) {
                self.vms.retain(|(_, node)| node.hostname != vm.hostname);
                self.guard.note_deletion(&vm.hostname);
                self.fleet.deletion_accepted(&machine.id, self.hand.now);
            }
        }
    }

    /// Cluster Autoscaler: replaces failed machines, deletes every node each six hours, and always scales up.
    fn cluster_autoscaler(&mut self) {
        let unneeded = self.minute.is_multiple_of(360);
        let goes = |m: &&Machine| match m.phase {
            Phase::Failed { .. } => true,
            Phase::Running { .. } => unneeded,
            _ => false,
        };
        let gone: Vec<_> = self.fleet.machines().filter(goes).map(Machine::instance_id).collect();
        let node = |id: String| NodeRef { provider_id: id.clone(), name: id, fake: true };
        let gone: Vec<_> = gone.into_iter().map(node).collect();
        self.fleet.delete_nodes(OTHER, &gone, self.hand.now).unwrap();
        let Some(pool) = self.fleet.pool(OTHER) else { return };
        let limits = self.fleet.limits(pool);
        let more = (limits.max - limits.target).min(3);
        if more > 0 {
            self.hand.increase(&mut self.fleet, OTHER, more as i32).unwrap();
        }
    }

    /// Returns the largest number of VMs. A run ends when it has shown that nothing bounds this number.
    fn run(mut self, days: u32) -> u32 {
        for minute in 0..days * 24 * 60 {
            if self.worst > UNBOUNDED {
                break;
            }
            self.minute = minute;
            self.hand.wait(Duration::from_mins(1));
            if minute % 10 == 0 {
                self.cluster_autoscaler();
            }
            self.ask_vpsie();
            self.delete_at_vpsie();
            if self.bug == Bug::RecordsAreLostHourly && minute % 60 == 59 {
                self.restart();
            }
        }
        self.worst
    }
}

#[test]
fn bounds_vms_whatever_the_accounting() {
    println!("{:24} {:>15} {:>15}   maxNodes {MAX}, at most {VM_LIMIT}", "", "a day without", "3 days with");
    for bug in BUGS {
        let without = World::new(bug, false).run(1);
        let with = World::new(bug, true).run(3);
        println!("{:24} {without:>15} {with:>15}", format!("{bug:?}"));
        assert!(with <= VM_LIMIT, "{bug:?}: {with} VMs");
        assert!(
            bug != Bug::None || with == MAX + surge(MAX) || with == MAX,
            "it grows to its maximum: {with}"
        );
    }
}
