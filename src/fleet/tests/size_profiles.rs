//! Templates from real Nodes.

use super::*;

/// Three machines of `web` and three of `batch`, all of the size of "small".
fn fleet_of_nodes(groups: Vec<NodeGroup>, earlier: Option<SizeProfile>) -> Fleet {
    let machine = |pool: &str, n: u32| Machine {
        id: format!("{}-{n:08x}", &pool[..3]).as_str().into(),
        pool: pool.parse().unwrap(),
        size: SizeId(2),
        created_at: Timestamp::UNIX_EPOCH,
        phase: Phase::Running {
            vm: Vm {
                hostname: node(n, 2).hostname,
                id: node(n, 2).id,
                addresses: Vec::new(),
                provider_id: None,
                attached: None,
                request: None,
            },
            since: Timestamp::UNIX_EPOCH,
        },
        requests: Vec::new(),
        notice: None,
        replaces: None,
    };
    let machines = (1..=9).map(|n| machine(if n <= 6 { SMALL } else { OTHER }, n)).collect();
    let profile = earlier.map(|earlier| (SizeId(2), earlier)).into_iter().collect();
    let reserved = Reserved { cpu_millis: 100, memory_mib: 500, disk_gib: 4 };
    Fleet::restore(groups, Records { machines, profiles: profile, ..records() }, reserved)
}

fn has(memory_mib: u64, disk_gib: u64) -> NodeShape {
    let capacity = Resources { cpu_millis: 2000, memory_mib, disk_gib, pods: 110 };
    NodeShape::new(capacity, Resources { memory_mib: memory_mib - 300, ..capacity })
}

fn shown(n: u32, shape: NodeShape) -> (Hostname, ObservedNode) {
    let registered = Timestamp::from_second(n.into()).unwrap();
    (node(n, 2).hostname, ObservedNode { uid: format!("uid-{n}"), registered, shape })
}

fn learn(fleet: &mut Fleet, n: u32, shape: NodeShape) -> Vec<Change> {
    let (hostname, node) = shown(n, shape);
    fleet.add_node_sample(&hostname, node, now())
}

/// Later than all Nodes of [`shown`].
fn now() -> Timestamp {
    Timestamp::from_second(3600).unwrap()
}

fn promised(fleet: &Fleet, pool: &str) -> (u64, u64) {
    let allocatable = fleet.template(fleet.pool(pool).unwrap()).allocatable;
    (allocatable.memory_mib, allocatable.disk_gib)
}

fn label(fleet: &Fleet, pool: &str, key: &str) -> Option<String> {
    fleet.template(fleet.pool(pool).unwrap()).labels.get(key).cloned()
}

fn devices(fleet: &Fleet, pool: &str) -> Amounts {
    fleet.template(fleet.pool(pool).unwrap()).extended_allocatable.clone()
}

fn with_gpus(count: u64) -> NodeShape {
    let gpus = Amounts::from([("nvidia.com/gpu".to_owned(), count)]);
    NodeShape { extended_capacity: gpus.clone(), extended_allocatable: gpus, ..has(4096, 40) }
}

fn labelled(labels: &[(&str, &str)]) -> NodeShape {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    NodeShape { labels: labels.collect(), ..has(4096, 40) }
}

#[test]
fn templates_of_a_size_follow_its_nodes() {
    let mut fleet = fleet_of_nodes(groups(), None);
    assert_eq!(promised(&fleet, SMALL), (3596, 36), "nominal less reserved");
    assert_eq!(learn(&mut fleet, 1, has(3900, 35)).len(), 1);
    assert_eq!([promised(&fleet, SMALL), promised(&fleet, OTHER)], [(3600, 35); 2]);
    assert_eq!(learn(&mut fleet, 1, has(3900, 35)), [], "the sample is known");
    let restored = Fleet::restore(groups(), fleet.records(), Reserved::default());
    assert_eq!(promised(&restored, SMALL), (3600, 35));
}

#[test]
fn a_sample_replaces_the_earlier_one_of_its_node() {
    let mut fleet = fleet_of_nodes(groups(), None);
    learn(&mut fleet, 1, has(4096, 40));
    learn(&mut fleet, 1, has(1100, 40));
    assert_eq!(promised(&fleet, SMALL), (800, 40));
    learn(&mut fleet, 1, has(4096, 40));
    assert_eq!(promised(&fleet, SMALL), (3796, 40));
}

