//! Replays recorded requests of real releases of Cluster Autoscaler. `tests/e2e/run` records them
//! (docs/develop/e2e.md).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_pb::api::core::v1::Node;
use prost::Message;
use rust_decimal::Decimal;
use serde::Deserialize;
use tonic::{Code, Request};
use vpsie_autoscaler::catalog::{CapacityType, Catalog, Offer, Resources, SizeId};
use vpsie_autoscaler::clock::SystemClock;
use vpsie_autoscaler::control::{AuditLog, FleetConfig, FleetWriter};
use vpsie_autoscaler::fleet::{
    AutoscalingOptions, Change, Hostname, Machine, MachineId, NodeGroup, PLACEHOLDER_PREFIX,
    PROVIDER_ID_PREFIX, Phase, PoolId, Reserved, Vm, VmId,
};
use vpsie_autoscaler::grpc::CloudProviderService;
use vpsie_autoscaler::grpc::proto::cloud_provider_server::CloudProvider as _;
use vpsie_autoscaler::grpc::proto::{
    CleanupRequest, ExternalGrpcNode, GetAvailableGpuTypesRequest, GpuLabelRequest,
    NodeGroupAutoscalingOptionsRequest, NodeGroupAutoscalingOptionsResponse,
    NodeGroupDecreaseTargetSizeRequest, NodeGroupDeleteNodesRequest, NodeGroupForNodeRequest,
    NodeGroupForNodeResponse, NodeGroupIncreaseSizeRequest, NodeGroupNodesRequest,
    NodeGroupTargetSizeRequest, NodeGroupTemplateNodeInfoRequest, NodeGroupTemplateNodeInfoResponse,
    NodeGroupsRequest, NodeGroupsResponse, RefreshRequest,
};
use vpsie_autoscaler::store::MemoryStore;

/// RPCs of scale-up and scale-down. No scenario decreases a target size, and only one expander requests
/// prices.
const RPCS: [&str; 12] = [
    "Cleanup",
    "GPULabel",
    "GetAvailableGPUTypes",
    "NodeGroupDeleteNodes",
    "NodeGroupForNode",
    "NodeGroupGetOptions",
    "NodeGroupIncreaseSize",
    "NodeGroupNodes",
    "NodeGroupTargetSize",
    "NodeGroupTemplateNodeInfo",
    "NodeGroups",
    "Refresh",
];

#[derive(Deserialize)]
struct Exchange {
    rpc: String,
    request: String,
    reply: String,
    code: String,
}

#[tokio::test]
async fn replies_to_recorded_requests_equal_the_recorded_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/recorded");
    let mut releases = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let release = entry.unwrap().file_name().into_string().unwrap();
        let text = std::fs::read_to_string(folder.join(&release).join("messages.jsonl")).unwrap();
        let exchanges: Vec<Exchange> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let listed = exchanges.iter().filter(|exchange| exchange.rpc == "NodeGroups");
        let pools: BTreeSet<String> = listed
            .flat_map(|exchange| recorded_reply::<NodeGroupsResponse>(exchange).node_groups)
            .map(|g| g.id)
            .collect();
        for exchange in &exchanges {
            replay(&release, &pools, exchange).await;
        }
        let seen: BTreeSet<_> = exchanges.iter().map(|exchange| exchange.rpc.as_str()).collect();
        let missing: Vec<_> = RPCS.iter().filter(|rpc| !seen.contains(**rpc)).collect();
        assert!(missing.is_empty(), "{release}: no {missing:?} was recorded");
        releases.push(release);
    }
    let at_most_134 = |release: &String| matches!(release.as_str(), "1.30" | "1.33" | "1.34");
    assert!(releases.iter().any(at_most_134) && !releases.iter().all(at_most_134), "{releases:?}");
}

