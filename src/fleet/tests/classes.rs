//! Machines of one size in several classes, and both methods of binding.

use super::*;

const SPOT: &str = "web/ams1/small/spot";
const ELSEWHERE: &str = "web/fra1/small/on-demand";

/// A fleet with one size in three classes.
fn classes() -> Fleet {
    let spot = Offer { capacity_type: CapacityType::Spot, ..offer(2, "small") };
    let elsewhere = Offer { datacenter: "fra1".into(), ..offer(2, "small") };
    let catalog = Catalog { offers: vec![offer(2, "small"), spot, elsewhere] };
    let records = Records { catalog: Some(Arc::new(catalog)), ..Records::default() };
    let mut fleet =
        Fleet::restore(vec![group("web", 0, 9, &[SMALL, SPOT, ELSEWHERE])], records, Reserved::default());
    Hand::new().observe(&mut fleet, &[]);
    fleet
}

fn shortage() -> CreationOutcome {
    CreationOutcome::Refused(Failure { reason: FailureReason::Stockout, message: "no capacity".to_owned() })
}

fn spot(n: u32) -> ListedNode {
    ListedNode { capacity_type: Some(CapacityType::Spot), ..node(n, 2) }
}

fn elsewhere(n: u32) -> ListedNode {
    ListedNode { datacenter: Some("fra1".into()), ..node(n, 2) }
}

/// The pools of machines in a phase.
fn pools_in(fleet: &Fleet, phase: &str) -> Vec<String> {
    let mut pools: Vec<_> =
        fleet.machines().filter(|m| m.phase.name() == phase).map(|m| m.pool.to_string()).collect();
    pools.sort();
    pools
}

#[test]
fn a_shortage_fails_machines_of_its_class_only() {
    for short in [SMALL, SPOT, ELSEWHERE] {
        let mut hand = Hand::new();
        let mut fleet = classes();
        for pool in [SMALL, SPOT, ELSEWHERE] {
            hand.increase(&mut fleet, pool, 2).unwrap();
        }
        let first = fleet.machines().find(|m| m.pool.to_string() == short).unwrap().id.clone();
        fleet.record_requests(std::slice::from_ref(&first), hand.now);
        fleet.record_outcome(&first, shortage(), hand.now, &hand.policy);
        assert_eq!(pools_in(&fleet, "Failed"), [short, short]);
        let blocked = |pool: &str| fleet.growth_block(pool, 1, hand.now).is_some();
        let blocked: Vec<_> = [SMALL, SPOT, ELSEWHERE].into_iter().filter(|pool| blocked(pool)).collect();
        assert_eq!(blocked, [short]);
    }
}

#[test]
fn a_new_node_is_bound_to_a_request_of_its_class() {
    let mut hand = Hand::new();
    let mut fleet = classes();
    for pool in [SMALL, SPOT, ELSEWHERE] {
        hand.increase(&mut fleet, pool, 1).unwrap();
    }
    // Listings have shown the class of each node so far, so all classes are requested at once.
    hand.observe(&mut fleet, &[ListedNode { size: Some(SizeId(9)), ..node(99, 9) }]);
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    let foreign = ListedNode { size: Some(SizeId(9)), ..node(99, 9) };
    hand.observe(&mut fleet, &[foreign, elsewhere(1), spot(2), node(3, 2)]);
    for (pool, vm) in [(ELSEWHERE, "k8s-slave-1"), (SPOT, "k8s-slave-2"), (SMALL, "k8s-slave-3")] {
        let machine = fleet.machines().find(|m| m.pool.to_string() == pool).unwrap();
        assert_eq!(machine.vm().map(|vm| vm.hostname.as_str()), Some(vm), "{pool}");
    }
}

#[test]
fn a_node_of_another_class_is_foreign() {
    let mut hand = Hand::new();
    let mut fleet = classes();
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[spot(1), elsewhere(2)]);
    assert!(fleet.unmanaged_nodes().all(|unmanaged| unmanaged.kind == UnmanagedKind::Foreign));
    assert!(only(&fleet).vm().is_none());
}