#[test]
fn one_odd_node_changes_no_template_for_good() {
    let mut fleet = fleet_of_nodes(groups(), None);
    learn(&mut fleet, 1, has(1100, 40));
    learn(&mut fleet, 2, has(4096, 40));
    assert_eq!(promised(&fleet, SMALL), (800, 40), "the smaller value of two Nodes");
    learn(&mut fleet, 3, has(4096, 40));
    assert_eq!(promised(&fleet, SMALL), (3796, 40));
}

#[test]
fn nodes_from_the_future_are_replaced() {
    let mut fleet = fleet_of_nodes(groups(), None);
    for n in 1..=3 {
        let (hostname, mut node) = shown(n, has(1100, 40));
        node.registered += Duration::from_hours(24 * 365);
        assert_eq!(fleet.add_node_sample(&hostname, node.clone(), node.registered).len(), 1);
    }
    assert_eq!(promised(&fleet, SMALL), (800, 40));
    for n in 4..=6 {
        assert_eq!(learn(&mut fleet, n, has(4096, 40)).len(), 1, "the API server's clock is right again");
    }
    assert_eq!(promised(&fleet, SMALL), (3796, 40));
}

#[test]
fn two_smaller_nodes_make_a_template_smaller() {
    let mut fleet = fleet_of_nodes(groups(), None);
    for n in 1..=3 {
        learn(&mut fleet, n, has(4096, 40));
    }
    learn(&mut fleet, 4, has(2048, 40));
    assert_eq!(promised(&fleet, SMALL), (3796, 40));
    learn(&mut fleet, 5, has(2048, 40));
    assert_eq!(promised(&fleet, SMALL), (1748, 40));
}

#[test]
fn the_node_of_another_size_changes_no_template() {
    let mut fleet = fleet_of_nodes(groups(), None);
    let mut large = has(8192, 40);
    (large.capacity.cpu_millis, large.allocatable.cpu_millis) = (4000, 4000);
    assert_eq!(learn(&mut fleet, 1, large.clone()), [], "its VM may be bound to a machine of another size");
    Hand::new().observe(&mut fleet, &[node(1, 2)]);
    assert_eq!(learn(&mut fleet, 1, large).len(), 1, "the listing shows its size");
    let mut odd = has(4096, 40);
    odd.capacity.cpu_millis = 1000;
    Hand::new().observe(&mut fleet, &[ListedNode { size: None, ..node(2, 2) }]);
    assert_eq!(learn(&mut fleet, 2, odd).len(), 1, "no pool has its cores");
}

#[test]
fn a_disk_that_a_node_does_not_show_is_not_empty() {
    let mut fleet = fleet_of_nodes(groups(), None);
    learn(&mut fleet, 1, has(4096, 0));
    assert_eq!(promised(&fleet, SMALL), (3796, 36), "nominal less reserved");
    learn(&mut fleet, 2, has(4096, 38));
    assert_eq!(promised(&fleet, SMALL), (3796, 38));
}

#[test]
fn repeated_checks_of_many_nodes_write_nothing_twice() {
    let mut fleet = fleet_of_nodes(groups(), None);
    let mut round = || {
        let writes = (1..=9).map(|n| {
            let (hostname, node) = shown(n, has(4096 + u64::from(n), 40));
            let machine = fleet.machine_at(&hostname).unwrap();
            if fleet.is_new_sample(machine, &node, now()) {
                fleet.add_node_sample(&hostname, node, now()).len()
            } else {
                0
            }
        });
        writes.sum::<usize>()
    };
    assert!((1..=9).contains(&round()));
    assert_eq!(round(), 0);
    let profile = fleet.size_profile(SizeId(2)).unwrap();
    let nodes: Vec<_> = profile.nodes.iter().map(|sample| sample.node.as_str()).collect();
    assert_eq!(nodes, ["uid-9", "uid-8", "uid-7", "uid-6", "uid-5", "uid-4"], "three of each NodeGroup");
}

#[test]
fn a_record_of_an_earlier_release_counts_until_a_node_shows() {
    let NodeShape { capacity, allocatable, .. } = has(1100, 10);
    let earlier = SizeProfile { capacity, allocatable, nodes: Vec::new() };
    let mut fleet = fleet_of_nodes(groups(), Some(earlier));
    assert_eq!(promised(&fleet, SMALL), (800, 10));
    learn(&mut fleet, 1, has(4096, 40));
    assert_eq!([promised(&fleet, SMALL), promised(&fleet, OTHER)], [(3796, 40); 2]);
}

