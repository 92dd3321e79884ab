//! Leader election over one `coordination.k8s.io/v1` Lease, by the rules of client-go.
//!
//! The leader renews the Lease and stops acting when `renew_deadline` has passed since it *sent* the last
//! successful renewal. A standby replica takes over when it has *seen* no change for the `lease_duration` in
//! the Lease, which is longer. Clocks of different hosts are never compared.
//!
//! A leader that stops releases the Lease. Standby replicas watch it, so one of them takes it over at once
//! and writes its addresses to it.

mod addresses;
mod election;
mod elector;
mod leadership;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use addresses::LeaderAddresses;
pub use elector::{Elector, LossReason};
pub use leadership::{Leadership, LeaseLost};

/// The Lease and the timing of an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// The holder identity of this process. It must be unique: [`identity`].
    pub identity: String,
    /// Time that a standby replica waits after the last change that it saw. Whole seconds.
    pub lease_duration: Duration,
    /// Validity of a renewal, counted from its sending. Less than `lease_duration`.
    pub renew_deadline: Duration,
    /// Time between renewals, and between reads of standby replicas. Less than `renew_deadline`.
    pub retry_period: Duration,
    /// Addresses of this process for other replicas, written to the Lease while it leads.
    pub addresses: Option<LeaderAddresses>,
}

/// A unique identity for this process: the name of the host or pod, and a random part, because a pod keeps
/// its name when its container restarts.
pub fn identity() -> String {
    let host = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    format!("{}_{}", host.as_deref().unwrap_or("vpsie-autoscaler"), uuid::Uuid::new_v4())
}
