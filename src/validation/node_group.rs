//! Checks a NodeGroup and converts it to the type of the fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::problem::Findings;
use super::schema::join;
use super::self_managed::{self, SelfManagedGroup};
use super::{regions, syntax};
use crate::api;
use crate::catalog::{CapacityType, DatacenterId, SizeId};
use crate::cost::{CostLimit, InterruptionRate};
use crate::fleet::{
    AutoscalingOptions, DeclaredNode, Distribution, MaxSpotShare, NodeGroup, PoolId, SpotDefaults,
    SpotPolicy, Taint, names,
};
use crate::vpsie::ManagedConfig;

/// The checked NodeGroup of a manifest.
pub(super) struct Checked {
    pub group: NodeGroup,
    pub product: Product,
}

/// The product of VPSie that a NodeGroup's machines are of.
#[derive(Clone, Debug, PartialEq)]
pub enum Product {
    /// Workers of a VPSie-managed cluster.
    Managed(ManagedConfig),
    /// Plain VMs of a self-managed cluster.
    SelfManaged(Box<SelfManagedGroup>),
}

impl Product {
    /// The managed cluster.
    pub fn managed(&self) -> Option<&ManagedConfig> {
        match self {
            Self::Managed(config) => Some(config),
            Self::SelfManaged(_) => None,
        }
    }

    /// The VMs of a self-managed cluster.
    pub fn self_managed(&self) -> Option<&SelfManagedGroup> {
        match self {
            Self::Managed(_) => None,
            Self::SelfManaged(group) => Some(group),
        }
    }
}

/// Checks the rules that the schema does not have, and converts the manifest. `spot` applies where it sets nothing. The
/// result is valid only if `findings` has no new problem.
pub(super) fn check(manifest: &api::NodeGroup, spot: SpotDefaults, findings: &mut Findings) -> Checked {
    let spec = &manifest.spec;
    let name = manifest.metadata.name.as_deref().unwrap_or_default();
    check_name(name, findings);
    if spec.min_nodes > spec.max_nodes {
        findings.add_problem(
            "spec.minNodes",
            format!("is {}, must be at most maxNodes, which is {}", spec.min_nodes, spec.max_nodes),
        );
    }
    findings.require("spec.datacenterID", syntax::label_value(&spec.datacenter_id));
    if let Some(version) = &spec.kubernetes_version {
        findings.require("spec.kubernetesVersion", syntax::version(version));
    }
    check_offers(spec, findings);
    check_labels("spec.labels", &spec.labels, findings);
    if let Some(regions) = &spec.multi_region {
        regions::check(regions, spec, findings);
    }
    check_durations(spec, findings);
    note_unused_fields(spec, findings);
    let spot = spot_policy(spec, spot);
    let product = product(spec, name, findings);
    let distribution = regions::distribution(spec);
    let group = NodeGroup {
        name: name.into(),
        min: u32::try_from(spec.min_nodes).unwrap_or(0),
        max: u32::try_from(spec.max_nodes).unwrap_or(0),
        pools: pools(name, spec, distribution.as_ref(), spot.is_some()),
        size: fixed_size(spec),
        labels: spec.labels.clone(),
        taints: check_taints(spec, findings),
        preferred: preferred(spec).map(Into::into),
        options: check_options(spec, findings),
        adopt: spec.adopt_existing_workers,
        cost_limit: spec
            .cost_limit
            .as_ref()
            .map(|limit| check_cost_limit(limit, findings))
            .unwrap_or_default(),
        deletion: manifest.metadata.deletion_timestamp.as_ref().map(|_| spec.deletion_policy.into()),
        node: check_node_template(manifest, findings),
        spot,
        has_cloud_controller: product.self_managed().is_some_and(SelfManagedGroup::has_cloud_controller),
        distribution,
    };
    Checked { group, product }
}

