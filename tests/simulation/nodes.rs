//! Nodes of a cluster without an API server. This module has the parts of kubelets and of the provider's
//! loops over Nodes: registration, readiness, provider ids, labels, drains and deletion.

use std::time::Duration;

use ca_model::{Cluster as _, Memory, Node, Resources};
use jiff::Timestamp;
use vpsie_autoscaler::control::FleetHandle;
use vpsie_autoscaler::fleet::{DrainState, Hostname, Machine, Phase, UnmanagedKind};
use vpsie_autoscaler::simulator::{Phase as VmPhase, Simulator, VmKind};

/// Updates the Nodes from the VMs and, if a provider runs, from its fleet. With `needs_labels`, pods run only
/// on Nodes with the labels of a NodeGroup.
pub(crate) async fn update_nodes(
    cluster: &Memory,
    simulator: &Simulator,
    now: Timestamp,
    provider: Option<&FleetHandle>,
    needs_labels: bool,
) {
    let up: Vec<_> = simulator
        .vms()
        .into_iter()
        .filter(|vm| vm.vm.kind == VmKind::Worker && vm.phase == VmPhase::Running)
        .map(|vm| (Hostname::new(&vm.vm.hostname), vm.vm.size))
        .collect();
    let known = cluster.list_nodes();
    for (hostname, size) in &up {
        if !known.iter().any(|node| node.name == hostname.as_str()) {
            let cores = if *size == 2 { 2 } else { 4 };
            let allocatable = Resources { cpu_millis: cores * 1000, memory_mib: cores * 2048, pods: 110 };
            let mut node = Node::new(hostname.as_str(), "", allocatable, now);
            node.unschedulable = needs_labels;
            cluster.join(node);
        }
    }
    if let Some(handle) = provider {
        drain(cluster, handle).await;
    }
    for node in cluster.list_nodes() {
        let hostname = Hostname::new(&node.name);
        let ready = up.iter().any(|(name, _)| *name == hostname);
        cluster.edit(&node.name, |node| {
            if node.ready != ready {
                (node.ready, node.ready_since) = (ready, now);
            }
        });
        let Some(handle) = provider else { continue };
        if let Some((provider_id, labels)) = handle.read(|fleet| {
            let machine: &Machine = fleet.machine_at(&hostname)?;
            let pool = fleet.pool(&machine.pool.to_string())?;
            let id = machine.vm()?.id.as_ref()?.provider_id();
            Some((id, fleet.node_labels(pool)))
        }) {
            cluster.edit(&node.name, |node| {
                node.unschedulable &= !(needs_labels && node.provider_id.is_empty());
                node.provider_id = provider_id;
                node.labels.extend(labels);
            });
            // The call waits while the store fails. The next step repeats it.
            let registered = handle.note_registered(hostname.clone());
            drop(tokio::time::timeout(Duration::from_secs(1), registered).await);
        }
        let gone = handle.read(|fleet| {
            matches!(fleet.unmanaged_node(&hostname).map(|node| &node.kind), Some(UnmanagedKind::Gone { .. }))
        });
        // A VM that vanished before its first listing leaves a Node that the provider cannot assign to a
        // machine. An administrator deletes such a Node.
        let unknown =
            node.provider_id.is_empty() && handle.read(|fleet| fleet.machine_at(&hostname).is_none());
        if (gone || unknown) && !ready {
            cluster.leave(&node.name);
        }
    }
}

/// Drains the Nodes of machines that are being deleted: cordons the Node, evicts its pods and reports the
/// drain.
async fn drain(cluster: &Memory, handle: &FleetHandle) {
    let due: Vec<_> = handle.read(|fleet| {
        let pending_drain = |machine: &Machine| match &machine.phase {
            Phase::Deleting { vm: Some(vm), drain: DrainState::Pending, .. } => {
                Some((machine.id.clone(), vm.hostname.clone()))
            }
            _ => None,
        };
        fleet.machines().filter_map(pending_drain).collect()
    });
    for (machine, hostname) in due {
        cluster.edit(hostname.as_str(), |node| node.unschedulable = true);
        let on = |pod: &ca_model::Pod| pod.node.as_deref() == Some(hostname.as_str());
        for pod in cluster.list_pods().into_iter().filter(on) {
            drop(cluster.evict(&pod.namespace, &pod.name).await);
        }
        drop(
            tokio::time::timeout(Duration::from_secs(1), handle.note_drain(machine, DrainState::Done)).await,
        );
    }
}
