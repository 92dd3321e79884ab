//! The first boot of plain VMs: each joins with the data of its payload only.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::BASE64;
use fake_kube::FakeKube;
use jiff::Timestamp;
use serde_json::{Value, json};
use vpsie_autoscaler::simulator::{JoinPlan, Phase, Simulator, VmKind, VmView, check_ca};

/// The VMs that have booted.
#[derive(Default)]
pub(super) struct Boots {
    booted: BTreeSet<String>,
    /// Number of VMs whose token was refused.
    pub(super) refused: u64,
    /// Number of VMs that refused the CA of the API server.
    pub(super) distrusting: u64,
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
        if check_ca(&shown_ca(kube)?, &plan.ca_hashes).is_err() {
            self.distrusting += 1;
            return Ok(());
        }
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
    let is_in_time = expiration(&object).is_some_and(|at| now < at);
    is_in_time && field(&object, "token-secret").as_deref() == Some(secret)
}

/// The CA that the API server shows everyone.
fn shown_ca(kube: &FakeKube) -> Result<String, String> {
    let info = kube.get("configmaps", "kube-public", "cluster-info").unwrap_or_default();
    let kubeconfig = info["data"]["kubeconfig"].as_str().unwrap_or_default();
    let (_, encoded) = kubeconfig.split_once("certificate-authority-data: ").ok_or("no CA is shown")?;
    let decoded = BASE64.decode(encoded.trim().as_bytes()).map_err(|error| error.to_string())?;
    String::from_utf8(decoded).map_err(|error| error.to_string())
}

/// The expiration of each bootstrap token, by the name of its Secret.
pub(super) fn expirations(kube: &FakeKube) -> BTreeMap<String, Timestamp> {
    let tokens = tokens(kube).into_iter();
    tokens
        .filter_map(|name| Some((name.clone(), expiration(&kube.get("secrets", "kube-system", &name)?)?)))
        .collect()
}

fn expiration(secret: &Value) -> Option<Timestamp> {
    field(secret, "expiration")?.parse().ok()
}

fn field(secret: &Value, key: &str) -> Option<String> {
    let plain = secret["stringData"][key].as_str().map(str::to_owned);
    let encoded = || BASE64.decode(secret["data"][key].as_str()?.as_bytes()).ok();
    plain.or_else(|| String::from_utf8(encoded()?).ok())
}

/// Names of the Secrets of bootstrap tokens.
pub(super) fn tokens(kube: &FakeKube) -> Vec<String> {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    kube.list("secrets").iter().map(name).filter(|name| name.starts_with("bootstrap-token-")).collect()
}
