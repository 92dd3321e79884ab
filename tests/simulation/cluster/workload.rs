//! Pods with their ReplicaSet controller and scheduler.

use std::collections::BTreeMap;

use fake_kube::FakeKube;
use serde_json::{Value, json};

/// CPU request of each pod.
const CPU_MILLIS: i64 = 1500;
/// Grace period of each pod. Pods end at once after an eviction.
const GRACE_SECONDS: u64 = 10;

/// One ReplicaSet. Each step creates and deletes pods, and binds pending pods to Nodes with free CPU.
#[derive(Default)]
pub(crate) struct Workload {
    /// Desired number of pods.
    pub(crate) replicas: usize,
    /// Number of pods created so far.
    created: u64,
}

impl Workload {
    pub(crate) fn step(&mut self, kube: &FakeKube) {
        let nodes: BTreeMap<String, Value> =
            kube.list("nodes").into_iter().map(|node| (name(&node), node)).collect();
        for pod in kube.list("pods") {
            let has_lost_node = node_of(&pod).is_some_and(|node| !nodes.contains_key(node));
            if has_lost_node || pod["metadata"]["deletionTimestamp"].is_string() {
                kube.vanish("pods", "default", &name(&pod));
            }
        }
        let mut pods = kube.list("pods");
        pods.sort_by_key(|pod| (node_of(pod).is_none(), name(pod)));
        for pod in pods.iter().skip(self.replicas) {
            kube.vanish("pods", "default", &name(pod));
        }
        for _ in pods.len()..self.replicas {
            self.created += 1;
            drop(kube.put_object(new_pod(&format!("web-{:06}", self.created))));
        }
        for pod in kube.list("pods").iter().filter(|pod| node_of(pod).is_none()) {
            let all = kube.list("pods");
            let node = nodes.values().find(|node| can_run_pod(node, &all));
            let change = match node {
                Some(node) => json!({"spec": {"nodeName": name(node)}, "status": {"phase": "Running"}}),
                None => json!({"status": {"conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}}),
            };
            drop(kube.patch("pods", "default", &name(pod), change));
        }
    }

    pub(crate) fn count_pending(kube: &FakeKube) -> usize {
        kube.list("pods").iter().filter(|pod| node_of(pod).is_none()).count()
    }
}

fn new_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "web", "controller": true}]},
        "spec": {"terminationGracePeriodSeconds": GRACE_SECONDS, "containers": [{"name": "web", "resources": {"requests":
            {"cpu": format!("{CPU_MILLIS}m"), "memory": "1Gi"}}}]},
        "status": {"phase": "Pending"},
    })
}

/// Names of the pods on a Node.
pub(crate) fn pods_on(kube: &FakeKube, node: &str) -> Vec<String> {
    kube.list("pods").iter().filter(|pod| node_of(pod) == Some(node)).map(name).collect()
}

fn can_run_pod(node: &Value, pods: &[Value]) -> bool {
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let tainted = node["spec"]["taints"].as_array().is_some_and(|taints| !taints.is_empty());
    let cores: i64 =
        node["status"]["allocatable"]["cpu"].as_str().and_then(|cpu| cpu.parse().ok()).unwrap_or(0);
    let used = pods.iter().filter(|pod| node_of(pod) == Some(&name(node))).count() as i64 * CPU_MILLIS;
    ready && !tainted && node["spec"]["unschedulable"] != true && cores * 1000 - used >= CPU_MILLIS
}

pub(crate) fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn node_of(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())
}
