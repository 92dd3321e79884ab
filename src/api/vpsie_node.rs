#![allow(unreachable_pub, reason = "KubeSchema repeats the type inside a function")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has a type and a path")]

use std::net::IpAddr;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::Condition;
use super::{rules, text};
use crate::catalog::CapacityType;
use crate::fleet::{DeletionReason, FailureReason, NoticeSource};

/// Specification of one machine, written before its VM is requested from VPSie.
///
/// Deleting the VPSieNode deletes its VM: the finalizer remains until the VM is gone.
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
    doc = "A machine of a NodeGroup. It exists from before its VM is requested until its Node is gone. \
           Deleting it drains the Node and deletes the VM.",
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
    /// NodeGroup of the machine.
    #[schemars(with = "text::NodeGroupName")]
    pub node_group_name: String,
    /// Datacenter of the machine.
    #[serde(rename = "datacenterID")]
    #[schemars(with = "text::Datacenter")]
    pub datacenter_id: String,
    /// Offer of the machine, as in `offeringIDs` of the NodeGroup.
    #[schemars(with = "text::Offer")]
    pub instance_type: String,
    /// Capacity type. VPSie may interrupt a VM of type `spot`.
    #[serde(default = "on_demand")]
    #[schemars(with = "String", extend("enum" = ["on-demand", "spot"]))]
    pub capacity_type: CapacityType,
    /// UUID of the VPSie-managed cluster, or UID of the namespace `kube-system` of a self-managed cluster.
    #[schemars(with = "text::Cluster")]
    pub resource_identifier: String,
    /// VPSie size (KubeSizeID) of the VM, which determines its VPSie group.
    #[serde(default, rename = "kubeSizeID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub kube_size_id: Option<i64>,
    /// Time at which the machine was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub recorded_at: Option<Timestamp>,
    /// Time of the first request for its VM. Written before the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub requested_at: Option<Timestamp>,
    /// Requests to VPSie for its VM that no VM is matched with yet. Each is written before the call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<VmRequest>,
    /// Name of the machine with an interruption notice that this machine replaces. Absent once Cluster Autoscaler took
    /// the machine over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// Hostname of the VM, if the VM existed before the machine was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// UUID of the VM, if the VM existed before the machine was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpsie_node_identifier: Option<String>,
    /// Numeric id of the VPSie group. Without effect: `kubeSizeID` determines it.
    #[serde(default, rename = "vpsieGroupID", skip_serializing_if = "Option::is_none")]
    pub vpsie_group_id: Option<i64>,
    /// Numeric id of the VM. Without effect: workers of a managed cluster have none.
    #[serde(default, rename = "vpsieInstanceID", skip_serializing_if = "Option::is_none")]
    pub vpsie_instance_id: Option<i64>,
    /// IPv4 address. Without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// IPv6 address. Without effect.
    #[serde(default, rename = "ipv6Address", skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<String>,
    /// VPSie project. Without effect: a managed cluster has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// OS image. Without effect: a managed cluster has its own.
    #[serde(default, rename = "osImageID", skip_serializing_if = "Option::is_none")]
    pub os_image_id: Option<String>,
    /// Kubernetes version. Without effect: a managed cluster has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Version>")]
    pub kubernetes_version: Option<String>,
    /// SSH keys of the VM. Without effect: a managed cluster has its own.
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
    /// Time at which the request was recorded, before the call.
    #[schemars(with = "text::Time")]
    pub at: Timestamp,
    /// Outcome of the request.
    pub outcome: RequestOutcome,
    /// Hostname that the VM gets. Absent for a managed cluster: VPSie chooses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// A request to VPSie, by its machine and its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestRef {
    /// Machine of the request.
    pub machine: String,
    /// Time of the request in `spec.requests` of that machine.
    #[schemars(with = "text::Time")]
    pub at: Timestamp,
}

/// Outcome of a request to VPSie for a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RequestOutcome {
    /// The call is in progress, or the process ended during it.
    InFlight,
    /// VPSie accepted the request; a VM will appear.
    Accepted,
    /// The reply was lost: a VM may appear.
    Unclear,
    /// No VM appeared in time. The request is kept to recognize a late VM.
    Lost,
}

