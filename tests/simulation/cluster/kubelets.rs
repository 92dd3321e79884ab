//! Kubelets of the VMs that are up, each with a clock of its own.

use std::collections::BTreeMap;

use fake_kube::FakeKube;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use vpsie_autoscaler::simulator::{Phase, Simulator, VmKind};

/// How seldom a kubelet writes the status of a Node that does not change.
const BEAT: SignedDuration = SignedDuration::from_mins(5);

/// Disk of a Node in steady state.
pub(super) const DISK_GIB: u64 = 80;

/// All kubelets.
pub(super) struct Kubelets {
    rng: StdRng,
    /// Whether the first status of a Node may show less than the Node has.
    pub(super) flapping: bool,
    /// By name of the Node.
    known: BTreeMap<String, Kubelet>,
}

struct Kubelet {
    skew: SignedDuration,
    /// When its status is right, and when it was written last.
    settled: Timestamp,
    beat: Option<Timestamp>,
}

impl Kubelets {
    pub(super) fn new(seed: u64, flapping: bool) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), flapping, known: BTreeMap::new() }
    }

    /// Registers VMs that are up, keeps their Nodes alive, and lets those fall silent whose VM is gone.
    pub(super) fn step(&mut self, kube: &FakeKube, simulator: &Simulator, now: Timestamp) {
        let vms = simulator.vms();
        let up: BTreeMap<String, (u64, u64)> = vms
            .iter()
            .filter(|vm| vm.vm.kind == VmKind::Worker && vm.phase == Phase::Running)
            .map(|vm| (vm.vm.hostname.to_lowercase(), (vm.vm.id, vm.vm.size)))
            .collect();
        for (name, (id, size)) in &up {
            if kube.get("nodes", "", name).is_none() {
                let skew = SignedDuration::from_secs(self.rng.random_range(-600..600));
                let slow = self.flapping && self.rng.random_bool(0.5);
                let settled = now + SignedDuration::from_secs(if slow { 3 } else { 0 });
                self.known.insert(name.clone(), Kubelet { skew, settled, beat: None });
                drop(kube.put_object(registered(name, *id, *size)));
            }
            let Some(kubelet) = self.known.get_mut(name) else { continue };
            let settles = kubelet.beat.is_some_and(|beat| beat < kubelet.settled) && now >= kubelet.settled;
            if settles || kubelet.beat.is_none_or(|beat| now >= beat + BEAT) {
                kubelet.beat = Some(now);
                let status = status(*size, now >= kubelet.settled, now + kubelet.skew);
                drop(kube.patch("nodes", "", name, json!({ "status": status })));
            }
        }
        let silent: Vec<String> = self.known.keys().filter(|name| !up.contains_key(*name)).cloned().collect();
        for name in silent {
            self.known.remove(&name);
            let condition =
                json!([{"type": "Ready", "status": "Unknown", "lastTransitionTime": now.to_string()}]);
            drop(kube.patch("nodes", "", &name, json!({ "status": { "conditions": condition } })));
        }
    }
}

fn registered(name: &str, id: u64, size: u64) -> Value {
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

fn resources(size: u64, settled: bool) -> Value {
    let memory = if settled { memory_mib(size) } else { 800 };
    let disk = if settled { format!("{DISK_GIB}Gi") } else { "0".to_owned() };
    let cores = cores(size).to_string();
    json!({"cpu": cores, "memory": format!("{memory}Mi"), "ephemeral-storage": disk, "pods": "110"})
}

fn cores(size: u64) -> u64 {
    if size == 2 { 2 } else { 4 }
}

/// Memory of a Node that has settled.
pub(super) fn memory_mib(size: u64) -> u64 {
    cores(size) * 2048 - 256
}

fn status(size: u64, settled: bool, at: Timestamp) -> Value {
    let at = Timestamp::from_second(at.as_second()).unwrap_or(at).to_string();
    json!({
        "allocatable": resources(size, settled),
        "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": at, "lastTransitionTime": at}],
    })
}