#[test]
fn an_annotation_resets_the_samples() {
    let mut fleet = fleet_of_nodes(groups(), None);
    learn(&mut fleet, 1, has(1100, 10));
    let mut declared = groups();
    declared[0].node.relearn = Some("2026-11-26".to_owned());
    fleet.declare(declared.clone());
    assert_eq!(promised(&fleet, SMALL), (3596, 36), "nominal less reserved");
    learn(&mut fleet, 1, has(4000, 40));
    assert_eq!(promised(&fleet, SMALL), (3700, 40), "the same Node counts again");
    let restored = Fleet::restore(declared, fleet.records(), Reserved::default());
    assert_eq!(promised(&restored, SMALL), (3700, 40));
}

#[test]
fn labels_of_all_nodes_of_a_node_group_are_in_its_template() {
    let mut fleet = fleet_of_nodes(groups(), None);
    learn(&mut fleet, 1, labelled(&[("region", "ams1"), ("rack", "a"), ("team", "x")]));
    learn(&mut fleet, 2, labelled(&[("region", "ams1"), ("rack", "b")]));
    assert_eq!(label(&fleet, SMALL, "region").as_deref(), Some("ams1"));
    assert_eq!((label(&fleet, SMALL, "rack"), label(&fleet, SMALL, "team")), (None, None));
    assert_eq!(label(&fleet, OTHER, "region"), None, "another NodeGroup's Nodes may lack it");
}

#[test]
fn sampled_labels_never_override_own_labels() {
    let mut declared = groups();
    declared[0].labels.insert("tier".to_owned(), "web".to_owned());
    declared[0].node.labels.insert("region".to_owned(), "ams2".to_owned());
    let mut fleet = fleet_of_nodes(declared, None);
    learn(&mut fleet, 1, labelled(&[("tier", "db"), ("region", "ams1"), (names::NODE_GROUP, "batch")]));
    assert_eq!(label(&fleet, SMALL, "tier").as_deref(), Some("web"));
    assert_eq!(label(&fleet, SMALL, "region").as_deref(), Some("ams2"));
    assert_eq!(label(&fleet, SMALL, names::NODE_GROUP).as_deref(), Some("web"));
}

#[test]
fn devices_come_from_nodes_of_the_node_group() {
    let mut fleet = fleet_of_nodes(groups(), None);
    learn(&mut fleet, 1, with_gpus(2));
    assert_eq!(devices(&fleet, SMALL), Amounts::from([("nvidia.com/gpu".to_owned(), 2)]));
    assert_eq!(devices(&fleet, OTHER), Amounts::new(), "its Nodes may have no device plugin");
    learn(&mut fleet, 2, has(4096, 40));
    assert_eq!(devices(&fleet, SMALL), Amounts::new(), "the smaller value of two Nodes");
    learn(&mut fleet, 3, with_gpus(2));
    assert_eq!(devices(&fleet, SMALL), Amounts::from([("nvidia.com/gpu".to_owned(), 2)]));
}

#[test]
fn declared_resources_are_promised_before_there_are_nodes() {
    let mut declared = groups();
    declared[0].node.resources =
        [("nvidia.com/gpu".to_owned(), 1), ("hugepages-2Mi".to_owned(), 1 << 30)].into();
    let fleet = fleet_of_nodes(declared, None);
    assert_eq!(devices(&fleet, SMALL).len(), 2);
    assert_eq!(promised(&fleet, SMALL), (2572, 36), "huge pages are no memory for pods");
    assert_eq!(devices(&fleet, OTHER), Amounts::new());
}

#[test]
fn architecture_and_system_come_from_nodes_and_declarations() {
    let of = |fleet: &Fleet, pool| {
        let template = fleet.template(fleet.pool(pool).unwrap());
        let all =
            ["kubernetes.io/arch", "beta.kubernetes.io/arch", "kubernetes.io/os", "beta.kubernetes.io/os"];
        all.map(|key| template.labels[key].clone())
    };
    let mut declared = groups();
    declared[1].node.architecture = Some("riscv64".to_owned());
    let mut fleet = fleet_of_nodes(declared, None);
    assert_eq!(of(&fleet, SMALL), ["amd64", "amd64", "linux", "linux"]);
    let arm = NodeShape { architecture: Some("arm64".to_owned()), ..has(4096, 40) };
    learn(&mut fleet, 1, arm);
    assert_eq!(of(&fleet, SMALL), ["arm64", "arm64", "linux", "linux"]);
    assert_eq!(of(&fleet, LARGE)[0], "amd64", "another size");
    assert_eq!(of(&fleet, OTHER)[0], "riscv64", "declared");
}