/// Checks that the NodeGroup is of one product, and converts its part of the spec.
fn product(spec: &api::NodeGroupSpec, name: &str, findings: &mut Findings) -> Product {
    match (&spec.self_managed, &spec.resource_identifier) {
        (Some(own), None) => {
            let datacenters = regions::datacenters(spec);
            let datacenters: Vec<&str> = datacenters.iter().map(DatacenterId::as_str).collect();
            let group = self_managed::check(spec, own, name, &datacenters, findings);
            return Product::SelfManaged(Box::new(group));
        }
        (Some(_), Some(_)) => findings.add_problem(
            "spec.selfManaged",
            "cannot be set with resourceIdentifier: a cluster is managed by VPSie, or self-managed; remove one",
        ),
        (None, None) => findings.add_problem(
            "spec.resourceIdentifier",
            "is missing: set it to the UUID of the managed cluster, or set selfManaged for plain VMs",
        ),
        (None, Some(_)) => {}
    }
    let cluster = spec.resource_identifier.as_deref().unwrap_or_default();
    if !cluster.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        findings.add_problem(
            "spec.resourceIdentifier",
            format!("is {cluster:?}, must be the UUID of the cluster at VPSie"),
        );
    }
    Product::Managed(ManagedConfig {
        cluster: cluster.into(),
        datacenter: spec.datacenter_id.as_str().into(),
    })
}

fn check_cost_limit(limit: &api::CostLimit, findings: &mut Findings) -> CostLimit {
    for (field, amount) in [("hourly", &limit.hourly), ("monthly", &limit.monthly)] {
        if let Some(Err(message)) = amount.as_deref().map(syntax::money) {
            findings.add_problem(format!("spec.costLimit.{field}"), message);
        }
    }
    limit.into()
}

fn check_name(name: &str, findings: &mut Findings) {
    if name.is_empty() {
        return findings.add_problem("metadata.name", "is missing");
    }
    findings.require("metadata.name", syntax::dns_subdomain(name));
    if name.len() > api::NAME_MAX {
        findings.add_problem(
            "metadata.name",
            format!(
                "is {} characters long, must be at most {}: machines are named after it",
                name.len(),
                api::NAME_MAX
            ),
        );
    }
}

fn check_offers(spec: &api::NodeGroupSpec, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for (n, offer) in spec.offering_ids.iter().enumerate() {
        let field = format!("spec.offeringIDs[{n}]");
        findings.require(&field, syntax::label_value(offer));
        if !seen.insert(offer.to_ascii_lowercase()) {
            findings.add_problem(&field, format!("is {offer:?} again, must be listed once"));
        }
    }
    if let Some(wanted) = &spec.preferred_instance_type
        && preferred(spec).is_none()
    {
        findings.add_problem(
            "spec.preferredInstanceType",
            format!("is {wanted:?}, must be one of offeringIDs ({})", spec.offering_ids.join(", ")),
        );
    }
    if let (Some(size), None) = (spec.kube_size_id, fixed_size(spec)) {
        findings.add_note(
            "spec.kubeSizeID",
            format!(
                "{size} has no effect with {} offeringIDs: each gives its own size. Keep one of them to fix its \
                 size",
                spec.offering_ids.len()
            ),
        );
    }
}

/// The entry of `offeringIDs` that is preferred, as it is written there.
fn preferred(spec: &api::NodeGroupSpec) -> Option<&str> {
    let wanted = spec.preferred_instance_type.as_deref()?;
    spec.offering_ids.iter().map(String::as_str).find(|offer| offer.eq_ignore_ascii_case(wanted))
}

fn fixed_size(spec: &api::NodeGroupSpec) -> Option<SizeId> {
    match spec.offering_ids[..] {
        [_] => spec.kube_size_id.and_then(|size| u64::try_from(size).ok()).map(SizeId),
        _ => None,
    }
}

