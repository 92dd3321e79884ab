//! The request, in the form of each release of Cluster Autoscaler.

use std::collections::BTreeMap;

use bytes::Bytes;
use k8s_pb::api::core::v1::{Container, Node, Pod, PodSpec, ResourceRequirements};
use k8s_pb::apimachinery::pkg::api::resource::Quantity;
use k8s_pb::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use prost::Message as _;
use vpsie_autoscaler::grpc::proto::grpcplugin::{BestOptionsRequest, Option as WireOption};

use crate::scenario::{Release, Scenario};

pub(crate) fn request(scenario: &Scenario, release: Release) -> BestOptionsRequest {
    let messages = release != Release::V1_36;
    let bytes = release != Release::V1_26;
    let options = scenario.options.iter().map(|option| {
        let kinds = option.pods.iter();
        let pods: Vec<Bytes> = kinds
            .flat_map(|(kind, count)| (0..*count).map(move |number| pod(scenario, kind, number)))
            .collect();
        WireOption {
            node_group_id: option.pool.clone(),
            node_count: option.nodes,
            debug: String::new(),
            pod: if messages { pods.clone() } else { Vec::new() },
            pod_bytes: if bytes { pods } else { Vec::new() },
        }
    });
    let node = Bytes::from(Node::default().encode_to_vec());
    let nodes = scenario.options.iter().map(|option| (option.pool.clone(), node.clone()));
    let nodes: BTreeMap<_, _> = nodes.collect();
    BestOptionsRequest {
        options: options.collect(),
        node_map: if messages { nodes.clone() } else { BTreeMap::default() },
        node_bytes_map: if bytes { nodes } else { BTreeMap::default() },
    }
}

fn pod(scenario: &Scenario, kind: &str, number: usize) -> Bytes {
    let spec = &scenario.pods[kind];
    assert!(number < spec.count, "an option has more pods of kind {kind} than the scenario");
    if spec.garbage {
        return Bytes::from(vec![0xff, number as u8]);
    }
    let quantity = |text: &String| Quantity { string: Some(text.clone()) };
    let amounts = [("cpu", &spec.cpu), ("memory", &spec.memory)];
    let requests = amounts
        .into_iter()
        .filter_map(|(name, amount)| Some((name.to_owned(), quantity(amount.as_ref()?))))
        .collect();
    let container = Container {
        resources: Some(ResourceRequirements { requests, ..ResourceRequirements::default() }),
        ..Container::default()
    };
    let meta = ObjectMeta {
        name: Some(format!("{kind}-{number}")),
        namespace: Some("default".to_owned()),
        uid: Some(format!("{kind}-{number}")),
        ..ObjectMeta::default()
    };
    let spec = PodSpec { containers: vec![container], ..PodSpec::default() };
    Pod { metadata: Some(meta), spec: Some(spec), ..Pod::default() }.encode_to_vec().into()
}
