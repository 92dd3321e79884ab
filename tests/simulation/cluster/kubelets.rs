//! Kubelets of the running VMs. Each has its own clock skew.

use std::collections::BTreeMap;

use fake_kube::FakeKube;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use vpsie_autoscaler::simulator::{Phase, Simulator, VmKind};

/// Interval of status updates of an unchanged Node.
const HEARTBEAT: SignedDuration = SignedDuration::from_mins(5);

/// Disk of a Node whose status is complete, GiB.
pub(crate) const DISK_GIB: u64 = 80;

/// The kubelets of all running VMs.
pub(crate) struct Kubelets {
    rng: StdRng,
    /// Whether the first status of a Node may show a part of its memory and no disk.
    partial_status: bool,
    by_node: BTreeMap<String, Kubelet>,
}

struct Kubelet {
    skew: SignedDuration,
    /// Time from which its status is complete.
    complete_at: Timestamp,
    /// Time of the last status update.
    updated_at: Option<Timestamp>,
}

impl Kubelets {
    pub(crate) fn new(seed: u64, partial_status: bool) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), partial_status, by_node: BTreeMap::new() }
    }

    /// Registers running VMs and updates the status of their Nodes. Nodes without a VM become NotReady.
    pub(crate) fn step(&mut self, kube: &FakeKube, simulator: &Simulator, now: Timestamp) {
        let vms = simulator.vms();
        let up: BTreeMap<String, (u64, u64)> = vms
            .iter()
            .filter(|vm| vm.vm.kind == VmKind::Worker && vm.phase == Phase::Running)
            .map(|vm| (vm.vm.hostname.to_lowercase(), (vm.vm.id, vm.vm.size)))
            .collect();
        for (name, (id, size)) in &up {
            if kube.get("nodes", "", name).is_none() {
                let skew = SignedDuration::from_secs(self.rng.random_range(-600..600));
                let is_partial = self.partial_status && self.rng.random_bool(0.5);
                let complete_at = now + SignedDuration::from_secs(if is_partial { 3 } else { 0 });
                self.by_node.insert(name.clone(), Kubelet { skew, complete_at, updated_at: None });
                drop(kube.put_object(new_node(name, *id, *size)));
            }
            let Some(kubelet) = self.by_node.get_mut(name) else { continue };
            let is_complete = now >= kubelet.complete_at;
            let completes = is_complete && kubelet.updated_at.is_some_and(|at| at < kubelet.complete_at);
            if completes || kubelet.updated_at.is_none_or(|at| now >= at + HEARTBEAT) {
                kubelet.updated_at = Some(now);
                let status = status(*size, is_complete, now + kubelet.skew);
                drop(kube.patch("nodes", "", name, json!({ "status": status })));
            }
        }
        let without_vm: Vec<String> =
            self.by_node.keys().filter(|name| !up.contains_key(*name)).cloned().collect();
        for name in without_vm {
            self.by_node.remove(&name);
            let condition =
                json!([{"type": "Ready", "status": "Unknown", "lastTransitionTime": now.to_string()}]);
            drop(kube.patch("nodes", "", &name, json!({ "status": { "conditions": condition } })));
        }
    }
}

/// The object with which a kubelet registers its Node.
fn new_node(name: &str, id: u64, size: u64) -> Value {
    let address = format!("10.{}.{}.{}", id >> 16 & 255, id >> 8 & 255, id & 255);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64"}},
        "spec": {},
        "status": {"addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "capacity": resources(size, true)},
    })
}

fn resources(size: u64, is_complete: bool) -> Value {
    let memory = if is_complete { memory_mib(size) } else { 800 };
    let disk = if is_complete { format!("{DISK_GIB}Gi") } else { "0".to_owned() };
    let cores = cores(size).to_string();
    json!({"cpu": cores, "memory": format!("{memory}Mi"), "ephemeral-storage": disk, "pods": "110"})
}

fn cores(size: u64) -> u64 {
    if size == 2 { 2 } else { 4 }
}

/// Memory of a Node whose status is complete.
pub(crate) fn memory_mib(size: u64) -> u64 {
    cores(size) * 2048 - 256
}

fn status(size: u64, is_complete: bool, at: Timestamp) -> Value {
    let at = Timestamp::from_second(at.as_second()).unwrap_or(at).to_string();
    json!({
        "allocatable": resources(size, is_complete),
        "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": at, "lastTransitionTime": at}],
    })
}
