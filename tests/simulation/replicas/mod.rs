//! Simulation of several replicas with leader election: at most one of them acts, despite pauses, crashes,
//! partitions and faults of the API server.

mod election;
mod network;
mod replica;
mod scenarios;
mod world;

use std::time::Duration;

use vpsie_autoscaler::kubernetes::ElectionConfig;

/// A planted bug in leader election or in the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlantedReplicaBug {
    /// A candidate decides by the Lease's `renewTime` and its own clock whether the Lease has expired.
    WallClockTrusted,
    /// The renew deadline of the leader is longer than the lease duration.
    MarginIgnored,
    /// The fence lets all writes pass.
    NoFence,
}

const NAMESPACE: &str = "kube-system";
const LEASE: &str = "vpsie-autoscaler-leader";

fn election_config(identity: &str, bug: Option<PlantedReplicaBug>) -> ElectionConfig {
    let is_too_long = bug == Some(PlantedReplicaBug::MarginIgnored);
    ElectionConfig {
        namespace: NAMESPACE.to_owned(),
        name: LEASE.to_owned(),
        identity: identity.to_owned(),
        lease_duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(if is_too_long { 30 } else { 10 }),
        retry_period: Duration::from_secs(2),
        addresses: None,
    }
}
