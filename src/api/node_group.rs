#![allow(unreachable_pub, reason = "KubeSchema repeats the type inside a function")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has a type and a path")]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cost_limit::CostLimit;
use super::node_template::NodeTemplate;
use super::policies::{CostOptimization, MultiRegion, ScaleDownPolicy, ScaleUpPolicy, SpotConfig};
use super::rules;
use super::status::NodeGroupStatus;
use super::text;
use crate::fleet::{self, TaintEffect};

/// What a NodeGroup may rent and how many of it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "autoscaler.vpsie.com",
    version = "v1alpha1",
    kind = "NodeGroup",
    plural = "nodegroups",
    shortname = "ng",
    shortname = "ngs",
    category = "vpsie",
    namespaced,
    status = "NodeGroupStatus",
    derive = "PartialEq",
    doc = "Worker nodes that are rented from VPSie as pods need them.",
    scale(spec_replicas_path = ".spec.minNodes", status_replicas_path = ".status.currentNodes"),
    validation = rules::NAME_FITS,
    validation = rules::SIZE_STAYS,
    printcolumn(name = "Min", type_ = "integer", json_path = ".spec.minNodes"),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.maxNodes"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desiredNodes"),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.currentNodes"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyNodes"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::MIN_AT_MOST_MAX,
    validation = rules::PREFERRED_IS_OFFERED,
    validation = rules::REGIONS_FIT
)]
pub struct NodeGroupSpec {
    /// Fewest nodes over all pools. `kubectl scale` sets this.
    #[schemars(range(min = 0))]
    pub min_nodes: i32,
    /// Most nodes over all pools.
    #[schemars(range(min = 1))]
    pub max_nodes: i32,
    /// The VPSie datacenter.
    #[serde(rename = "datacenterID")]
    #[schemars(with = "text::Datacenter")]
    #[x_kube(validation = rules::DATACENTER_STAYS)]
    pub datacenter_id: String,
    /// UUID of the VPSie-managed Kubernetes cluster.
    #[schemars(with = "text::Cluster")]
    #[x_kube(validation = rules::CLUSTER_STAYS)]
    pub resource_identifier: String,
    /// The VPSie project. No effect: a managed cluster has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// What may be rented, the preferred first: offers by name, UUID or KubeSizeID. Each is a pool of its own.
    #[serde(rename = "offeringIDs")]
    #[schemars(with = "Vec<text::Offer>", length(min = 1, max = 32))]
    #[x_kube(validation = rules::OFFERS_DIFFER)]
    pub offering_ids: Vec<String>,
    /// The OS image. No effect: a managed cluster has its own.
    #[serde(default, rename = "osImageID", skip_serializing_if = "Option::is_none")]
    pub os_image_id: Option<String>,
    /// The Kubernetes version, such as `v1.33.2`. No effect: a managed cluster has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Version>")]
    pub kubernetes_version: Option<String>,
    /// The entry of `offeringIDs` that wins when several are as good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Offer>")]
    pub preferred_instance_type: Option<String>,
    /// Whether every offer may be rented. If not: only the preferred one, or else the first.
    #[serde(default = "super::policies::yes")]
    pub allow_mixed_instances: bool,
    /// Labels of its Nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, text::LabelValue>", extend("maxProperties" = 64))]
    #[x_kube(
        validation = rules::labels_have_keys(),
        validation = rules::labels_leave_out(0),
        validation = rules::labels_leave_out(1),
        validation = rules::labels_leave_out(2),
        validation = rules::labels_leave_out(3)
    )]
    pub labels: BTreeMap<String, String>,
    /// Taints of its Nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(
        validation = rules::TAINTS_DIFFER,
        validation = rules::taints_leave_out(0),
        validation = rules::taints_leave_out(1),
        validation = rules::taints_leave_out(2),
        validation = rules::taints_leave_out(3)
    )]
    pub taints: Vec<Taint>,
    /// What its Nodes have in addition to their offer and to what vpsie-autoscaler sets: the template for Cluster
    /// Autoscaler while there are no Nodes. Fields that are left out are learned from its Nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_template: Option<NodeTemplate>,
    /// When to add nodes. No effect yet: Cluster Autoscaler's flags decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up_policy: Option<ScaleUpPolicy>,
    /// When to remove nodes. No effect yet: Cluster Autoscaler's flags and `autoscalingOptions` decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down_policy: Option<ScaleDownPolicy>,
    /// SSH keys for its VMs. No effect: a managed cluster has its own.
    #[serde(default, rename = "sshKeyIDs", skip_serializing_if = "Vec::is_empty")]
    pub ssh_key_ids: Vec<String>,
    /// Tags for its VMs. No effect: workers of a managed cluster take none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// Fixes the size of the entry of `offeringIDs`, whatever the catalog makes of that. No effect when there are
    /// several.
    #[serde(default, rename = "kubeSizeID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub kube_size_id: Option<i64>,
    /// Spot machines. No effect yet: all machines are on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot_config: Option<SpotConfig>,
    /// Several datacenters. No effect yet: all machines are in `datacenterID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_region: Option<MultiRegion>,
    /// Cost. No effect yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_optimization: Option<CostOptimization>,
    /// The most that its machines may cost together: it does not grow past that. Nothing that exists is deleted for it.
    /// An offer whose price nobody knows cannot be rented then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_limit: Option<CostLimit>,
    /// Options of Cluster Autoscaler for this NodeGroup. What is left out is as its flags say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling_options: Option<AutoscalingOptions>,
    /// Whether workers that the cluster has already become machines of this NodeGroup: those whose size one of its
    /// offers has and whose Node is ready, up to `maxNodes`. They are drained and deleted like any other from then on.
    /// Where several NodeGroups would take in workers of one size, none does.
    #[serde(default)]
    pub adopt_existing_workers: bool,
    /// What becomes of its machines when the NodeGroup is deleted. It stays, without growing, until none is left.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// What becomes of the machines of a NodeGroup that is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They stay until Cluster Autoscaler finds them unneeded.
    #[default]
    WhenEmpty,
    /// Their Nodes are drained, disruption budgets respected, and their VMs deleted.
    Drain,
}

