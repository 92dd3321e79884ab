//! Checks of `multiRegion` that the schema cannot express, and its conversion to the type of the fleet.

use std::collections::BTreeSet;

use super::problem::Findings;
use super::schema::join;
use super::syntax;
use crate::api::{DistributionStrategy, MultiRegion, NodeGroupSpec};
use crate::catalog::DatacenterId;
use crate::fleet::{DatacenterStrategy, Distribution};

/// Whether a NodeGroup can have machines in several datacenters. A managed cluster is in one.
pub(super) fn supports_datacenters(spec: &NodeGroupSpec) -> bool {
    spec.self_managed.is_some()
}

/// All datacenters of a NodeGroup.
pub(super) fn datacenters(spec: &NodeGroupSpec) -> Vec<DatacenterId> {
    distribution(spec).map_or_else(|| vec![spec.datacenter_id.as_str().into()], |found| found.datacenters)
}

/// The distribution of a NodeGroup over several datacenters. None if all its machines are in `datacenterID`.
pub(super) fn distribution(spec: &NodeGroupSpec) -> Option<Distribution> {
    let regions = spec.multi_region.as_ref().filter(|regions| regions.enabled)?;
    supports_datacenters(spec)
        .then(|| convert(regions, &spec.datacenter_id))
        .filter(|found| found.datacenters.len() > 1)
}

/// `datacenter_id` is the primary unless `primaryDatacenter` names another one.
fn convert(regions: &MultiRegion, datacenter_id: &str) -> Distribution {
    let primary = regions.primary_datacenter.as_deref().unwrap_or(datacenter_id);
    let others =
        regions.datacenter_ids.iter().map(String::as_str).filter(|datacenter| *datacenter != primary);
    let number = |number: i32| u32::try_from(number).unwrap_or(0);
    let strategy = match regions.distribution_strategy {
        DistributionStrategy::Balanced => DatacenterStrategy::Balanced,
        DistributionStrategy::Weighted => {
            let weights = regions.weighted_distribution.iter();
            let weights =
                weights.map(|(datacenter, weight)| (datacenter.as_str().into(), number(*weight))).collect();
            DatacenterStrategy::Weighted { weights, step: number(regions.step_size).max(1) }
        }
        DistributionStrategy::PrimaryBackup => DatacenterStrategy::PrimaryBackup,
    };
    Distribution {
        datacenters: std::iter::once(primary).chain(others).map(DatacenterId::from).collect(),
        strategy,
        min_per_datacenter: number(regions.min_nodes_per_region),
        max_skew: number(regions.max_skew),
        max_price_difference: number(regions.max_price_difference),
    }
}

pub(super) fn check(regions: &MultiRegion, spec: &NodeGroupSpec, findings: &mut Findings) {
    let (datacenter_id, max_nodes) = (spec.datacenter_id.as_str(), spec.max_nodes);
    let datacenters = &regions.datacenter_ids;
    let mut seen = BTreeSet::new();
    for (n, datacenter) in datacenters.iter().enumerate() {
        let field = format!("spec.multiRegion.datacenterIDs[{n}]");
        findings.require(&field, syntax::label_value(datacenter));
        if !seen.insert(datacenter.as_str()) {
            findings.add_problem(field, format!("is {datacenter:?} again, must be listed once"));
        }
    }
    if let Some(primary) = &regions.primary_datacenter
        && !datacenters.contains(primary)
    {
        findings.add_problem(
            "spec.multiRegion.primaryDatacenter",
            format!("is {primary:?}, must be one of datacenterIDs ({})", datacenters.join(", ")),
        );
    }
    check_weights(regions, findings);
    if regions.enabled && !datacenters.is_empty() && !datacenters.iter().any(|listed| listed == datacenter_id)
    {
        findings.add_problem(
            "spec.datacenterID",
            format!(
                "is {datacenter_id:?}, must be one of multiRegion.datacenterIDs ({})",
                datacenters.join(", ")
            ),
        );
    }
    let growing = datacenters.iter().filter(|datacenter| has_minimum(regions, datacenter)).count();
    let least = i64::from(regions.min_nodes_per_region) * growing as i64;
    if regions.enabled && supports_datacenters(spec) && least > i64::from(max_nodes) {
        findings.add_problem(
            "spec.multiRegion.minNodesPerRegion",
            format!(
                "is {} in each of {growing} datacenterIDs, {least} together: must be at most maxNodes, which is {max_nodes}",
                regions.min_nodes_per_region,
            ),
        );
    }
}

/// Whether the datacenter has a minimum of machines: its weight, if there are weights, is above 0.
fn has_minimum(regions: &MultiRegion, datacenter: &str) -> bool {
    let weights = &regions.weighted_distribution;
    weights.is_empty() || weights.get(datacenter).is_some_and(|weight| *weight > 0)
}

