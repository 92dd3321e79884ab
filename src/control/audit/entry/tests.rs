//! Every transition, as the audit log and the events report it.

mod audited_fleet;
mod datacenters;
mod spot;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::catalog::{CapacityType, Catalog, Offer, Resources};
use crate::control::audit::events::{entry_events, refusal_event};
use crate::fleet::{
    AutoscalingOptions, CreationOutcome, DeletionPolicy, FailureReason, ListedNode, MaxSpotShare, NodeGroup,
    NodeListing, NodeRef, NodeRole, NoticeSource, Policy, Records, Refusal, Reserved, SpotPolicy, VmState,
};
use crate::kubernetes::{EventType, Object, ObjectEvent};
pub(in crate::control) use audited_fleet::AuditedFleet;
use audited_fleet::{node, policy};

const SPOT: &str = "web/ams1/small/spot";
pub(in crate::control) const POOL: &str = "web/ams1/small/on-demand";

/// An entry about machine web-1 before it has a VM.
fn entry(kind: AuditAction, by: impl Into<Cause>) -> AuditEntry {
    AuditEntry {
        machine: Some("web-1".into()),
        pool: Some(POOL.parse().unwrap()),
        size: Some(SizeId(2)),
        usd_per_hour: Some(Decimal::new(274, 4)),
        ..AuditEntry::for_cluster(kind, by.into())
    }
}

