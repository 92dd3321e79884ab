//! Which replica leads: an election over one `coordination.k8s.io/v1` Lease, by the rules of client-go.
//!
//! The one that leads renews the Lease and stops acting when `renew_deadline` has passed since it *sent* the last
//! renewal that succeeded. The others take over when they have *seen* no change for the `lease_duration` that it
//! wrote, which is longer. No clock is compared with another host's.
//!
//! One that stops gives the Lease back. The others watch it, so one of them has it a moment later, and says there where
//! it is reached.

mod election;
mod elector;
mod leadership;
mod reached;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use elector::{Elector, Lost};
pub use leadership::{Leadership, LeaseLost};
pub use reached::Reached;

/// What is elected, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionConfig {
    /// Where the Lease is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What this process calls itself there. No other process may ever have the same name: [`identity`].
    pub identity: String,
    /// How long the others wait after the last change that they saw. Whole seconds.
    pub lease_duration: Duration,
    /// How long a renewal is good for, from when it was sent. Less than `lease_duration`.
    pub renew_deadline: Duration,
    /// How often to renew, and to look. Less than `renew_deadline`.
    pub retry_period: Duration,
    /// Where the others reach this process while it leads; None: they cannot.
    pub reached: Option<Reached>,
}

/// A name for this process: the host's (in a pod the pod's), so that people know it, and something that nobody else
/// has, also not the same pod after a restart.
pub fn identity() -> String {
    let host = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    format!("{}_{}", host.as_deref().unwrap_or("vpsie-autoscaler"), uuid::Uuid::new_v4())
}
