//! The pods of a Node with a notice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::catalog::{Resources, quantity};
use crate::fleet::MachineId;
use crate::kubernetes::{DrainAction, drain_action, pods_on, termination_grace};

/// Maximum of concurrent lists of pods.
const MAX_LISTS: usize = 8;
/// Time for evictions, beyond the grace period of the pods.
const EVICTION_MARGIN: Duration = Duration::from_secs(15);

/// The pods of a machine's Node that must move.
#[derive(Clone, Debug)]
pub struct NodePods {
    pub(super) listed_at: Instant,
    /// Their resources.
    pub requests: Resources,
    /// Grace periods, each once.
    graces: BTreeSet<Duration>,
}

impl NodePods {
    /// Sums up the pods of a Node. Pods that a drain ignores do not count.
    pub fn from_pods(pods: &[Pod]) -> Self {
        let none = Resources { cpu_millis: 0, memory_mib: 0, disk_gib: 0, pods: 0 };
        let mut all = Self { listed_at: Instant::now(), requests: none, graces: BTreeSet::new() };
        for pod in pods.iter().filter(|pod| drain_action(pod) == DrainAction::Evict) {
            let sum = |name: &str| -> f64 {
                let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
                let requests = containers.filter_map(|c| c.resources.as_ref()?.requests.as_ref()?.get(name));
                requests.filter_map(|amount| quantity::parse(&amount.0)).sum()
            };
            all.requests.cpu_millis += (sum("cpu") * 1000.0).ceil() as u64;
            all.requests.memory_mib += (sum("memory") / f64::from(1 << 20)).ceil() as u64;
            all.requests.disk_gib += (sum("ephemeral-storage") / f64::from(1 << 30)).ceil() as u64;
            all.requests.pods += 1;
            all.graces.insert(termination_grace(pod));
        }
        all
    }
}

/// Lists of pods that go on in the background.
pub(super) struct PodLists {
    client: Client,
    permits: Arc<Semaphore>,
    pending: BTreeSet<MachineId>,
    tasks: JoinSet<(MachineId, Option<NodePods>)>,
}

impl PodLists {
    pub(super) fn new(client: Client) -> Self {
        let permits = Arc::new(Semaphore::new(MAX_LISTS));
        Self { client, permits, pending: BTreeSet::new(), tasks: JoinSet::new() }
    }

    /// Begins to list the pods of a machine's Node, unless that goes on already.
    pub(super) fn begin(&mut self, machine: &MachineId, node: String) {
        if !self.pending.insert(machine.clone()) {
            return;
        }
        let (machine, client, permits) = (machine.clone(), self.client.clone(), Arc::clone(&self.permits));
        self.tasks.spawn(async move {
            let _permit = permits.acquire().await;
            match pods_on(&client, &node).await {
                Ok(pods) => (machine, Some(NodePods::from_pods(&pods))),
                Err(error) => {
                    tracing::warn!(node, %error, "cannot list the pods of a Node with an interruption notice; retrying");
                    (machine, None)
                }
            }
        });
    }

    /// The next completed list. None if no list goes on.
    pub(super) async fn next(&mut self) -> Option<(MachineId, Option<NodePods>)> {
        loop {
            match self.tasks.join_next().await? {
                Ok((machine, pods)) => {
                    self.pending.remove(&machine);
                    return Some((machine, pods));
                }
                // A task that panicked is begun anew with all others.
                Err(_) => self.pending.clear(),
            }
        }
    }
}

/// Time that the drain takes: the longest grace period of the pods, and a margin. Grace periods that do not fit in
/// `time`, that of the notice, are left out: their pods cannot end in time anyway, and the others must not move early for
/// them.
pub fn drain_time(pods: Option<&NodePods>, time: Duration) -> Duration {
    let graces = pods.into_iter().flat_map(|pods| &pods.graces);
    let longest = graces.copied().filter(|grace| *grace + EVICTION_MARGIN <= time).max();
    longest.unwrap_or_default() + EVICTION_MARGIN
}