/// An entry about machine web-1 with VM slave-1.
fn with_vm(kind: AuditAction, by: impl Into<Cause>) -> AuditEntry {
    AuditEntry { vm: Some(Hostname::new("slave-1")), vm_id: Some("uuid-1".into()), ..entry(kind, by) }
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

/// The events on both objects.
fn on_both(kind: EventType, reason: &'static str, message: &str) -> Vec<ObjectEvent> {
    let group = on_group(kind, reason, message).with_related(Object::VPSieNode("web-1".to_owned()));
    vec![group, on_machine(kind, reason, message)]
}

fn events(entries: &[AuditEntry]) -> Vec<ObjectEvent> {
    entries.iter().flat_map(entry_events).collect()
}

#[test]
fn a_machine_that_is_made() {
    let mut audited = AuditedFleet::new(false);
    assert_eq!(audited.increase(), [entry(AuditAction::Recorded, Cause::ClusterAutoscaler)]);
    let requested = audited.request();
    assert_eq!(requested, [entry(AuditAction::Requested, Cause::Provisioning)]);
    assert_eq!(
        events(&requested),
        [on_machine(EventType::Normal, "Requested", "vpsie-autoscaler requests a VM from VPSie")]
    );
    assert_eq!(
        audited.record_outcome(CreationOutcome::Accepted),
        [entry(AuditAction::Accepted, Cause::VPSieReply)]
    );
    let bound = audited.list(&[node(1)]);
    assert_eq!(bound, [with_vm(AuditAction::Bound, Cause::VPSieListing)]);
    assert_eq!(
        events(&bound),
        [on_machine(EventType::Normal, "Created", "VPSie created VM slave-1 (uuid-1)")]
    );
    let up = audited.register();
    assert_eq!(up, [with_vm(AuditAction::Running, Cause::Node)]);
    assert_eq!(events(&up), [on_machine(EventType::Normal, "Running", "VM slave-1 (uuid-1) is running")]);
    assert_eq!(audited.list(&[node(1)]), [], "the same again is no act");
}

#[test]
fn a_creation_that_vpsie_refuses_fails_in_its_own_words() {
    let mut audited = AuditedFleet::new(false);
    audited.increase();
    audited.request();
    let failed = audited.record_outcome(CreationOutcome::Refused(stockout()));
    assert_eq!(
        failed,
        [AuditEntry { failure: Some(stockout()), ..entry(AuditAction::Failed, Cause::VPSieReply) }]
    );
    assert_eq!(events(&failed), on_both(EventType::Warning, "Failed", "STOCKOUT: No capacity in ams1"));
    let cancelled = audited.retire(DeletionReason::VPSieNodeDeleted);
    assert_eq!(cancelled, [entry(AuditAction::Cancelled, Cause::VPSieNodeDeleted)]);
}

#[test]
fn requests_without_a_result() {
    let mut audited = AuditedFleet::new(false);
    audited.increase();
    audited.request();
    assert_eq!(
        audited.record_outcome(CreationOutcome::Unavailable(stockout())),
        [entry(AuditAction::NotCreated, Cause::VPSieReply)]
    );
    audited.request();
    assert_eq!(
        audited.record_outcome(CreationOutcome::Unclear),
        [entry(AuditAction::Unclear, Cause::VPSieReply)]
    );
    audited.list(&[]);
    audited.list(&[]);
    assert_eq!(audited.pass(2), [entry(AuditAction::Lost, Cause::Expiry)]);
    assert_eq!(audited.request(), [entry(AuditAction::Requested, Cause::Provisioning)]);
}

#[test]
fn deletions_have_their_cause() {
    for reason in [DeletionReason::VPSieNodeDeleted, DeletionReason::NodeGroupDeleted] {
        let mut audited = AuditedFleet::running();
        let given_up = audited.retire(reason);
        assert_eq!(given_up, [with_vm(AuditAction::MarkedForDeletion, reason)]);
        let message = format!("VM slave-1 (uuid-1) will be deleted; cause: {}", reason.name());
        assert_eq!(events(&given_up), on_both(EventType::Normal, "Deleting", &message));
    }
}

#[test]
fn a_deletion_by_cluster_autoscaler_from_start_to_end() {
    let by_ca = |kind| with_vm(kind, Cause::ClusterAutoscaler);
    let mut audited = AuditedFleet::running();
    let given_up = audited.delete();
    assert_eq!(given_up, [by_ca(AuditAction::MarkedForDeletion)]);
    let message = "VM slave-1 (uuid-1) will be deleted; cause: ClusterAutoscaler";
    assert_eq!(events(&given_up), [on_machine(EventType::Normal, "Deleting", message)]);
    assert_eq!(audited.accept_deletion(), [by_ca(AuditAction::DeletionAccepted)]);
    audited.now += policy().vanish_after;
    let ignored = audited.list(&[node(1)]);
    assert_eq!(ignored, [by_ca(AuditAction::DeletionIgnored)]);
    assert_eq!(events(&ignored).len(), 2);
    audited.accept_deletion();
    let gone = audited.lose_vm();
    assert_eq!(gone, [by_ca(AuditAction::Ended)]);
    let message = "VM slave-1 (uuid-1) is deleted; cause: ClusterAutoscaler";
    assert_eq!(events(&gone), [on_machine(EventType::Normal, "Deleted", message)]);
    let returned = audited.list(&[node(1)]);
    assert_eq!(returned, [with_vm(AuditAction::Returned, Cause::VMReturned)]);
}

#[test]
fn a_failed_machine_with_an_open_request_expires() {
    let mut audited = AuditedFleet::new(false);
    audited.increase();
    audited.request();
    audited.record_outcome(CreationOutcome::Accepted);
    audited.list(&[]);
    audited.list(&[]);
    let late = audited.pass(60);
    assert_eq!(
        late.iter().map(|entry| entry.kind).collect::<Vec<_>>(),
        [AuditAction::Lost, AuditAction::Failed]
    );
    let expired = audited.pass(60 * 24);
    assert_eq!(expired, [entry(AuditAction::MarkedForDeletion, Cause::FailedExpired)]);
    let late_vm = audited.list(&[node(1)]);
    assert_eq!(late_vm, [with_vm(AuditAction::Bound, Cause::FailedExpired)]);
}

#[test]
fn an_undeleted_vm_vanishes_and_returns() {
    let mut audited = AuditedFleet::running();
    let vanished = audited.lose_vm();
    assert_eq!(vanished, [with_vm(AuditAction::Vanished, Cause::VPSieListing)]);
    let message =
        "VM slave-1 (uuid-1) vanished: VPSie no longer lists it, and vpsie-autoscaler did not delete it";
    assert_eq!(events(&vanished), on_both(EventType::Warning, "VMVanished", message));
    let back = audited.list(&[node(1)]);
    assert_eq!(back, [with_vm(AuditAction::Returned, Cause::VPSieListing)]);
    let message = "VPSie lists VM slave-1 (uuid-1) again after it vanished or was deleted";
    assert_eq!(events(&back), on_both(EventType::Warning, "VMReturned", message));
}

/// VM slave-1 is an orphan: it matches the requests of two machines.
fn orphaned() -> (AuditedFleet, Vec<AuditEntry>) {
    let mut audited = AuditedFleet::new(false);
    let orphan = UnmanagedKind::Orphan { pool: POOL.parse().unwrap(), size: Some(SizeId(2)) };
    let found = audited.show(orphan, None);
    (audited, found)
}

#[test]
fn an_orphan_is_found_and_adopted() {
    let (mut audited, found) = orphaned();
    assert_eq!(
        found,
        [AuditEntry { machine: None, ..with_vm(AuditAction::OrphanFound, Cause::VPSieListing) }]
    );
    let message = "VM slave-1 (uuid-1) was requested by vpsie-autoscaler and no machine waits for it; it is adopted, or deleted after the grace period";
    let on_node = Object::Node { name: "slave-1".to_owned(), uid: String::new() };
    assert_eq!(events(&found), [on_group(EventType::Warning, "OrphanFound", message).with_related(on_node)]);
    audited.increase();
    let adopted = audited.list(&[node(1)]);
    assert_eq!(adopted, [with_vm(AuditAction::OrphanAdopted, Cause::VPSieListing)]);
    let message = "adopted the orphan VM slave-1 (uuid-1) as the VM of this machine";
    assert_eq!(events(&adopted), on_both(EventType::Normal, "OrphanAdopted", message));
}

#[test]
fn an_orphan_without_a_machine_is_deleted() {
    let (mut audited, _) = orphaned();
    let deleted = audited.pass(60);
    assert_eq!(deleted, [with_vm(AuditAction::MarkedForDeletion, Cause::Orphan)]);
    let message = "VM slave-1 (uuid-1) will be deleted; cause: Orphan";
    assert_eq!(events(&deleted), on_both(EventType::Normal, "OrphanDeleted", message));
}

#[test]
fn an_existing_worker_is_foreign_or_adopted() {
    let mut audited = AuditedFleet::new(false);
    let foreign = audited.list(&[node(1)]);
    let foreign_found = with_vm(AuditAction::ForeignFound, Cause::VPSieListing);
    let unknown = AuditEntry { machine: None, pool: None, size: None, usd_per_hour: None, ..foreign_found };
    assert_eq!((foreign.as_slice(), events(&foreign)), ([unknown].as_slice(), Vec::new()));
    let mut audited = AuditedFleet::new(true);
    let taken = audited.list(&[node(1)]);
    assert_eq!(taken[1..], [with_vm(AuditAction::WorkerAdopted, Cause::VPSieListing)]);
    let message = "adopted VM slave-1 (uuid-1), which existed before";
    assert_eq!(events(&taken), on_both(EventType::Normal, "WorkerAdopted", message));
}

#[test]
fn cancelled_machines_have_the_cause_of_their_expiry() {
    let mut audited = AuditedFleet::new(false);
    audited.increase();
    audited.delete_group();
    assert_eq!(audited.pass(0), [entry(AuditAction::Cancelled, Cause::NodeGroupDeleted)]);
    let mut audited = AuditedFleet::new(false);
    audited.increase();
    audited.request();
    audited.record_outcome(CreationOutcome::Refused(stockout()));
    assert_eq!(audited.pass(60 * 24), [entry(AuditAction::Cancelled, Cause::FailedExpired)]);
}

/// Sequences with all actions.
fn record_all_actions() -> Vec<AuditEntry> {
    let mut entries = Vec::new();
    let mut audited = AuditedFleet::new(false);
    entries.extend(audited.increase());
    entries.extend(audited.request());
    entries.extend(audited.record_outcome(CreationOutcome::Unavailable(stockout())));
    entries.extend(audited.request());
    entries.extend(audited.record_outcome(CreationOutcome::Unclear));
    audited.list(&[]);
    audited.list(&[]);
    entries.extend(audited.pass(2));
    entries.extend(audited.request());
    entries.extend(audited.record_outcome(CreationOutcome::Accepted));
    entries.extend(audited.list(&[node(1)]));
    entries.extend(audited.register());
    entries.extend(audited.delete());
    entries.extend(audited.accept_deletion());
    audited.now += policy().vanish_after;
    entries.extend(audited.list(&[node(1)]));
    audited.accept_deletion();
    entries.extend(audited.lose_vm());
    entries.extend(audited.list(&[node(1)]));
    entries.extend(AuditedFleet::running().lose_vm());
    let mut failed = AuditedFleet::new(false);
    failed.increase();
    failed.request();
    entries.extend(failed.record_outcome(CreationOutcome::Refused(stockout())));
    entries.extend(failed.retire(DeletionReason::VPSieNodeDeleted));
    let (mut audited, found) = orphaned();
    entries.extend(found);
    audited.increase();
    entries.extend(audited.list(&[node(1)]));
    entries.extend(AuditedFleet::new(false).list(&[node(1)]));
    entries.extend(AuditedFleet::new(true).list(&[node(1)]));
    entries.extend(AuditedFleet::new(false).show(UnmanagedKind::Foreign, Some(POOL.parse().unwrap())));
    entries.extend(spot::record_spot_actions());
    entries.extend(spot::record_take_over());
    entries.extend(datacenters::record_datacenter_actions());
    entries
}

#[test]
fn each_action_has_its_cause() {
    let mut causes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for AuditEntry { kind, by, .. } in record_all_actions() {
        causes.entry(kind.name()).or_default().insert(by.name());
    }
    for kind in AuditAction::ALL {
        // The guard makes these without a change of the fleet.
        if matches!(kind, AuditAction::GrowthHalted | AuditAction::GrowthResumed) {
            continue;
        }
        let named = causes.get(kind.name()).unwrap_or_else(|| panic!("no life has the act {}", kind.name()));
        assert!(named.iter().all(|name| !name.is_empty()), "{}", kind.name());
    }
    let of = |kind: AuditAction| causes[kind.name()].iter().copied().collect::<Vec<_>>();
    assert_eq!(of(AuditAction::Requested), ["Provisioning"]);
    assert_eq!(of(AuditAction::Lost), ["Expiry"]);
    assert_eq!(of(AuditAction::Vanished), ["VPSieListing"]);
}

#[test]
fn limits_are_published_on_the_node_group_and_mistakes_are_not() {
    let pool = || POOL.parse().unwrap();
    let event = |refusal: &Refusal| refusal_event(refusal).map(|event| (event.on, event.reason));
    let on = || Object::NodeGroup("web".to_owned());
    let above = Refusal::AboveMax { pool: pool(), delta: 2, group_target: 3, group_max: 3 };
    assert_eq!(
        refusal_event(&above),
        Some(ObjectEvent::new(
            on(),
            EventType::Warning,
            "MaximumReached",
            format!("pool {POOL} cannot grow by 2: NodeGroup web has 3 of at most 3 machines"),
        ))
    );
    let cluster = Refusal::AboveClusterMax { pool: pool(), delta: 1, machines: 9, max: 9 };
    assert_eq!(event(&cluster), Some((on(), "ClusterMaximumReached")));
    let below = Refusal::BelowMin { pool: pool(), healthy: 1, group_target: 1, group_min: 1 };
    assert_eq!(event(&below), Some((on(), "MinimumReached")));
    let halted = Refusal::Halted { pool: pool(), why: "growth is halted".to_owned() };
    assert_eq!(event(&halted), Some((on(), "GrowthHalted")));
    let vm_limit = Refusal::AboveVmLimit { pool: pool(), delta: 1, counted: 3, waiting: 2, limit: 5 };
    assert_eq!(event(&vm_limit), Some((on(), "VMLimitReached")), "nothing is halted");
    let gone = Refusal::NotGrowable { pool: pool(), why: "its NodeGroup was deleted".to_owned() };
    assert_eq!(event(&gone), Some((on(), "NotGrowable")));
    assert_eq!(event(&Refusal::UnknownPool("x".to_owned())), None);
    assert_eq!(event(&Refusal::Delta { delta: 0, allowed: "above 0" }), None);
}
