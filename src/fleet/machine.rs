//! A machine: one unit of a pool's target size, from before its VM exists until after its Node is gone.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{Hostname, MachineId, PoolId, ProviderId, VmId};
use super::listing::ListedNode;
use crate::catalog::{MachineClass, SizeId};

/// Requests that may be lost before a machine is given up.
pub const MAX_REQUESTS: usize = 3;

/// One unit of a pool's target size. Durable as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Its name.
    pub id: MachineId,
    /// The pool whose target size it counts in.
    pub pool: PoolId,
    /// The size, and so the VPSie group, that its VM is asked for in.
    pub size: SizeId,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// Where it is in its life.
    pub phase: Phase,
    /// Creations asked of VPSie that no VM has been matched with. One that was lost stays here, so that a VM
    /// which arrives late is known as ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<VmRequest>,
}

/// Where a machine is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Phase {
    /// Recorded; nothing is asked of VPSie.
    Pending,
    /// Asked for; the VM is known or not yet.
    Creating {
        /// The VM, once a listing has shown it.
        vm: Option<Vm>,
        /// When it was first asked for.
        since: Timestamp,
    },
    /// The VM is up.
    Running {
        /// The VM.
        vm: Vm,
        /// Since when.
        since: Timestamp,
    },
    /// The creation failed for good.
    Failed {
        /// Why.
        failure: Failure,
        /// When.
        at: Timestamp,
    },
    /// To be removed at VPSie, or being removed.
    Deleting {
        /// The VM, if one is known. Without one the machine waits for its outstanding asks to settle.
        vm: Option<Vm>,
        /// When it was given up.
        since: Timestamp,
        /// Why, and so by whom.
        #[serde(default)]
        reason: DeletionReason,
        /// How far its Node is drained. The VM is deleted only after that.
        #[serde(default, with = "stored_drain")]
        drain: DrainState,
        /// When VPSie accepted the deletion (or said that the VM is not there).
        accepted_at: Option<Timestamp>,
    },
}

/// How far the Node of a machine that is being deleted is drained: the drain gate of every VM deletion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainState {
    /// The Node, if there is one, must be drained first.
    #[default]
    Pending,
    /// There is no Node, by the API server's own answer. Not durable: after a restart the API server is asked again.
    /// A Node that registers later is drained after all.
    NoNode,
    /// The Node was drained, by us or by Cluster Autoscaler; or there is no API server.
    Done,
}

impl DrainState {
    /// What is stored of it: whether a drain is due.
    pub(crate) fn is_due(self) -> bool {
        self != Self::Done
    }

    /// What was stored of it.
    pub(crate) fn stored(due: bool) -> Self {
        if due { Self::Pending } else { Self::Done }
    }
}

/// The format of releases that knew two states only: whether the Node must be drained.
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

/// Why a machine is deleted: the cause that its record keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeletionReason {
    /// Cluster Autoscaler named it in `NodeGroupDeleteNodes`.
    #[default]
    ClusterAutoscaler,
    /// Somebody deleted its VPSieNode.
    VPSieNodeDeleted,
    /// Somebody deleted its NodeGroup.
    NodeGroupDeleted,
    /// It failed, and Cluster Autoscaler did not clean it up in time.
    FailedExpired,
    /// Its VM was an orphan that nobody adopted.
    Orphan,
    /// Its VM is gone; only requests that may still have a result are left.
    VMGone,
    /// Its VM was deleted, and is listed again.
    VMReturned,
}

impl DeletionReason {
    /// The word for it, as in status, events and the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterAutoscaler => "ClusterAutoscaler",
            Self::VPSieNodeDeleted => "VPSieNodeDeleted",
            Self::NodeGroupDeleted => "NodeGroupDeleted",
            Self::FailedExpired => "FailedExpired",
            Self::Orphan => "Orphan",
            Self::VMGone => "VMGone",
            Self::VMReturned => "VMReturned",
        }
    }
}

/// A VM as it is bound to a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vm {
    /// Its hostname: the name of its Node.
    pub hostname: Hostname,
    /// Its UUID; some listings lack it for a while (docs/reference/vpsie-api.md#nodes).
    pub id: Option<VmId>,
    /// Its addresses, where a listing tells any: they find its Node should that have another name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The `spec.providerID` that another controller gave its Node: it cannot be changed, so it is the Instance id.
    #[serde(default, rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<ProviderId>,
}

