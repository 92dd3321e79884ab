//! A machine: one unit of a pool's target size, from before its VM exists until after its Node is deleted.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{Hostname, MachineId, PoolId, ProviderId, VmId};
use super::listing::{Attachment, ListedNode};
use super::spot::Notice;
use crate::catalog::{MachineClass, SizeId};

/// Maximum of requests for one machine. If all are lost, the machine fails.
pub const MAX_REQUESTS: usize = 3;
/// Names of NodeGroups may be so long that a hostname has room for one digit of the number of the request.
const _: () = assert!(MAX_REQUESTS < 10);

/// One unit of a pool's target size. A durable record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Its name.
    pub id: MachineId,
    /// Its pool.
    pub pool: PoolId,
    /// The requested size, and so the VPSie group of its VM.
    pub size: SizeId,
    /// Time of its first record.
    pub created_at: Timestamp,
    /// Its phase.
    pub phase: Phase,
    /// Requests to VPSie that no VM is matched with yet. A lost request stays here, so that a late VM is
    /// recognized.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<VmRequest>,
    /// The notice of the interruption of its VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<Notice>,
    /// The machine with a notice that it replaces. None once Cluster Autoscaler took it over: then it is a machine
    /// like any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<MachineId>,
}

/// The phase of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Phase {
    /// Recorded; no request was sent.
    Pending,
    /// Requested; the VM may be unknown yet.
    Creating {
        /// The VM, once a listing shows it.
        vm: Option<Vm>,
        /// Time of its first request.
        since: Timestamp,
    },
    /// The Node registered. Without an API server: VPSie lists the VM as running.
    Running {
        /// The VM.
        vm: Vm,
        /// Time at which it became Running.
        since: Timestamp,
    },
    /// The creation failed and is not retried.
    Failed {
        /// The failure.
        failure: Failure,
        /// Time of the failure.
        at: Timestamp,
    },
    /// Its VM will be deleted, or is being deleted.
    Deleting {
        /// The VM, if one is known. Without a VM the machine waits until its open requests are matched or
        /// lost.
        vm: Option<Vm>,
        /// Time at which its deletion began.
        since: Timestamp,
        /// The reason of the deletion.
        #[serde(default)]
        reason: DeletionReason,
        /// The drain of its Node. The VM is deleted only after that.
        #[serde(default, with = "stored_drain")]
        drain: DrainState,
        /// Time at which VPSie accepted the deletion, or replied that the VM does not exist.
        accepted_at: Option<Timestamp>,
    },
}

/// The drain of the Node of a Deleting machine: the drain gate of every VM deletion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainState {
    /// The Node, if there is one, must be drained first.
    #[default]
    Pending,
    /// The API server has no such Node. Not durable: after a restart the API server is read again. A Node
    /// that registers later is drained.
    NoNode,
    /// The Node is drained, by vpsie-autoscaler or by Cluster Autoscaler; or there is no API server.
    Done,
}

impl DrainState {
    /// Whether a drain is due: the stored part of the state.
    pub(crate) fn is_due(self) -> bool {
        self != Self::Done
    }

    /// The state from its stored part.
    pub(crate) fn stored(due: bool) -> Self {
        if due { Self::Pending } else { Self::Done }
    }
}

/// The format of releases with two states: whether the Node must be drained.
mod stored_drain {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::DrainState;

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub(super) fn serialize<S: Serializer>(drain: &DrainState, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(drain.is_due())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DrainState, D::Error> {
        bool::deserialize(deserializer).map(DrainState::stored)
    }
}

/// The reason why a machine is deleted: the cause that its record keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeletionReason {
    /// Cluster Autoscaler deleted it by `NodeGroupDeleteNodes`.
    #[default]
    ClusterAutoscaler,
    /// A user deleted its VPSieNode.
    VPSieNodeDeleted,
    /// A user deleted its NodeGroup.
    NodeGroupDeleted,
    /// It failed, and Cluster Autoscaler did not delete it in time.
    FailedExpired,
    /// Its VM was an orphan that no machine adopted.
    Orphan,
    /// Its VM is gone; only requests that may still create a VM are left.
    VMGone,
    /// Its VM was deleted, and VPSie lists it again.
    VMReturned,
    /// VPSie gave notice of the interruption of the VM.
    InterruptionNotice,
}

impl DeletionReason {
    /// The name in status, events and the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterAutoscaler => "ClusterAutoscaler",
            Self::VPSieNodeDeleted => "VPSieNodeDeleted",
            Self::NodeGroupDeleted => "NodeGroupDeleted",
            Self::FailedExpired => "FailedExpired",
            Self::Orphan => "Orphan",
            Self::VMGone => "VMGone",
            Self::VMReturned => "VMReturned",
            Self::InterruptionNotice => "InterruptionNotice",
        }
    }
}

