//! Registers simulated VMs as Nodes, as a kubelet does: without providerID, and without the labels and taints
//! of vpsie-autoscaler.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::SimulatorConfig;
use super::handle::Simulator;
use super::node_object::{Heartbeat, JoinOptions, node, node_name, ready_condition};
use super::vm::{Phase, Vm};

/// Time between checks of the VMs.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Time between heartbeats. A Node is not ready after 40 seconds without one.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of concurrent requests to the API server.
const CONCURRENT_REQUESTS: usize = 16;

/// Registers running VMs as Nodes and sends their heartbeats until `shutdown`.
///
/// A VM's Node is registered once. If the Node is deleted while the VM runs, it is not registered again, as
/// with a kubelet that is not restarted.
pub async fn join(simulator: Simulator, client: Client, options: JoinOptions, shutdown: CancellationToken) {
    let mut joiner = Joiner { nodes: Api::all(client), simulator, options, joined: BTreeMap::new() };
    let mut changes = joiner.simulator.changes();
    loop {
        joiner.update_nodes().await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            _ = changes.changed() => {}
        }
    }
}

struct Joiner {
    nodes: Api<Node>,
    simulator: Simulator,
    options: JoinOptions,
    /// The time of the next heartbeat by VM. None: its Node was deleted.
    joined: BTreeMap<String, Option<Instant>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeartbeatResult {
    Alive,
    Failed,
    NodeGone,
}

impl Joiner {
    async fn update_nodes(&mut self) {
        let (up, config) = self.running_vms();
        let uuids: BTreeSet<&str> = up.iter().map(|vm| vm.uuid.as_str()).collect();
        self.joined.retain(|uuid, _| uuids.contains(uuid.as_str()));
        let is_reachable = |vm: &&Vm| !config.faults_at(&vm.datacenter).outage;
        let due = up.iter().filter(|vm| self.is_due(&vm.uuid)).filter(is_reachable);
        let due: Vec<Vm> = due.cloned().collect();
        let this = &*self;
        let config = &config;
        let results: Vec<(String, HeartbeatResult)> = futures::stream::iter(due)
            .map(|vm| async move {
                let joined = this.joined.contains_key(&vm.uuid);
                let result =
                    if joined { this.send_heartbeat(&vm).await } else { this.register(&vm, config).await };
                (vm.uuid, result)
            })
            .buffer_unordered(CONCURRENT_REQUESTS)
            .collect()
            .await;
        for (uuid, result) in results {
            let next = match result {
                HeartbeatResult::Alive => Some(Instant::now() + HEARTBEAT_INTERVAL),
                HeartbeatResult::NodeGone => None,
                HeartbeatResult::Failed => continue,
            };
            self.joined.insert(uuid, next);
        }
    }

    fn is_due(&self, uuid: &str) -> bool {
        self.joined.get(uuid).is_none_or(|next| {
            self.options.heartbeat == Heartbeat::Own && next.is_some_and(|at| at <= Instant::now())
        })
    }

    /// The running VMs of the cluster.
    fn running_vms(&self) -> (Vec<Vm>, SimulatorConfig) {
        self.simulator.with_state(|state, cx, _| {
            let first = cx.config.clusters.first().map(|cluster| &cluster.identifier);
            let cluster = self.options.cluster.as_ref().or(first).cloned().unwrap_or_default();
            let up = state.nodes(cx.now, &cluster).filter(|vm| vm.phase(cx.now) == Phase::Running);
            (up.cloned().collect(), cx.config.clone())
        })
    }

    async fn register(&self, vm: &Vm, config: &SimulatorConfig) -> HeartbeatResult {
        let Some(node) = node(vm, config, &self.options, self.simulator.now()) else {
            return HeartbeatResult::Failed;
        };
        match self.nodes.create(&PostParams::default(), &node).await {
            Ok(_) => {
                tracing::info!(node = node_name(vm), "registered the Node of a simulated VM");
                HeartbeatResult::Alive
            }
            Err(kube::Error::Api(status)) if status.code == 409 => self.send_heartbeat(vm).await,
            Err(error) => failed(vm, &error),
        }
    }

    async fn send_heartbeat(&self, vm: &Vm) -> HeartbeatResult {
        if self.options.heartbeat == Heartbeat::Other {
            return HeartbeatResult::Alive;
        }
        let patch = json!({ "status": { "conditions": [ready_condition(vm, self.simulator.now())] } });
        let params = PatchParams::default();
        match self.nodes.patch_status(&node_name(vm), &params, &Patch::Strategic(patch)).await {
            Ok(_) => HeartbeatResult::Alive,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                tracing::info!(node = node_name(vm), "the Node of a simulated VM was deleted");
                HeartbeatResult::NodeGone
            }
            Err(error) => failed(vm, &error),
        }
    }
}

fn failed(vm: &Vm, error: &kube::Error) -> HeartbeatResult {
    tracing::warn!(node = node_name(vm), %error, "cannot update the Node of a simulated VM");
    HeartbeatResult::Failed
}
