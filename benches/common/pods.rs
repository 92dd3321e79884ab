//! Encoded pods, as in requests of Cluster Autoscaler.

use std::collections::BTreeMap;

use bytes::Bytes;
use k8s_pb::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_pb::apimachinery::pkg::api::resource::Quantity;
use k8s_pb::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use prost::Message as _;

/// Pods of twenty Deployments, with the usual fields of a pod.
pub(crate) fn pods(count: usize) -> Vec<Bytes> {
    let quantity = |text: String| Quantity { string: Some(text) };
    let pod = |n: usize| {
        let kind = n % 20;
        let requests = BTreeMap::from([
            ("cpu".to_owned(), quantity(format!("{}m", 100 + 50 * kind))),
            ("memory".to_owned(), quantity(format!("{}Mi", 128 + 96 * kind))),
        ]);
        let container = Container {
            name: Some("main".to_owned()),
            image: Some("registry.example/team/service:1.2.3".to_owned()),
            resources: Some(ResourceRequirements { requests, ..ResourceRequirements::default() }),
            ..Container::default()
        };
        let labels = [("app", "service"), ("team", "payments"), ("pod-template-hash", "7d9c5b8f6d")];
        let meta = ObjectMeta {
            name: Some(format!("service-{kind}-7d9c5b8f6d-{n:05}")),
            namespace: Some("production".to_owned()),
            uid: Some(format!("0b54b0a0-0000-4000-8000-{n:012}")),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..ObjectMeta::default()
        };
        let spec = PodSpec { containers: vec![container], ..PodSpec::default() };
        Bytes::from(Pod { metadata: Some(meta), spec: Some(spec), ..Pod::default() }.encode_to_vec())
    };
    (0..count).map(pod).collect()
}
