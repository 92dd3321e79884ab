//! What a user declares, once it is validated: a NodeGroup and its pools.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::{NodeGroupName, PoolId};
use crate::catalog::{OfferRef, SizeId};
use crate::cost::CostLimit;

/// A NodeGroup: limits, and pools to fill them from, the preferred one first.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeGroup {
    /// Its name.
    pub name: NodeGroupName,
    /// Fewest machines over all pools.
    pub min: u32,
    /// Most machines over all pools.
    pub max: u32,
    /// Its pools, in the user's order.
    pub pools: Vec<PoolId>,
    /// `spec.kubeSizeID`: the size of its only offer, whatever the catalog calls that one.
    pub size: Option<SizeId>,
    /// Labels that its Nodes get.
    pub labels: BTreeMap<String, String>,
    /// Taints that its Nodes get.
    pub taints: Vec<Taint>,
    /// The offer that wins a tie.
    pub preferred: Option<OfferRef>,
    /// Options for Cluster Autoscaler; none leaves its flags in force.
    pub options: AutoscalingOptions,
    /// Whether workers that are in its VPSie groups already are taken in as its machines.
    pub adopt: bool,
    /// The most that its machines may cost together.
    pub cost_limit: CostLimit,
    /// Set once somebody deleted it: what becomes of its machines.
    pub deletion: Option<DeletionPolicy>,
    /// What its Nodes have beside what they get from us.
    pub node: DeclaredNode,
}

/// What the Nodes of a NodeGroup have that neither its offers say nor we give them. It is promised to Cluster
/// Autoscaler until the last Nodes contradict it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredNode {
    /// `kubernetes.io/arch`.
    pub architecture: Option<String>,
    /// `kubernetes.io/os`.
    pub operating_system: Option<String>,
    /// Labels that others give them.
    pub labels: BTreeMap<String, String>,
    /// Devices, and bytes of huge pages.
    pub resources: BTreeMap<String, u64>,
    /// The annotation [`RELEARN`](super::names::RELEARN).
    pub relearn: Option<String>,
}

impl NodeGroup {
    /// Fewest machines that Cluster Autoscaler must leave: none once the NodeGroup is being deleted.
    pub fn least(&self) -> u32 {
        if self.deletion.is_some() { 0 } else { self.min }
    }
}

/// What becomes of the machines of a NodeGroup that somebody deletes. No new ones are made either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// They stay until Cluster Autoscaler finds them unneeded.
    #[default]
    WhenEmpty,
    /// Their Nodes are drained and their VMs deleted.
    Drain,
}

/// All that users declare.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declaration {
    /// The NodeGroups.
    pub groups: Vec<NodeGroup>,
    /// Most machines over all NodeGroups (`AutoscalerConfig`, `maxClusterWorkers`).
    pub max_machines: Option<u32>,
    /// The most that all machines may cost together (`AutoscalerConfig`, `costLimit`), beside what settings say.
    pub cost_limit: CostLimit,
    /// Takes the place of [`Policy::create_timeout`](super::Policy::create_timeout) (`AutoscalerConfig`,
    /// `nodeReadyTimeoutSeconds`).
    pub create_timeout: Option<Duration>,
    /// Why the limits of the AutoscalerConfig are not known. Nothing grows then.
    pub limits_unknown: Option<Arc<str>>,
    /// NodeGroups whose limits are not known. Their machines stay, and none is added.
    pub held: BTreeSet<NodeGroupName>,
}

impl From<Vec<NodeGroup>> for Declaration {
    fn from(groups: Vec<NodeGroup>) -> Self {
        Self { groups, ..Self::default() }
    }
}

/// A taint of a Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, may be empty.
    pub value: String,
    /// What it does to pods that do not tolerate it.
    pub effect: TaintEffect,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaintEffect {
    /// They are not scheduled.
    NoSchedule,
    /// They are scheduled elsewhere if possible.
    PreferNoSchedule,
    /// They are evicted.
    NoExecute,
}

impl fmt::Display for TaintEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        })
    }
}

/// A NodeGroup's own autoscaling options. What is None is left to Cluster Autoscaler's flags, which it sends
/// as defaults with each question (docs/reference/cluster-autoscaler.md#options).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AutoscalingOptions {
    /// Requested share of a node below which it is a candidate for removal, 0 to 1.
    pub scale_down_utilization_threshold: Option<f64>,
    /// The same for nodes with GPUs.
    pub scale_down_gpu_utilization_threshold: Option<f64>,
    /// How long a node is unneeded before it is removed.
    pub scale_down_unneeded_time: Option<Duration>,
    /// How long an unready node is unneeded before it is removed.
    pub scale_down_unready_time: Option<Duration>,
    /// How long a machine may take to become a Node.
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