/// A VM that may be deleted: its Node is drained, or there is none. Only [`Machine::deletable`] makes one.
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
    /// For tests of what follows.
    pub(crate) fn assumed(vm: Vm) -> Self {
        Self(vm)
    }
}

/// One creation asked of VPSie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmRequest {
    /// When it was recorded, before the call.
    pub at: Timestamp,
    /// What is known of it.
    pub outcome: RequestOutcome,
}

/// What is known of a creation asked of VPSie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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

/// Why a creation failed for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The kind: class and code that Cluster Autoscaler sees.
    pub reason: FailureReason,
    /// The API's own words, without ids, at most 200 characters
    /// (docs/reference/cluster-autoscaler.md#creation-errors).
    pub message: String,
}

/// The fixed vocabulary of `InstanceErrorInfo.errorCode`. Codes are metric labels in Cluster Autoscaler
/// (docs/reference/cluster-autoscaler.md#creation-errors), so there are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureReason {
    /// The account or the cluster may have no more workers.
    QuotaExceeded,
    /// VPSie has no capacity of this size here now.
    Stockout,
    /// Accepted, but no VM appeared in time, or it never came up.
    CreateTimeout,
    /// The API refused our credentials until time ran out.
    Authentication,
    /// The API does not know what the NodeGroup names.
    InvalidConfiguration,
    /// The API could not be reached, or asked us to slow down, until time ran out.
    ApiUnavailable,
    /// Refused in words we do not know.
    Refused,
}

impl FailureReason {
    /// The `errorCode`.
    pub fn code(self) -> &'static str {
        match self {
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::Stockout => "STOCKOUT",
            Self::CreateTimeout => "CREATE_TIMEOUT",
            Self::Authentication => "AUTHENTICATION",
            Self::InvalidConfiguration => "INVALID_CONFIGURATION",
            Self::ApiUnavailable => "API_UNAVAILABLE",
            Self::Refused => "REFUSED",
        }
    }

    /// The `instanceErrorClass`: 1 when capacity is short, 99 otherwise.
    pub fn class(self) -> i32 {
        match self {
            Self::QuotaExceeded | Self::Stockout => 1,
            _ => 99,
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Vm {
    /// As a listing shows it.
    pub(super) fn listed(node: &ListedNode) -> Self {
        Self {
            hostname: node.hostname.clone(),
            id: node.id.clone(),
            addresses: node.addresses.clone(),
            provider_id: None,
        }
    }

    /// The providerID that its Node has, or is to be given. None while it is unknown.
    pub fn node_id(&self) -> Option<String> {
        let adopted = self.provider_id.as_ref().map(ToString::to_string);
        adopted.or_else(|| self.id.as_ref().map(VmId::provider_id))
    }

    /// Learns what a listing tells of it.
    pub(super) fn update_from_listing(&mut self, node: &ListedNode) {
        self.id = self.id.take().or_else(|| node.id.clone());
        if !node.addresses.is_empty() {
            self.addresses.clone_from(&node.addresses);
        }
    }
}

impl Phase {
    /// The word for it, as in status, logs and metrics.
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

    /// Whether it counts in its pool's target size (invariant 1).
    pub fn counts(&self) -> bool {
        !matches!(self.phase, Phase::Deleting { .. })
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

    /// The `Instance` id: what its Node has as providerID, or will have once the VM's UUID is known; a stable
    /// placeholder before.
    pub fn instance_id(&self) -> String {
        self.vm().and_then(Vm::node_id).unwrap_or_else(|| self.id.placeholder())
    }

    /// Whether VPSie is to be asked for its VM: nothing was asked yet, or all that was asked is lost.
    pub fn needs_request(&self) -> bool {
        // Never by guess.
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

    /// Whether it has a request whose answer is not recorded.
    pub fn has_request_in_flight(&self) -> bool {
        self.requests.iter().any(|request| request.outcome == RequestOutcome::InFlight)
    }

    /// Whether VPSie is to be asked to delete its VM.
    pub fn needs_vm_deletion(&self) -> bool {
        self.deletable().is_some()
    }
}
