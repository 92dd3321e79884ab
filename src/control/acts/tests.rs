//! Every transition, as the audit log and the events tell it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::catalog::{Catalog, Offer, Resources};
use crate::control::happenings::{happenings, refused};
use crate::fleet::{
    AutoscalingOptions, DeletionPolicy, FailureReason, ListedNode, NodeGroup, NodeRef, NodeRole, Outcome,
    Policy, Records, Refusal, Reserved, VmState,
};
use crate::kubernetes::{EventType, Object, ObjectEvent};

pub(in crate::control) const POOL: &str = "web/ams1/small/on-demand";

fn policy() -> Policy {
    Policy { running_when_listed: false, ..Policy::default() }
}

/// A fleet, its time, and the fleet as others see it: what is told is derived from that one.
pub(in crate::control) struct Told {
    now: Timestamp,
    working: Fleet,
    shared: Fleet,
    drawn: u32,
}

impl Told {
    pub(in crate::control) fn new(adopt: bool) -> Self {
        let group = NodeGroup {
            name: "web".into(),
            min: 0,
            max: 3,
            pools: vec![POOL.parse().unwrap()],
            size: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            preferred: None,
            options: AutoscalingOptions::default(),
            adopt,
            cost_limit: crate::cost::CostLimit::default(),
            deletion: None,
            node: crate::fleet::DeclaredNode::default(),
        };
        let offer = Offer {
            size: SizeId(2),
            name: "small".to_owned(),
            identifier: None,
            datacenter: "ams1".into(),
            resources: Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 40, pods: 110 },
            monthly: Some(Decimal::from(20)),
            hourly: None,
        };
        let catalog = Some(Arc::new(Catalog { offers: vec![offer] }));
        let records = Records { catalog, ..Records::default() };
        let working = Fleet::restore(vec![group], records, Reserved::default());
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut told = Self { now, shared: working.clone(), working, drawn: 0 };
        // A foreign worker tells that listings tell sizes.
        told.list(&[]);
        told
    }

    pub(in crate::control) fn fleet(&self) -> &Fleet {
        &self.shared
    }

    fn play(
        &mut self,
        decide: impl FnOnce(
            &mut Fleet,
            Timestamp,
            &mut dyn FnMut(&crate::fleet::NodeGroupName) -> MachineId,
        ) -> Vec<Change>,
    ) -> Vec<Act> {
        let drawn = &mut self.drawn;
        let changes = decide(&mut self.working, self.now, &mut |group| {
            *drawn += 1;
            MachineId::new(format!("{group}-{drawn}"))
        });
        let mut told = Vec::new();
        for change in &changes {
            told.extend(acts(&self.shared, change));
            self.shared.apply(change);
        }
        told
    }

    pub(in crate::control) fn increase(&mut self) -> Vec<Act> {
        self.play(|fleet, now, names| fleet.increase(POOL, 1, now, names).unwrap())
    }

    fn ask(&mut self) -> Vec<Act> {
        self.play(|fleet, now, _| fleet.ask(&["web-1".into()], now))
    }

    fn answer(&mut self, outcome: Outcome) -> Vec<Act> {
        self.play(|fleet, now, _| fleet.answered(&"web-1".into(), outcome, now, &policy()))
    }

    fn list(&mut self, nodes: &[ListedNode]) -> Vec<Act> {
        let nodes: Vec<_> = nodes.iter().cloned().chain([node(99)]).collect();
        self.play(|fleet, now, names| {
            let mut changes = fleet.observe(&nodes, now, &policy());
            changes.extend(fleet.take_in(&nodes, now, names));
            changes
        })
    }

    fn pass(&mut self, minutes: u64) -> Vec<Act> {
        self.now += Duration::from_mins(minutes);
        self.play(|fleet, now, names| fleet.pass_time(now, &policy(), names))
    }

    fn retire(&mut self, reason: DeletionReason) -> Vec<Act> {
        self.play(|fleet, now, _| fleet.retire(&"web-1".into(), reason, now))
    }

    /// With the machine web-1 that runs on VM slave-1.
    fn running() -> Self {
        let mut told = Self::new(false);
        told.increase();
        told.ask();
        told.answer(Outcome::Accepted);
        told.list(&[node(1)]);
        told.play(|fleet, now, _| fleet.registered(&Hostname::new("slave-1"), now));
        told
    }

    /// Listings without the VM, often and long enough.
    fn miss(&mut self) -> Vec<Act> {
        let mut told = Vec::new();
        for _ in 0..4 {
            self.now += policy().vanish_after;
            told.extend(self.list(&[]));
        }
        told
    }
}

