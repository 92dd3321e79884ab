//! Messages of Cluster Autoscaler. The first line of an input is the method; the bytes of its request follow.
//! The services handle each request that can be decoded; then the fleet is checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use k8s_pb::api::core::v1::{Container, Node, Pod, PodSpec, ResourceRequirements};
use k8s_pb::apimachinery::pkg::api::resource::Quantity;
use k8s_pb::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use prost::Message;
use tonic::Request;
use vpsie_autoscaler::control::{AuditLog, FleetConfig, FleetHandle, FleetWriter};
use vpsie_autoscaler::fleet::{Change, FleetSettings};
use vpsie_autoscaler::grpc::proto::cloud_provider_server::CloudProvider as _;
use vpsie_autoscaler::grpc::proto::grpcplugin::expander_server::Expander as _;
use vpsie_autoscaler::grpc::proto::grpcplugin::{BestOptionsRequest, Option as WireOption};
use vpsie_autoscaler::grpc::proto::{
    ExternalGrpcNode, MetaDuration, NodeGroupAutoscalingOptions, NodeGroupAutoscalingOptionsRequest,
    NodeGroupDecreaseTargetSizeRequest, NodeGroupDeleteNodesRequest, NodeGroupForNodeRequest,
    NodeGroupIncreaseSizeRequest, NodeGroupNodesRequest, NodeGroupTargetSizeRequest,
    NodeGroupTemplateNodeInfoRequest, NodeGroupsRequest, PricingNodePriceRequest, PricingPodPriceRequest,
};
use vpsie_autoscaler::grpc::{CloudProviderService, Decisions, ExpanderService};
use vpsie_autoscaler::store::MemoryStore;

use crate::fleets::{Fixed, LARGE, SMALL, block_on, catalog, check, group};
use crate::records::machines;

fn pod(cpu: &str, memory: &str) -> Bytes {
    let quantity = |text: &str| Quantity { string: Some(text.to_owned()) };
    let requests = [("cpu", cpu), ("memory", memory)];
    let requests: BTreeMap<_, _> =
        requests.into_iter().map(|(name, text)| (name.to_owned(), quantity(text))).collect();
    let resources = Some(ResourceRequirements { requests, ..ResourceRequirements::default() });
    let container = Container { resources, ..Container::default() };
    let metadata =
        Some(ObjectMeta { name: Some("p".to_owned()), uid: Some(cpu.to_owned()), ..ObjectMeta::default() });
    let spec = PodSpec {
        containers: vec![container.clone()],
        init_containers: vec![container],
        ..PodSpec::default()
    };
    Pod { metadata, spec: Some(spec), ..Pod::default() }.encode_to_vec().into()
}

fn input(method: &str, message: &impl Message) -> Vec<u8> {
    let mut input = format!("{method}\n").into_bytes();
    message.encode(&mut input).unwrap();
    input
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let node = |name: &str| ExternalGrpcNode {
        provider_id: format!("vpsie://u-{name}"),
        name: name.to_owned(),
        labels: [("node.kubernetes.io/instance-type".to_owned(), "small".to_owned())].into(),
        annotations: BTreeMap::default(),
    };
    let id = || SMALL.to_owned();
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 5 });
    let duration = Some(MetaDuration { duration: 600_000_000_000 });
    let defaults = NodeGroupAutoscalingOptions {
        scale_down_utilization_threshold: 0.5,
        scale_down_unneeded_time: duration,
        max_node_provision_time: duration,
        ..NodeGroupAutoscalingOptions::default()
    };
    let option = |pool: &str, pods: &[Bytes]| WireOption {
        node_group_id: pool.to_owned(),
        node_count: 2,
        debug: String::new(),
        pod: pods.to_vec(),
        pod_bytes: pods.to_vec(),
    };
    let pods = [pod("500m", "1Gi"), pod("2", "3000Mi")];
    let template = Bytes::from(Node::default().encode_to_vec());
    let best_options = BestOptionsRequest {
        options: vec![option(SMALL, &pods), option(LARGE, &pods[..1])],
        node_map: [(id(), template.clone())].into(),
        node_bytes_map: [(id(), template)].into(),
    };
    vec![
        input("groups", &NodeGroupsRequest::default()),
        input("for_node", &NodeGroupForNodeRequest { node: Some(node("hel-slave-2")) }),
        input("increase", &NodeGroupIncreaseSizeRequest { id: id(), delta: 2 }),
        input("decrease", &NodeGroupDecreaseTargetSizeRequest { id: id(), delta: -1 }),
        input(
            "delete",
            &NodeGroupDeleteNodesRequest { id: id(), nodes: vec![node("hel-slave-2"), node("x")] },
        ),
        input("target", &NodeGroupTargetSizeRequest { id: id() }),
        input("nodes", &NodeGroupNodesRequest { id: id() }),
        input("template", &NodeGroupTemplateNodeInfoRequest { id: id() }),
        input("options", &NodeGroupAutoscalingOptionsRequest { id: id(), defaults: Some(defaults) }),
        input(
            "node_price",
            &PricingNodePriceRequest {
                node: Some(node("template-node-for-web/ams1/small/on-demand-1")),
                start_timestamp: time(1),
                end_timestamp: time(3601),
                ..PricingNodePriceRequest::default()
            },
        ),
        input(
            "pod_price",
            &PricingPodPriceRequest {
                pod_bytes: pods[0].clone(),
                start_timestamp: time(1),
                end_timestamp: time(3601),
                ..PricingPodPriceRequest::default()
            },
        ),
        input("best", &best_options),
    ]
}

