//! The invariants of docs/develop/architecture.md, from the outside: the answers to Cluster Autoscaler, what is
//! on disk, what is billed.

use std::collections::{BTreeMap, BTreeSet};

use vpsie_autoscaler::control::FleetHandle;
use vpsie_autoscaler::fleet::{Hostname, Phase, Records, RequestOutcome, UnmanagedKind};
use vpsie_autoscaler::grpc::proto::cloud_provider_client::CloudProviderClient;
use vpsie_autoscaler::grpc::proto::instance_status::InstanceState;
use vpsie_autoscaler::grpc::proto::{
    ExternalGrpcNode, NodeGroupForNodeRequest, NodeGroupNodesRequest, NodeGroupTargetSizeRequest,
    NodeGroupTemplateNodeInfoRequest, NodeGroupsRequest,
};
use vpsie_autoscaler::simulator::{Simulator, VmKind, VmView};

use super::hazards::Hazards;
use super::network::CaChannel;

/// Pools by NodeGroup. Their offers never leave the catalog here.
pub(crate) const POOLS: [(&str, &[&str]); 2] =
    [("web", &["s-2vcpu-4gb", "s-4vcpu-8gb"]), ("batch", &["s-2vcpu-4gb"])];
pub(crate) const MAXIMA: [(&str, u32); 2] = [("web", 6), ("batch", 4)];

/// The answers to Cluster Autoscaler: invariants 1, 4 and 8.
pub(crate) async fn answers(channel: &CaChannel) -> Result<(), String> {
    let mut client = CloudProviderClient::new(channel.clone());
    let failed = |error: tonic::Status| format!("8: a read failed: {error}");
    let groups = client.node_groups(NodeGroupsRequest {}).await.map_err(failed)?.into_inner().node_groups;
    let ids: BTreeSet<String> = groups.iter().map(|group| group.id.clone()).collect();
    {
        let mut known = channel.known.lock().unwrap();
        if known.answered && ids.is_empty() {
            return Err("8: NodeGroups is empty".to_owned());
        }
        known.answered |= !ids.is_empty();
        for (name, offers) in POOLS {
            let mut pools = offers.iter().map(|offer| format!("{name}/ams1/{offer}/on-demand"));
            if let Some(lost) = pools.find(|id| known.answered && !ids.contains(id)) {
                return Err(format!("8: pool {lost} is not in NodeGroups"));
            }
        }
        if let Some(lost) = known.pools.iter().find(|id| !ids.contains(*id)) {
            return Err(format!("8: pool {lost} is not in NodeGroups any more"));
        }
        known.pools.extend(ids);
    }
    let mut totals: BTreeMap<&str, i32> = BTreeMap::new();
    for group in &groups {
        let id = group.id.clone();
        let request = NodeGroupTargetSizeRequest { id: id.clone() };
        let target = client.node_group_target_size(request).await.map_err(failed)?.into_inner().target_size;
        let nodes =
            client.node_group_nodes(NodeGroupNodesRequest { id: id.clone() }).await.map_err(failed)?;
        let instances = nodes.into_inner().instances;
        let deleting = i32::from(InstanceState::InstanceDeleting);
        if let Some(instance) = instances.first() {
            let node = ExternalGrpcNode { provider_id: instance.id.clone(), ..Default::default() };
            let request = NodeGroupForNodeRequest { node: Some(node) };
            let of = client.node_group_for_node(request).await.map_err(failed)?.into_inner().node_group;
            if of.as_ref() != Some(group) {
                return Err(format!("8: {} is of {of:?}, not of {group:?}", instance.id));
            }
        }
        let counted = instances
            .iter()
            .filter(|i| i.status.as_ref().is_none_or(|s| s.instance_state != deleting))
            .count();
        if counted as i32 != target {
            return Err(format!("1: pool {id}: target {target}, instances {counted}"));
        }
        let template =
            client.node_group_template_node_info(NodeGroupTemplateNodeInfoRequest { id: id.clone() });
        let template = template.await.map_err(failed)?.into_inner();
        if template.node_info.is_empty() || template.node_info != template.node_bytes {
            return Err(format!("8: pool {id}: template"));
        }
        let (name, _) = MAXIMA.iter().find(|(name, _)| id.starts_with(name)).ok_or("8: unknown pool")?;
        *totals.entry(name).or_default() += target;
    }
    for (name, max) in MAXIMA {
        let total = totals.get(name).copied().unwrap_or(0);
        if total > max as i32 {
            return Err(format!("4: NodeGroup {name} has {total} machines of at most {max}"));
        }
    }
    Ok(())
}