async fn replay(release: &str, pools: &BTreeSet<String>, exchange: &Exchange) {
    let what = format!("{release}: {}", exchange.rpc);
    let service = service(pools, machines(exchange)).await;
    let result = call(&service, exchange).await;
    let code = result.as_ref().map_or_else(|code| *code, |_| Code::Ok);
    assert_eq!(format!("{code:?}").to_uppercase(), exchange.code.to_uppercase(), "{what}");
    let Ok(reply) = result else { return };
    match exchange.rpc.as_str() {
        "NodeGroups" => {
            let ids = |reply: NodeGroupsResponse| -> BTreeSet<String> {
                reply.node_groups.into_iter().map(|group| group.id).collect()
            };
            assert!(ids(decoded(&reply)).is_superset(&ids(recorded_reply(exchange))), "{what}");
        }
        "NodeGroupForNode" => {
            let id = |reply: NodeGroupForNodeResponse| reply.node_group.unwrap_or_default().id;
            assert_eq!(id(decoded(&reply)), id(recorded_reply(exchange)), "{what}");
        }
        "NodeGroupTemplateNodeInfo" => {
            let (ours, theirs): (NodeGroupTemplateNodeInfoResponse, NodeGroupTemplateNodeInfoResponse) =
                (decoded(&reply), recorded_reply(exchange));
            assert_eq!(ours.node_info, ours.node_bytes, "{what}");
            let labels = |bytes: &[u8]| Node::decode(bytes).unwrap().metadata.unwrap().labels;
            assert_eq!(labels(&ours.node_bytes), labels(&theirs.node_bytes), "{what}");
        }
        "NodeGroupGetOptions" => {
            let options: NodeGroupAutoscalingOptionsResponse = decoded(&reply);
            assert_eq!(options, recorded_reply(exchange), "{what}");
        }
        _ => {}
    }
}

/// The machines of the nodes in the exchange.
fn machines(exchange: &Exchange) -> Vec<Machine> {
    match exchange.rpc.as_str() {
        "NodeGroupForNode" => {
            let request: NodeGroupForNodeRequest = recorded_request(exchange);
            let reply: NodeGroupForNodeResponse = recorded_reply(exchange);
            let pool = reply.node_group.unwrap_or_default().id;
            request.node.iter().filter(|_| !pool.is_empty()).map(|node| machine(&pool, node)).collect()
        }
        "NodeGroupDeleteNodes" => {
            let request: NodeGroupDeleteNodesRequest = recorded_request(exchange);
            request.nodes.iter().map(|node| machine(&request.id, node)).collect()
        }
        _ => Vec::new(),
    }
}

fn machine(pool: &str, node: &ExternalGrpcNode) -> Machine {
    let since = Timestamp::UNIX_EPOCH;
    let (id, phase) = if let Some(id) = node.provider_id.strip_prefix(PLACEHOLDER_PREFIX) {
        (MachineId::new(id), Phase::Pending)
    } else {
        let uuid = node.provider_id.strip_prefix(PROVIDER_ID_PREFIX).unwrap();
        let vm = Vm {
            hostname: Hostname::new(&node.name),
            id: Some(VmId::from(uuid)),
            addresses: Vec::new(),
            provider_id: None,
            attached: None,
            request: None,
        };
        (MachineId::new(format!("m-{uuid}")), Phase::Running { vm, since })
    };
    Machine {
        id,
        pool: pool.parse().unwrap(),
        size: SizeId(1),
        created_at: since,
        phase,
        requests: Vec::new(),
        notice: None,
        replaces: None,
    }
}