#[test]
fn declarations_apply_until_three_nodes_contradict_them() {
    let mut declared = groups();
    declared[0].node.resources = [("nvidia.com/gpu".to_owned(), 2)].into();
    declared[0].node.architecture = Some("arm64".to_owned());
    let mut fleet = fleet_of_nodes(declared, None);
    let of = |fleet: &Fleet| {
        (devices(fleet, SMALL).get("nvidia.com/gpu").copied(), label(fleet, SMALL, "kubernetes.io/arch"))
    };
    let bare = NodeShape { architecture: Some("amd64".to_owned()), ..has(4096, 40) };
    for n in 1..=2 {
        learn(&mut fleet, n, bare.clone());
        assert_eq!(of(&fleet), (Some(2), Some("arm64".to_owned())), "their device plugin may be late");
    }
    learn(&mut fleet, 3, bare.clone());
    assert_eq!(
        of(&fleet),
        (None, Some("amd64".to_owned())),
        "no more machines are added for pods that do not fit"
    );
    learn(&mut fleet, 3, NodeShape { architecture: Some("arm64".to_owned()), ..with_gpus(2) });
    assert_eq!(of(&fleet), (Some(2), Some("arm64".to_owned())));
}

proptest::proptest! {
    /// For any Nodes: no sample is written twice, a restart changes no template, and no template has more
    /// resources than the Nodes.
    #[test]
    fn samples_of_stable_nodes_cause_no_writes(
        steps in proptest::collection::vec((1..=9_u32, 0..4_u32, 1_000..5_000_u64, 0..50_u64, 0..3_u64), 1..40)
    ) {
        let mut fleet = fleet_of_nodes(groups(), None);
        let mut last = BTreeMap::new();
        for (n, life, memory, disk, gpus) in steps {
            let shape = NodeShape { extended_allocatable: with_gpus(gpus).extended_allocatable, ..has(memory, disk) };
            let (hostname, mut node) = shown(n, shape);
            node.uid = format!("uid-{n}-{life}");
            node.registered += Duration::from_secs(u64::from(life) * 7);
            fleet.add_node_sample(&hostname, node.clone(), now());
            last.insert(n, (hostname, node));
        }
        for round in 0..2 {
            for (hostname, node) in last.values() {
                let machine = fleet.machine_at(hostname).unwrap().clone();
                let news = fleet.is_new_sample(&machine, node, now());
                let changes = fleet.add_node_sample(hostname, node.clone(), now());
                proptest::prop_assert!(news || changes.is_empty(), "a change without a new sample");
                proptest::prop_assert!(round == 0 || changes.is_empty(), "{:?}", changes);
            }
        }
        let reserved = Reserved { cpu_millis: 100, memory_mib: 500, disk_gib: 4 };
        let restored = Fleet::restore(groups(), fleet.records(), reserved);
        for pool in fleet.pools() {
            let template = fleet.template(pool);
            proptest::prop_assert_eq!(&template, &restored.template(restored.pool(&pool.text).unwrap()));
            let capacity = template.capacity;
            let allocatable = template.allocatable;
            proptest::prop_assert!(allocatable.memory_mib > 0 && allocatable.disk_gib > 0);
            proptest::prop_assert!(allocatable.memory_mib <= capacity.memory_mib);
            proptest::prop_assert!(allocatable.disk_gib <= capacity.disk_gib);
        }
    }
}

#[test]
fn nodes_of_deleted_node_groups_are_forgotten() {
    let mut fleet = fleet_of_nodes(groups(), None);
    learn(&mut fleet, 7, has(1100, 10));
    fleet.declare(groups()[..1].to_vec());
    learn(&mut fleet, 1, has(4096, 40));
    let profile = fleet.size_profile(SizeId(2)).unwrap();
    assert_eq!(profile.nodes.len(), 1);
}