/// Observed state of a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VPSieNodeStatus {
    /// Phase of the machine.
    #[serde(default)]
    pub phase: MachinePhase,
    /// Hostname of the VM, in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// UUID of the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpsie_node_identifier: Option<String>,
    /// Name of the Node, once it is registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// State of the VM, as VPSie names it. Not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpsie_status: Option<String>,
    /// Resources of the VM. Not written: the Node has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<NodeResources>,
    /// Time at which VPSie created the VM. Not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub created_at: Option<Timestamp>,
    /// Time at which the machine became Running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub provisioned_at: Option<Timestamp>,
    /// Time at which the Node was registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub joined_at: Option<Timestamp>,
    /// Time at which the Node was Ready. Not written: the Node has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub ready_at: Option<Timestamp>,
    /// Addresses of the VM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<IpAddr>,
    /// `spec.providerID` of the Node, if another controller set it first. Cluster Autoscaler identifies the
    /// machine by it.
    #[serde(default, rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// Whether the VM is attached to the VPC and the firewall group of its NodeGroup; true if there is neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<bool>,
    /// Request to VPSie that created the VM. It counts as fulfilled, even while `spec.requests` of its
    /// machine still lists it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestRef>,
    /// Reason of the deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("enum" = [
        "ClusterAutoscaler", "VPSieNodeDeleted", "NodeGroupDeleted", "FailedExpired", "Orphan", "VMGone",
        "VMReturned", "InterruptionNotice", null
    ]))]
    pub deletion_reason: Option<DeletionReason>,
    /// Whether the Node must be drained before the VM is deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Time at which the machine was marked for deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub terminating_at: Option<Timestamp>,
    /// Time at which VPSie accepted the deletion of the VM, or reported that there is no such VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub deleted_at: Option<Timestamp>,
    /// Time at which the creation failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub failed_at: Option<Timestamp>,
    /// Reason of the failure: the error code for Cluster Autoscaler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("enum" = [
        "QUOTA_EXCEEDED", "STOCKOUT", "CREATE_TIMEOUT", "JOIN_TIMEOUT", "AUTHENTICATION", "INVALID_CONFIGURATION",
        "API_UNAVAILABLE", "REFUSED", "DATACENTER_UNAVAILABLE", null
    ]))]
    pub failure_reason: Option<FailureReason>,
    /// Error message of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Notice of the interruption of the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interruption_notice: Option<InterruptionNotice>,
    /// Conditions `VPSReady`, `NodeJoined`, `Error`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that the status describes. Not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Notice of the interruption of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterruptionNotice {
    /// Time at which the notice was received first.
    #[schemars(with = "text::Time")]
    pub received_at: Timestamp,
    /// Earliest time at which VPSie will interrupt the VM.
    #[schemars(with = "text::Time")]
    pub deadline: Timestamp,
    /// Sources that report the interruption.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["source".to_owned()]))]
    pub reports: Vec<InterruptionReport>,
    /// Pools whose replacement failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_pools: Vec<String>,
}

/// Report of an interruption by one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterruptionReport {
    /// Source: `node` (annotation, taint or condition of the Node), `vpsie` (VPSie's listing) or `webhook`.
    #[schemars(with = "String", extend("enum" = ["node", "vpsie", "webhook"]))]
    pub source: NoticeSource,
    /// Time at which VPSie will interrupt the VM. Assumed if the source shows no time.
    #[schemars(with = "text::Time")]
    pub deadline: Timestamp,
}

/// Phase of a machine. The phases of the original are read, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MachinePhase {
    /// Recorded; the VM is not requested yet.
    #[default]
    Pending,
    /// VM requested; its Node is not registered yet.
    #[serde(alias = "Provisioning", alias = "Provisioned", alias = "Joining")]
    Creating,
    /// The Node is registered.
    #[serde(alias = "Ready")]
    Running,
    /// The creation failed.
    Failed,
    /// Marked for deletion, or being deleted.
    #[serde(alias = "Terminating")]
    Deleting,
}

/// Resources of a VM.
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
    /// Traffic per month, GB.
    #[serde(default, rename = "bandwidthGB", skip_serializing_if = "Option::is_none")]
    pub bandwidth_gb: Option<i64>,
}
