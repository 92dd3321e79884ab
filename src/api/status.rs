#![allow(unreachable_pub, reason = "KubeSchema repeats the type inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a NodeGroup is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeGroupStatus {
    /// Nodes that there are.
    #[serde(default)]
    pub current_nodes: i32,
    /// Nodes that there are to be.
    #[serde(default)]
    pub desired_nodes: i32,
    /// Nodes that are Ready.
    #[serde(default)]
    pub ready_nodes: i32,
    /// Number of the VPSie group.
    #[serde(default, rename = "vpsieGroupID", skip_serializing_if = "Option::is_none")]
    pub vpsie_group_id: Option<i64>,
    /// Its pools, as they are spelled to Cluster Autoscaler.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".to_owned()]))]
    pub pools: Vec<NodeGroupPool>,
    /// The nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeGroupNode>,
    /// `Ready`, `Scaling`, `Error`, `AtMinCapacity`, `AtMaxCapacity`, `GrowthHalted`, `UnexpectedNodes`, and `Deleting`
    /// once a person deleted it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// When it last grew or shrank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<Time>,
    /// When it last grew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_up_time: Option<Time>,
    /// When it last shrank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_down_time: Option<Time>,
    /// What is paid for its VMs, as far as their prices are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<NodeGroupCost>,
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// What a NodeGroup costs.
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

/// One pool of a NodeGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeGroupPool {
    /// Its id.
    pub id: String,
    /// Nodes that there are to be.
    #[serde(default)]
    pub desired_nodes: i32,
    /// Nodes that there are.
    #[serde(default)]
    pub current_nodes: i32,
    /// Nodes that are Ready.
    #[serde(default)]
    pub ready_nodes: i32,
    /// Creations that failed for good and are still shown to Cluster Autoscaler.
    #[serde(default)]
    pub failed_nodes: i32,
}

/// One node of a NodeGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeGroupNode {
    /// Name of the Node.
    pub node_name: String,
    /// Number of the VM.
    #[serde(rename = "vpsID")]
    pub vps_id: i64,
    /// Its offer.
    pub instance_type: String,
    /// Its phase.
    pub status: String,
    /// When it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Time>,
    /// When it became Ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Time>,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
}

/// A condition of a NodeGroup or a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// When the status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// When it was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
    /// Why, in one word.
    #[serde(default)]
    pub reason: String,
    /// Why, in a sentence.
    #[serde(default)]
    pub message: String,
}
