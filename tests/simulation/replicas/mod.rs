//! Several replicas on one Kubernetes: at most one of them acts, whatever happens to them, to the API server and to
//! what is between.

mod election;
mod network;
mod replica;
mod scenarios;
mod world;

use std::time::Duration;

use vpsie_autoscaler::kubernetes::ElectionConfig;

/// A bug in what keeps replicas apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlantedState {
    /// A lease is taken for expired by the time that its holder wrote into it.
    WallClockTrusted,
    /// The one that leads goes on for longer than the others wait.
    MarginIgnored,
    /// What changes something passes whoever leads.
    NoFence,
}

const NAMESPACE: &str = "kube-system";
const LEASE: &str = "vpsie-autoscaler-leader";

fn config(identity: &str, planted: Option<PlantedState>) -> ElectionConfig {
    let too_long = planted == Some(PlantedState::MarginIgnored);
    ElectionConfig {
        namespace: NAMESPACE.to_owned(),
        name: LEASE.to_owned(),
        identity: identity.to_owned(),
        lease_duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(if too_long { 30 } else { 10 }),
        retry_period: Duration::from_secs(2),
        addresses: None,
    }
}
