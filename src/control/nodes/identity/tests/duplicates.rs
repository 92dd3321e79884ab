//! The Node of the second VM of a request.

use super::*;
use crate::fleet::{ListedNode, NodeListing, NodeRole, Policy, VmState};

/// A fleet whose joining machine has the first of two VMs.
fn with_two_vms() -> Fleet {
    let first = Vm { addresses: vec![[198, 18, 0, 1].into()], ..vm() };
    let second = VmId::from("u-2");
    let hostname = vm().hostname.duplicate(&second);
    let kind = UnmanagedKind::Orphan { pool: POOL.parse().unwrap(), size: Some(SizeId(2)) };
    let orphan = UnmanagedNode::new(hostname.clone(), Some(second.clone()), Timestamp::UNIX_EPOCH, kind);
    let mut fleet = fleet(Phase::Creating { vm: Some(first), since: Timestamp::UNIX_EPOCH }, vec![orphan]);
    let row = ListedNode {
        hostname,
        id: Some(second),
        size: None,
        excluded: std::collections::BTreeSet::new(),
        datacenter: None,
        capacity_type: None,
        role: NodeRole::Worker,
        state: VmState::Running,
        addresses: vec![[198, 18, 0, 2].into()],
        created_at: None,
        interruption: None,
        attachment: None,
        pool: Some(POOL.parse().unwrap()),
    };
    let policy = Policy { running_when_listed: false, ..Policy::default() };
    fleet.observe(&NodeListing::of_nodes(vec![row], false), Timestamp::UNIX_EPOCH, &policy);
    fleet
}

fn node_at(n: u8, provider_id: &str) -> Node {
    let addresses = json!([{"type": "ExternalIP", "address": format!("198.18.0.{n}")}]);
    merged(&node(provider_id, true), json!({"status": {"addresses": addresses}}))
}

#[test]
fn makes_it_the_vm_of_the_machine_before_its_identity_is_set() {
    let name = vm().hostname.duplicate(&"u-2".into());
    for provider_id in ["", "k3s://slave-1"] {
        let mut fleet = with_two_vms();
        let node = node_at(2, provider_id);
        let want = NodeAction::KeepJoined("web-00000001".into(), name.clone());
        assert_eq!(judge(&fleet, &node), want, "{provider_id:?}");
        assert_eq!(fleet.keep_joined(&"web-00000001".into(), &name, Timestamp::UNIX_EPOCH).len(), 3);
        match judge(&fleet, &node) {
            NodeAction::Patch(patch) => assert_eq!(patch["spec"]["providerID"], "vpsie://u-2"),
            NodeAction::Adopt(..) => assert_eq!(provider_id, "k3s://slave-1"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn of_the_first_vm_changes_nothing() {
    let NodeAction::Patch(patch) = judge(&with_two_vms(), &node_at(1, "")) else { panic!("no patch") };
    assert_eq!(patch["spec"]["providerID"], ID);
    let NodeAction::Patch(patch) = judge(&with_two_vms(), &node_at(3, "")) else { panic!("no patch") };
    assert_eq!(patch["spec"]["providerID"], ID, "it cannot be told");
    assert!(!matches!(judge(&with_two_vms(), &node_at(2, ID)), NodeAction::KeepJoined(..)), "it is too late");
}