/// What is billed against what is on disk: invariants 5 and 6.
pub(crate) fn money(simulator: &Simulator, records: &Records, hazards: &Hazards) -> Result<(), String> {
    let unexplained = hazards.unexplained_vms();
    let bound: BTreeSet<&Hostname> =
        records.machines.iter().filter_map(|m| m.vm()).map(|vm| &vm.hostname).collect();
    if bound.len() != records.machines.iter().filter(|m| m.vm().is_some()).count() {
        return Err("5: a VM is bound to two machines".to_owned());
    }
    let unmanaged: BTreeMap<&Hostname, &UnmanagedKind> =
        records.unmanaged.iter().map(|s| (&s.hostname, &s.kind)).collect();
    // Over all sizes: where listings hide them, a late VM of one size may use up a request of another.
    let mut requests: usize = records.machines.iter().map(|machine| machine.requests.len()).sum();
    for VmView { vm, .. } in simulator.vms() {
        let hostname = Hostname::new(&vm.hostname);
        match (vm.kind, unmanaged.get(&hostname)) {
            (VmKind::Worker, Some(UnmanagedKind::Foreign)) if !unexplained => {
                return Err(format!("5: {hostname} was made for us and is taken for foreign: {vm:?}"));
            }
            (VmKind::Worker, Some(UnmanagedKind::Gone { deletion_accepted: false, .. }))
                if vm.end.is_none() =>
            {
                return Err(format!("5: {hostname} exists, and its machine has ended: {vm:?}"));
            }
            // A plain VM is of no cluster; its hostname may be a worker's as well. A worker that VPSie made without a
            // request that explains it is left alone, and counted.
            (VmKind::Plain, _) | (VmKind::Worker, Some(_)) => {}
            (VmKind::Worker, None) if bound.contains(&hostname) => {}
            (VmKind::Worker, None) => {
                // Not seen yet, or about to be deleted from the listing: a request must stand for it.
                if requests == 0 && vm.end.is_none() && !unexplained {
                    return Err(format!("5: nothing is recorded of {hostname}, which is billed"));
                }
                requests = requests.saturating_sub(1);
            }
            (_, Some(UnmanagedKind::Orphan { .. })) => {
                return Err(format!("5: {hostname} is foreign and is taken for an orphan"));
            }
            _ if bound.contains(&hostname) => {
                return Err(format!("6: {hostname} is foreign and is bound to a machine"));
            }
            _ => {}
        }
    }
    for vm in simulator.gone() {
        if vm.vm.kind != VmKind::Worker {
            return Err(format!("7: {} was deleted, and was not ours", vm.vm.hostname));
        }
    }
    Ok(())
}

/// The fleet in memory, when nothing is being written: it is what is on disk, and is consistent.
pub(crate) fn memory(handle: &FleetHandle, records: &Records) -> Result<(), String> {
    handle.read(|fleet| {
        fleet.check_consistency().map_err(|why| format!("1: {why}"))?;
        if fleet.records() == *records {
            return Ok(());
        }
        let on_disk = format!("{:#?}", records.machines);
        Err(format!("2: memory and disk differ\nmemory: {:#?}\ndisk: {on_disk}", fleet.records().machines))
    })
}

/// Whether everything came to rest: each VM of ours is a Running machine's, and nothing is outstanding.
pub(crate) fn at_rest(simulator: &Simulator, records: &Records) -> Result<(), String> {
    let ours: BTreeSet<Hostname> = simulator
        .vms()
        .into_iter()
        .filter(|vm| vm.vm.kind == VmKind::Worker)
        .map(|vm| Hostname::new(&vm.vm.hostname))
        .collect();
    let mut bound = BTreeSet::new();
    for machine in &records.machines {
        let live = machine.requests.iter().any(|request| request.outcome != RequestOutcome::Lost);
        match &machine.phase {
            Phase::Running { vm, .. } => {
                bound.insert(vm.hostname.clone());
            }
            // Only remembers requests that may still have a late result.
            Phase::Deleting { vm: None, .. } if !live => {}
            _ => return Err(format!("machine {machine:?}")),
        }
    }
    if ours != bound {
        return Err(format!("VMs {ours:?}, machines {bound:?}"));
    }
    Ok(())
}