/// A pool for each datacenter, offer and capacity type.
fn pools(
    name: &str,
    spec: &api::NodeGroupSpec,
    distribution: Option<&Distribution>,
    has_spot: bool,
) -> Vec<PoolId> {
    let all: Vec<&str> = spec.offering_ids.iter().map(String::as_str).collect();
    let offers = if spec.allow_mixed_instances {
        all
    } else {
        preferred(spec).or(all.first().copied()).into_iter().collect()
    };
    let datacenters = distribution.map_or_else(
        || vec![spec.datacenter_id.as_str().into()],
        |distribution| distribution.datacenters.clone(),
    );
    // On-demand pools come first: the first pool with headroom carries a shortfall to the minimum.
    let capacity_types =
        [Some(CapacityType::OnDemand), has_spot.then_some(CapacityType::Spot)].into_iter().flatten();
    let pools = capacity_types.flat_map(|capacity_type| {
        let offers = &offers;
        datacenters.iter().flat_map(move |datacenter| {
            offers.iter().map(move |offer| PoolId {
                node_group: name.into(),
                datacenter: datacenter.clone(),
                offer: (*offer).into(),
                capacity_type,
            })
        })
    });
    pools.collect()
}

/// The policy for spot machines. None if the NodeGroup has no spot pools.
fn spot_policy(spec: &api::NodeGroupSpec, defaults: SpotDefaults) -> Option<SpotPolicy> {
    let spot = spec.spot_config.clone().unwrap_or_default();
    let grace_period = spot.interruption_grace_period.as_deref().and_then(|text| syntax::duration(text).ok());
    spot.enabled.unwrap_or(defaults.enabled).then(|| SpotPolicy {
        max_share: MaxSpotShare::new(u32::try_from(spot.max_spot_percentage).unwrap_or(0)),
        on_demand_fallback: spot.fallback_to_on_demand,
        grace_period: grace_period.unwrap_or(defaults.grace_period),
        allowed_interruption_rate: Some(InterruptionRate::percent_a_month(
            spot.allowed_interruption_rate.into(),
        )),
        taint: spot.taint.map(Into::into),
    })
}

fn check_labels(place: &str, labels: &BTreeMap<String, String>, findings: &mut Findings) {
    for (key, value) in labels {
        let field = join(place, key);
        findings.require(&field, syntax::qualified_name(key));
        findings.require(&field, syntax::label_value(value));
        if let Some(reserved) = api::reserved(&api::LABELS, key) {
            findings.add_problem(&field, reserved_label(key, reserved));
        }
    }
}

fn reserved_label(key: &str, reserved: &api::ReservedKeys) -> String {
    let field = match key {
        "kubernetes.io/arch" => "architecture",
        "kubernetes.io/os" => "operatingSystem",
        _ => return format!("is reserved, remove it: {}", reserved.why),
    };
    format!("is reserved, remove it: {}; write spec.nodeTemplate.{field} instead", reserved.why)
}

fn check_node_template(manifest: &api::NodeGroup, findings: &mut Findings) -> DeclaredNode {
    let annotations = manifest.metadata.annotations.as_ref();
    let relearn = annotations.and_then(|all| all.get(names::RELEARN)).cloned();
    let Some(template) = &manifest.spec.node_template else {
        return DeclaredNode { relearn, ..DeclaredNode::default() };
    };
    check_labels("spec.nodeTemplate.labels", &template.labels, findings);
    let mut resources = BTreeMap::new();
    for (name, amount) in &template.resources {
        let field = join("spec.nodeTemplate.resources", name);
        findings.require(&field, syntax::extended_resource(name));
        match syntax::amount(amount) {
            Ok(amount) => drop(resources.insert(name.clone(), amount)),
            Err(message) => findings.add_problem(field, message),
        }
    }
    DeclaredNode {
        architecture: template.architecture.clone(),
        operating_system: template.operating_system.clone(),
        labels: template.labels.clone(),
        resources,
        relearn,
    }
}

fn check_taints(spec: &api::NodeGroupSpec, findings: &mut Findings) -> Vec<Taint> {
    let mut seen = BTreeSet::new();
    let mut taints = Vec::new();
    for (n, taint) in spec.taints.iter().enumerate() {
        let field = format!("spec.taints[{n}]");
        findings.require(format!("{field}.key"), syntax::qualified_name(&taint.key));
        findings.require(format!("{field}.value"), syntax::label_value(&taint.value));
        if let Some(reserved) = api::reserved(&api::TAINTS, &taint.key) {
            let message = format!("is {:?}, which is reserved, remove it: {}", taint.key, reserved.why);
            findings.add_problem(format!("{field}.key"), message);
        }
        if !seen.insert((&taint.key, taint.effect.to_string())) {
            findings
                .add_problem(field, format!("is {}:{} again, must be listed once", taint.key, taint.effect));
        }
        taints.push(Taint { key: taint.key.clone(), value: taint.value.clone(), effect: taint.effect });
    }
    taints
}