fn check_weights(regions: &MultiRegion, findings: &mut Findings) {
    const FIELD: &str = "spec.multiRegion.weightedDistribution";
    let datacenters = &regions.datacenter_ids;
    let weights = &regions.weighted_distribution;
    if regions.distribution_strategy != DistributionStrategy::Weighted {
        if !weights.is_empty() {
            findings.add_problem(
                FIELD,
                "is only for distributionStrategy weighted: set that strategy, or remove the weights",
            );
        }
        return;
    }
    if datacenters.is_empty() {
        findings.add_problem(FIELD, "needs datacenterIDs for the weights");
    }
    for datacenter in datacenters.iter().filter(|datacenter| !weights.contains_key(*datacenter)) {
        findings.add_problem(
            FIELD,
            format!("has no weight for {datacenter}, must have one for each of datacenterIDs"),
        );
    }
    if !weights.is_empty() && weights.values().all(|weight| *weight <= 0) {
        findings.add_problem(FIELD, "has no weight above 0: a datacenter with weight 0 does not grow");
    }
    for datacenter in weights.keys().filter(|datacenter| !datacenters.contains(datacenter)) {
        findings.add_problem(join(FIELD, datacenter), "is not one of datacenterIDs: remove the weight");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn regions(more: &serde_json::Value) -> MultiRegion {
        let mut regions = json!({"enabled": true, "datacenterIDs": ["fra1", "ams1", "lon1"]});
        regions.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(regions).unwrap()
    }

    fn spec(datacenter_id: &str, max: i32, self_managed: bool) -> NodeGroupSpec {
        let mut spec = json!({
            "datacenterID": datacenter_id, "minNodes": 0, "maxNodes": max, "offeringIDs": ["s"], "osImageID": "o"
        });
        spec[if self_managed { "selfManaged" } else { "resourceIdentifier" }] = if self_managed {
            json!({"joinKind": "kubeadm", "endpoint": "10.0.0.1:6443"})
        } else {
            json!("c1")
        };
        serde_json::from_value(spec).unwrap()
    }

    fn names(distribution: &Distribution) -> Vec<&str> {
        distribution.datacenters.iter().map(DatacenterId::as_str).collect()
    }

    #[test]
    fn the_primary_comes_first() {
        let balanced = convert(&regions(&json!({})), "ams1");
        assert_eq!(names(&balanced), ["ams1", "fra1", "lon1"]);
        assert_eq!(balanced.strategy, DatacenterStrategy::Balanced);
        let numbers = (balanced.min_per_datacenter, balanced.max_skew, balanced.max_price_difference);
        assert_eq!(numbers, (1, 2, 10), "the defaults");
        let backup =
            json!({"distributionStrategy": "primary-backup", "primaryDatacenter": "lon1", "maxSkew": 0});
        let backup = convert(&regions(&backup), "ams1");
        assert_eq!(names(&backup), ["lon1", "fra1", "ams1"]);
        assert_eq!((backup.strategy, backup.max_skew), (DatacenterStrategy::PrimaryBackup, 0));
    }

    #[test]
    fn weights_are_converted() {
        let weights = json!({"ams1": 70, "fra1": 30, "lon1": 0});
        let weighted =
            json!({"distributionStrategy": "weighted", "weightedDistribution": weights, "stepSize": 5});
        let DatacenterStrategy::Weighted { weights, step } = convert(&regions(&weighted), "ams1").strategy
        else {
            panic!("not weighted")
        };
        let weights: Vec<(&str, u32)> =
            weights.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
        assert_eq!((weights, step), (vec![("ams1", 70), ("fra1", 30), ("lon1", 0)], 5));
    }

    #[test]
    fn problems_are_named() {
        let problems = |more: &serde_json::Value, datacenter_id: &str, max: i32| {
            let mut findings = Findings::default();
            check(&regions(more), &spec(datacenter_id, max, true), &mut findings);
            findings
                .wrong
                .iter()
                .map(|(field, message)| format!("{field}: {message}"))
                .collect::<Vec<_>>()
                .join("; ")
        };
        assert_eq!(problems(&json!({}), "ams1", 3), "");
        assert!(problems(&json!({}), "par1", 3).contains("must be one of multiRegion.datacenterIDs"));
        assert!(problems(&json!({"minNodesPerRegion": 2}), "ams1", 5).contains("6 together"));
        let mut findings = Findings::default();
        check(&regions(&json!({"minNodesPerRegion": 2})), &spec("ams1", 5, false), &mut findings);
        assert!(findings.wrong.is_empty(), "a managed cluster has one datacenter");
        let one_empty = json!({
            "minNodesPerRegion": 2, "distributionStrategy": "weighted",
            "weightedDistribution": {"ams1": 70, "fra1": 30, "lon1": 0}
        });
        assert_eq!(problems(&one_empty, "ams1", 4), "", "weight 0 has no minimum");
        assert!(problems(&one_empty, "ams1", 3).contains("4 together"));
        let none = json!({"ams1": 0, "fra1": 0, "lon1": 0});
        let none = json!({"distributionStrategy": "weighted", "weightedDistribution": none});
        assert!(problems(&none, "ams1", 3).contains("has no weight above 0"));
    }
}
