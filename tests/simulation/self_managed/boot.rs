//! The first boot of plain VMs: each joins with the data of its payload only.

use std::collections::BTreeSet;

use data_encoding::BASE64;
use fake_kube::FakeKube;
use jiff::Timestamp;
use serde_json::{Value, json};
use vpsie_autoscaler::simulator::{JoinPlan, Phase, Simulator, VmKind, VmView};

/// The VMs that have booted.
#[derive(Default)]
pub(super) struct Boots {
    booted: BTreeSet<String>,
    /// Number of VMs whose token was refused.
    pub(super) refused: u64,
    /// Number of VMs that joined.
    pub(super) joined: u64,
}

impl Boots {
    /// Boots running VMs, renews their heartbeats, and ends those of VMs that are gone.
    pub(super) fn step(
        &mut self,
        kube: &FakeKube,
        simulator: &Simulator,
        now: Timestamp,
    ) -> Result<(), String> {
        let running = |vm: &VmView| vm.vm.kind == VmKind::Plain && vm.phase == Phase::Running;
        let up: Vec<VmView> = simulator.vms().into_iter().filter(running).collect();
        for vm in &up {
            if self.booted.insert(vm.vm.uuid.clone()) {
                self.boot(kube, simulator, vm, now)?;
            }
        }
        let names: BTreeSet<&str> = up.iter().map(|vm| vm.vm.hostname.as_str()).collect();
        for node in kube.list("nodes") {
            let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let status = if names.contains(name.as_str()) { "True" } else { "Unknown" };
            let changed = node["status"]["conditions"][0]["status"] != status;
            if changed {
                let condition = json!([{"type": "Ready", "status": status, "lastHeartbeatTime": now.to_string(),
                    "lastTransitionTime": now.to_string()}]);
                drop(kube.patch("nodes", "", &name, json!({"status": {"conditions": condition}})));
            }
        }
        Ok(())
    }

    fn boot(
        &mut self,
        kube: &FakeKube,
        simulator: &Simulator,
        vm: &VmView,
        now: Timestamp,
    ) -> Result<(), String> {
        // Its script was deleted before the VM read it, or it is a VM of another program.
        let Some(payload) = simulator.payload(&vm.vm.uuid) else { return Ok(()) };
        let plan =
            JoinPlan::parse(payload.reveal()).map_err(|error| format!("J: unusable payload: {error}"))?;
        if !is_valid(kube, &plan.token.id, plan.token.secret.reveal(), now) {
            self.refused += 1;
            return Ok(());
        }
        let name = plan.node_name.clone().unwrap_or_else(|| vm.vm.hostname.clone());
        if name != vm.vm.hostname {
            return Err(format!("J: the VM {} joins as {name}", vm.vm.hostname));
        }
        if kube.get("nodes", "", &name).is_some() {
            return Err(format!("J: a second VM joins as {name}"));
        }
        self.joined += 1;
        let taints: Vec<Value> = plan
            .taints
            .iter()
            .map(|taint| json!({"key": taint.key, "value": taint.value, "effect": taint.effect}))
            .collect();
        let mut labels = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"});
        for (key, value) in &plan.labels {
            labels[key] = json!(value);
        }
        let resources = json!({"cpu": "2", "memory": "3840Mi", "ephemeral-storage": "80Gi", "pods": "110"});
        let address = format!("10.{}.{}.{}", vm.vm.id >> 16 & 255, vm.vm.id >> 8 & 255, vm.vm.id & 255);
        kube.put_object(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "spec": {"taints": taints},
            "status": {
                "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
                "capacity": resources, "allocatable": resources,
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now.to_string(),
                    "lastTransitionTime": now.to_string()}],
            },
        }))
        .map(drop)
        .map_err(|error| format!("{error:?}"))
    }
}

/// Whether the API server accepts the token.
fn is_valid(kube: &FakeKube, id: &str, secret: &str, now: Timestamp) -> bool {
    let Some(object) = kube.get("secrets", "kube-system", &format!("bootstrap-token-{id}")) else {
        return false;
    };
    let text = |key: &str| {
        let plain = object["stringData"][key].as_str().map(str::to_owned);
        let encoded = || BASE64.decode(object["data"][key].as_str()?.as_bytes()).ok();
        plain.or_else(|| String::from_utf8(encoded()?).ok())
    };
    let expires: Option<Timestamp> = text("expiration").and_then(|text| text.parse().ok());
    text("token-secret").as_deref() == Some(secret) && expires.is_some_and(|at| now < at)
}

/// Names of the Secrets of bootstrap tokens.
pub(super) fn tokens(kube: &FakeKube) -> Vec<String> {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    kube.list("secrets").iter().map(name).filter(|name| name.starts_with("bootstrap-token-")).collect()
}
