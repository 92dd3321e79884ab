#![allow(unreachable_pub, reason = "KubeSchema repeats the type inside a function")]

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, text};
use crate::fleet::TaintEffect;

/// Conditions for adding nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScaleUpPolicy {
    /// Time that pods must be pending before nodes are added, seconds.
    #[serde(default = "number::<60>")]
    #[schemars(range(min = 0))]
    pub stabilization_window_seconds: i32,
    /// CPU utilization above which nodes are added, percent.
    #[serde(default = "number::<80>")]
    #[schemars(range(min = 0, max = 100))]
    pub cpu_threshold: i32,
    /// Memory utilization above which nodes are added, percent.
    #[serde(default = "number::<80>")]
    #[schemars(range(min = 0, max = 100))]
    pub memory_threshold: i32,
    /// Whether nodes are added.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// Conditions for removing nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScaleDownPolicy {
    /// Time that a node must be unneeded before it is removed, seconds.
    #[serde(default = "number::<600>")]
    #[schemars(range(min = 0))]
    pub stabilization_window_seconds: i32,
    /// CPU utilization below which a node may be removed, percent.
    #[serde(default = "number::<50>")]
    #[schemars(range(min = 0, max = 100))]
    pub cpu_threshold: i32,
    /// Memory utilization below which a node may be removed, percent.
    #[serde(default = "number::<50>")]
    #[schemars(range(min = 0, max = 100))]
    pub memory_threshold: i32,
    /// Whether nodes are removed.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Minimum time between two removals, seconds.
    #[serde(default = "number::<600>")]
    #[schemars(range(min = 0))]
    pub cooldown_seconds: i32,
}

/// Spot machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpotConfig {
    /// Whether the NodeGroup has a spot pool for each of its offers that has a spot offer. Default:
    /// `--spot-instances`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Maximum share of spot machines in the NodeGroup, percent. The number of spot machines is rounded down.
    /// The maximum limits the growth of spot pools and the scale-down of on-demand pools; no machine is deleted
    /// because of it.
    #[serde(default = "number::<80>")]
    #[schemars(range(min = 0, max = 100))]
    pub max_spot_percentage: i32,
    /// Whether on-demand pools may grow without regard to `maxSpotPercentage`. If not, they grow only to the number of
    /// machines that allows one more spot machine, and pods wait for spot machines.
    #[serde(default = "yes")]
    pub fallback_to_on_demand: bool,
    /// Assumed time from a notice to the interruption, if the notice has no deadline. At most 24h. Default:
    /// `--spot-grace-period`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Duration>")]
    pub interruption_grace_period: Option<String>,
    /// Maximum interruption rate, percent of machines a month. Spot pools do not grow while the rate of their class
    /// is above it with a certainty of 95 percent.
    #[serde(default = "number::<20>")]
    #[schemars(range(min = 0, max = 100))]
    pub allowed_interruption_rate: i32,
    /// Effect of the taint of spot Nodes. None: no taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint: Option<SpotTaint>,
}

impl Default for SpotConfig {
    fn default() -> Self {
        Self {
            enabled: None,
            max_spot_percentage: number::<80>(),
            fallback_to_on_demand: yes(),
            interruption_grace_period: None,
            allowed_interruption_rate: number::<20>(),
            taint: None,
        }
    }
}

/// Effect of the taint `autoscaler.vpsie.com/capacity-type=spot` on the Nodes of spot pools. Default: no taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SpotTaint {
    /// They are not scheduled.
    NoSchedule,
    /// They are scheduled elsewhere if possible.
    PreferNoSchedule,
}

impl From<SpotTaint> for TaintEffect {
    fn from(taint: SpotTaint) -> Self {
        match taint {
            SpotTaint::NoSchedule => Self::NoSchedule,
            SpotTaint::PreferNoSchedule => Self::PreferNoSchedule,
        }
    }
}

