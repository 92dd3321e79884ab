//! Declarations and deletions by users: NodeGroups, machines, adopted workers, limits of the cluster.

use super::*;

fn running(hand: &mut Hand, fleet: &mut Fleet, pool: &str, nodes: &[ListedNode]) {
    hand.observe(fleet, &[]);
    hand.increase(fleet, pool, nodes.len() as i32).unwrap();
    hand.ask_all(fleet, &CreationOutcome::Accepted);
    hand.observe(fleet, nodes);
}

/// Switches to a cluster whose Nodes are drained.
fn with_api_server(hand: &mut Hand) {
    hand.policy.running_when_listed = false;
}

fn deleting(fleet: &Fleet) -> Vec<(DeletionReason, DrainState)> {
    let of = |machine: &Machine| match machine.phase {
        Phase::Deleting { reason, drain, .. } => Some((reason, drain)),
        _ => None,
    };
    fleet.machines().filter_map(of).collect()
}

fn closed(policy: DeletionPolicy) -> Vec<NodeGroup> {
    let mut groups = groups();
    groups[1].deletion = Some(policy);
    groups
}

fn adopting(max: u32) -> Vec<NodeGroup> {
    let mut groups = groups();
    (groups[1].adopt, groups[1].max) = (true, max);
    groups
}

fn adopt_workers(hand: &mut Hand, fleet: &mut Fleet, nodes: &[ListedNode]) -> usize {
    hand.observe(fleet, nodes);
    let drawn = &mut hand.drawn;
    let changes = fleet.adopt_workers(nodes, hand.now, &mut |group| {
        *drawn += 1;
        MachineId::new(format!("{group}-{drawn:08x}"))
    });
    fleet.check_consistency().unwrap();
    changes.len() / 2
}

#[test]
fn a_retired_machine_is_drained_before_its_vm_deletion() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    running(&mut hand, &mut fleet, OTHER, &[node(1, 2)]);
    let id = only(&fleet).id.clone();
    assert_eq!(fleet.retire(&id, DeletionReason::VPSieNodeDeleted, hand.now).len(), 1);
    assert_eq!(
        fleet.retire(&id, DeletionReason::NodeGroupDeleted, hand.now),
        [],
        "a Deleting machine stays unchanged"
    );
    assert_eq!((target(&fleet, OTHER), fleet.machines_to_delete().len()), (0, 0));
    assert_eq!(deleting(&fleet), [(DeletionReason::VPSieNodeDeleted, DrainState::Pending)]);
    assert_eq!(fleet.note_drain(&id, DrainState::Done).len(), 1);
    assert_eq!(fleet.note_drain(&id, DrainState::Done), []);
    assert_eq!(fleet.machines_to_delete().len(), 1);
    fleet.check_consistency().unwrap();
}

#[test]
fn an_unrequested_machine_is_removed_at_once() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    let id = only(&fleet).id.clone();
    fleet.retire(&id, DeletionReason::VPSieNodeDeleted, hand.now);
    assert_eq!(fleet.machines().count(), 0);
}

#[test]
fn a_blocked_drain_ends_with_the_disappearance_of_its_vm() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    running(&mut hand, &mut fleet, OTHER, &[node(1, 2)]);
    with_api_server(&mut hand);
    let id = only(&fleet).id.clone();
    fleet.retire(&id, DeletionReason::VPSieNodeDeleted, hand.now);
    for _ in 0..4 {
        hand.observe(&mut fleet, &[node(9, 4)]);
        hand.wait(Duration::from_mins(2));
    }
    assert_eq!(fleet.machines().count(), 0);
    assert!(matches!(
        fleet.unmanaged_node(&node(1, 2).hostname).unwrap().kind,
        UnmanagedKind::Gone { deleted: true, .. }
    ));
}

#[test]
fn a_deleted_node_group_keeps_running_machines_and_stops_growth() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    running(&mut hand, &mut fleet, OTHER, &[node(1, 2)]);
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    fleet.declare(closed(DeletionPolicy::WhenEmpty));
    hand.pass(&mut fleet);
    assert!(matches!(only(&fleet).phase, Phase::Running { .. }), "a machine without a request is removed");
    assert_eq!(limits(&fleet, OTHER), (0, 1, 1));
    let refused = hand.increase(&mut fleet, OTHER, 1).unwrap_err();
    assert!(refused.to_string().ends_with("its NodeGroup is being deleted"), "{refused}");
    fleet.delete_nodes(OTHER, &[by_node(&node(1, 2))], hand.now).unwrap();
    assert_eq!(deleting(&fleet), [(DeletionReason::ClusterAutoscaler, DrainState::Done)]);
}

