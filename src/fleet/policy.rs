//! Times after which the fleet draws a conclusion.

use std::time::Duration;

/// Times after which the fleet draws a conclusion. Where an absence decides, a number of complete listings is
/// asked for too, so that a clock that jumps does not decide alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Maximum time until VPSie accepts a machine's request, and from then until its VM is listed.
    pub create_timeout: Duration,
    /// How long a Failed machine is shown, should Cluster Autoscaler not delete it
    /// (docs/reference/cluster-autoscaler.md#creation-errors).
    pub failed_ttl: Duration,
    /// How long an orphan may wait for a machine that adopts it.
    pub orphan_grace: Duration,
    /// How long after a request without a clear outcome it is counted as lost.
    pub unclear_timeout: Duration,
    /// How long after a request a VM of its size may still be its result.
    pub binding_window: Duration,
    /// How long after a request a VM that appears counts as its possible result. It is not bound any more after
    /// [`binding_window`](Self::binding_window): by then a person may have added it instead.
    pub abandoned_request_ttl: Duration,
    /// How long a VM must be missing from listings before its machine is given up.
    pub vanish_after: Duration,
    /// How long the record of a VM that is gone, or of a foreign one that is not listed, is kept.
    pub gone_kept: Duration,
    /// Whether there is no API server: a machine is Running once VPSie says that its VM is up, and no Node is drained
    /// before its VM is deleted. Otherwise the Node decides.
    pub running_when_listed: bool,
    /// How VMs are bound to machines: the backend's way.
    pub binding: Binding,
}

/// How VMs are bound to machines. A product has one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// A creation returns no identity. A new node uses up the neediest request of its class.
    #[default]
    ByDifference,
    /// VMs have the names of their machines.
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
            binding: Binding::default(),
        }
    }
}
