//! A cluster with many machines.

use fake_kube::FakeKube;
use serde_json::{Value, json};
use vpsie_autoscaler::api::VPSieNode;
use vpsie_autoscaler::catalog::SizeId;
use vpsie_autoscaler::fleet::{Hostname, Machine, Phase, Vm, VmId};
use vpsie_autoscaler::vpsie::ManagedConfig;

pub(crate) const NAMESPACE: &str = "vpsie-system";
const CLUSTER: &str = "5a1c94be-6f3d-11ef-9b52-bc24115e1e5f";
const GROUPS: usize = 20;

pub(crate) fn target() -> ManagedConfig {
    ManagedConfig { cluster: CLUSTER.into(), datacenter: "ams1".into() }
}

/// Creates NodeGroups, VPSieNodes and Nodes in their final state.
pub(crate) fn fill(kube: &FakeKube, machines: usize) {
    for group in 0..GROUPS {
        kube.put_object(json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup",
            "metadata": {"name": format!("group-{group}"), "namespace": NAMESPACE},
            "spec": {
                "minNodes": 0, "maxNodes": 1000, "datacenterID": "ams1", "resourceIdentifier": CLUSTER,
                "offeringIDs": ["small"],
            },
        }))
        .unwrap();
    }
    for at in 0..machines {
        let machine = machine(at);
        let mut record = serde_json::to_value(VPSieNode::from_machine(&machine, &CLUSTER.into())).unwrap();
        record["metadata"]["namespace"] = json!(NAMESPACE);
        record["metadata"]["finalizers"] = json!(["vpsienode.autoscaler.vpsie.com/finalizer"]);
        kube.put_object(record).unwrap();
        kube.put_object(node(at, &machine)).unwrap();
    }
}

/// Sets the Ready condition of each Node.
pub(crate) fn set_ready(kube: &FakeKube, machines: usize, ready: bool) {
    for at in 0..machines {
        let conditions = conditions(ready);
        kube.patch("nodes", "", &name(at), json!({"status": {"conditions": conditions}})).unwrap();
    }
}

fn name(at: usize) -> String {
    format!("ams-kubernetes-49ab-slave-{at}")
}

fn machine(at: usize) -> Machine {
    let time = "2026-01-01T00:00:00Z".parse().unwrap();
    let vm = Vm {
        hostname: Hostname::new(&name(at)),
        id: Some(VmId::new(format!("0b54b0a0-0000-4000-8000-{at:012x}"))),
        addresses: vec![[10, 0, (at / 250) as u8, (at % 250) as u8].into()],
        provider_id: None,
        attached: None,
        request: None,
    };
    let group = at % GROUPS;
    Machine {
        id: format!("group-{group}-{at:08x}").as_str().into(),
        pool: format!("group-{group}/ams1/small/on-demand").parse().unwrap(),
        size: SizeId(2),
        created_at: time,
        phase: Phase::Running { vm, since: time },
        requests: Vec::new(),
        notice: None,
        replaces: None,
    }
}

/// A Node of about the size of those of kubelets.
fn node(at: usize, machine: &Machine) -> Value {
    let pool = machine.pool.to_string();
    let group = machine.pool.node_group.as_str();
    let images: Vec<Value> = (0..30)
        .map(|n| {
            let digest = format!("registry.example/library/image-{n}@sha256:{n:064x}");
            json!({"names": [digest, format!("registry.example/library/image-{n}:v1.{n}")], "sizeBytes": 50_000_000 + n})
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name(at),
            "labels": {
                "autoscaler.vpsie.com/managed": "true", "autoscaler.vpsie.com/nodegroup": group,
                "autoscaler.vpsie.com/offering": "small", "autoscaler.vpsie.com/datacenter": "ams1",
                "autoscaler.vpsie.com/capacity-type": "on-demand", "node.kubernetes.io/instance-type": "small",
                "topology.kubernetes.io/region": "ams1", "topology.kubernetes.io/zone": "ams1",
                "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name(at),
            },
            "annotations": {"autoscaler.vpsie.com/pool": pool, "node.alpha.kubernetes.io/ttl": "0"},
        },
        "spec": {"providerID": machine.instance_id(), "podCIDR": "10.244.0.0/24"},
        "status": {
            "capacity": {"cpu": "2", "memory": "4030456Ki", "ephemeral-storage": "41152812Ki", "pods": "110"},
            "allocatable": {"cpu": "1930m", "memory": "3200Mi", "ephemeral-storage": "37G", "pods": "110"},
            "conditions": conditions(true),
            "images": images,
        },
    })
}

fn conditions(ready: bool) -> Value {
    let condition = |kind: &str, holds: bool| {
        json!({
            "type": kind, "status": if holds { "True" } else { "False" }, "lastHeartbeatTime": "2026-01-01T00:00:00Z",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "Kubelet", "message": "kubelet status",
        })
    };
    json!([
        condition("MemoryPressure", false),
        condition("DiskPressure", false),
        condition("PIDPressure", false),
        condition("Ready", ready),
    ])
}
