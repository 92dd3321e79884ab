//! Simulation of interruptions: a cluster with spot pools whose Nodes get notices, and whose VMs vanish.

mod checks;
mod cloud;
mod connection;
mod disturbances;
mod expander;
mod faults;
mod observer;
mod planted_bugs;
mod sweep;
mod tests;
mod vpsie;
mod world;

use jiff::SignedDuration;

/// Time of a step. Kubelets and the workload also run in its middle.
const STEP: SignedDuration = SignedDuration::from_secs(10);
/// Maximum time from a request until the VM is up.
const BOOT: SignedDuration = SignedDuration::from_secs(60);
/// `interruptionGracePeriod` of the NodeGroup: the time of a notice without a deadline.
const GRACE: SignedDuration = SignedDuration::from_mins(2);
/// Maximum number of machines of the NodeGroup.
const MAX: u32 = 6;
/// Offers of the NodeGroup.
const OFFERS: [&str; 2] = ["s-2vcpu-4gb", "s-4vcpu-8gb"];