#[test]
fn a_deleted_node_group_has_no_minimum() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    running(&mut hand, &mut fleet, SMALL, &[node(1, 2)]);
    let mut groups = groups();
    groups[0].deletion = Some(DeletionPolicy::WhenEmpty);
    fleet.declare(groups);
    assert_eq!(limits(&fleet, SMALL), (0, 1, 1));
    fleet.delete_nodes(SMALL, &[by_node(&node(1, 2))], hand.now).unwrap();
}

#[test]
fn a_node_group_that_is_deleted_with_drain_is_emptied() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    running(&mut hand, &mut fleet, OTHER, &[node(1, 2), node(2, 2)]);
    with_api_server(&mut hand);
    fleet.declare(closed(DeletionPolicy::Drain));
    hand.pass(&mut fleet);
    assert_eq!(deleting(&fleet), [(DeletionReason::NodeGroupDeleted, DrainState::Pending); 2]);
    assert_eq!(hand.pass(&mut fleet), []);
}

#[test]
fn the_cluster_has_a_maximum_too() {
    let mut hand = Hand::new();
    let declared = Declaration { groups: groups(), max_machines: Some(3), ..Declaration::default() };
    let mut fleet = Fleet::restore(declared, records(), Reserved::default());
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    assert_eq!((limits(&fleet, OTHER), limits(&fleet, LARGE)), ((0, 0, 1), (0, 0, 1)));
    let refused = hand.increase(&mut fleet, OTHER, 2).unwrap_err();
    assert!(matches!(refused, Refusal::AboveClusterMax { machines: 2, max: 3, .. }), "{refused}");
    fleet.declare(Declaration { groups: groups(), max_machines: Some(1), ..Declaration::default() });
    assert_eq!(limits(&fleet, SMALL), (1, 2, 2), "existing machines stay");
}

#[test]
fn limits_that_are_not_known_stop_growth_and_outlast_a_reload() {
    let mut hand = Hand::new();
    let limits_unknown = Some("no answer".into());
    let declared = Declaration { groups: groups(), limits_unknown, ..Declaration::default() };
    let mut fleet = Fleet::restore(declared, records(), Reserved::default());
    let mut reloaded = fleet.reloaded(records());
    for fleet in [&mut fleet, &mut reloaded] {
        assert_eq!(limits(fleet, SMALL), (0, 0, 0));
        let refused = hand.increase(fleet, SMALL, 1).unwrap_err();
        assert!(matches!(refused, Refusal::LimitsUnknown { .. }), "{refused}");
        assert_eq!(fleet.growth_block(SMALL, 1, hand.now).map(|h| h.reason), Some("LIMITS_UNKNOWN"));
    }
    fleet.declare(Declaration { groups: groups(), ..Declaration::default() });
    hand.increase(&mut fleet, SMALL, 1).unwrap();
}

#[test]
fn the_clusters_create_timeout_wins() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    let create_timeout = Some(Duration::from_mins(2));
    fleet.declare(Declaration { groups: groups(), create_timeout, ..Declaration::default() });
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.wait(Duration::from_mins(2));
    hand.pass(&mut fleet);
    assert!(matches!(only(&fleet).phase, Phase::Failed { .. }));
}

#[test]
fn workers_are_adopted_up_to_the_maximum_of_the_node_group() {
    let mut hand = Hand::new();
    let mut fleet = Fleet::restore(adopting(2), records(), Reserved::default());
    let control_plane = ListedNode { role: NodeRole::ControlPlane, ..node(4, 2) };
    let hidden = ListedNode { size: None, ..node(5, 2) };
    let nodes = [node(1, 2), node(2, 2), node(3, 2), control_plane, hidden, node(6, 4)];
    assert_eq!(adopt_workers(&mut hand, &mut fleet, &nodes), 2);
    assert_eq!(target(&fleet, OTHER), 2);
    assert_eq!(adopt_workers(&mut hand, &mut fleet, &nodes), 0);
    assert!(fleet.machine_at(&node(1, 2).hostname).is_some());
    assert_eq!(fleet.unmanaged_node(&node(3, 2).hostname).unwrap().kind, UnmanagedKind::Foreign);
}

#[test]
fn a_worker_of_two_node_groups_is_not_adopted() {
    let mut hand = Hand::new();
    let mut groups = adopting(4);
    groups[0].adopt = true;
    let mut fleet = Fleet::restore(groups, records(), Reserved::default());
    assert_eq!(
        adopt_workers(&mut hand, &mut fleet, &[node(1, 2), node(2, 4)]),
        1,
        "only one has the other size"
    );
    assert_eq!(target(&fleet, LARGE), 1);
}

