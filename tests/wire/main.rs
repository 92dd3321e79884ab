//! Messages of every generation of Cluster Autoscaler, byte for byte. `README.md` has the origin of the
//! bytes.

// All code of this file is test code. clippy exempts only `#[test]` functions.
#![allow(clippy::unwrap_used, clippy::panic)]

mod recorded;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_pb::api::core::v1::Node;
use prost::Message;
use rust_decimal::Decimal;
use tonic::Request;
use vpsie_autoscaler::catalog::{CapacityType, Catalog, Offer, Resources, SizeId};
use vpsie_autoscaler::control::FleetHandle;
use vpsie_autoscaler::fleet::{
    AutoscalingOptions, Fleet, NodeGroup, PoolId, Records, Reserved, Taint, TaintEffect,
};
use vpsie_autoscaler::grpc::CloudProviderService;
use vpsie_autoscaler::grpc::proto::cloud_provider_server::CloudProvider as _;
use vpsie_autoscaler::grpc::proto::{
    MetaDuration, NodeGroupAutoscalingOptions, NodeGroupAutoscalingOptionsRequest,
    NodeGroupAutoscalingOptionsResponse, NodeGroupTemplateNodeInfoRequest, NodeGroupTemplateNodeInfoResponse,
    PricingNodePriceRequest, PricingPodPriceRequest,
};

const GENERATIONS: [&str; 5] = ["1.26-1.28", "1.29-1.32", "1.33", "1.34", "1.35"];
const POOL: &str = "workers/ams1/s-2vcpu-4gb/on-demand";

/// User agents of the clients: the version of grpc-go in every release of the generation.
const CLIENTS: [&str; 5] =
    ["grpc-go/1.59.0", "grpc-go/1.65.0", "grpc-go/1.68.1", "grpc-go/1.72.1", "grpc-go/1.75.0"];

/// A service with one pool of 2 cores and 4 GiB at 0.02 USD per hour. Its NodeGroup sets one option.
fn service() -> CloudProviderService {
    service_with(None)
}

/// The same service. Its NodeGroup may also set `ignoreDaemonSetsUtilization`.
fn service_with(ignore_daemon_sets_utilization: Option<bool>) -> CloudProviderService {
    let pool: PoolId = POOL.parse().unwrap();
    let offer = Offer {
        size: SizeId(7),
        name: "s-2vcpu-4gb".to_owned(),
        identifier: None,
        datacenter: pool.datacenter.clone(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 80, pods: 110 },
        monthly: None,
        hourly: Some(Decimal::new(2, 2)),
    };
    let group = NodeGroup {
        name: pool.node_group.clone(),
        min: 0,
        max: 10,
        pools: vec![pool],
        labels: [("team".to_owned(), "batch".to_owned())].into(),
        taints: vec![Taint {
            key: "dedicated".to_owned(),
            value: "batch".to_owned(),
            effect: TaintEffect::NoSchedule,
        }],
        preferred: None,
        size: None,
        adopt: false,
        cost_limit: vpsie_autoscaler::cost::CostLimit::default(),
        deletion: None,
        node: vpsie_autoscaler::fleet::DeclaredNode::default(),
        spot: None,
        has_cloud_controller: false,
        distribution: None,
        options: AutoscalingOptions {
            scale_down_unneeded_time: Some(Duration::from_secs(90)),
            ignore_daemon_sets_utilization,
            ..AutoscalingOptions::default()
        },
    };
    let records = Records { catalog: Some(Arc::new(Catalog { offers: vec![offer] })), ..Records::default() };
    let reserved = Reserved { cpu_millis: 70, memory_mib: 596, disk_gib: 8 };
    let fleet = Fleet::restore(vec![group], records, reserved);
    CloudProviderService::new(FleetHandle::fixed(fleet))
}

fn path(generation: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/wire/golden")
        .join(generation)
        .join(format!("{name}.hex"))
}

