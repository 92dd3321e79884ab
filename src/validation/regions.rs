//! Checks of `multiRegion` that the schema cannot express.

use std::collections::BTreeSet;

use super::problem::Findings;
use super::schema::join;
use super::syntax;
use crate::api::{Distribution, MultiRegion};

pub(super) fn check(regions: &MultiRegion, max_nodes: i32, findings: &mut Findings) {
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
    let least = i64::from(regions.min_nodes_per_region) * datacenters.len() as i64;
    if regions.enabled && least > i64::from(max_nodes) {
        findings.add_problem(
            "spec.multiRegion.minNodesPerRegion",
            format!(
                "is {} in each of {} datacenterIDs, {least} together: must be at most maxNodes, which is {max_nodes}",
                regions.min_nodes_per_region,
                datacenters.len()
            ),
        );
    }
}

fn check_weights(regions: &MultiRegion, findings: &mut Findings) {
    const FIELD: &str = "spec.multiRegion.weightedDistribution";
    let datacenters = &regions.datacenter_ids;
    let weights = &regions.weighted_distribution;
    if regions.distribution_strategy != Distribution::Weighted {
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
    for datacenter in weights.keys().filter(|datacenter| !datacenters.contains(datacenter)) {
        findings.add_problem(join(FIELD, datacenter), "is not one of datacenterIDs: remove the weight");
    }
}
