#![allow(unreachable_pub, reason = "KubeSchema repeats the type inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text;

/// State of a NodeGroup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeGroupStatus {
    /// Number of existing nodes.
    #[serde(default)]
    pub current_nodes: i32,
    /// Number of nodes that Cluster Autoscaler has requested.
    #[serde(default)]
    pub desired_nodes: i32,
    /// Number of Ready nodes.
    #[serde(default)]
    pub ready_nodes: i32,
    /// Numeric id of the VPSie group.
    #[serde(default, rename = "vpsieGroupID", skip_serializing_if = "Option::is_none")]
    pub vpsie_group_id: Option<i64>,
    /// Pools, which are the node groups of Cluster Autoscaler.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".to_owned()]))]
    pub pools: Vec<NodeGroupPool>,
    /// Nodes of the NodeGroup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeGroupNode>,
    /// Conditions `Ready`, `Scaling`, `Error`, `AtMinCapacity`, `AtMaxCapacity`, `GrowthHalted`,
    /// `UnexpectedNodes`, `SpotAvailable` if spot is enabled, `DatacentersHealthy` with several datacenters,
    /// `PayloadValid` of a self-managed cluster, and `Deleting` after the NodeGroup was deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Time of the last change of its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub last_scale_time: Option<Time>,
    /// Time of the last increase of its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub last_scale_up_time: Option<Time>,
    /// Time of the last decrease of its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub last_scale_down_time: Option<Time>,
    /// Cost of its VMs. VMs without a known price do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<NodeGroupCost>,
    /// Spot machines. Absent without spot pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot: Option<NodeGroupSpot>,
    /// Datacenters, the primary first. Absent if all machines are in `datacenterID`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["datacenterID".to_owned()]))]
    pub datacenters: Vec<NodeGroupDatacenter>,
    /// Generation of the spec that the status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Cost of a NodeGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeGroupCost {
    /// USD per hour, a decimal number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hourly: Option<String>,
    /// USD per month, a decimal number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly: Option<String>,
}

/// Spot machines of a NodeGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeGroupSpot {
    /// Share of spot machines in the NodeGroup, percent, rounded.
    #[serde(default)]
    pub share_percent: i32,
    /// Spot pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".to_owned()]))]
    pub pools: Vec<SpotPool>,
}

/// Spot pool of a NodeGroup. Its class is its datacenter and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpotPool {
    /// Id of the pool.
    pub id: String,
    /// State of the circuit breaker of its class: `closed` (the pool can grow), `half-open` (all pools of the class
    /// together can add one machine), `open` (the pool cannot grow).
    pub breaker: BreakerStatus,
    /// Time of the next attempt, while the circuit breaker is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub next_attempt: Option<Time>,
    /// Estimated interruption rate of its class, percent of machines a month, rounded.
    #[serde(default)]
    pub interruption_rate_percent: i32,
}

/// State of the circuit breaker of a spot class or of a datacenter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerStatus {
    /// Pools of the class or datacenter can grow.
    Closed,
    /// All pools of the class or datacenter together can add one machine.
    HalfOpen,
    /// Pools of the class or datacenter cannot grow.
    Open,
}

/// Datacenter of a NodeGroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeGroupDatacenter {
    /// VPSie datacenter.
    #[serde(rename = "datacenterID")]
    pub datacenter_id: String,
    /// Number of machines that are neither failed nor being deleted.
    #[serde(default)]
    pub machines: i32,
    /// Number of Ready nodes.
    #[serde(default)]
    pub ready_nodes: i32,
    /// Minimum number of machines.
    #[serde(default)]
    pub minimum: i32,
    /// Number of machines below the minimum.
    #[serde(default)]
    pub shortfall: i32,
    /// State of the circuit breaker of the datacenter: `closed` (its pools can grow), `half-open` (its pools together
    /// can add one machine), `open` (its pools cannot grow).
    pub health: BreakerStatus,
    /// Time at which the circuit breaker opened. Absent while it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub since: Option<Time>,
    /// Time of the next attempt, while the circuit breaker is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub next_attempt: Option<Time>,
    /// Evidence that opened the circuit breaker, such as `RowsMissing`. Absent while it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One pool of a NodeGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeGroupPool {
    /// Id of the pool.
    pub id: String,
    /// Number of nodes that Cluster Autoscaler has requested.
    #[serde(default)]
    pub desired_nodes: i32,
    /// Number of existing nodes.
    #[serde(default)]
    pub current_nodes: i32,
    /// Number of Ready nodes.
    #[serde(default)]
    pub ready_nodes: i32,
    /// Number of failed machines that Cluster Autoscaler has not removed yet.
    #[serde(default)]
    pub failed_nodes: i32,
}

/// One node of a NodeGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeGroupNode {
    /// Name of the Node.
    pub node_name: String,
    /// Numeric id of the VM.
    #[serde(rename = "vpsID")]
    pub vps_id: i64,
    /// Offer of the node.
    pub instance_type: String,
    /// Phase of the machine.
    pub status: String,
    /// Time at which the machine was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub created_at: Option<Time>,
    /// Time at which the Node became Ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub ready_at: Option<Time>,
    /// Address of the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
}

/// A condition of a NodeGroup or machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type of the condition.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Time of the last change of the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub last_transition_time: Option<Time>,
    /// Time of the last update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub last_update_time: Option<Time>,
    /// Reason, in one word.
    #[serde(default)]
    pub reason: String,
    /// Details for users.
    #[serde(default)]
    pub message: String,
}
