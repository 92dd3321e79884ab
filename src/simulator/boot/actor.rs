//! VMs that join the cluster of their payload, one task each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connect::{Connect, Trust};
use super::join_once::{JoinFailure, apply_plan, bootstrap, register};
use super::plan::JoinPlan;
use crate::simulator::handle::Simulator;
use crate::simulator::node_object::{Heartbeat, JoinOptions, node, node_name, ready_condition};
use crate::simulator::plain::{Boot, Hidden, KubeletIdentity};
use crate::simulator::vm::{Phase, Vm, VmKind};

/// Time between checks of the VMs, and between attempts.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Time between heartbeats. A Node is not ready after 40 seconds without one.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);

/// Lets running VMs with a script or user data join the cluster that it names, until `shutdown`.
///
/// A VM joins with the endpoint, the token and the hash of its payload only. Its heartbeats end with the VM, and
/// while its datacenter has an outage. A Node that is deleted is registered again only after a restart of its VM.
pub async fn boot(
    simulator: Simulator,
    connect: Arc<dyn Connect>,
    options: JoinOptions,
    shutdown: CancellationToken,
) {
    let options = Arc::new(options);
    let mut tasks = JoinSet::new();
    let mut started: BTreeMap<(String, u32), tokio::task::AbortHandle> = BTreeMap::new();
    let mut changes = simulator.changes();
    loop {
        let kubelets = running_kubelets(&simulator);
        started.retain(|key, task| {
            let runs = kubelets.contains_key(key);
            if !runs {
                task.abort();
            }
            runs
        });
        for (key, vm) in kubelets {
            started.entry(key).or_insert_with(|| {
                let kubelet = Kubelet {
                    simulator: simulator.clone(),
                    connect: Arc::clone(&connect),
                    options: Arc::clone(&options),
                    vm,
                };
                tasks.spawn(kubelet.run())
            });
        }
        while tasks.try_join_next().is_some() {}
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            _ = changes.changed() => {}
        }
    }
}

/// The VMs that run, with a payload or a joined kubelet, by UUID and number of restarts.
fn running_kubelets(simulator: &Simulator) -> BTreeMap<(String, u32), Vm> {
    simulator.with_state(|state, cx, _| {
        let runs = |vm: &&Vm| {
            vm.kind == VmKind::Plain
                && vm.phase(cx.now) == Phase::Running
                && !cx.config.faults_at(&vm.datacenter).outage
        };
        let kubelets = state.vms.values().filter(runs).filter_map(|vm| {
            let plain = vm.plain.as_ref()?;
            let request = &plain.request;
            let has_payload = request.script.is_some() || request.user_data.is_some();
            has_payload.then(|| ((vm.uuid.clone(), plain.restarts), vm.clone()))
        });
        kubelets.collect()
    })
}

struct Kubelet {
    simulator: Simulator,
    connect: Arc<dyn Connect>,
    options: Arc<JoinOptions>,
    vm: Vm,
}

impl Kubelet {
    /// Joins, then sends heartbeats until the Node is deleted. Ends if it cannot join.
    async fn run(self) {
        loop {
            match self.join().await {
                Ok(nodes) => {
                    self.send_heartbeats(&nodes).await;
                    return;
                }
                Err(JoinFailure::Refused(reason)) => {
                    tracing::info!(vm = self.vm.hostname, reason, "a simulated VM does not join");
                    self.record(Boot::Refused { reason });
                    return;
                }
                Err(JoinFailure::Retry(reason)) => {
                    tracing::debug!(vm = self.vm.hostname, reason, "a simulated VM cannot join yet");
                    self.record(Boot::Retrying { reason });
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn join(&self) -> Result<Api<Node>, JoinFailure> {
        let plain = self.vm.plain.clone().unwrap_or_default();
        let identity = self.simulator.kubelet(&self.vm.uuid);
        if identity.as_ref().is_some_and(|identity| identity.registered == Some(plain.restarts)) {
            return self.nodes(identity.as_ref());
        }
        if let (Boot::Refused { reason }, true) = (plain.boot, identity.is_none()) {
            return Err(JoinFailure::Refused(reason));
        }
        let plan = self.plan()?;
        let name = plan.node_name.clone().unwrap_or_else(|| node_name(&self.vm)).to_lowercase();
        let mut identity = match identity {
            Some(identity) => identity,
            None => bootstrap(self.connect.as_ref(), &plan, &name).await?,
        };
        let nodes = self.nodes(Some(&identity))?;
        register(&nodes, &self.node(&plan, &name)?).await?;
        identity.registered = Some(plain.restarts);
        tracing::info!(node = name, "a simulated VM registered its Node");
        self.simulator.set_kubelet(&self.vm.uuid, identity);
        self.record(Boot::Joined { node: name });
        Ok(nodes)
    }

    fn plan(&self) -> Result<JoinPlan, JoinFailure> {
        let payload = self.simulator.payload(&self.vm.uuid);
        let payload = payload.as_ref().map(Hidden::reveal);
        let payload = payload.ok_or_else(|| JoinFailure::Refused("the script does not exist".to_owned()))?;
        JoinPlan::parse(payload).map_err(|error| JoinFailure::Refused(error.to_string()))
    }

    fn nodes(&self, identity: Option<&KubeletIdentity>) -> Result<Api<Node>, JoinFailure> {
        let identity = identity.ok_or_else(|| JoinFailure::Retry("no client certificate".to_owned()))?;
        let client = self.connect.connect(&identity.endpoint, Trust::Certificate(identity));
        client.map(Api::all).map_err(JoinFailure::Retry)
    }

    fn node(&self, plan: &JoinPlan, name: &str) -> Result<Node, JoinFailure> {
        let now = self.simulator.now();
        let object = self.simulator.with_state(|_, cx, _| node(&self.vm, cx.config, &self.options, now));
        let mut object = object.ok_or_else(|| JoinFailure::Refused("its size is unknown".to_owned()))?;
        apply_plan(&mut object, plan, name);
        Ok(object)
    }

    async fn send_heartbeats(&self, nodes: &Api<Node>) {
        let Some(KubeletIdentity { node, .. }) = self.simulator.kubelet(&self.vm.uuid) else { return };
        if self.options.heartbeat == Heartbeat::Other {
            return;
        }
        loop {
            let patch =
                json!({ "status": { "conditions": [ready_condition(&self.vm, self.simulator.now())] } });
            match nodes.patch_status(&node, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => return,
                Err(error) => tracing::warn!(node, %error, "cannot update the Node of a simulated VM"),
            }
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        }
    }

    fn record(&self, boot: Boot) {
        if let Err(error) = self.simulator.set_boot(&self.vm.uuid, boot) {
            tracing::debug!(%error, "a simulated VM is gone");
        }
    }
}
