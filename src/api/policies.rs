#![allow(unreachable_pub, reason = "KubeSchema repeats the type inside a function")]

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, text};

/// When nodes are added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScaleUpPolicy {
    /// How long pods must be pending, seconds.
    #[serde(default = "number::<60>")]
    #[schemars(range(min = 0))]
    pub stabilization_window_seconds: i32,
    /// CPU use, percent.
    #[serde(default = "number::<80>")]
    #[schemars(range(min = 0, max = 100))]
    pub cpu_threshold: i32,
    /// Memory use, percent.
    #[serde(default = "number::<80>")]
    #[schemars(range(min = 0, max = 100))]
    pub memory_threshold: i32,
    /// Whether nodes are added.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// When nodes are removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScaleDownPolicy {
    /// How long a node must be unneeded, seconds.
    #[serde(default = "number::<600>")]
    #[schemars(range(min = 0))]
    pub stabilization_window_seconds: i32,
    /// CPU use, percent.
    #[serde(default = "number::<50>")]
    #[schemars(range(min = 0, max = 100))]
    pub cpu_threshold: i32,
    /// Memory use, percent.
    #[serde(default = "number::<50>")]
    #[schemars(range(min = 0, max = 100))]
    pub memory_threshold: i32,
    /// Whether nodes are removed.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Least time between two removals, seconds.
    #[serde(default = "number::<600>")]
    #[schemars(range(min = 0))]
    pub cooldown_seconds: i32,
}

/// Spot machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpotConfig {
    /// Whether they may be rented.
    #[serde(default)]
    pub enabled: bool,
    /// Most of them, percent of the NodeGroup.
    #[serde(default = "number::<80>")]
    #[schemars(range(min = 0, max = 100))]
    pub max_spot_percentage: i32,
    /// Whether on-demand machines are rented when there are none.
    #[serde(default = "yes")]
    pub fallback_to_on_demand: bool,
    /// How long pods have to leave after a notice.
    #[serde(default = "two_minutes")]
    #[schemars(with = "text::Duration")]
    pub interruption_grace_period: String,
    /// Interruptions that are put up with, percent.
    #[serde(default = "number::<20>")]
    #[schemars(range(min = 0, max = 100))]
    pub allowed_interruption_rate: i32,
}

/// Several datacenters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::WEIGHTS_ARE_USED,
    validation = rules::WEIGHTS_ARE_COMPLETE,
    validation = rules::PRIMARY_IS_LISTED
)]
pub struct MultiRegion {
    /// Whether more than `datacenterID` is used.
    #[serde(default)]
    pub enabled: bool,
    /// The datacenters.
    #[serde(default, rename = "datacenterIDs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<text::Datacenter>", length(max = 32))]
    #[x_kube(validation = rules::DATACENTERS_DIFFER)]
    pub datacenter_ids: Vec<String>,
    /// How nodes are spread over them.
    #[serde(default)]
    pub distribution_strategy: Distribution,
    /// Weight of each of `datacenterIDs`, for `weighted`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, rules::Weight>", extend("maxProperties" = 32))]
    pub weighted_distribution: BTreeMap<String, i32>,
    /// The one of `datacenterIDs` that is the first choice, for `primary-backup`. If left out: `datacenterID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Datacenter>")]
    pub primary_datacenter: Option<String>,
    /// Fewest nodes in each.
    #[serde(default = "number::<1>")]
    #[schemars(range(min = 0))]
    pub min_nodes_per_region: i32,
}

/// How nodes are spread over datacenters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// Evenly.
    #[default]
    Balanced,
    /// By weight.
    Weighted,
    /// One, and another when that one cannot.
    PrimaryBackup,
}

/// Cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CostOptimization {
    /// Whether it is looked at.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How far it goes.
    #[serde(default)]
    pub strategy: CostStrategy,
    /// How often.
    #[serde(default = "one_day")]
    #[schemars(with = "text::Duration")]
    pub optimization_interval: String,
    /// Least savings worth a change, USD per month.
    #[serde(default = "ten")]
    #[schemars(range(min = 0))]
    pub min_monthly_savings: f64,
    /// Most capacity that may be lost, percent.
    #[serde(default = "number::<5>")]
    #[schemars(range(min = 0, max = 100))]
    pub max_performance_impact: i32,
    /// Whether a person must agree first.
    #[serde(default)]
    pub require_approval: bool,
}

/// How far cost optimization goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CostStrategy {
    /// Changes what is safe.
    #[default]
    Auto,
    /// Only says what it would do.
    Manual,
    /// Prefers savings.
    Aggressive,
    /// Prefers stability.
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

fn two_minutes() -> String {
    "120s".to_owned()
}

fn one_day() -> String {
    "24h".to_owned()
}
