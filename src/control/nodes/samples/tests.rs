use serde_json::{Value, json};

use super::*;
use crate::catalog::SizeId;
use crate::fleet::{Change, Machine, Records, Reserved, Vm};

fn fleet() -> Fleet {
    let vm = Vm {
        hostname: Hostname::new("slave-1"),
        id: Some("vm-1".into()),
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    };
    let machine = Machine {
        id: "web-1".into(),
        pool: "web/ams1/small/on-demand".parse().unwrap(),
        size: SizeId(2),
        created_at: Timestamp::UNIX_EPOCH,
        phase: Phase::Running { vm, since: Timestamp::UNIX_EPOCH },
        requests: Vec::new(),
        notice: None,
        replaces: None,
    };
    Fleet::restore(Vec::new(), Records { machines: vec![machine], ..Records::default() }, Reserved::default())
}

fn facts(ready: bool, identified: bool) -> NodeFacts {
    NodeFacts {
        notice: None,
        name: "slave-1".to_owned(),
        uid: "u-1".to_owned(),
        provider_id: Some("vpsie://vm-1".to_owned()),
        ready,
        unschedulable: false,
        machine: Some("web-1".into()),
        identified,
        added_by_hand: false,
    }
}

fn node(labels: &Value, more: &[(&str, &str)]) -> Node {
    let mut capacity =
        json!({"cpu": "2", "memory": "4030456Ki", "ephemeral-storage": "41152812Ki", "pods": "110"});
    let mut allocatable =
        json!({"cpu": "1930m", "memory": "3200Mi", "ephemeral-storage": "37G", "pods": "110"});
    for (name, amount) in more {
        (capacity[*name], allocatable[*name]) = (json!(amount), json!(amount));
    }
    serde_json::from_value(json!({
        "metadata": {"name": "slave-1", "uid": "u-1", "labels": labels},
        "spec": {"providerID": "vpsie://vm-1"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "10.0.0.7"}],
            "nodeInfo": {
                "machineID": "aa11", "systemUUID": "bb22", "bootID": "cc33", "kernelVersion": "", "osImage": "",
                "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "linux",
                "architecture": "arm64",
            },
            "capacity": capacity, "allocatable": allocatable,
        },
    }))
    .unwrap()
}

/// Checks every 15 s. Returns the seconds of the checks with a new sample, which is added to the fleet.
fn looks(fleet: &mut Fleet, node: impl Fn(u64) -> (Node, NodeFacts)) -> Vec<u64> {
    let mut stable_nodes = StableNodes::default();
    let start = Instant::now();
    let mut news = Vec::new();
    for second in (0..600).step_by(15) {
        let (node, facts) = node(second);
        let time = Timestamp::UNIX_EPOCH;
        let now = start + Duration::from_secs(second);
        if let Some((vm, shown)) = stable_nodes.new_sample(fleet, &node, &facts, time, now) {
            let changes: Vec<Change> = fleet.add_node_sample(&vm, shown, time);
            assert!(!changes.is_empty());
            news.push(second);
        }
    }
    news
}

#[test]
fn a_node_is_sampled_once_it_is_stable() {
    let mut fleet = fleet();
    let sample = looks(&mut fleet, |second| {
        let disk = if second == 0 { "0" } else { "41152812Ki" };
        (node(&json!({}), &[("ephemeral-storage", disk)]), facts(true, true))
    });
    assert_eq!(sample, [45]);
    let profile = fleet.size_profile(SizeId(2)).unwrap();
    assert_eq!((profile.allocatable.cpu_millis, profile.allocatable.memory_mib), (1930, 3200));
    assert_eq!((profile.capacity.memory_mib, profile.allocatable.disk_gib), (3935, 39));
}

#[test]
fn samples_a_change_later_than_the_first_status() {
    let sample = looks(&mut fleet(), |second| {
        let memory = if (90..150).contains(&second) || second >= 300 { "800Mi" } else { "3200Mi" };
        (node(&json!({}), &[("memory", memory)]), facts(true, true))
    });
    assert_eq!(sample, [30, 420], "a minute of less memory is no new sample");
}

#[test]
fn a_node_that_keeps_changing_is_sampled_after_the_maximum() {
    let sample = looks(&mut fleet(), |second| {
        (node(&json!({}), &[("example.com/fuse", &second.to_string())]), facts(true, true))
    });
    assert_eq!(sample, [180]);
}

#[test]
fn only_identified_ready_nodes_are_sampled() {
    for (ready, identified) in [(false, true), (true, false)] {
        assert!(looks(&mut fleet(), |_| (node(&json!({}), &[]), facts(ready, identified))).is_empty());
    }
    let silent = |second: u64| (node(&json!({}), &[]), facts(second >= 60, true));
    assert_eq!(looks(&mut fleet(), silent), [90], "the time before it was ready does not count");
    let empty = |_| (node(&json!({}), &[("memory", "0")]), facts(true, true));
    assert!(looks(&mut fleet(), empty).is_empty(), "without memory nothing is known");
}

#[test]
fn devices_and_huge_pages_are_read_and_the_architecture() {
    let labels = json!({"kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux"});
    let shape = shape(&node(&labels, &[("hugepages-2Mi", "1Gi"), ("nvidia.com/gpu", "4")])).unwrap();
    let want = Amounts::from([("hugepages-2Mi".to_owned(), 1 << 30), ("nvidia.com/gpu".to_owned(), 4)]);
    assert_eq!((&shape.extended_capacity, &shape.extended_allocatable), (&want, &want));
    assert_eq!(shape.architecture.as_deref(), Some("arm64"));
    assert_eq!(shape.operating_system.as_deref(), Some("linux"));
}

#[test]
fn labels_that_identify_a_node_are_not_sampled() {
    let shape = shape(&node(
        &json!({
            "region": "ams1",
            "topology.csi.vpsie.com/zone": "ams1-a",
            "feature.node.kubernetes.io/cpu-cpuid.AVX": "true",
            "kubernetes.io/hostname": "slave-1",
            "kubernetes.io/arch": "arm64",
            "node.kubernetes.io/instance-type": "k3s",
            "node.kubernetes.io/exclude-from-external-load-balancers": "",
            "topology.kubernetes.io/zone": "x",
            "topology.hostpath.csi/node": "slave-1",
            "openebs.io/nodeid": "slave-1-a1",
            "csi.example.com/vm": "vm-1",
            "example.com/machine": "aa11",
            "example.com/system": "bb22",
            "example.com/ip": "10.0.0.7",
            "autoscaler.vpsie.com/nodegroup": "web",
            "cluster-autoscaler.kubernetes.io/template-node": "true",
            "cluster-autoscaler.k8s.io/mine": "true",
            "failure-domain.beta.kubernetes.io/zone": "x",
            "node-role.kubernetes.io/control-plane": "",
        }),
        &[],
    ));
    let labels = shape.unwrap().labels;
    let keys: Vec<_> = labels.keys().map(String::as_str).collect();
    assert_eq!(keys, ["feature.node.kubernetes.io/cpu-cpuid.AVX", "region", "topology.csi.vpsie.com/zone"]);
}

#[test]
fn labels_have_limited_room() {
    let many: serde_json::Map<_, _> =
        (0..1000).map(|n| (format!("example.com/{n:04}"), json!("x".repeat(50)))).collect();
    let labels = labels(&node(&Value::Object(many), &[]));
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!((MAX_LABEL_BYTES - 100..=MAX_LABEL_BYTES).contains(&bytes), "{bytes}");
}
