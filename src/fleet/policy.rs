//! Time limits of the fleet.

use std::time::Duration;

/// Time limits of the fleet. An absence also needs a number of complete listings, so that a clock jump alone
/// has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Maximum time until VPSie accepts a machine's request, and from then until its VM is listed.
    pub create_timeout: Duration,
    /// Time that a Failed machine is kept if Cluster Autoscaler does not delete it
    /// (docs/reference/cluster-autoscaler.md#creation-errors).
    pub failed_ttl: Duration,
    /// Time that an orphan waits for a machine that adopts it, before it is deleted.
    pub orphan_grace: Duration,
    /// Time that a request without a clear outcome stays open before it counts as lost.
    pub unclear_timeout: Duration,
    /// Time after a request in which a new VM of its class is bound as its result.
    pub binding_window: Duration,
    /// Time after a request in which a new VM counts as its possible result. It is no longer bound after
    /// [`binding_window`](Self::binding_window): it may have been added by hand.
    pub abandoned_request_ttl: Duration,
    /// Time that a VM must be missing from listings before it counts as vanished.
    pub vanish_after: Duration,
    /// Time that the record of a gone VM, or of an unlisted foreign node, is kept.
    pub gone_kept: Duration,
    /// Whether there is no API server: a machine is Running once VPSie lists its VM as running, and VMs are
    /// deleted without a drain. Otherwise a machine is Running once its Node registered.
    pub running_when_listed: bool,
}

/// The method of binding VMs to machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// A creation returns no identity. A new node matches the first open request of its class.
    #[default]
    ByDifference,
    /// vpsie-autoscaler chooses the hostname of each request, and its VMs have an owner marker.
    ByName,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            create_timeout: Duration::from_mins(10),
            failed_ttl: Duration::from_mins(30),
            orphan_grace: Duration::from_mins(15),
            unclear_timeout: Duration::from_mins(1),
            binding_window: Duration::from_hours(1),
            abandoned_request_ttl: Duration::from_hours(24),
            vanish_after: Duration::from_mins(3),
            gone_kept: Duration::from_hours(24),
            running_when_listed: true,
        }
    }
}