impl From<DeletionPolicy> for fleet::DeletionPolicy {
    fn from(policy: DeletionPolicy) -> Self {
        match policy {
            DeletionPolicy::WhenEmpty => Self::WhenEmpty,
            DeletionPolicy::Drain => Self::Drain,
        }
    }
}

/// A taint of a Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// Key.
    #[schemars(with = "text::QualifiedName")]
    pub key: String,
    /// Value, may be left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(with = "text::LabelValue")]
    pub value: String,
    /// What happens to pods that do not tolerate it.
    #[schemars(with = "String", extend("enum" = ["NoSchedule", "PreferNoSchedule", "NoExecute"]))]
    pub effect: TaintEffect,
    /// Kubernetes sets this itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_added: Option<String>,
}

/// Options of Cluster Autoscaler for one NodeGroup, each named as its flag.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingOptions {
    /// Requested share of a node below which it may be removed, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub scale_down_utilization_threshold: Option<f64>,
    /// The same for nodes with GPUs, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub scale_down_gpu_utilization_threshold: Option<f64>,
    /// How long a node is unneeded before it is removed, such as `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Duration>")]
    pub scale_down_unneeded_time: Option<String>,
    /// How long an unready node is unneeded before it is removed, such as `20m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Duration>")]
    pub scale_down_unready_time: Option<String>,
    /// How long a machine may take to become a Node, such as `15m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Duration>")]
    pub max_node_provision_time: Option<String>,
    /// Whether DaemonSet pods are left out when a node's use is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_daemon_sets_utilization: Option<bool>,
}
