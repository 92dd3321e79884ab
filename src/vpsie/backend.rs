//! The interface between the control loops and a product of VPSie.

use std::collections::BTreeSet;

use async_trait::async_trait;

use crate::catalog::{Catalog, DatacenterId, MachineClass};
use crate::fleet::{DeletableVm, FailureReason, Hostname, MachineId, NodeListing, PoolId, Vm};
use crate::retry_after::RetryAfter;

/// A source of worker VMs for one Kubernetes cluster.
///
/// Implementations limit the duration of every call, respect the rate limit, and repeat requests within a
/// call only if that is safe.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Reads offers and prices of the datacenters in use. One request per datacenter; of plain VMs, one per datacenter,
    /// image and category of plans.
    async fn catalog(&self) -> Result<Catalog, BackendError>;

    /// Datacenters in use that VPSie lists as inactive. One request, or none for a product in one datacenter.
    async fn inactive_datacenters(&self) -> Result<BTreeSet<DatacenterId>, BackendError> {
        Ok(BTreeSet::new())
    }

    /// Lists all nodes of the cluster, including control plane and foreign workers. One request, and a second
    /// one while the first does not show the UUID of a node; of plain VMs, two requests.
    async fn list(&self) -> Result<NodeListing, BackendError>;

    /// Number of workers in the cluster by VPSie's own count, independent of the listing. None if unknown.
    /// One request.
    async fn count(&self) -> Result<Option<u32>, BackendError> {
        Ok(None)
    }

    /// Requests one worker. Not idempotent: after [`BackendError::Unclear`] a VM may appear or not. Returns
    /// the VM if the reply identifies it; otherwise a later listing shows it (invariant 6).
    async fn create(&self, request: &CreateRequest) -> Result<Option<Vm>, BackendError>;

    /// Deletes exactly this VM (invariant 7). Idempotent: succeeds if the VM does not exist.
    async fn delete(&self, vm: &DeletableVm) -> Result<(), BackendError>;
}

/// A request for one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateRequest {
    /// The machine of the VM.
    pub machine: MachineId,
    /// Its pool.
    pub pool: PoolId,
    /// The requested class.
    pub class: MachineClass,
    /// Hostname of the VM, for [`Binding::ByName`](crate::fleet::Binding::ByName).
    pub hostname: Option<Hostname>,
}

/// Failure of a call to VPSie.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// VPSie refused the request and did nothing. Repeating it soon is useless.
    #[error("VPSie refused: {message}")]
    Refused {
        /// Reason for the failure of the machine.
        reason: FailureReason,
        /// Message of the API.
        message: String,
    },
    /// VPSie did nothing. Repeating the request later may succeed.
    #[error("VPSie is unavailable: {message}")]
    Unavailable {
        /// Reason for the failure of the machine, once its create timeout expires.
        reason: FailureReason,
        /// Details.
        message: String,
        /// Wait that the API requests.
        retry_after: Option<RetryAfter>,
    },
    /// VPSie refused the deletion of a VM because of its password, and did nothing. The VM exists and is billed. A soon
    /// repetition is refused, too.
    #[error("VPSie refused the password of the VM: {message}")]
    PasswordRefused {
        /// Message of the API, and what to do.
        message: String,
    },
    /// The reply was lost. VPSie may have executed the request.
    #[error("the outcome is unknown: {message}")]
    Unclear {
        /// Details.
        message: String,
    },
}