/// A VM that is bound to a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vm {
    /// Its hostname: the name of its Node.
    pub hostname: Hostname,
    /// Its UUID; some listings lack it for a while (docs/reference/vpsie-api.md#nodes).
    pub id: Option<VmId>,
    /// Its addresses, as far as listings show them. They identify its Node if the Node has another name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The `spec.providerID` that another controller set on its Node. It cannot be changed, so it is the
    /// Instance id.
    #[serde(default, rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<ProviderId>,
    /// Whether it is attached to the VPC and the firewall group of its NodeGroup; true if there is neither. None while it
    /// is unknown, and for managed clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<bool>,
    /// The request that created it, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestRef>,
}

/// Names a request to VPSie in the record of the VM that it created.
///
/// The VM is recorded before its request is removed from the machine's record. An interrupted write leaves
/// both, and the name shows that the request is used ([`Fleet::remove_used_requests`](super::Fleet)).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRef {
    /// The machine that sent it.
    pub machine: MachineId,
    /// Its time in the record of that machine. It differs between the requests of a machine.
    pub at: Timestamp,
}

/// A VM that may be deleted: its Node is drained, or there is none. Only [`Machine::deletable`] creates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletableVm(Vm);

impl Deref for DeletableVm {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        &self.0
    }
}

#[cfg(test)]
impl DeletableVm {
    /// For tests.
    pub(crate) fn assumed(vm: Vm) -> Self {
        Self(vm)
    }
}

/// One request to VPSie for a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmRequest {
    /// Time of its record, before the call.
    pub at: Timestamp,
    /// Its known outcome.
    pub outcome: RequestOutcome,
    /// The hostname that the VM gets, if vpsie-autoscaler chooses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
}

impl VmRequest {
    /// Records its outcome, and the time from which its VM is awaited.
    pub(super) fn set_outcome(&mut self, outcome: RequestOutcome, at: Timestamp) {
        self.outcome = outcome;
        self.at = at;
    }
}

/// The known outcome of a request to VPSie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RequestOutcome {
    /// The call is in flight, or the process ended during it.
    InFlight,
    /// VPSie accepted it; a VM will appear.
    Accepted,
    /// The reply was lost. A VM may appear.
    Unclear,
    /// Counted as lost. It is kept to recognize a late VM.
    Lost,
}

/// The failure of a creation that is not retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The kind: class and code that Cluster Autoscaler gets.
    pub reason: FailureReason,
    /// VPSie's message, without ids, at most 200 characters
    /// (docs/reference/cluster-autoscaler.md#creation-errors).
    pub message: String,
}

/// The fixed vocabulary of `InstanceErrorInfo.errorCode`. Codes are metric labels in Cluster Autoscaler
/// (docs/reference/cluster-autoscaler.md#creation-errors), so there are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureReason {
    /// A quota of the account or the cluster is reached.
    QuotaExceeded,
    /// VPSie has no capacity of this size in the datacenter now.
    Stockout,
    /// No VM was listed in time, or the VM vanished before its Node registered.
    CreateTimeout,
    /// The VM is listed, and its Node did not register in time.
    JoinTimeout,
    /// VPSie refused the credentials until the create timeout.
    Authentication,
    /// VPSie does not know an object that the NodeGroup names.
    InvalidConfiguration,
    /// VPSie was unreachable or limited the rate until the create timeout.
    ApiUnavailable,
    /// VPSie refused with an unknown message.
    Refused,
    /// The datacenter is suspect: its circuit breaker opened while the machine waited for its VM.
    DatacenterUnavailable,
}

impl FailureReason {
    /// The `errorCode`.
    pub fn code(self) -> &'static str {
        match self {
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::Stockout => "STOCKOUT",
            Self::CreateTimeout => "CREATE_TIMEOUT",
            Self::JoinTimeout => "JOIN_TIMEOUT",
            Self::Authentication => "AUTHENTICATION",
            Self::InvalidConfiguration => "INVALID_CONFIGURATION",
            Self::ApiUnavailable => "API_UNAVAILABLE",
            Self::Refused => "REFUSED",
            Self::DatacenterUnavailable => "DATACENTER_UNAVAILABLE",
        }
    }

    /// The `instanceErrorClass`: 1 when capacity is short, 99 otherwise.
    pub fn class(self) -> i32 {
        match self {
            Self::QuotaExceeded | Self::Stockout | Self::DatacenterUnavailable => 1,
            Self::CreateTimeout
            | Self::JoinTimeout
            | Self::Authentication
            | Self::InvalidConfiguration
            | Self::ApiUnavailable
            | Self::Refused => 99,
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Vm {
    /// The VM of a listed node.
    pub(super) fn listed(node: &ListedNode) -> Self {
        Self {
            hostname: node.hostname.clone(),
            id: node.id.clone(),
            addresses: node.addresses.clone(),
            provider_id: None,
            attached: node.attachment.as_ref().map(Attachment::is_done),
            request: None,
        }
    }

    /// The providerID that its Node has or will get. None while it is unknown.
    pub fn node_id(&self) -> Option<String> {
        let adopted = self.provider_id.as_ref().map(ToString::to_string);
        adopted.or_else(|| self.id.as_ref().map(VmId::provider_id))
    }

    /// Updates id, attachment and addresses from a listing. An attachment that was made stays.
    pub(super) fn update_from_listing(&mut self, node: &ListedNode) {
        self.id = self.id.take().or_else(|| node.id.clone());
        if self.attached != Some(true)
            && let Some(attachment) = &node.attachment
        {
            self.attached = Some(attachment.is_done());
        }
        if !node.addresses.is_empty() {
            self.addresses.clone_from(&node.addresses);
        }
    }
}

impl Phase {
    /// The name in status, logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Creating { .. } => "Creating",
            Self::Running { .. } => "Running",
            Self::Failed { .. } => "Failed",
            Self::Deleting { .. } => "Deleting",
        }
    }
}

