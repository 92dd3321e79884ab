#![allow(unreachable_pub, reason = "KubeSchema repeats the type inside a function")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has a type and a path")]

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::Condition;
use super::{rules, text};
use crate::catalog::CapacityType;
use crate::fleet::{DeletionReason, FailureReason};

/// What is wanted of VPSie for one machine, written before VPSie is asked for it.
///
/// To delete the VPSieNode is to be rid of its VM: the finalizer stays until that is gone.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "autoscaler.vpsie.com",
    version = "v1alpha1",
    kind = "VPSieNode",
    plural = "vpsienodes",
    shortname = "vn",
    shortname = "vns",
    category = "vpsie",
    namespaced,
    status = "VPSieNodeStatus",
    derive = "PartialEq",
    doc = "One machine of a NodeGroup: from before its VM is asked for until after its Node is gone.",
    validation = rules::MACHINE_NAME_FITS,
    printcolumn(name = "VPS ID", type_ = "string", json_path = ".status.vpsieNodeIdentifier", priority = 1),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Instance Type", type_ = "string", json_path = ".spec.instanceType"),
    printcolumn(name = "NodeGroup", type_ = "string", json_path = ".spec.nodeGroupName"),
    printcolumn(name = "Failure", type_ = "string", json_path = ".status.failureReason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::MACHINE_STAYS, validation = rules::MACHINE_KEEPS_SIZE)]
pub struct VPSieNodeSpec {
    /// The NodeGroup that it counts in.
    #[schemars(with = "text::NodeGroupName")]
    pub node_group_name: String,
    /// Its datacenter.
    #[serde(rename = "datacenterID")]
    #[schemars(with = "text::Datacenter")]
    pub datacenter_id: String,
    /// Its offer, as the NodeGroup writes it in `offeringIDs`.
    #[schemars(with = "text::Offer")]
    pub instance_type: String,
    /// Whether VPSie may take the VM back.
    #[serde(default = "on_demand")]
    #[schemars(with = "String", extend("enum" = ["on-demand", "spot"]))]
    pub capacity_type: CapacityType,
    /// UUID of the VPSie-managed Kubernetes cluster.
    #[schemars(with = "text::Cluster")]
    pub resource_identifier: String,
    /// The size, and so the VPSie group, that its VM is asked for in.
    #[serde(default, rename = "kubeSizeID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub kube_size_id: Option<i64>,
    /// When it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MicroTime>")]
    pub recorded_at: Option<Timestamp>,
    /// When its VM was first requested from VPSie. Written before the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MicroTime>")]
    pub requested_at: Option<Timestamp>,
    /// Requests to VPSie for its VM that no VM is matched with yet. Each is written before the call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<VmRequest>,
    /// Hostname of the VM, if there was one before the machine was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// UUID of the VM, if there was one before the machine was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpsie_node_identifier: Option<String>,
    /// Number of the VPSie group. No effect: `kubeSizeID` says which.
    #[serde(default, rename = "vpsieGroupID", skip_serializing_if = "Option::is_none")]
    pub vpsie_group_id: Option<i64>,
    /// Number of the VM. No effect: workers of a managed cluster have none.
    #[serde(default, rename = "vpsieInstanceID", skip_serializing_if = "Option::is_none")]
    pub vpsie_instance_id: Option<i64>,
    /// Its IPv4 address. No effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// Its IPv6 address. No effect.
    #[serde(default, rename = "ipv6Address", skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<String>,
    /// The VPSie project. No effect: a managed cluster has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The OS image. No effect: a managed cluster has its own.
    #[serde(default, rename = "osImageID", skip_serializing_if = "Option::is_none")]
    pub os_image_id: Option<String>,
    /// The Kubernetes version. No effect: a managed cluster has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Version>")]
    pub kubernetes_version: Option<String>,
    /// SSH keys for its VM. No effect: a managed cluster has its own.
    #[serde(default, rename = "sshKeyIDs", skip_serializing_if = "Vec::is_empty")]
    pub ssh_key_ids: Vec<String>,
}

fn on_demand() -> CapacityType {
    CapacityType::OnDemand
}

/// One request to VPSie for a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmRequest {
    /// When it was written. That is before the call.
    #[schemars(with = "MicroTime")]
    pub at: Timestamp,
    /// What is known of it.
    pub outcome: RequestOutcome,
}