fn node(n: u32) -> ListedNode {
    ListedNode {
        addresses: Vec::new(),
        hostname: Hostname::new(&format!("slave-{n}")),
        id: Some(VmId::new(format!("uuid-{n}"))),
        size: Some(SizeId(2)),
        excluded: std::collections::BTreeSet::new(),
        role: if n == 99 { NodeRole::ControlPlane } else { NodeRole::Worker },
        state: VmState::Running,
        created_at: None,
    }
}

/// An act of machine web-1 before it has a VM.
fn act(kind: ActKind) -> Act {
    Act {
        kind,
        machine: Some("web-1".into()),
        pool: Some(POOL.parse().unwrap()),
        size: Some(SizeId(2)),
        vm: None,
        vm_id: None,
        by: None,
        failure: None,
        usd_per_hour: Some(Decimal::new(274, 4)),
    }
}

/// An act of machine web-1 with VM slave-1.
fn with_vm(kind: ActKind) -> Act {
    Act { vm: Some(Hostname::new("slave-1")), vm_id: Some("uuid-1".into()), ..act(kind) }
}

fn by(reason: DeletionReason, act: Act) -> Act {
    Act { by: Some(reason.name()), ..act }
}

fn stockout() -> Failure {
    Failure { reason: FailureReason::Stockout, message: "No capacity in ams1".to_owned() }
}

fn on_machine(kind: EventType, reason: &'static str, message: &str) -> ObjectEvent {
    ObjectEvent::new(Object::VPSieNode("web-1".to_owned()), kind, reason, message)
}

fn on_group(kind: EventType, reason: &'static str, message: &str) -> ObjectEvent {
    ObjectEvent::new(Object::NodeGroup("web".to_owned()), kind, reason, format!("pool {POOL}: {message}"))
}

/// The events of both, as they are published.
fn on_both(kind: EventType, reason: &'static str, message: &str) -> Vec<ObjectEvent> {
    let group = on_group(kind, reason, message).with_related(Object::VPSieNode("web-1".to_owned()));
    vec![group, on_machine(kind, reason, message)]
}

fn events(acts: &[Act]) -> Vec<ObjectEvent> {
    acts.iter().flat_map(happenings).collect()
}

#[test]
fn a_machine_that_is_made() {
    let mut told = Told::new(false);
    assert_eq!(told.increase(), [by(DeletionReason::ClusterAutoscaler, act(ActKind::Requested))]);
    let asked = told.ask();
    assert_eq!(asked, [act(ActKind::Asked)]);
    assert_eq!(events(&asked), [on_machine(EventType::Normal, "Requested", "VPSie is asked for a VM")]);
    assert_eq!(told.answer(Outcome::Accepted), [act(ActKind::Accepted)]);
    let bound = told.list(&[node(1)]);
    assert_eq!(bound, [with_vm(ActKind::Bound)]);
    assert_eq!(events(&bound), [on_machine(EventType::Normal, "Created", "VPSie lists VM slave-1 (uuid-1)")]);
    let up = told.play(|fleet, now, _| fleet.registered(&Hostname::new("slave-1"), now));
    assert_eq!(up, [with_vm(ActKind::Running)]);
    assert_eq!(events(&up), [on_machine(EventType::Normal, "Running", "VM slave-1 (uuid-1) runs")]);
    assert_eq!(told.list(&[node(1)]), [], "the same again is no act");
}

#[test]
fn a_creation_that_vpsie_refuses_fails_in_its_own_words() {
    let mut told = Told::new(false);
    told.increase();
    told.ask();
    let failed = told.answer(Outcome::Refused(stockout()));
    assert_eq!(failed, [Act { failure: Some(stockout()), ..act(ActKind::Failed) }]);
    assert_eq!(events(&failed), on_both(EventType::Warning, "Failed", "STOCKOUT: No capacity in ams1"));
    assert_eq!(told.retire(DeletionReason::VPSieNodeDeleted), [act(ActKind::Cancelled)]);
}

#[test]
fn requests_without_a_result() {
    let mut told = Told::new(false);
    told.increase();
    told.ask();
    assert_eq!(told.answer(Outcome::Unavailable(stockout())), [act(ActKind::NotMade)]);
    told.ask();
    assert_eq!(told.answer(Outcome::Unclear), [act(ActKind::Unclear)]);
    told.list(&[]);
    told.list(&[]);
    assert_eq!(told.pass(2), [act(ActKind::Lost)]);
    assert_eq!(told.ask(), [act(ActKind::Asked)]);
}