async fn start_writer() -> (FleetHandle, tokio::task::JoinHandle<()>) {
    let store = MemoryStore::default();
    let changes: Vec<Change> = machines().into_iter().map(Change::SaveMachine).collect();
    store.write(&changes);
    store.write(&[Change::SaveCatalog(Arc::new(catalog()))]);
    let declared = FleetConfig { declaration: vec![group()].into(), settings: FleetSettings::default() };
    let (writer, handle) =
        FleetWriter::load(Arc::new(store), Arc::new(Fixed), declared, 1, AuditLog::default()).await.unwrap();
    (handle, tokio::spawn(writer.run()))
}

pub(crate) fn run(input: &[u8]) {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
    let method = &input[..end];
    let bytes = &input[end + 1..];
    block_on(async {
        let (handle, writer) = start_writer().await;
        handle_request(method, bytes, &handle).await;
        handle.read(check);
        writer.abort();
    });
}

/// Calls a method with the decoded request. None if the bytes are no request, or the call fails.
macro_rules! call {
    ($service:expr, $call:ident, $bytes:expr) => {
        match Message::decode($bytes) {
            Ok(request) => $service.$call(Request::new(request)).await.ok().map(tonic::Response::into_inner),
            Err(_) => None,
        }
    };
}

async fn handle_request(method: &[u8], bytes: &[u8], handle: &FleetHandle) {
    let service = CloudProviderService::new(handle.clone());
    match method {
        b"groups" => drop(call!(service, node_groups, bytes)),
        b"for_node" => drop(call!(service, node_group_for_node, bytes)),
        b"increase" => drop(call!(service, node_group_increase_size, bytes)),
        b"decrease" => drop(call!(service, node_group_decrease_target_size, bytes)),
        b"delete" => drop(call!(service, node_group_delete_nodes, bytes)),
        b"target" => drop(call!(service, node_group_target_size, bytes)),
        b"nodes" => drop(call!(service, node_group_nodes, bytes)),
        b"template" => drop(call!(service, node_group_template_node_info, bytes)),
        b"options" => drop(call!(service, node_group_get_options, bytes)),
        b"node_price" => {
            if let Some(reply) = call!(service, pricing_node_price, bytes) {
                assert!(reply.price.is_finite() && reply.price > 0.0, "{}", reply.price);
            }
        }
        b"pod_price" => {
            if let Some(reply) = call!(service, pricing_pod_price, bytes) {
                assert!(reply.price.is_finite() && reply.price > 0.0, "{}", reply.price);
            }
        }
        _ => {
            let expander =
                ExpanderService::new(handle.clone(), Arc::new(Fixed), Arc::new(Decisions::default()));
            let Ok(request) = BestOptionsRequest::decode(bytes) else { return };
            let offered: Vec<String> =
                request.options.iter().map(|option| option.node_group_id.clone()).collect();
            if let Ok(reply) = expander.best_options(Request::new(request)).await {
                for option in reply.into_inner().options {
                    assert!(
                        offered.contains(&option.node_group_id),
                        "{} was not offered",
                        option.node_group_id
                    );
                }
            }
        }
    }
}