impl Machine {
    /// A machine without requests.
    pub fn new(id: MachineId, pool: PoolId, size: SizeId, created_at: Timestamp, phase: Phase) -> Self {
        Self { id, pool, size, created_at, phase, requests: Vec::new(), notice: None, replaces: None }
    }

    /// The name of one of its requests.
    pub(super) fn request_ref(&self, request: &VmRequest) -> RequestRef {
        RequestRef { machine: self.id.clone(), at: request.at }
    }

    /// The hostname of its next request: `<machine>-<n>`. It differs from those of its requests that may have created a
    /// VM.
    pub(super) fn next_hostname(&self) -> Hostname {
        let number = |hostname: &Hostname| hostname.as_str().rsplit_once('-')?.1.parse::<u32>().ok();
        let used = self.requests.iter().filter_map(|request| number(request.hostname.as_ref()?));
        Hostname::new(&format!("{}-{}", self.id, used.max().unwrap_or(0) + 1))
    }

    /// The class of its VM.
    pub fn class(&self) -> MachineClass {
        self.pool.class(self.size)
    }

    /// Its VM, if one is known.
    pub fn vm(&self) -> Option<&Vm> {
        match &self.phase {
            Phase::Pending | Phase::Failed { .. } => None,
            Phase::Running { vm, .. } => Some(vm),
            Phase::Creating { vm, .. } | Phase::Deleting { vm, .. } => vm.as_ref(),
        }
    }

    /// Its VM, if one is known and its Node has not registered.
    pub(super) fn joining_vm(&self) -> Option<&Vm> {
        match &self.phase {
            Phase::Creating { vm, .. } => vm.as_ref(),
            Phase::Pending | Phase::Running { .. } | Phase::Failed { .. } | Phase::Deleting { .. } => None,
        }
    }

    /// Whether it counts in its pool's target size (invariant 1).
    pub fn counts(&self) -> bool {
        !matches!(self.phase, Phase::Deleting { .. })
    }

    /// Whether it is being deleted because of an interruption notice.
    pub fn is_ending_by_notice(&self) -> bool {
        matches!(self.phase, Phase::Deleting { reason: DeletionReason::InterruptionNotice, .. })
    }

    /// Its VM, if it passed the drain gate: its Node is drained, or there is none.
    pub fn deletable(&self) -> Option<DeletableVm> {
        match &self.phase {
            Phase::Deleting {
                vm: Some(vm),
                accepted_at: None,
                drain: DrainState::NoNode | DrainState::Done,
                ..
            } => Some(DeletableVm(vm.clone())),
            _ => None,
        }
    }

    /// The `Instance` id: the providerID of its Node, or a stable placeholder until the VM's UUID is known.
    pub fn instance_id(&self) -> String {
        self.vm().and_then(Vm::node_id).unwrap_or_else(|| self.id.placeholder())
    }

    /// Whether a request must be sent for it: there was none yet, or all are lost.
    pub fn needs_request(&self) -> bool {
        // An unknown size cannot be requested.
        if self.size.known().is_none() {
            return false;
        }
        let all_lost = self.requests.iter().all(|request| request.outcome == RequestOutcome::Lost);
        match self.phase {
            Phase::Pending => true,
            Phase::Creating { vm: None, .. } => all_lost && self.requests.len() < MAX_REQUESTS,
            _ => false,
        }
    }

    /// Whether it has a request without a recorded outcome.
    pub fn has_request_in_flight(&self) -> bool {
        self.requests.iter().any(|request| request.outcome == RequestOutcome::InFlight)
    }

    /// Whether it is a replacement that failed.
    pub(super) fn is_failed_replacement(&self) -> bool {
        self.replaces.is_some() && matches!(self.phase, Phase::Failed { .. })
    }

    /// Whether it is a replacement that does not run yet.
    pub(super) fn is_coming_replacement(&self) -> bool {
        let is_coming = matches!(self.phase, Phase::Pending | Phase::Creating { .. });
        self.replaces.is_some() && self.notice.is_none() && is_coming
    }

    /// Whether its VM must be deleted at VPSie.
    pub fn needs_vm_deletion(&self) -> bool {
        self.deletable().is_some()
    }
}
