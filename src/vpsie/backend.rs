//! What the control loops ask of VPSie, whichever product the VMs come from.

use async_trait::async_trait;

use crate::catalog::{Catalog, MachineClass};
use crate::fleet::{Binding, DeletableVm, FailureReason, ListedNode, MachineId, Vm};
use crate::retry_after::RetryAfter;

/// A source of worker VMs for one Kubernetes cluster.
///
/// Implementations bound every call in time, keep to the rate limit, and retry inside a call only what is
/// safe to repeat.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// How the product's VMs are bound to the machines that they were requested for.
    fn binding(&self) -> Binding;

    /// Reads offers and prices of the datacenters in use. One call a datacenter.
    async fn catalog(&self) -> Result<Catalog, BackendError>;

    /// Lists every node of the cluster, control plane and foreign workers too. One call, a second one only
    /// while a node's UUID is missing from the first.
    async fn list(&self) -> Result<Vec<ListedNode>, BackendError>;

    /// How many workers VPSie counts in the cluster, independently of the listing. None if unknown. One call.
    async fn count(&self) -> Result<Option<u32>, BackendError> {
        Ok(None)
    }

    /// Requests one worker. Not idempotent: on [`BackendError::Unclear`] a VM may appear or not. Returns the VM where
    /// the product's reply identifies it; otherwise a listing shows it (invariant 6).
    async fn create(&self, request: &CreateRequest) -> Result<Option<Vm>, BackendError>;

    /// Deletes that VM and no other (invariant 7). Idempotent: a VM that does not exist is a success.
    async fn delete(&self, vm: &DeletableVm) -> Result<(), BackendError>;
}

/// A request for one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateRequest {
    /// The machine that the VM is for.
    pub machine: MachineId,
    /// What is requested.
    pub class: MachineClass,
    /// Name of a VPSie group, if one must be created for the class.
    pub group_label: String,
}

/// Why VPSie did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Refused for a lasting reason: nothing was done, and asking again will not help soon.
    #[error("VPSie refused: {message}")]
    Refused {
        /// Quota, stockout, configuration, or another.
        reason: FailureReason,
        /// The API's own words.
        message: String,
    },
    /// Nothing was done; asking again later may help.
    #[error("VPSie cannot be asked now: {message}")]
    Unavailable {
        /// Authentication or reachability: what it becomes when time runs out.
        reason: FailureReason,
        /// What happened.
        message: String,
        /// How long the API asks to wait.
        retry_after: Option<RetryAfter>,
    },
    /// The reply was lost: it may have been done.
    #[error("the outcome is not known: {message}")]
    Unclear {
        /// What happened.
        message: String,
    },
}