async fn service(pools: &BTreeSet<String>, machines: Vec<Machine>) -> CloudProviderService {
    let pools: Vec<PoolId> = pools.iter().map(|id| id.parse().unwrap()).collect();
    let offers = (1..).zip(&pools).map(|(number, pool)| Offer {
        size: SizeId(number),
        name: pool.offer.as_str().to_owned(),
        identifier: None,
        datacenter: pool.datacenter.clone(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 80, pods: 110 },
        monthly: None,
        hourly: Some(Decimal::new(2, 2)),
    });
    let store = MemoryStore::new();
    store.write(&[Change::SaveCatalog(Arc::new(Catalog { offers: offers.collect() }))]);
    store.write(&machines.into_iter().map(Change::SaveMachine).collect::<Vec<_>>());
    let group = NodeGroup {
        name: pools[0].node_group.clone(),
        min: 0,
        max: 100,
        pools,
        size: None,
        labels: [].into(),
        taints: Vec::new(),
        preferred: None,
        options: AutoscalingOptions::default(),
        adopt: false,
        cost_limit: vpsie_autoscaler::cost::CostLimit::default(),
        deletion: None,
        node: vpsie_autoscaler::fleet::DeclaredNode::default(),
        spot: None,
        has_cloud_controller: false,
        distribution: None,
    };
    let declared = FleetConfig {
        declaration: vec![group].into(),
        settings: Reserved { cpu_millis: 100, memory_mib: 512, disk_gib: 10 }.into(),
    };
    let (writer, handle) =
        FleetWriter::load(Arc::new(store), Arc::new(SystemClock), declared, 0, AuditLog::default())
            .await
            .unwrap();
    tokio::spawn(writer.run());
    CloudProviderService::new(handle)
}

/// Calls the service and returns the encoded reply.
async fn call(service: &CloudProviderService, exchange: &Exchange) -> Result<Vec<u8>, Code> {
    macro_rules! rpc {
        ($method:ident, $request:ty) => {{
            let request: $request = recorded_request(exchange);
            let reply = service.$method(Request::new(request)).await;
            reply.map(|reply| reply.into_inner().encode_to_vec()).map_err(|status| status.code())
        }};
    }
    match exchange.rpc.as_str() {
        "Cleanup" => rpc!(cleanup, CleanupRequest),
        "GPULabel" => rpc!(gpu_label, GpuLabelRequest),
        "GetAvailableGPUTypes" => rpc!(get_available_gpu_types, GetAvailableGpuTypesRequest),
        "NodeGroupDecreaseTargetSize" => {
            rpc!(node_group_decrease_target_size, NodeGroupDecreaseTargetSizeRequest)
        }
        "NodeGroupDeleteNodes" => rpc!(node_group_delete_nodes, NodeGroupDeleteNodesRequest),
        "NodeGroupForNode" => rpc!(node_group_for_node, NodeGroupForNodeRequest),
        "NodeGroupGetOptions" => rpc!(node_group_get_options, NodeGroupAutoscalingOptionsRequest),
        "NodeGroupIncreaseSize" => rpc!(node_group_increase_size, NodeGroupIncreaseSizeRequest),
        "NodeGroupNodes" => rpc!(node_group_nodes, NodeGroupNodesRequest),
        "NodeGroupTargetSize" => rpc!(node_group_target_size, NodeGroupTargetSizeRequest),
        "NodeGroupTemplateNodeInfo" => rpc!(node_group_template_node_info, NodeGroupTemplateNodeInfoRequest),
        "NodeGroups" => rpc!(node_groups, NodeGroupsRequest),
        "Refresh" => rpc!(refresh, RefreshRequest),
        rpc => panic!("{rpc:?} was recorded and is not known here"),
    }
}

/// The request, none of which our schema may overlook.
fn recorded_request<M: Message + Default>(exchange: &Exchange) -> M {
    let bytes = bytes(&exchange.request);
    let message: M = decoded(&bytes);
    let empty_values = bytes.windows(2).filter(|pair| *pair == [0x12, 0]).count() * 2;
    let kept = message.encoded_len();
    // Go writes empty values of maps, which prost omits. Nothing else may be missing.
    assert!(
        (kept..=kept + empty_values).contains(&bytes.len()),
        "{}: {} of {} bytes",
        exchange.rpc,
        kept,
        bytes.len()
    );
    message
}

fn recorded_reply<M: Message + Default>(exchange: &Exchange) -> M {
    decoded(&bytes(&exchange.reply))
}

fn decoded<M: Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