#[test]
fn deletions_say_by_whom() {
    for reason in [DeletionReason::VPSieNodeDeleted, DeletionReason::NodeGroupDeleted] {
        let mut told = Told::running();
        let given_up = told.retire(reason);
        assert_eq!(given_up, [by(reason, with_vm(ActKind::GivenUp))]);
        let message = format!("VM slave-1 (uuid-1) is to be deleted ({})", reason.name());
        assert_eq!(events(&given_up), on_both(EventType::Normal, "Deleting", &message));
    }
}

#[test]
fn a_deletion_by_cluster_autoscaler_from_start_to_end() {
    let by_ca = |act| by(DeletionReason::ClusterAutoscaler, act);
    let mut told = Told::running();
    let victim =
        NodeRef { provider_id: "vpsie://uuid-1".to_owned(), name: "slave-1".to_owned(), fake: false };
    let given_up = told.play(|fleet, now, _| fleet.delete_nodes(POOL, &[victim], now).unwrap());
    assert_eq!(given_up, [by_ca(with_vm(ActKind::GivenUp))]);
    let message = "VM slave-1 (uuid-1) is to be deleted (ClusterAutoscaler)";
    assert_eq!(events(&given_up), [on_machine(EventType::Normal, "Deleting", message)]);
    let accept = |told: &mut Told| told.play(|fleet, now, _| fleet.deletion_accepted(&"web-1".into(), now));
    assert_eq!(accept(&mut told), [by_ca(with_vm(ActKind::DeletionAccepted))]);
    told.now += policy().vanish_after;
    let ignored = told.list(&[node(1)]);
    assert_eq!(ignored, [by_ca(with_vm(ActKind::DeletionIgnored))]);
    assert_eq!(events(&ignored).len(), 2);
    accept(&mut told);
    let gone = told.miss();
    assert_eq!(gone, [by_ca(with_vm(ActKind::Gone))]);
    let message = "VM slave-1 (uuid-1) is deleted (ClusterAutoscaler)";
    assert_eq!(events(&gone), [on_machine(EventType::Normal, "Deleted", message)]);
    let returned = told.list(&[node(1)]);
    assert_eq!(returned, [by(DeletionReason::VMReturned, with_vm(ActKind::Returned))]);
}

#[test]
fn a_failed_machine_whose_request_may_still_have_a_vm_is_given_up_in_time() {
    let mut told = Told::new(false);
    told.increase();
    told.ask();
    told.answer(Outcome::Accepted);
    told.list(&[]);
    told.list(&[]);
    let late = told.pass(60);
    assert_eq!(late.iter().map(|act| act.kind).collect::<Vec<_>>(), [ActKind::Lost, ActKind::Failed]);
    let expired = told.pass(60 * 24);
    assert_eq!(expired, [by(DeletionReason::FailedExpired, act(ActKind::GivenUp))]);
    let late_vm = told.list(&[node(1)]);
    assert_eq!(late_vm, [by(DeletionReason::FailedExpired, with_vm(ActKind::Bound))]);
}

#[test]
fn a_vm_that_nobody_deleted_vanished_and_may_return() {
    let mut told = Told::running();
    let vanished = told.miss();
    assert_eq!(vanished, [with_vm(ActKind::Vanished)]);
    let message = "VM slave-1 (uuid-1) vanished from VPSie's listings; it was not deleted from here";
    assert_eq!(events(&vanished), on_both(EventType::Warning, "VMVanished", message));
    let back = told.list(&[node(1)]);
    assert_eq!(back, [with_vm(ActKind::Returned)]);
    let message = "VM slave-1 (uuid-1) was gone and is listed again";
    assert_eq!(events(&back), on_both(EventType::Warning, "VMReturned", message));
}

/// VM slave-1 is an orphan: two machines of two requests could have it, and the listing does not tell whose it is.
fn orphaned() -> (Told, Vec<Act>) {
    let mut told = Told::new(false);
    let orphan = Stranger {
        hostname: Hostname::new("slave-1"),
        id: Some("uuid-1".into()),
        first_seen: told.now,
        awaited_by: None,
        kind: StrangerKind::Orphan { pool: POOL.parse().unwrap(), size: Some(SizeId(2)) },
    };
    let found = told.play(|fleet, _, _| {
        let change = Change::SaveStranger(orphan);
        fleet.apply(&change);
        vec![change]
    });
    (told, found)
}

