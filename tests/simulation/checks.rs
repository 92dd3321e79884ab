//! Checks of the invariants in docs/develop/architecture.md. They compare the replies to Cluster Autoscaler,
//! the records and the VMs that VPSie bills.

use std::collections::{BTreeMap, BTreeSet};

use vpsie_autoscaler::control::FleetHandle;
use vpsie_autoscaler::fleet::{Hostname, Phase, Records, RequestOutcome, UnmanagedKind};
use vpsie_autoscaler::grpc::proto;
use vpsie_autoscaler::grpc::proto::cloud_provider_client::CloudProviderClient;
use vpsie_autoscaler::grpc::proto::instance_status::InstanceState;
use vpsie_autoscaler::grpc::proto::{
    ExternalGrpcNode, NodeGroupForNodeRequest, NodeGroupNodesRequest, NodeGroupTargetSizeRequest,
    NodeGroupTemplateNodeInfoRequest, NodeGroupsRequest,
};
use vpsie_autoscaler::simulator::{Simulator, VmKind, VmView};

use super::hazards::Hazards;
use super::network::CaChannel;

/// Offers of the pools, by NodeGroup. The simulated catalog always contains these offers.
pub(crate) const POOLS: [(&str, &[&str]); 2] =
    [("web", &["s-2vcpu-4gb", "s-4vcpu-8gb"]), ("batch", &["s-2vcpu-4gb"])];
/// Maximum number of machines, by NodeGroup.
pub(crate) const MAXIMA: [(&str, u32); 2] = [("web", 6), ("batch", 4)];

/// Checks the replies to Cluster Autoscaler: invariants 1, 4 and 8.
pub(crate) async fn check_replies(channel: &CaChannel) -> Result<(), String> {
    let mut client = CloudProviderClient::new(channel.clone());
    let failed = |error: tonic::Status| format!("8: a read RPC failed: {error}");
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
            if let Some(missing) = pools.find(|id| known.answered && !ids.contains(id)) {
                return Err(format!("8: NodeGroups lacks the pool {missing}"));
            }
        }
        if let Some(missing) = known.pools.iter().find(|id| !ids.contains(*id)) {
            return Err(format!("8: NodeGroups no longer contains the pool {missing}"));
        }
        known.pools.extend(ids);
    }
    let mut totals: BTreeMap<&str, i32> = BTreeMap::new();
    for group in &groups {
        let target = check_pool(&mut client, group).await?;
        let id = &group.id;
        let (name, _) = MAXIMA
            .iter()
            .find(|(name, _)| id.starts_with(name))
            .ok_or("8: NodeGroups lists an unknown pool")?;
        *totals.entry(name).or_default() += target;
    }
    for (name, max) in MAXIMA {
        let total = totals.get(name).copied().unwrap_or(0);
        if total > max as i32 {
            return Err(format!("4: NodeGroup {name} has {total} machines, must be at most {max}"));
        }
    }
    Ok(())
}

/// Checks the replies about one pool, and returns its target size: invariants 1 and 8.
pub(crate) async fn check_pool(
    client: &mut CloudProviderClient<CaChannel>,
    group: &proto::NodeGroup,
) -> Result<i32, String> {
    let failed = |error: tonic::Status| format!("8: a read RPC failed: {error}");
    let id = group.id.clone();
    let request = NodeGroupTargetSizeRequest { id: id.clone() };
    let target = client.node_group_target_size(request).await.map_err(failed)?.into_inner().target_size;
    let nodes = client.node_group_nodes(NodeGroupNodesRequest { id: id.clone() }).await.map_err(failed)?;
    let instances = nodes.into_inner().instances;
    let deleting = i32::from(InstanceState::InstanceDeleting);
    if let Some(instance) = instances.first() {
        let node = ExternalGrpcNode { provider_id: instance.id.clone(), ..Default::default() };
        let request = NodeGroupForNodeRequest { node: Some(node) };
        let owner = client.node_group_for_node(request).await.map_err(failed)?.into_inner().node_group;
        if owner.as_ref() != Some(group) {
            return Err(format!("8: NodeGroupForNode of {} is {owner:?}, must be {group:?}", instance.id));
        }
    }
    let counted =
        instances.iter().filter(|i| i.status.as_ref().is_none_or(|s| s.instance_state != deleting)).count();
    if counted as i32 != target {
        return Err(format!("1: pool {id} has target size {target} and {counted} instances"));
    }
    let template = client.node_group_template_node_info(NodeGroupTemplateNodeInfoRequest { id: id.clone() });
    let template = template.await.map_err(failed)?.into_inner();
    if template.node_info.is_empty() || template.node_info != template.node_bytes {
        return Err(format!("8: pool {id}: node_info is empty or differs from node_bytes"));
    }
    Ok(target)
}