/// Several datacenters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::WEIGHTS_ARE_USED,
    validation = rules::A_WEIGHT_IS_ABOVE_0,
    validation = rules::WEIGHTS_ARE_COMPLETE,
    validation = rules::PRIMARY_IS_LISTED
)]
pub struct MultiRegion {
    /// Whether other datacenters than `datacenterID` are used. Without effect for a managed cluster, which is in one
    /// datacenter.
    #[serde(default)]
    pub enabled: bool,
    /// Datacenters of the nodes. `datacenterID` must be one of them. `primary-backup` uses them in this order, after
    /// the primary.
    #[serde(default, rename = "datacenterIDs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<text::Datacenter>", length(max = 32))]
    #[x_kube(validation = rules::DATACENTERS_DIFFER)]
    pub datacenter_ids: Vec<String>,
    /// Distribution of the nodes over the datacenters.
    #[serde(default)]
    pub distribution_strategy: DistributionStrategy,
    /// Weight of each datacenter, for `weighted`. A datacenter with weight 0 does not grow.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, rules::Weight>", extend("maxProperties" = 32))]
    pub weighted_distribution: BTreeMap<String, i32>,
    /// First choice among `datacenterIDs`, for `primary-backup`. Default: `datacenterID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Datacenter>")]
    pub primary_datacenter: Option<String>,
    /// Minimum number of nodes in each datacenter.
    #[serde(default = "number::<1>")]
    #[schemars(range(min = 0))]
    pub min_nodes_per_region: i32,
    /// Number of machines that `weighted` divides at a time. A small number keeps the proportions more exactly, a large
    /// number adds machines faster.
    #[serde(default = "number::<3>")]
    #[schemars(range(min = 1, max = 100))]
    pub step_size: i32,
    /// Number of nodes by which Cluster Autoscaler may shrink a datacenter below its part of the NodeGroup.
    #[serde(default = "number::<2>")]
    #[schemars(range(min = 0))]
    pub max_skew: i32,
    /// Maximum additional price of a node in the datacenter that the strategy chooses, percent. The expander chooses
    /// another datacenter only if a node there is cheaper by more than that.
    #[serde(default = "number::<10>")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_price_difference: i32,
}

/// Distribution of nodes over datacenters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DistributionStrategy {
    /// Equal numbers.
    #[default]
    Balanced,
    /// Numbers in proportion to the weights.
    Weighted,
    /// The primary datacenter, and another one while the primary has no capacity.
    PrimaryBackup,
}

/// Replacement of machines by cheaper ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CostOptimization {
    /// Whether machines are compared with cheaper ones.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Which recommendations are applied without approval: `auto` safe ones, `manual` none, `aggressive`
    /// those with high savings, `conservative` those without risk for running pods.
    #[serde(default)]
    pub strategy: CostStrategy,
    /// Interval between comparisons.
    #[serde(default = "one_day")]
    #[schemars(with = "text::Duration")]
    pub optimization_interval: String,
    /// Minimum savings of a replacement, USD per month.
    #[serde(default = "ten")]
    #[schemars(range(min = 0))]
    pub min_monthly_savings: f64,
    /// Maximum loss of capacity by a replacement, percent.
    #[serde(default = "number::<5>")]
    #[schemars(range(min = 0, max = 100))]
    pub max_performance_impact: i32,
    /// Whether a replacement needs the approval of a user.
    #[serde(default)]
    pub require_approval: bool,
}

/// Which recommendations of the cost optimization are applied without approval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CostStrategy {
    /// Safe recommendations.
    #[default]
    Auto,
    /// None; they are only reported.
    Manual,
    /// Recommendations with high savings.
    Aggressive,
    /// Recommendations without risk for running pods.
    Conservative,
}

pub(super) fn yes() -> bool {
    true
}

fn number<const N: i32>() -> i32 {
    N
}

fn ten() -> f64 {
    10.0
}

fn one_day() -> String {
    "24h".to_owned()
}
