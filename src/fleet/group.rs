//! Declarations of users, after validation: NodeGroups and their pools.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::datacenters::Distribution;
use super::ids::{NodeGroupName, PoolId};
use super::spot::SpotPolicy;
use super::taint::Taint;
use crate::catalog::{OfferRef, SizeId};
use crate::cost::CostLimit;

/// A NodeGroup: its limits and its pools, the preferred pool first.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeGroup {
    /// Its name.
    pub name: NodeGroupName,
    /// Minimum of machines over all pools.
    pub min: u32,
    /// Maximum of machines over all pools.
    pub max: u32,
    /// Its pools, in the user's order.
    pub pools: Vec<PoolId>,
    /// `spec.kubeSizeID`: the size of its only offer, independent of the offer's name in the catalog.
    pub size: Option<SizeId>,
    /// Labels of its Nodes.
    pub labels: BTreeMap<String, String>,
    /// Taints of its Nodes.
    pub taints: Vec<Taint>,
    /// The offer that wins a tie.
    pub preferred: Option<OfferRef>,
    /// Options for Cluster Autoscaler. An option that is not set leaves Cluster Autoscaler's flag in force.
    pub options: AutoscalingOptions,
    /// Whether existing workers of its VPSie groups are adopted as its machines.
    pub adopt: bool,
    /// Cost limit of all its machines together.
    pub cost_limit: CostLimit,
    /// The policy for its machines, once a user deleted it.
    pub deletion: Option<DeletionPolicy>,
    /// Properties of its Nodes that vpsie-autoscaler does not set.
    pub node: DeclaredNode,
    /// The policy for its spot machines. None: it has no spot pools.
    pub spot: Option<SpotPolicy>,
    /// Whether a cloud controller sets `spec.providerID` of its Nodes, in place of vpsie-autoscaler.
    pub has_cloud_controller: bool,
    /// The distribution of its machines over datacenters. None: they are all in one.
    pub distribution: Option<Distribution>,
}

/// Declared properties of the Nodes of a NodeGroup that follow neither from its offers nor from
/// vpsie-autoscaler. Templates have them until the last Nodes contradict them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredNode {
    /// `kubernetes.io/arch`.
    pub architecture: Option<String>,
    /// `kubernetes.io/os`.
    pub operating_system: Option<String>,
    /// Labels from other programs.
    pub labels: BTreeMap<String, String>,
    /// Devices, and bytes of huge pages.
    pub resources: BTreeMap<String, u64>,
    /// The annotation [`RELEARN`](super::names::RELEARN).
    pub relearn: Option<String>,
}

impl NodeGroup {
    /// The minimum in force: 0 once the NodeGroup is being deleted.
    pub fn minimum(&self) -> u32 {
        if self.deletion.is_some() { 0 } else { self.min }
    }
}

/// The policy for machines of a deleted NodeGroup. No machines are added under either policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// They stay until Cluster Autoscaler finds them unneeded.
    #[default]
    WhenEmpty,
    /// Their Nodes are drained and their VMs deleted.
    Drain,
}

/// All declarations of users.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declaration {
    /// The NodeGroups.
    pub groups: Vec<NodeGroup>,
    /// Maximum of machines over all NodeGroups (`AutoscalerConfig`, `maxClusterWorkers`).
    pub max_machines: Option<u32>,
    /// Cost limit of all machines together (`AutoscalerConfig`, `costLimit`). The stricter one of this and
    /// the settings applies.
    pub cost_limit: CostLimit,
    /// Replaces [`Policy::create_timeout`](super::Policy::create_timeout) (`AutoscalerConfig`,
    /// `nodeReadyTimeoutSeconds`).
    pub create_timeout: Option<Duration>,
    /// The reason why the limits of the AutoscalerConfig are unknown. No NodeGroup grows then.
    pub limits_unknown: Option<Arc<str>>,
    /// NodeGroups without a valid spec, so their limits are unknown. Their machines stay, and none is added.
    pub without_spec: BTreeSet<NodeGroupName>,
}

impl From<Vec<NodeGroup>> for Declaration {
    fn from(groups: Vec<NodeGroup>) -> Self {
        Self { groups, ..Self::default() }
    }
}

/// Autoscaling options of a NodeGroup. None leaves Cluster Autoscaler's flag in force, which it sends as
/// default with each request (docs/reference/cluster-autoscaler.md#options).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AutoscalingOptions {
    /// Requested share of a node below which it is a candidate for removal, 0 to 1.
    pub scale_down_utilization_threshold: Option<f64>,
    /// Requested share of the GPUs of a node below which it is a candidate for removal, 0 to 1.
    pub scale_down_gpu_utilization_threshold: Option<f64>,
    /// Time that a node must be unneeded before it is removed.
    pub scale_down_unneeded_time: Option<Duration>,
    /// Time that an unready node must be unneeded before it is removed.
    pub scale_down_unready_time: Option<Duration>,
    /// Time from the request for a machine until its Node must be registered.
    pub max_node_provision_time: Option<Duration>,
    /// Whether DaemonSet pods are ignored when a node's utilization is measured.
    pub ignore_daemon_sets_utilization: Option<bool>,
}

impl AutoscalingOptions {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
