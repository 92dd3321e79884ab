//! Spot pools, notices of interruptions and replacements.

use super::*;

fn spot_node(n: u32) -> ListedNode {
    ListedNode { capacity_type: Some(CapacityType::Spot), ..node(n) }
}

/// A fleet with a spot machine that runs.
fn running_spot() -> AuditedFleet {
    let mut audited = AuditedFleet::new(false);
    audited.offer_spot();
    audited.increase_spot();
    audited.request();
    audited.record_outcome(CreationOutcome::Accepted);
    audited.list(&[spot_node(1)]);
    audited.register();
    audited
}

/// Cluster Autoscaler takes over a replacement.
pub(super) fn record_take_over() -> Vec<AuditEntry> {
    let mut audited = running_spot();
    let id = MachineId::from("web-1");
    let needed = Resources { cpu_millis: 1, memory_mib: 1, disk_gib: 0, pods: 1 };
    audited.play(Cause::InterruptionNotice, |fleet, now, names| {
        let mut changes = fleet.record_notice(&id, NoticeSource::Node, now + Duration::from_mins(2), now);
        changes.extend(fleet.replace_machine(&id, needed, now, names));
        changes.extend(fleet.retire_interrupted(&id, now));
        changes
    });
    audited.play(Cause::ClusterAutoscaler, |fleet, now, names| fleet.increase(POOL, 1, now, names).unwrap())
}

#[test]
fn a_take_over_is_an_action_of_cluster_autoscaler() {
    let taken_over = record_take_over();
    assert_eq!(taken_over.len(), 1, "{taken_over:?}");
    assert_eq!(
        (taken_over[0].kind, taken_over[0].by),
        (AuditAction::ReplacementTakenOver, Cause::ClusterAutoscaler)
    );
}

/// The actions of spot pools, interruptions and notices.
pub(super) fn record_spot_actions() -> Vec<AuditEntry> {
    let mut audited = running_spot();
    let id = || MachineId::from("web-1");
    let deadline = audited.now + Duration::from_mins(2);
    let mut entries = audited.play(Cause::InterruptionNotice, |fleet, now, _| {
        fleet.record_notice(&id(), NoticeSource::Node, deadline, now)
    });
    let needed = Resources { cpu_millis: 1, memory_mib: 1, disk_gib: 0, pods: 1 };
    entries.extend(audited.play(Cause::InterruptionNotice, |fleet, now, names| {
        fleet.replace_machine(&id(), needed, now, names)
    }));
    entries.extend(
        audited
            .play(Cause::InterruptionNotice, |fleet, _, _| fleet.withdraw_notice(&id(), NoticeSource::Node)),
    );
    entries.extend(audited.lose_vm());
    let mut refused = AuditedFleet::new(false);
    refused.offer_spot();
    refused.increase_spot();
    refused.request();
    entries.extend(refused.record_outcome(CreationOutcome::Refused(stockout())));
    entries.extend(refused.retire(DeletionReason::ClusterAutoscaler));
    entries.extend(refused.pass(6));
    refused.drawn = 0;
    refused.increase_spot();
    refused.request();
    refused.record_outcome(CreationOutcome::Accepted);
    refused.list(&[spot_node(1)]);
    refused.register();
    entries.extend(refused.pass(16));
    entries
}