#[test]
fn an_orphan_is_adopted_by_a_machine_of_its_class() {
    let mut hand = Hand::new();
    let pool: PoolId = SPOT.parse().unwrap();
    let orphan = UnmanagedNode {
        hostname: spot(1).hostname,
        id: spot(1).id,
        first_seen: hand.now,
        kind: UnmanagedKind::Orphan { pool, size: Some(SizeId(2)) },
        awaited_by: None,
        request: None,
        abandoned_request: None,
    };
    let mut fleet = classes();
    fleet.apply(&Change::SaveUnmanaged(orphan));
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.observe(&mut fleet, &[spot(1)]);
    assert!(only(&fleet).vm().is_none());
    hand.increase(&mut fleet, SPOT, 1).unwrap();
    hand.observe(&mut fleet, &[spot(1)]);
    assert_eq!(pools_in(&fleet, "Creating"), [SPOT]);
}

#[test]
fn existing_workers_are_adopted_into_the_pool_of_their_class() {
    let mut fleet = classes();
    let group = NodeGroup { adopt: true, ..group("web", 0, 9, &[SMALL, SPOT, ELSEWHERE]) };
    fleet.declare(vec![group]);
    let hand = Hand::new();
    let nodes = [spot(1), ListedNode { capacity_type: None, ..node(2, 2) }];
    hand.observe(&mut fleet, &nodes);
    let mut drawn = 0;
    let mut names = |group: &NodeGroupName| {
        drawn += 1;
        MachineId::new(format!("{group}-{drawn:08x}"))
    };
    fleet.adopt_workers(&nodes, hand.now, &mut names);
    let pools: Vec<_> = fleet.machines().map(|machine| machine.pool.to_string()).collect();
    assert_eq!(pools, [SPOT, SMALL], "a node of unknown capacity type is on demand");
}

#[test]
fn a_pool_has_the_offer_and_labels_of_its_capacity_type() {
    let fleet = classes();
    let pool = fleet.pool(SPOT).unwrap();
    assert_eq!(pool.offer.capacity_type, CapacityType::Spot);
    assert_eq!(pool.template.labels[names::CAPACITY_TYPE], "spot");
    assert_eq!(fleet.pool(SMALL).unwrap().template.labels[names::CAPACITY_TYPE], "on-demand");
    let spot_only = Fleet::restore(vec![group("web", 0, 9, &[SPOT])], records(), Reserved::default());
    assert!(spot_only.pool(SPOT).is_none(), "VPSie offers it on demand only");
}

/// A node in the listing of a product that does not show datacenters.
fn placeless(n: u32) -> ListedNode {
    ListedNode { datacenter: None, capacity_type: None, ..node(n, 2) }
}

#[test]
fn classes_that_listings_do_not_tell_apart_take_turns() {
    let mut hand = Hand::new();
    let mut fleet = classes();
    hand.observe(&mut fleet, &[placeless(99)]);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.wait(Duration::from_secs(1));
    hand.increase(&mut fleet, ELSEWHERE, 1).unwrap();
    assert_eq!(fleet.machines_to_request().len(), 1);
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[placeless(99), placeless(1)]);
    assert_eq!(pools_in(&fleet, "Pending"), [ELSEWHERE]);
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[placeless(99), placeless(1), placeless(2)]);
    assert!(fleet.machines().all(|machine| machine.vm().is_some()));
}

#[test]
fn sizes_that_listings_show_take_no_turns() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[placeless(99)]);
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    hand.increase(&mut fleet, LARGE, 2).unwrap();
    assert_eq!(fleet.machines_to_request().len(), 4);
}

#[test]
fn a_worker_is_adopted_where_only_one_pool_can_have_it() {
    let adopting = |pools: &[&str]| {
        let mut fleet = classes();
        fleet.declare(vec![NodeGroup { adopt: true, ..group("web", 0, 9, pools) }]);
        let hand = Hand::new();
        hand.observe(&mut fleet, &[placeless(1)]);
        let mut names = |group: &NodeGroupName| MachineId::new(format!("{group}-00000001"));
        fleet.adopt_workers(&[placeless(1)], hand.now, &mut names);
        fleet.machines().map(|machine| machine.pool.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(adopting(&[SMALL]), [SMALL]);
    assert!(adopting(&[SMALL, ELSEWHERE]).is_empty());
}
