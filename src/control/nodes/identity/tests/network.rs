//! The startup taint of Nodes whose VM is not attached to its VPC and firewall group yet.

use super::*;

fn fleet_with(attached: Option<bool>) -> Fleet {
    let vm = Vm { attached, ..vm() };
    fleet(Phase::Creating { vm: Some(vm), since: Timestamp::UNIX_EPOCH }, Vec::new())
}

/// A Node that registered with the taint.
fn tainted() -> Node {
    let taints = json!([
        {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"},
        {"key": names::NETWORK, "value": "attaching", "effect": "NoSchedule"},
    ]);
    merged(&node("", true), json!({"spec": {"taints": taints}}))
}

fn has_taint(node: &Node) -> bool {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == names::NETWORK)
}

fn patched(fleet: &Fleet, node: &Node) -> Node {
    let NodeAction::Patch(patch) = judge(fleet, node) else { panic!("no patch") };
    assert!(patch["spec"]["taints"].is_null() || patch["metadata"]["resourceVersion"] == "7");
    merged(node, patch)
}

#[test]
fn stays_until_the_vm_is_attached() {
    for attached in [None, Some(false)] {
        let fleet = fleet_with(attached);
        let named = patched(&fleet, &tainted());
        assert!(has_taint(&named), "{attached:?}");
        assert_eq!(judge(&fleet, &named), NodeAction::Register(vm().hostname), "it has joined");
        let attached = patched(&fleet_with(Some(true)), &named);
        assert!(!has_taint(&attached));
        let keys: Vec<_> =
            attached.spec.unwrap().taints.unwrap().into_iter().map(|taint| taint.key).collect();
        assert_eq!(keys, ["node.kubernetes.io/not-ready", "dedicated"], "the other taints stay");
    }
}

#[test]
fn is_removed_by_the_first_patch_of_an_attached_vm() {
    let fleet = fleet_with(Some(true));
    let named = patched(&fleet, &tainted());
    assert!(!has_taint(&named));
    assert_eq!(judge(&fleet, &named), NodeAction::Register(vm().hostname), "once");
}

#[test]
fn is_added_if_the_payload_does_not_set_it() {
    for (attached, want) in [(None, false), (Some(false), true), (Some(true), false)] {
        let fleet = fleet_with(attached);
        let mut named = patched(&fleet, &node("", true));
        assert_eq!(has_taint(&named), want, "{attached:?}");
        // A user removed it.
        named.spec.as_mut().unwrap().taints = None;
        assert_eq!(judge(&fleet, &named), NodeAction::Register(vm().hostname));
    }
}

#[test]
fn makes_the_node_not_ready_for_other_loops() {
    let fleet = fleet_with(Some(false));
    let history = History::default();
    let is_ready = |node: &Node| facts(node, owner_of(&fleet, &history, node)).ready;
    assert!(is_ready(&node("", true)) && !is_ready(&tainted()));
}

#[test]
fn does_not_matter_for_a_deletion() {
    let vm = Vm { attached: Some(true), ..vm() };
    let deleting = Phase::Deleting {
        vm: Some(vm),
        since: Timestamp::UNIX_EPOCH,
        reason: crate::fleet::DeletionReason::default(),
        drain: DrainState::Pending,
        accepted_at: None,
    };
    assert!(has_taint(&patched(&fleet(deleting, Vec::new()), &tainted())));
}