/// What is known of a request to VPSie for a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RequestOutcome {
    /// The call is under way, or the process died in it.
    InFlight,
    /// VPSie accepted it; a VM is to appear.
    Accepted,
    /// The reply was lost: a VM may appear.
    Unclear,
    /// Given up waiting. Only kept to know a late VM as ours.
    Lost,
}

/// How a machine is, as far as it was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VPSieNodeStatus {
    /// Where it is in its life.
    #[serde(default)]
    pub phase: MachinePhase,
    /// Hostname of its VM, in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// UUID of its VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpsie_node_identifier: Option<String>,
    /// Its Node, once that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The VM's state in VPSie's words. Not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpsie_status: Option<String>,
    /// What the VM has. Not written: its Node says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<NodeResources>,
    /// When VPSie made the VM. Not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MicroTime>")]
    pub created_at: Option<Timestamp>,
    /// When the VM was up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MicroTime>")]
    pub provisioned_at: Option<Timestamp>,
    /// When its Node was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MicroTime>")]
    pub joined_at: Option<Timestamp>,
    /// When its Node was Ready. Not written: the Node says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MicroTime>")]
    pub ready_at: Option<Timestamp>,
    /// Addresses of the VM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<IpAddr>,
    /// `spec.providerID` of its Node, if another controller set it first. Cluster Autoscaler identifies the machine by it.
    #[serde(default, rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// Why it was given up, and so by whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("enum" = [
        "ClusterAutoscaler", "VPSieNodeDeleted", "NodeGroupDeleted", "FailedExpired", "Orphan", "VMGone",
        "VMReturned", null
    ]))]
    pub deletion_reason: Option<DeletionReason>,
    /// Whether its Node is to be drained before the VM is deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// When it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MicroTime>")]
    pub terminating_at: Option<Timestamp>,
    /// When VPSie accepted the deletion of the VM, or said that there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MicroTime>")]
    pub deleted_at: Option<Timestamp>,
    /// When the creation failed for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MicroTime>")]
    pub failed_at: Option<Timestamp>,
    /// Why the creation failed for good: the code that Cluster Autoscaler sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("enum" = [
        "QUOTA_EXCEEDED", "STOCKOUT", "CREATE_TIMEOUT", "AUTHENTICATION", "INVALID_CONFIGURATION",
        "API_UNAVAILABLE", "REFUSED", null
    ]))]
    pub failure_reason: Option<FailureReason>,
    /// Why the creation failed for good, in the API's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// `VPSReady`, `NodeJoined`, `Error`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this is about. Not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Where a machine is in its life. The words of the original are read too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MachinePhase {
    /// Recorded; nothing is asked of VPSie.
    #[default]
    Pending,
    /// Asked for; the VM is known or not yet.
    #[serde(alias = "Provisioning", alias = "Provisioned", alias = "Joining")]
    Creating,
    /// The VM is up.
    #[serde(alias = "Ready")]
    Running,
    /// The creation failed for good.
    Failed,
    /// To be removed at VPSie, or being removed.
    #[serde(alias = "Terminating")]
    Deleting,
}

/// What a VM has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeResources {
    /// CPU cores.
    pub cpu: i64,
    /// Memory, MiB.
    #[serde(rename = "memoryMB")]
    pub memory_mib: i64,
    /// Disk, GiB.
    #[serde(rename = "diskGB")]
    pub disk_gib: i64,
    /// Traffic a month, GB.
    #[serde(default, rename = "bandwidthGB", skip_serializing_if = "Option::is_none")]
    pub bandwidth_gb: Option<i64>,
}