fn golden(generation: &str, name: &str) -> Vec<u8> {
    let path = path(generation, name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn decoded<M: Message + Default>(generation: &str, name: &str) -> M {
    M::decode(golden(generation, name).as_slice()).unwrap()
}

/// Compares the reply with the golden one. `BLESS=1` replaces the golden one.
fn assert_reply(generation: &str, name: &str, reply: &impl Message) {
    let bytes = reply.encode_to_vec();
    if std::env::var_os("BLESS").is_some() {
        let line = |line: &[u8]| line.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let lines: Vec<String> = bytes.chunks(32).map(line).collect();
        std::fs::write(path(generation, name), lines.join("\n") + "\n").unwrap();
    }
    assert_eq!(golden(generation, name), bytes, "{generation}: {name}");
}

#[tokio::test]
async fn node_prices_are_read_from_the_fields_of_each_generation() {
    for generation in GENERATIONS {
        let request: PricingNodePriceRequest = decoded(generation, "PricingNodePriceRequest");
        let reply = service().pricing_node_price(Request::new(request)).await.unwrap().into_inner();
        assert!((reply.price - 0.04).abs() < 1e-9, "{generation}: two hours cost {}", reply.price);
    }
}

#[tokio::test]
async fn pods_are_read_from_the_field_of_each_generation() {
    for generation in GENERATIONS {
        let request: PricingPodPriceRequest = decoded(generation, "PricingPodPriceRequest");
        let reply = service().pricing_pod_price(Request::new(request)).await.unwrap().into_inner();
        // Half of the offer's cores and half of its memory, for two hours.
        assert!((reply.price - 0.02).abs() < 1e-9, "{generation}: {}", reply.price);
    }
}

#[tokio::test]
async fn every_generation_decodes_the_complete_template() {
    let request = NodeGroupTemplateNodeInfoRequest { id: POOL.to_owned() };
    let reply = service().node_group_template_node_info(Request::new(request)).await.unwrap().into_inner();
    let node = Node::decode(reply.node_bytes.clone()).unwrap();
    assert_eq!(reply.node_info, reply.node_bytes);
    assert_eq!(node.metadata.as_ref().unwrap().labels["team"], "batch");
    for generation in GENERATIONS {
        assert_reply(generation, "NodeGroupTemplateNodeInfoResponse", &reply);
    }
    for generation in GENERATIONS {
        let understood: NodeGroupTemplateNodeInfoResponse =
            decoded(generation, "NodeGroupTemplateNodeInfoResponse.understood");
        let (old, new) = match generation {
            "1.34" => (true, true),
            "1.35" => (false, true),
            _ => (true, false),
        };
        for (bytes, read) in [(understood.node_info, old), (understood.node_bytes, new)] {
            assert_eq!(!bytes.is_empty(), read, "{generation}");
            if read {
                assert_eq!(fields_of(&Node::decode(bytes).unwrap()), fields_of(&node), "{generation}");
            }
        }
    }
}

/// The fields of the node. Go writes empty texts that Rust omits: both are read as empty.
fn fields_of(node: &Node) -> impl PartialEq + std::fmt::Debug {
    let quantities = |map: &std::collections::BTreeMap<String, _>| format!("{map:?}");
    let metadata = node.metadata.clone().unwrap();
    let status = node.status.as_ref().unwrap();
    let info = status.node_info.as_ref().unwrap();
    let taints: Vec<_> = node
        .spec
        .iter()
        .flat_map(|spec| &spec.taints)
        .map(|taint| (taint.key.clone(), taint.value.clone(), taint.effect.clone()))
        .collect();
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .map(|condition| (condition.r#type.clone(), condition.status.clone(), condition.reason.clone()))
        .collect();
    (
        (metadata.name, metadata.labels, metadata.annotations),
        taints,
        (quantities(&status.capacity), quantities(&status.allocatable)),
        conditions,
        (info.operating_system.clone(), info.architecture.clone()),
    )
}

async fn options(
    service: CloudProviderService,
    client: &str,
    request: NodeGroupAutoscalingOptionsRequest,
) -> NodeGroupAutoscalingOptionsResponse {
    let mut request = Request::new(request);
    request.metadata_mut().insert("user-agent", client.parse().unwrap());
    service.node_group_get_options(request).await.unwrap().into_inner()
}

/// A reply replaces flags of Cluster Autoscaler. So options are sent only if the generation reads the values
/// of the NodeGroup and of the flags from it.
#[tokio::test]
async fn options_are_sent_only_if_a_generation_has_their_fields() {
    let defaults = NodeGroupAutoscalingOptionsResponse::default();
    for (generation, client) in GENERATIONS.into_iter().zip(CLIENTS) {
        let mut request: NodeGroupAutoscalingOptionsRequest =
            decoded(generation, "NodeGroupAutoscalingOptionsRequest");
        let carries = matches!(generation, "1.33" | "1.34");
        for ignore in [None, Some(true)] {
            let reply = options(service_with(ignore), client, request.clone()).await;
            assert_eq!(reply != defaults, carries, "{generation}: the flag of the request");
        }
        // The flag of Cluster Autoscaler is false, so no request contains it.
        request.defaults.as_mut().unwrap().ignore_daemon_sets_utilization = false;
        let reply = options(service(), client, request).await;
        assert_eq!(reply != defaults, carries, "{generation}: the flag is false");
    }
}

#[tokio::test]
async fn options_equal_the_golden_replies() {
    for (generation, client) in GENERATIONS.into_iter().zip(CLIENTS) {
        let request: NodeGroupAutoscalingOptionsRequest =
            decoded(generation, "NodeGroupAutoscalingOptionsRequest");
        // Clients up to 1.32 read `ignoreDaemonSetsUtilization` as false, so the NodeGroup must set false.
        let ignore = (generation == "1.29-1.32").then_some(false);
        let reply = options(service_with(ignore), client, request).await;
        assert_reply(generation, "NodeGroupAutoscalingOptionsResponse", &reply);
    }
    for generation in GENERATIONS {
        let understood: NodeGroupAutoscalingOptionsResponse =
            decoded(generation, "NodeGroupAutoscalingOptionsResponse.understood");
        let Some(options) = understood.node_group_autoscaling_options else {
            assert!(matches!(generation, "1.26-1.28" | "1.35"), "{generation} gets no options");
            continue;
        };
        assert_eq!(options, expected(generation), "{generation}");
    }
}

/// The option of the NodeGroup and the defaults of the request, in the fields of the generation.
fn expected(generation: &str) -> NodeGroupAutoscalingOptions {
    let old = |seconds: i64| Some(MetaDuration { duration: seconds * 1_000_000_000 });
    let new = |seconds: i64| Some(prost_types::Duration { seconds, nanos: 0 });
    let from_129 = NodeGroupAutoscalingOptions {
        scale_down_utilization_threshold: 0.5,
        scale_down_gpu_utilization_threshold: 0.25,
        scale_down_unneeded_time: old(90),
        scale_down_unready_time: old(1200),
        max_node_provision_time: old(900),
        ..NodeGroupAutoscalingOptions::default()
    };
    let from_133 = NodeGroupAutoscalingOptions { ignore_daemon_sets_utilization: true, ..from_129 };
    match generation {
        "1.29-1.32" => from_129,
        "1.33" => from_133,
        "1.34" => NodeGroupAutoscalingOptions {
            scale_down_unneeded_duration: new(90),
            scale_down_unready_duration: new(1200),
            max_node_provision_duration: new(900),
            ..from_133
        },
        _ => panic!("{generation} gets no options"),
    }
}
