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
use super::self_managed::SelfManaged;
use super::status::NodeGroupStatus;
use super::text;
use crate::fleet::{self, TaintEffect};

/// Offers of a NodeGroup, limits of its size and cost, and settings of its Nodes.
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
    doc = "A group of worker nodes that Cluster Autoscaler adds and removes. Their VMs are rented from VPSie.",
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
    validation = rules::REGIONS_FIT,
    validation = rules::ONE_PRODUCT,
    validation = rules::PRODUCT_STAYS,
    validation = rules::SELF_MANAGED_HAS_IMAGE,
    validation = rules::DATACENTER_IS_LISTED
)]
pub struct NodeGroupSpec {
    /// Minimum number of nodes, over all pools. `kubectl scale` sets it.
    #[schemars(range(min = 0))]
    pub min_nodes: i32,
    /// Maximum number of nodes, over all pools.
    #[schemars(range(min = 1))]
    pub max_nodes: i32,
    /// VPSie datacenter of the nodes.
    #[serde(rename = "datacenterID")]
    #[schemars(with = "text::Datacenter")]
    #[x_kube(validation = rules::DATACENTER_STAYS)]
    pub datacenter_id: String,
    /// UUID of the VPSie-managed Kubernetes cluster. Either this or `selfManaged` is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Cluster>")]
    #[x_kube(validation = rules::CLUSTER_STAYS)]
    pub resource_identifier: Option<String>,
    /// Plain VMs that join a self-managed cluster. Needs `--backend=vm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_managed: Option<SelfManaged>,
    /// VPSie project of the VMs of a self-managed cluster. Without effect for a managed cluster, which has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Offers that may be rented, by name, UUID or KubeSizeID, in order of preference. Each is a separate
    /// pool.
    #[serde(rename = "offeringIDs")]
    #[schemars(with = "Vec<text::Offer>", length(min = 1, max = 32))]
    #[x_kube(validation = rules::OFFERS_DIFFER)]
    pub offering_ids: Vec<String>,
    /// OS image of the VMs of a self-managed cluster. Without effect for a managed cluster, which has its own.
    #[serde(default, rename = "osImageID", skip_serializing_if = "Option::is_none")]
    pub os_image_id: Option<String>,
    /// Kubernetes version, such as `v1.33.2`: a variable of the payload in a self-managed cluster. Without effect for a
    /// managed cluster, which has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Version>")]
    pub kubernetes_version: Option<String>,
    /// Entry of `offeringIDs` that is chosen among equally good ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Offer>")]
    pub preferred_instance_type: Option<String>,
    /// Whether all offers may be rented. If not, only `preferredInstanceType` is, or else the first offer.
    #[serde(default = "super::policies::yes")]
    pub allow_mixed_instances: bool,
    /// Labels of the Nodes.
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
    /// Taints of the Nodes.
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
    /// Labels and resources of the Nodes that neither the offer nor vpsie-autoscaler provides. Cluster
    /// Autoscaler relies on them while the NodeGroup has no Nodes. Omitted fields are learned from its Nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_template: Option<NodeTemplate>,
    /// Conditions for adding nodes. Without effect yet: Cluster Autoscaler's flags decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up_policy: Option<ScaleUpPolicy>,
    /// Conditions for removing nodes. Without effect yet: Cluster Autoscaler's flags and `autoscalingOptions`
    /// decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down_policy: Option<ScaleDownPolicy>,
    /// SSH key of the VMs of a self-managed cluster. VPSie accepts one. Without effect for a managed cluster, which has its
    /// own.
    #[serde(default, rename = "sshKeyIDs", skip_serializing_if = "Vec::is_empty")]
    pub ssh_key_ids: Vec<String>,
    /// Tags of the VMs of a self-managed cluster. Without effect for a managed cluster: its workers have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Free text for users. VMs of a self-managed cluster have it in their notes, after the owner marker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// VPSie size (KubeSizeID) of the offer, which overrides the catalog. Without effect if `offeringIDs` has
    /// several entries.
    #[serde(default, rename = "kubeSizeID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub kube_size_id: Option<i64>,
    /// Spot machines. Without effect until a spot offer is known; VPSie's API shows none today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot_config: Option<SpotConfig>,
    /// Several datacenters. Without effect for a managed cluster: all its machines are in `datacenterID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_region: Option<MultiRegion>,
    /// Replacement of machines by cheaper ones. Without effect yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_optimization: Option<CostOptimization>,
    /// Maximum cost of its machines together. The NodeGroup does not grow above it. Existing machines stay.
    /// With a limit, offers without a known price cannot be rented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_limit: Option<CostLimit>,
    /// Options of Cluster Autoscaler for this NodeGroup. Its flags apply to omitted ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling_options: Option<AutoscalingOptions>,
    /// Whether existing workers of the cluster become machines of this NodeGroup: workers with the size of
    /// one of its offers and with a Ready Node, up to `maxNodes`. From then on Cluster Autoscaler may drain
    /// and delete them. Workers of a size that several NodeGroups would adopt are not adopted.
    #[serde(default)]
    pub adopt_existing_workers: bool,
    /// Removal of its machines after the NodeGroup is deleted. Until all machines are gone, the object stays
    /// and adds no nodes.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Removal of the machines of a deleted NodeGroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Machines stay until Cluster Autoscaler finds them unneeded.
    #[default]
    WhenEmpty,
    /// Nodes are drained within disruption budgets, then VMs are deleted.
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
    /// Key of the taint.
    #[schemars(with = "text::QualifiedName")]
    pub key: String,
    /// Value of the taint. Optional.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(with = "text::LabelValue")]
    pub value: String,
    /// Effect on pods that do not tolerate the taint.
    #[schemars(with = "String", extend("enum" = ["NoSchedule", "PreferNoSchedule", "NoExecute"]))]
    pub effect: TaintEffect,
    /// Time at which the taint was added. Kubernetes sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_added: Option<String>,
}

/// Options of Cluster Autoscaler for one NodeGroup, each named as its flag.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingOptions {
    /// Utilization below which a node may be removed: requests divided by allocatable resources, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub scale_down_utilization_threshold: Option<f64>,
    /// GPU utilization below which a node with GPUs may be removed, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub scale_down_gpu_utilization_threshold: Option<f64>,
    /// Time that a node must be unneeded before it is removed, such as `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Duration>")]
    pub scale_down_unneeded_time: Option<String>,
    /// Time that an unready node must be unneeded before it is removed, such as `20m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Duration>")]
    pub scale_down_unready_time: Option<String>,
    /// Time from the request for a machine until its Node must be registered, such as `15m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Duration>")]
    pub max_node_provision_time: Option<String>,
    /// Whether pods of DaemonSets do not count in the utilization of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_daemon_sets_utilization: Option<bool>,
}