/// Compares the VMs that VPSie bills with the records: invariants 5, 6 and 7.
pub(crate) fn check_vms(simulator: &Simulator, records: &Records, hazards: &Hazards) -> Result<(), String> {
    let may_be_unmatched = hazards.has_unmatched_vms();
    let bound: BTreeSet<&Hostname> =
        records.machines.iter().filter_map(|m| m.vm()).map(|vm| &vm.hostname).collect();
    if bound.len() != records.machines.iter().filter(|m| m.vm().is_some()).count() {
        return Err("5: two machines are bound to the same VM".to_owned());
    }
    let unmanaged: BTreeMap<&Hostname, &UnmanagedKind> =
        records.unmanaged.iter().map(|node| (&node.hostname, &node.kind)).collect();
    // Requests of all sizes: if listings do not show sizes, a late VM may fulfil a request for another size.
    let mut requests: usize = records.machines.iter().map(|machine| machine.requests.len()).sum();
    for VmView { vm, .. } in simulator.vms() {
        let hostname = Hostname::new(&vm.hostname);
        match (vm.kind, unmanaged.get(&hostname)) {
            (VmKind::Worker, Some(UnmanagedKind::Foreign)) if !may_be_unmatched => {
                return Err(format!(
                    "5: {hostname} was requested by the provider and is recorded as foreign: {vm:?}"
                ));
            }
            (VmKind::Worker, Some(UnmanagedKind::Gone { deletion_accepted: false, .. }))
                if vm.end.is_none() =>
            {
                return Err(format!("5: {hostname} is recorded as gone and still exists: {vm:?}"));
            }
            // A plain VM belongs to no cluster, even if a worker has the same hostname. An unmanaged worker
            // is recorded.
            (VmKind::Plain, _) | (VmKind::Worker, Some(_)) => {}
            (VmKind::Worker, None) if bound.contains(&hostname) => {}
            (VmKind::Worker, None) => {
                // The provider has not seen this VM yet, so a recorded request must account for it. A VM that
                // is being deleted needs none.
                if requests == 0 && vm.end.is_none() && !may_be_unmatched {
                    return Err(format!(
                        "5: {hostname} is billed and has neither a record nor an open request"
                    ));
                }
                requests = requests.saturating_sub(1);
            }
            (_, Some(UnmanagedKind::Orphan { .. })) => {
                return Err(format!("5: {hostname} is foreign and is recorded as an orphan"));
            }
            _ if bound.contains(&hostname) => {
                return Err(format!("6: {hostname} is foreign and is bound to a machine"));
            }
            _ => {}
        }
    }
    for vm in simulator.gone() {
        if vm.vm.kind != VmKind::Worker {
            return Err(format!("7: {} was deleted and the provider had not requested it", vm.vm.hostname));
        }
    }
    Ok(())
}

/// Checks that the fleet in memory is consistent and equals the records. Valid only while no write is in
/// progress.
pub(crate) fn check_memory(handle: &FleetHandle, records: &Records) -> Result<(), String> {
    handle.read(|fleet| {
        fleet.check_consistency().map_err(|error| format!("1: {error}"))?;
        if fleet.records() == *records {
            return Ok(());
        }
        let recorded = format!("{:#?}", records.machines);
        Err(format!(
            "2: memory and records differ\nmemory: {:#?}\nrecords: {recorded}",
            fleet.records().machines
        ))
    })
}

/// Checks that the fleet is at rest: each requested worker belongs to a Running machine, and no request or
/// deletion is open.
pub(crate) fn check_at_rest(simulator: &Simulator, records: &Records) -> Result<(), String> {
    let workers: BTreeSet<Hostname> = simulator
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
            // This machine is kept only for its lost requests, which may still have a late VM.
            Phase::Deleting { vm: None, .. } if !live => {}
            _ => return Err(format!("the machine is not at rest: {machine:?}")),
        }
    }
    if workers != bound {
        return Err(format!("workers are {workers:?}, VMs of Running machines are {bound:?}"));
    }
    Ok(())
}