#[test]
fn no_worker_is_adopted_without_opting_in() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    assert_eq!(adopt_workers(&mut hand, &mut fleet, &[node(1, 2)]), 0);
}

#[test]
fn a_node_of_another_name_is_found_by_a_unique_address() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    let at = |n: u8| [10, 0, 0, n].into();
    let with = |n, addresses: &[u8]| ListedNode {
        addresses: addresses.iter().map(|n| at(*n)).collect(),
        ..node(n, 2)
    };
    running(&mut hand, &mut fleet, OTHER, &[with(1, &[1, 7]), with(2, &[2])]);
    let found = |fleet: &Fleet, name: &str, of: &[u8]| {
        let addresses: Vec<_> = of.iter().map(|n| at(*n)).collect();
        fleet.machine_of_node(&Hostname::new(name), &addresses)?.vm().map(|vm| vm.hostname.to_string())
    };
    let renamed = "k8s-slave-1.example.com";
    assert_eq!(found(&fleet, "K8S-Slave-1", &[]).as_deref(), Some("k8s-slave-1"));
    assert_eq!(found(&fleet, renamed, &[9, 7]).as_deref(), Some("k8s-slave-1"));
    assert_eq!(found(&fleet, "ip-10-0-0-7", &[9, 7]).as_deref(), Some("k8s-slave-1"));
    assert_eq!(found(&fleet, "renamed", &[9, 7]), None, "its name does not match the VM");
    assert_eq!(found(&fleet, renamed, &[1, 2]), None, "the address belongs to two VMs");
    assert_eq!(found(&fleet, renamed, &[9]), None);
    hand.observe(&mut fleet, &[with(1, &[3]), with(2, &[2]), with(8, &[1])]);
    assert_eq!(found(&fleet, renamed, &[1]), None, "the VM has another address now");
    assert_eq!(found(&fleet, "k8s-slave-8", &[2]), None, "it is the Node of another VM");
    hand.observe(&mut fleet, &[with(1, &[3]), with(2, &[3]), with(8, &[1])]);
    assert_eq!(found(&fleet, renamed, &[3]), None, "two VMs are listed with it");
    hand.observe(&mut fleet, &[with(1, &[3]), with(2, &[2]), with(8, &[1])]);
    assert_eq!(found(&fleet, renamed, &[3]).as_deref(), Some("k8s-slave-1"));
    fleet.check_consistency().unwrap();
}

#[test]
fn a_provider_id_that_is_not_the_machines_contradicts_its_name() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    running(&mut hand, &mut fleet, OTHER, &[node(1, 2)]);
    let machine = only(&fleet).id.clone();
    let found = |fleet: &Fleet, id: &str, name: &str| fleet.machine_of(id, name).is_some();
    assert!(found(&fleet, "", "k8s-slave-1"));
    for foreign in ["aws:///i-1", "vpsie://other", "talos://k8s-slave-1"] {
        assert!(!found(&fleet, foreign, "k8s-slave-1"), "{foreign}");
        let node = NodeRef { provider_id: foreign.into(), name: "k8s-slave-1".into(), fake: false };
        assert!(foreign.starts_with("vpsie://") || fleet.delete_nodes(OTHER, &[node], hand.now).is_err());
    }
    fleet.adopt_provider_id(&machine, &"talos://k8s-slave-1".into());
    assert!(found(&fleet, "talos://k8s-slave-1", "") && !found(&fleet, "aws:///i-1", "k8s-slave-1"));
    assert_eq!(only(&fleet).instance_id(), "talos://k8s-slave-1");
    hand.observe(&mut fleet, &[node(1, 2)]);
    let restored = Fleet::restore(groups(), fleet.records(), Reserved::default());
    assert!(found(&restored, "talos://k8s-slave-1", ""), "it is durable");
    let id = "talos://k8s-slave-1".to_owned();
    let node = NodeRef { provider_id: id, name: "k8s-slave-1".into(), fake: false };
    fleet.delete_nodes(OTHER, &[node], hand.now).unwrap();
    assert_eq!(deleting(&fleet), [(DeletionReason::ClusterAutoscaler, DrainState::Done)]);
}

#[test]
fn adopts_no_provider_id_of_another_machine() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    running(&mut hand, &mut fleet, OTHER, &[node(1, 2), node(2, 2)]);
    let machines: Vec<_> = fleet.machines().map(|machine| machine.id.clone()).collect();
    assert_eq!(fleet.adopt_provider_id(&machines[0], &"k3s://a".into()).len(), 1);
    assert_eq!(fleet.adopt_provider_id(&machines[1], &"k3s://a".into()), []);
    assert_eq!(fleet.adopt_provider_id(&machines[1], &machines[0].placeholder().as_str().into()), []);
}
