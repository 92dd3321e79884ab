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

/// What Cluster Autoscaler's names of made-up template nodes start with; the pool id follows, then `-` and a
/// number (docs/reference/cluster-autoscaler.md#nodegrouptemplatenodeinfo).
const TEMPLATE_NODE: &str = "template-node-for-";

/// USD per hour of a pod that asks for nothing. Prices of pods are divided by.
const LEAST: f64 = 1e-9;

/// USD per hour of a node: of its pool, else of the offer that its labels name, else of one core and one GiB.
pub(super) fn node_price(fleet: &Fleet, node: &ExternalGrpcNode) -> f64 {
    let rates = fleet.rates();
    let size_or_price =
        |price: Option<UsdPerHour>, size| price.map_or_else(|| rates.machine(size), UsdPerHour::to_f64);
    if let Some(pool) = pool_of(fleet, node) {
        return size_or_price(pool.price, pool.offer.resources);
    }
    match labelled(fleet, &node.labels) {
        Some(offer) => size_or_price(fleet.prices().of(offer), offer.resources),
        None => rates.of(1.0, 1.0),
    }
    .max(LEAST)
}

/// USD per hour of what a pod asks for.
pub(super) fn pod_price(rates: Rates, requests: PodRequest) -> f64 {
    let (cores, gib) =
        (requests.cpu_millis as f64 / 1000.0, requests.memory_bytes as f64 / f64::from(1 << 30));
    rates.of(cores, gib).max(LEAST)
}

/// The price expander asks for template nodes mostly.
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

/// The offer of a node that is not ours, as ours or Kubernetes' own labels name it.
fn labelled<'a>(fleet: &'a Fleet, labels: &BTreeMap<String, String>) -> Option<&'a Offer> {
    let label = |keys: [&str; 2]| keys.into_iter().find_map(|key| labels.get(key));
    let offer = label([names::OFFERING, "node.kubernetes.io/instance-type"])?;
    let datacenter = label([names::DATACENTER, "topology.kubernetes.io/region"])?;
    fleet.catalog()?.resolve(&datacenter.as_str().into(), &offer.as_str().into())
}

/// A pod whose bytes cannot be read is priced as the one that the expander itself makes up
/// (docs/reference/cluster-autoscaler.md#price-expander).
pub(super) const UNREADABLE_POD: PodRequest = PodRequest { cpu_millis: 500, memory_bytes: 500 << 20 };

/// Length of a period in hours. One hour, which is what the expander asks for, where the request has none.
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
    fn without_offers_there_are_prices_all_the_same() {
        let fleet = Fleet::default();
        assert!(node_price(&fleet, &ExternalGrpcNode::default()) > 0.0);
        assert!(pod_price(fleet.rates(), UNREADABLE_POD) > 0.0);
        assert!(pod_price(fleet.rates(), PodRequest::default()) > 0.0);
    }

    #[test]
    fn a_period_that_is_missing_or_upside_down_is_an_hour() {
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
