//! Requests of Cluster Autoscaler's `price` expander, release 1.35: prices for the next hour.

use vpsie_autoscaler::fleet::Fleet;
use vpsie_autoscaler::grpc::proto::{ExternalGrpcNode, PricingNodePriceRequest, PricingPodPriceRequest};

use super::cluster::Cluster;
use super::pods;

const PODS: usize = 1000;

/// An arbitrary hour.
const PERIOD: [Option<prost_types::Timestamp>; 2] = [
    Some(prost_types::Timestamp { seconds: 1_767_225_600, nanos: 123_456_789 }),
    Some(prost_types::Timestamp { seconds: 1_767_229_200, nanos: 123_456_789 }),
];

/// Three nodes of each pool: an upcoming node of the pool's template, an upcoming node without annotations of
/// the provider, whose pool follows from its name, and a real node, whose pool follows from its provider id.
pub(crate) fn nodes(cluster: &Cluster, fleet: &Fleet) -> Vec<PricingNodePriceRequest> {
    let each = |(at, pool): (usize, &String)| {
        let template = fleet.template(fleet.pool(pool).unwrap());
        let name = format!("template-node-for-{pool}-{}", 7_919_000_000_000_000_000_u64 + at as u64);
        let hostname = ("kubernetes.io/hostname".to_owned(), name.clone());
        let labels = template.labels.clone().into_iter().chain([hostname]).collect();
        let annotations = template.annotations.clone();
        let template =
            ExternalGrpcNode { provider_id: String::new(), name: name.clone(), labels, annotations };
        let real = cluster.nodes[at].0.node.clone().unwrap();
        let made_up = ExternalGrpcNode { name, provider_id: String::new(), ..real.clone() };
        [template, made_up, real]
    };
    let nodes = cluster.pools.iter().enumerate().flat_map(each);
    let [start_timestamp, end_timestamp] = PERIOD;
    nodes
        .map(|node| PricingNodePriceRequest {
            node: Some(node),
            start_timestamp,
            end_timestamp,
            ..PricingNodePriceRequest::default()
        })
        .collect()
}

pub(crate) fn pods() -> Vec<PricingPodPriceRequest> {
    let [start_timestamp, end_timestamp] = PERIOD;
    let pods = pods::pods(PODS).into_iter();
    pods.map(|pod_bytes| PricingPodPriceRequest {
        pod_bytes,
        start_timestamp,
        end_timestamp,
        ..PricingPodPriceRequest::default()
    })
    .collect()
}