#[test]
fn an_orphan_is_found_and_adopted() {
    let (mut told, found) = orphaned();
    assert_eq!(found, [Act { machine: None, ..with_vm(ActKind::OrphanFound) }]);
    let message =
        "VM slave-1 (uuid-1) is ours and no machine waits for it: adopted, or deleted after the grace";
    let on_node = Object::Node { name: "slave-1".to_owned(), uid: String::new() };
    assert_eq!(events(&found), [on_group(EventType::Warning, "OrphanFound", message).with_related(on_node)]);
    told.increase();
    let adopted = told.list(&[node(1)]);
    assert_eq!(adopted, [with_vm(ActKind::OrphanAdopted)]);
    let message = "VM slave-1 (uuid-1) was an orphan and is this machine's now";
    assert_eq!(events(&adopted), on_both(EventType::Normal, "OrphanAdopted", message));
}

#[test]
fn an_orphan_that_nobody_wants_is_deleted() {
    let (mut told, _) = orphaned();
    let deleted = told.pass(60);
    assert_eq!(deleted, [by(DeletionReason::Orphan, with_vm(ActKind::GivenUp))]);
    let message = "VM slave-1 (uuid-1) is to be deleted (Orphan)";
    assert_eq!(events(&deleted), on_both(EventType::Normal, "OrphanDeleted", message));
}

#[test]
fn a_worker_that_was_there_is_foreign_or_taken_in() {
    let mut told = Told::new(false);
    let foreign = told.list(&[node(1)]);
    let unknown =
        Act { machine: None, pool: None, size: None, usd_per_hour: None, ..with_vm(ActKind::ForeignFound) };
    assert_eq!((foreign.as_slice(), events(&foreign)), ([unknown].as_slice(), Vec::new()));
    let mut told = Told::new(true);
    let taken = told.list(&[node(1)]);
    assert_eq!(taken[1..], [with_vm(ActKind::TakenIn)]);
    let message = "VM slave-1 (uuid-1) was there before and is taken in";
    assert_eq!(events(&taken), on_both(EventType::Normal, "TakenIn", message));
}

#[test]
fn a_node_group_that_is_deleted_cancels_what_vpsie_was_not_asked_for() {
    let mut told = Told::new(false);
    told.increase();
    let mut groups: Vec<NodeGroup> =
        told.working.group(told.working.pool(POOL).unwrap()).cloned().into_iter().collect();
    groups[0].deletion = Some(DeletionPolicy::WhenEmpty);
    told.working.declare(groups);
    assert_eq!(told.pass(0), [act(ActKind::Cancelled)]);
}

#[test]
fn limits_are_told_on_the_node_group_and_mistakes_are_not() {
    let pool = || POOL.parse().unwrap();
    let told = |refusal: &Refusal| refused(refusal).map(|happening| (happening.on, happening.reason));
    let on = || Object::NodeGroup("web".to_owned());
    let above = Refusal::AboveMax { pool: pool(), delta: 2, group_target: 3, group_max: 3 };
    assert_eq!(
        refused(&above),
        Some(ObjectEvent::new(
            on(),
            EventType::Warning,
            "MaximumReached",
            format!("pool {POOL} cannot grow by 2: NodeGroup web has 3 of at most 3 machines"),
        ))
    );
    let cluster = Refusal::AboveClusterMax { pool: pool(), delta: 1, machines: 9, max: 9 };
    assert_eq!(told(&cluster), Some((on(), "MaximumReached")));
    let below = Refusal::BelowMin { pool: pool(), healthy: 1, group_target: 1, group_min: 1 };
    assert_eq!(told(&below), Some((on(), "MinimumReached")));
    let halted = Refusal::Halted { pool: pool(), why: "growth is halted".to_owned() };
    assert_eq!(told(&halted), Some((on(), "GrowthHalted")));
    let bound = Refusal::AboveVmBound { pool: pool(), delta: 1, counted: 3, waiting: 2, bound: 5 };
    assert_eq!(told(&bound), Some((on(), "VMBoundReached")), "nothing is halted");
    let gone = Refusal::NotGrowable { pool: pool(), why: "its NodeGroup was deleted".to_owned() };
    assert_eq!(told(&gone), Some((on(), "NotGrowable")));
    assert_eq!(told(&Refusal::UnknownPool("x".to_owned())), None);
    assert_eq!(told(&Refusal::Delta { delta: 0, allowed: "above 0" }), None);
}
