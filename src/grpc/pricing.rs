//! Prices for Cluster Autoscaler's `price` expander. It drops every option whose price is an error or not a
//! number (docs/reference/cluster-autoscaler.md#price-expander), so there is always a price, and it is above
//! 0.

use std::collections::BTreeMap;

use prost_types::Timestamp;

use super::proto::ExternalGrpcNode;
use crate::catalog::Offer;
use crate::cost::{Rates, UsdPerHour};
use crate::fleet::{Fleet, Pool, names};
use crate::placement::PodRequest;

/// Prefix of the names of Cluster Autoscaler's template nodes, followed by the pool id, `-` and a number
/// (docs/reference/cluster-autoscaler.md#nodegrouptemplatenodeinfo).
const TEMPLATE_NODE: &str = "template-node-for-";

/// Minimum price, USD per hour. Cluster Autoscaler divides by prices of pods.
const MIN_PRICE: f64 = 1e-9;

/// Price of a node, USD per hour: of its pool, else of the offer in its labels, else of one core and one GiB.
pub(super) fn node_price(fleet: &Fleet, node: &ExternalGrpcNode) -> f64 {
    let rates = fleet.rates();
    let size_or_price =
        |price: Option<UsdPerHour>, size| price.map_or_else(|| rates.machine_price(size), UsdPerHour::to_f64);
    if let Some(pool) = pool_of(fleet, node) {
        return size_or_price(fleet.expected_price(pool), pool.offer.resources);
    }
    match labelled_offer(fleet, &node.labels) {
        Some(offer) => size_or_price(fleet.prices().price(offer), offer.resources),
        None => rates.price(1.0, 1.0),
    }
    .max(MIN_PRICE)
}

/// Price of a pod's requests, USD per hour.
pub(super) fn pod_price(rates: Rates, requests: PodRequest) -> f64 {
    let cores = requests.cpu_millis as f64 / 1000.0;
    let gib = requests.memory_bytes as f64 / f64::from(1 << 30);
    rates.price(cores, gib).max(MIN_PRICE)
}

/// The pool of a node. The price expander mostly asks for template nodes.
fn pool_of<'a>(fleet: &'a Fleet, node: &ExternalGrpcNode) -> Option<&'a Pool> {
    let annotated = node.annotations.get(names::POOL).and_then(|id| fleet.pool(id));
    annotated
        .or_else(|| {
            let (id, _) = node.name.strip_prefix(TEMPLATE_NODE)?.rsplit_once('-')?;
            fleet.pool(id)
        })
        .or_else(|| {
            let machine = fleet.machine_of(&node.provider_id, &node.name)?;
            fleet.pool(&machine.pool.to_string())
        })
}

/// The offer of a foreign node, by our labels or by the well-known labels of Kubernetes.
fn labelled_offer<'a>(fleet: &'a Fleet, labels: &BTreeMap<String, String>) -> Option<&'a Offer> {
    let label = |keys: [&str; 2]| keys.into_iter().find_map(|key| labels.get(key));
    let offer = label([names::OFFERING, "node.kubernetes.io/instance-type"])?;
    let datacenter = label([names::DATACENTER, "topology.kubernetes.io/region"])?;
    let capacity_type =
        labels.get(names::CAPACITY_TYPE).and_then(|text| text.parse().ok()).unwrap_or_default();
    fleet.catalog()?.resolve(&datacenter.as_str().into(), &offer.as_str().into(), capacity_type)
}

/// The request of a pod that cannot be read: that of the expander's own default pod
/// (docs/reference/cluster-autoscaler.md#price-expander).
pub(super) const UNREADABLE_POD: PodRequest = PodRequest { cpu_millis: 500, memory_bytes: 500 << 20 };

/// Length of a period in hours. A missing or negative period counts as one hour, the period that the expander
/// uses.
pub(super) fn hours(start: Option<Timestamp>, end: Option<Timestamp>) -> f64 {
    let seconds = match (start, end) {
        (Some(start), Some(end)) => {
            (end.seconds as f64 - start.seconds as f64)
                + f64::from(end.nanos.saturating_sub(start.nanos)) / 1e9
        }
        _ => 0.0,
    };
    if seconds > 0.0 { seconds / 3600.0 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_exist_without_offers() {
        let fleet = Fleet::default();
        assert!(node_price(&fleet, &ExternalGrpcNode::default()) > 0.0);
        assert!(pod_price(fleet.rates(), UNREADABLE_POD) > 0.0);
        assert!(pod_price(fleet.rates(), PodRequest::default()) > 0.0);
    }

    #[test]
    fn a_missing_or_negative_period_is_an_hour() {
        let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
        for (start, end, want) in [
            (at(0, 0), at(7200, 0), 2.0),
            (at(0, 500_000_000), at(1800, 500_000_000), 0.5),
            (None, at(7200, 0), 1.0),
            (at(7200, 0), at(0, 0), 1.0),
            (at(i64::MIN, 0), at(i64::MAX, 0), f64::INFINITY),
        ] {
            let got = hours(start, end);
            assert!(if want.is_finite() { (got - want).abs() < 1e-9 } else { got.is_finite() }, "{got}");
        }
    }
}
