use std::sync::Arc;

use jiff::Timestamp;
use rust_decimal::Decimal;
use tonic::{Code, Request};

use super::proto::cloud_provider_server::CloudProvider as _;
use super::proto::grpcplugin::expander_server::Expander as _;
use super::proto::instance_status::InstanceState;
use super::proto::*;
use super::{CloudProviderService, ExpanderService};
use crate::catalog::{CapacityType, Catalog, Offer, Resources, SizeId};
use crate::clock::{Clock as _, SystemClock};
use crate::control::{AuditLog, FleetConfig, FleetHandle, FleetWriter};
use crate::fleet::{
    AutoscalingOptions, Change, DrainState, Failure, FailureReason, Fleet, Hostname, Machine,
    NodeGroup as Group, Phase, Records, Reserved, Vm, names,
};
use crate::store::{MemoryStore, Store as _};

pub(super) const SMALL: &str = "workers/ams1/s-2vcpu-4gb/on-demand";
const LARGE: &str = "workers/ams1/s-4vcpu-8gb/on-demand";
const RUNNING: &str = "0b54b0a0-0000-4000-8000-000000000001";
const DELETING: &str = "0b54b0a0-0000-4000-8000-000000000002";

fn offer(size: u64, name: &str, cores: u64, cents: i64) -> Offer {
    Offer {
        size: SizeId(size),
        name: name.to_owned(),
        identifier: None,
        datacenter: "ams1".into(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources { cpu_millis: cores * 1000, memory_mib: cores * 2048, disk_gib: 80, pods: 110 },
        monthly: None,
        hourly: Some(Decimal::new(cents, 2)),
    }
}

fn machine(id: &str, phase: Phase) -> Machine {
    Machine {
        id: id.into(),
        pool: SMALL.parse().unwrap(),
        size: SizeId(1),
        created_at: Timestamp::UNIX_EPOCH,
        phase,
        requests: Vec::new(),
        notice: None,
        replaces: None,
    }
}

/// Two pools; the small one has a machine in each phase.
pub(super) fn fleet() -> Fleet {
    let since = Timestamp::UNIX_EPOCH;
    let vm = |name: &str, id: &str| Vm {
        hostname: Hostname::new(name),
        id: Some(id.into()),
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    };
    let failure = Failure { reason: FailureReason::Stockout, message: "no capacity".to_owned() };
    let machines = vec![
        machine("workers-0001", Phase::Pending),
        machine("workers-0002", Phase::Creating { vm: None, since }),
        machine("workers-0003", Phase::Running { vm: vm("node-3", RUNNING), since }),
        machine("workers-0004", Phase::Failed { failure, at: since }),
        machine(
            "workers-0005",
            Phase::Deleting {
                vm: Some(vm("node-5", DELETING)),
                since,
                reason: crate::fleet::DeletionReason::default(),
                drain: DrainState::Done,
                accepted_at: None,
            },
        ),
    ];
    let offers = vec![offer(1, "s-2vcpu-4gb", 2, 2), offer(2, "s-4vcpu-8gb", 4, 6)];
    let records = Records { machines, catalog: Some(Arc::new(Catalog { offers })), ..Records::default() };
    Fleet::restore(vec![group()], records, RESERVED)
}

const RESERVED: Reserved = Reserved { cpu_millis: 100, memory_mib: 512, disk_gib: 8 };

fn group() -> Group {
    Group {
        name: "workers".into(),
        min: 1,
        max: 10,
        pools: [SMALL, LARGE].iter().map(|id| id.parse().unwrap()).collect(),
        labels: [].into(),
        taints: Vec::new(),
        preferred: None,
        size: None,
        options: AutoscalingOptions::default(),
        adopt: false,
        cost_limit: crate::cost::CostLimit::default(),
        deletion: None,
        node: crate::fleet::DeclaredNode::default(),
        spot: None,
        has_cloud_controller: false,
        distribution: None,
    }
}

fn service() -> CloudProviderService {
    CloudProviderService::new(FleetHandle::fixed(fleet()))
}

fn node(provider_id: &str, name: &str) -> ExternalGrpcNode {
    ExternalGrpcNode { provider_id: provider_id.to_owned(), name: name.to_owned(), ..Default::default() }
}

async fn group_of(service: &CloudProviderService, node: ExternalGrpcNode) -> NodeGroup {
    let request = NodeGroupForNodeRequest { node: Some(node) };
    service.node_group_for_node(Request::new(request)).await.unwrap().into_inner().node_group.unwrap()
}

async fn instances(service: &CloudProviderService) -> Vec<Instance> {
    let request = NodeGroupNodesRequest { id: SMALL.to_owned() };
    service.node_group_nodes(Request::new(request)).await.unwrap().into_inner().instances
}

async fn groups(service: &CloudProviderService) -> Vec<NodeGroup> {
    service.node_groups(Request::new(NodeGroupsRequest {})).await.unwrap().into_inner().node_groups
}

#[tokio::test]
async fn every_instance_is_a_node_and_counts_in_the_target() {
    let service = service();
    let listed = instances(&service).await;
    assert_eq!(listed.len(), 5);
    let pool = groups(&service).await.into_iter().find(|group| group.id == SMALL).unwrap();
    for instance in &listed {
        // A node that Cluster Autoscaler makes up has the id for its name too.
        assert_eq!(group_of(&service, node(&instance.id, &instance.id)).await, pool, "{}", instance.id);
    }
    let counted = listed
        .iter()
        .filter(|i| i.status.as_ref().unwrap().instance_state() != InstanceState::InstanceDeleting)
        .count();
    let request = NodeGroupTargetSizeRequest { id: SMALL.to_owned() };
    let target =
        service.node_group_target_size(Request::new(request)).await.unwrap().into_inner().target_size;
    assert_eq!(usize::try_from(target).unwrap(), counted);
    assert_eq!((pool.min_size, pool.max_size), (1, 10));
}

#[tokio::test]
async fn only_nodes_with_our_provider_id_belong_to_a_pool() {
    let service = service();
    for foreign in [
        node("", "node-3"),
        node("", "control-plane-1"),
        node("vpsie://0b54b0a0-0000-4000-8000-0000000000ff", "worker-9"),
        node("vpsie://machine/workers-9999", "vpsie://machine/workers-9999"),
        ExternalGrpcNode::default(),
    ] {
        assert_eq!(group_of(&service, foreign).await, NodeGroup::default());
    }
    let reply =
        service.node_group_for_node(Request::new(NodeGroupForNodeRequest { node: None })).await.unwrap();
    assert_eq!(reply.into_inner().node_group, Some(NodeGroup::default()));
}

#[tokio::test]
async fn an_unknown_pool_is_not_found_and_has_no_options() {
    let service = service();
    let id = || "workers/ams1/gone/spot".to_owned();
    let codes = [
        service.node_group_target_size(Request::new(NodeGroupTargetSizeRequest { id: id() })).await.err(),
        service.node_group_nodes(Request::new(NodeGroupNodesRequest { id: id() })).await.err(),
        service
            .node_group_template_node_info(Request::new(NodeGroupTemplateNodeInfoRequest { id: id() }))
            .await
            .err(),
    ]
    .map(|status| status.map(|status| status.code()));
    assert_eq!(codes, [Some(Code::NotFound); 3]);
    let request = NodeGroupAutoscalingOptionsRequest { id: id(), defaults: None };
    let reply = service.node_group_get_options(Request::new(request)).await.unwrap().into_inner();
    assert_eq!(reply, NodeGroupAutoscalingOptionsResponse::default());
}

#[tokio::test(start_paused = true)]
async fn a_pool_removed_during_a_loop_is_empty() {
    let (service, handle) = executing_service_with_handle().await;
    let id = || LARGE.to_owned();
    let ids = groups(&service).await.into_iter().map(|group| group.id).collect::<Vec<_>>();
    assert!(ids.contains(&id()));
    let fewer = Group { pools: vec![SMALL.parse().unwrap()], ..group() };
    handle.declare(vec![fewer].into()).await.unwrap();
    let target = NodeGroupTargetSizeRequest { id: id() };
    let reply = service.node_group_target_size(Request::new(target.clone())).await.unwrap().into_inner();
    assert_eq!(reply.target_size, 0);
    let nodes = service.node_group_nodes(Request::new(NodeGroupNodesRequest { id: id() })).await.unwrap();
    assert_eq!(nodes.into_inner().instances, []);
    let template = NodeGroupTemplateNodeInfoRequest { id: id() };
    let template = service.node_group_template_node_info(Request::new(template)).await.unwrap().into_inner();
    assert!(!template.node_bytes.is_empty() && template.node_info == template.node_bytes);
    let decrease = NodeGroupDecreaseTargetSizeRequest { id: id(), delta: -1 };
    assert!(service.node_group_decrease_target_size(Request::new(decrease)).await.is_ok());
    let delete = NodeGroupDeleteNodesRequest { id: id(), nodes: Vec::new() };
    assert!(service.node_group_delete_nodes(Request::new(delete)).await.is_ok());
    let increase = NodeGroupIncreaseSizeRequest { id: id(), delta: 1 };
    let refused = service.node_group_increase_size(Request::new(increase)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    tokio::time::sleep(std::time::Duration::from_mins(11)).await;
    let late = service.node_group_target_size(Request::new(target)).await.unwrap_err();
    assert_eq!(late.code(), Code::NotFound, "a loop is over by then");
}

#[tokio::test]
async fn replies_to_calls_that_need_no_fleet() {
    let service = service();
    assert!(service.refresh(Request::new(RefreshRequest {})).await.is_ok());
    assert!(service.cleanup(Request::new(CleanupRequest {})).await.is_ok());
    assert!(service.gpu_label(Request::new(GpuLabelRequest {})).await.is_ok());
    assert!(service.get_available_gpu_types(Request::new(GetAvailableGpuTypesRequest {})).await.is_ok());
}

/// A service that executes commands.
async fn executing_service() -> CloudProviderService {
    executing_service_with_handle().await.0
}

async fn executing_service_with_handle() -> (CloudProviderService, FleetHandle) {
    let store = Arc::new(MemoryStore::default());
    let fleet = fleet();
    let records = fleet.records();
    let mut changes: Vec<Change> = records.machines.into_iter().map(Change::SaveMachine).collect();
    changes.extend(records.catalog.map(Change::SaveCatalog));
    store.commit(&changes).await.unwrap();
    let declared = FleetConfig { declaration: vec![group()].into(), settings: RESERVED.into() };
    let (writer, handle) =
        FleetWriter::load(store, Arc::new(SystemClock), declared, 1, AuditLog::default()).await.unwrap();
    tokio::spawn(writer.run());
    (CloudProviderService::new(handle.clone()), handle)
}

async fn target(service: &CloudProviderService) -> i32 {
    let request = NodeGroupTargetSizeRequest { id: SMALL.to_owned() };
    service.node_group_target_size(Request::new(request)).await.unwrap().into_inner().target_size
}

#[tokio::test]
async fn reads_see_the_changes_of_earlier_commands() {
    let service = executing_service().await;
    let increase = NodeGroupIncreaseSizeRequest { id: SMALL.to_owned(), delta: 3 };
    service.node_group_increase_size(Request::new(increase)).await.unwrap();
    assert_eq!((target(&service).await, instances(&service).await.len()), (7, 8));

    let decrease = NodeGroupDecreaseTargetSizeRequest { id: SMALL.to_owned(), delta: -2 };
    service.node_group_decrease_target_size(Request::new(decrease)).await.unwrap();
    assert_eq!(target(&service).await, 5);

    let mut fake = node("vpsie://machine/workers-0004", "vpsie://machine/workers-0004");
    fake.annotations
        .insert("k8s.io/cluster-autoscaler/fake-node-reason".to_owned(), "create-error".to_owned());
    let delete = NodeGroupDeleteNodesRequest {
        id: SMALL.to_owned(),
        nodes: vec![node(&format!("vpsie://{RUNNING}"), "node-3"), fake],
    };
    for repeated in [false, true] {
        service.node_group_delete_nodes(Request::new(delete.clone())).await.unwrap();
        assert_eq!(target(&service).await, 3, "repeated: {repeated}");
    }
    let deleting =
        instances(&service).await.into_iter().find(|i| i.id == format!("vpsie://{RUNNING}")).unwrap();
    assert_eq!(deleting.status.unwrap().instance_state(), InstanceState::InstanceDeleting);
}

#[tokio::test]
async fn a_refused_command_gives_its_reason_and_changes_nothing() {
    let service = executing_service().await;
    let increase = NodeGroupIncreaseSizeRequest { id: SMALL.to_owned(), delta: 7 };
    let above = service.node_group_increase_size(Request::new(increase)).await.unwrap_err();
    assert_eq!(above.code(), Code::ResourceExhausted);
    assert!(above.message().contains("NodeGroup workers has 4 of at most 10"), "{}", above.message());

    let nodes = vec![node(&format!("vpsie://{RUNNING}"), "node-3"), node("", "control-plane-1")];
    let delete = NodeGroupDeleteNodesRequest { id: SMALL.to_owned(), nodes };
    let foreign = service.node_group_delete_nodes(Request::new(delete)).await.unwrap_err();
    assert_eq!(foreign.code(), Code::InvalidArgument);
    assert!(foreign.message().contains("control-plane-1"), "{}", foreign.message());

    let decrease = NodeGroupDecreaseTargetSizeRequest { id: SMALL.to_owned(), delta: 1 };
    let upwards = service.node_group_decrease_target_size(Request::new(decrease)).await.unwrap_err();
    assert_eq!(upwards.code(), Code::InvalidArgument);
    assert_eq!(target(&service).await, 4);
}

/// Services over a fleet with a replacement in an empty pool: the provider, and its expander.
fn services_with_replacement() -> (CloudProviderService, ExpanderService) {
    let mut fleet = fleet();
    let replacement = Machine {
        pool: LARGE.parse().unwrap(),
        created_at: SystemClock.now(),
        replaces: Some("workers-0005".into()),
        ..machine("workers-0006", Phase::Pending)
    };
    fleet.apply(&Change::SaveMachine(replacement));
    let handle = FleetHandle::fixed(fleet);
    let expander = ExpanderService::new(handle.clone(), Arc::new(SystemClock), Arc::default());
    (CloudProviderService::new(handle).with_expander(&expander), expander)
}

/// Maximum, target size, and number of instances of the large pool.
async fn large_pool(service: &CloudProviderService) -> (i32, i32, usize) {
    let id = || LARGE.to_owned();
    let group = groups(service).await.into_iter().find(|group| group.id == LARGE).unwrap();
    let owned = group_of(service, node("vpsie://machine/workers-0006", "vpsie://machine/workers-0006")).await;
    assert_eq!(owned, group, "its node belongs to the pool in any case");
    let request = NodeGroupTargetSizeRequest { id: id() };
    let target = service.node_group_target_size(Request::new(request)).await.unwrap().into_inner();
    let request = NodeGroupNodesRequest { id: id() };
    let nodes = service.node_group_nodes(Request::new(request)).await.unwrap().into_inner();
    (group.max_size, target.target_size, nodes.instances.len())
}

#[tokio::test]
async fn replacements_are_hidden_while_the_expander_is_used() {
    let (service, expander) = services_with_replacement();
    assert_eq!(large_pool(&service).await, (7, 1, 1), "the expander was not called");
    expander.best_options(Request::new(grpcplugin::BestOptionsRequest::default())).await.unwrap();
    assert_eq!(large_pool(&service).await, (6, 0, 0));
    assert_eq!(target(&service).await, 4, "the pool with other machines");
}

#[tokio::test]
async fn an_increase_without_the_expander_shows_replacements() {
    let (_, expander) = services_with_replacement();
    let expander = expander.with_assumed_usage(true);
    let (service, _) = services_with_replacement();
    let service = service.with_expander(&expander);
    assert_eq!(large_pool(&service).await, (6, 0, 0), "assumed");
    let increase = NodeGroupIncreaseSizeRequest { id: SMALL.to_owned(), delta: 1 };
    service.node_group_increase_size(Request::new(increase)).await.unwrap_err();
    assert_eq!(large_pool(&service).await, (7, 1, 1));
}

#[tokio::test]
async fn commands_after_the_stop_are_unavailable() {
    let request = NodeGroupIncreaseSizeRequest { id: SMALL.to_owned(), delta: 1 };
    let status = service().node_group_increase_size(Request::new(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn every_node_has_a_price_above_zero() {
    let service = service();
    let price = async |node: Option<ExternalGrpcNode>| {
        let request = PricingNodePriceRequest { node, ..Default::default() };
        service.pricing_node_price(Request::new(request)).await.unwrap().into_inner().price
    };
    let mut annotated = node("", "any");
    annotated.annotations.insert(names::POOL.to_owned(), LARGE.to_owned());
    for (node, want) in [
        (annotated, 0.06),
        (node("", &format!("template-node-for-{LARGE}-123")), 0.06),
        (node(&format!("vpsie://{RUNNING}"), "node-3"), 0.02),
        // Half of 0.02 for two cores, half for four GiB: one of each.
        (node("", "who"), 0.005 + 0.0025),
    ] {
        let got = price(Some(node.clone())).await;
        assert!((got - want).abs() < 1e-9, "{node:?}: {got}");
    }
    assert!(price(None).await > 0.0);

    let unreadable = PricingPodPriceRequest { pod_bytes: vec![0xff].into(), ..Default::default() };
    let got = service.pricing_pod_price(Request::new(unreadable)).await.unwrap().into_inner().price;
    assert!(got > 0.0);
}
