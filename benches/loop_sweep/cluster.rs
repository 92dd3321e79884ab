//! A cluster: pools, running machines, and the nodes in requests of Cluster Autoscaler.

use std::sync::Arc;

use jiff::Timestamp;
use rust_decimal::Decimal;
use vpsie_autoscaler::catalog::{CapacityType, Catalog, Offer, Resources, SizeId};
use vpsie_autoscaler::fleet::{
    AutoscalingOptions, Fleet, Hostname, Machine, NodeGroup, Phase, PoolId, Records, Reserved, Vm,
};
use vpsie_autoscaler::grpc::proto::{
    ExternalGrpcNode, NodeGroupAutoscalingOptions, NodeGroupAutoscalingOptionsRequest,
    NodeGroupForNodeRequest, NodeGroupNodesRequest, NodeGroupTargetSizeRequest,
    NodeGroupTemplateNodeInfoRequest, NodeGroupsRequest, RefreshRequest,
};

/// Offers of each NodeGroup.
const OFFERS: usize = 10;

pub(crate) struct Cluster {
    pub(crate) pools: Vec<String>,
    pub(crate) nodes: Vec<(NodeGroupForNodeRequest, String)>,
    groups: Vec<NodeGroup>,
    records: Records,
}

impl Cluster {
    pub(crate) fn new(pools: usize, nodes: usize) -> Self {
        let ids: Vec<PoolId> = (0..pools)
            .map(|at| {
                let text = format!("workers-{}/ams1/s-{}vcpu/on-demand", at / OFFERS, at % OFFERS + 1);
                text.parse().unwrap()
            })
            .collect();
        let groups = ids.chunks(OFFERS).map(group).collect();
        let machines: Vec<Machine> = (0..nodes).map(|at| machine(at, &ids[at % pools])).collect();
        let requests = machines.iter().map(|machine| (node(machine), machine.pool.to_string())).collect();
        let offers = (1..=OFFERS).map(offer).collect();
        let records = Records { machines, catalog: Some(Arc::new(Catalog { offers })), ..Records::default() };
        Self { pools: ids.iter().map(ToString::to_string).collect(), nodes: requests, groups, records }
    }

    pub(crate) fn fleet(&self) -> Fleet {
        let reserved = Reserved { cpu_millis: 100, memory_mib: 512, disk_gib: 8 };
        Fleet::restore(self.groups.clone(), self.records.clone(), reserved)
    }
}

fn group(pools: &[PoolId]) -> NodeGroup {
    NodeGroup {
        name: pools[0].node_group.clone(),
        min: 0,
        max: 1000,
        pools: pools.to_vec(),
        labels: [("team".to_owned(), "batch".to_owned())].into(),
        taints: Vec::new(),
        preferred: None,
        size: None,
        options: AutoscalingOptions::default(),
        adopt: false,
        cost_limit: vpsie_autoscaler::cost::CostLimit::default(),
        deletion: None,
        node: vpsie_autoscaler::fleet::DeclaredNode::default(),
        spot: None,
        has_cloud_controller: false,
        distribution: None,
    }
}

fn offer(cores: usize) -> Offer {
    let cores = cores as u64;
    Offer {
        size: SizeId(cores),
        name: format!("s-{cores}vcpu"),
        identifier: None,
        datacenter: "ams1".into(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources { cpu_millis: cores * 1000, memory_mib: cores * 2048, disk_gib: 80, pods: 110 },
        monthly: None,
        hourly: Some(Decimal::from(cores)),
    }
}

fn machine(at: usize, pool: &PoolId) -> Machine {
    let vm = Vm {
        hostname: Hostname::new(&format!("ams-kubernetes-49ab-slave-{at}")),
        id: Some(format!("0b54b0a0-0000-4000-8000-{at:012x}").as_str().into()),
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    };
    Machine {
        id: format!("{}-{at:08x}", pool.node_group).as_str().into(),
        pool: pool.clone(),
        size: SizeId(1),
        created_at: Timestamp::UNIX_EPOCH,
        phase: Phase::Running { vm, since: Timestamp::UNIX_EPOCH },
        requests: Vec::new(),
        notice: None,
        replaces: None,
    }
}

/// A node with a realistic number of labels and annotations.
fn node(machine: &Machine) -> NodeGroupForNodeRequest {
    let vm = machine.vm().unwrap();
    let pairs = |prefix: &str, count: usize| {
        (0..count).map(|at| (format!("{prefix}.example.com/key-{at}"), format!("value-{at}"))).collect()
    };
    let node = ExternalGrpcNode {
        provider_id: vm.id.as_ref().unwrap().provider_id(),
        name: vm.hostname.to_string(),
        labels: pairs("label", 14),
        annotations: pairs("annotation", 5),
    };
    NodeGroupForNodeRequest { node: Some(node) }
}

pub(crate) fn refresh() -> RefreshRequest {
    RefreshRequest {}
}

pub(crate) fn node_groups() -> NodeGroupsRequest {
    NodeGroupsRequest {}
}

/// A request of release 1.35.
pub(crate) fn options(pool: &str) -> NodeGroupAutoscalingOptionsRequest {
    let minutes = |minutes: i64| Some(prost_types::Duration { seconds: minutes * 60, nanos: 0 });
    let defaults = NodeGroupAutoscalingOptions {
        scale_down_utilization_threshold: 0.5,
        scale_down_gpu_utilization_threshold: 0.5,
        scale_down_unneeded_duration: minutes(10),
        scale_down_unready_duration: minutes(20),
        max_node_provision_duration: minutes(15),
        ..NodeGroupAutoscalingOptions::default()
    };
    NodeGroupAutoscalingOptionsRequest { id: pool.to_owned(), defaults: Some(defaults) }
}

pub(crate) fn target_size(pool: &str) -> NodeGroupTargetSizeRequest {
    NodeGroupTargetSizeRequest { id: pool.to_owned() }
}

pub(crate) fn nodes(pool: &str) -> NodeGroupNodesRequest {
    NodeGroupNodesRequest { id: pool.to_owned() }
}

pub(crate) fn template(pool: &str) -> NodeGroupTemplateNodeInfoRequest {
    NodeGroupTemplateNodeInfoRequest { id: pool.to_owned() }
}
