//! What the control loops ask of VPSie, whichever product the VMs come from.

use async_trait::async_trait;

use crate::catalog::{Catalog, SizeId};
use crate::fleet::{DeletableVm, FailureReason, ListedNode};
use crate::retry_after::RetryAfter;

/// A source of worker VMs for one Kubernetes cluster.
///
/// Implementations bound every call in time, keep to the rate limit, and retry inside a call only what is
/// safe to repeat.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Reads offers and prices of the datacenters in use. One call a datacenter.
    async fn catalog(&self) -> Result<Catalog, BackendError>;

    /// Lists every node of the cluster, control plane and foreign workers too. One call, a second one only
    /// while a node's UUID is missing from the first.
    async fn list(&self) -> Result<Vec<ListedNode>, BackendError>;

    /// How many workers VPSie counts in the cluster, independently of the listing. None if unknown. One call.
    async fn count(&self) -> Result<Option<u32>, BackendError> {
        Ok(None)
    }

    /// Asks for one worker of the size. Not idempotent, returns no id (invariant 6): on
    /// [`BackendError::Unclear`] a VM may appear or not.
    ///
    /// `label` is a name for a VPSie group, should one have to be made for the size.
    async fn create(&self, size: SizeId, label: &str) -> Result<(), BackendError>;

    /// Deletes that VM and no other (invariant 7). Idempotent: a VM that does not exist is a success.
    async fn delete(&self, vm: &DeletableVm) -> Result<(), BackendError>;
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