/// Checks the durations of policies.
fn check_durations(spec: &api::NodeGroupSpec, findings: &mut Findings) {
    if let Some(grace) = spec.spot_config.as_ref().and_then(|spot| spot.interruption_grace_period.as_ref()) {
        let field = "spec.spotConfig.interruptionGracePeriod";
        findings.require(field, syntax::duration(grace).map(drop));
    }
    if let Some(cost) = &spec.cost_optimization {
        let field = "spec.costOptimization.optimizationInterval";
        findings.require(field, syntax::duration(&cost.optimization_interval).map(drop));
    }
}

fn check_options(spec: &api::NodeGroupSpec, findings: &mut Findings) -> AutoscalingOptions {
    let Some(options) = &spec.autoscaling_options else { return AutoscalingOptions::default() };
    let mut duration = |name: &str, text: &Option<String>| -> Option<Duration> {
        syntax::duration(text.as_deref()?)
            .map_err(|message| findings.add_problem(format!("spec.autoscalingOptions.{name}"), message))
            .ok()
    };
    AutoscalingOptions {
        scale_down_utilization_threshold: options.scale_down_utilization_threshold,
        scale_down_gpu_utilization_threshold: options.scale_down_gpu_utilization_threshold,
        scale_down_unneeded_time: duration("scaleDownUnneededTime", &options.scale_down_unneeded_time),
        scale_down_unready_time: duration("scaleDownUnreadyTime", &options.scale_down_unready_time),
        max_node_provision_time: duration("maxNodeProvisionTime", &options.max_node_provision_time),
        ignore_daemon_sets_utilization: options.ignore_daemon_sets_utilization,
    }
}

fn note_unused_fields(spec: &api::NodeGroupSpec, findings: &mut Findings) {
    const CLUSTER: &str = "has no effect: VPSie sets it for the workers of a managed cluster";
    for (field, set) in [
        ("spec.project", spec.project.is_some()),
        ("spec.osImageID", spec.os_image_id.is_some()),
        ("spec.kubernetesVersion", spec.kubernetes_version.is_some()),
        ("spec.sshKeyIDs", !spec.ssh_key_ids.is_empty()),
        ("spec.tags", !spec.tags.is_empty()),
    ] {
        if set && spec.self_managed.is_none() {
            findings.add_note(field, CLUSTER);
        }
    }
    if let Some(policy) = &spec.scale_up_policy {
        let but =
            if policy.enabled { "" } else { "; to stop growth, set maxNodes to the present number of nodes" };
        findings.add_note(
            "spec.scaleUpPolicy",
            format!("has no effect yet: Cluster Autoscaler's flags decide{but}"),
        );
    }
    if let Some(policy) = &spec.scale_down_policy {
        let message = if policy.enabled {
            "has no effect yet: Cluster Autoscaler's flags and spec.autoscalingOptions decide"
        } else {
            "has no effect yet: Cluster Autoscaler removes idle nodes all the same, unless they have the \
             annotation cluster-autoscaler.kubernetes.io/scale-down-disabled=true"
        };
        findings.add_note("spec.scaleDownPolicy", message);
    }
    if spec.spot_config.as_ref().is_some_and(|spot| spot.enabled == Some(true)) {
        findings.add_note(
            "spec.spotConfig",
            "has no effect until VPSie's catalog or --price-file has a spot offer",
        );
    }
    let spreads = spec.multi_region.as_ref().is_some_and(|regions| regions.enabled);
    if spreads && !regions::supports_datacenters(spec) {
        findings.add_note("spec.multiRegion", "has no effect: a managed cluster is in one datacenter");
    }
    if spec.cost_optimization.as_ref().is_some_and(|cost| cost.enabled) {
        findings.add_note("spec.costOptimization", "has no effect yet");
    }
}
