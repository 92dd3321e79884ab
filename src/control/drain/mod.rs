//! Drains the Nodes of machines that are being deleted, before their VMs are deleted. `control/nodes` has
//! cordoned them.
//!
//! Disruption budgets are respected without a time limit, except after an interruption notice: then pods that
//! cannot be evicted are deleted in time to end. A blocked drain is reported.

mod due;
mod lane;
mod metrics;
mod node;
mod progress;

use std::sync::{Arc, Mutex};

use kube::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::FleetHandle;
use super::nodes::NodesView;
use crate::clock::{Clock, SystemClock};
use crate::kubernetes::Events;

use lane::{DrainLane, Urgency};
pub use metrics::DrainMetrics;
use node::NodeDrainer;

/// The loop that drains Nodes.
pub struct Drain {
    drainer: NodeDrainer,
}

impl Drain {
    /// Creates the loop over machines that must be drained.
    pub fn new(
        handle: FleetHandle,
        client: Client,
        nodes: NodesView,
        events: Events,
        metrics: DrainMetrics,
    ) -> Self {
        let clock = Arc::new(SystemClock);
        let throttled_until = Mutex::new(Instant::now());
        let deletes_pods = true;
        Self {
            drainer: NodeDrainer {
                handle,
                client,
                nodes,
                events,
                metrics,
                clock,
                deletes_pods,
                throttled_until,
            },
        }
    }

    /// Takes the time from this clock in place of the system's.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { drainer: NodeDrainer { clock, ..self.drainer } }
    }

    /// Whether pods that cannot be evicted are deleted in time before an interruption. The default is true.
    pub fn with_pod_deletion(self, deletes_pods: bool) -> Self {
        Self { drainer: NodeDrainer { deletes_pods, ..self.drainer } }
    }

    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let drainer = Arc::new(self.drainer);
        let urgent = DrainLane::new(Arc::clone(&drainer), Urgency::Deadline);
        let others = DrainLane::new(drainer, Urgency::None);
        tokio::join!(urgent.run(shutdown.clone()), others.run(shutdown));
    }
}
