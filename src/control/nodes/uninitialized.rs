//! Reports Nodes that wait for a cloud controller: kubelet was started with `--cloud-provider=external`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::Nodes;
use crate::fleet::Hostname;
use crate::kubernetes::EventType;

/// Taint of Nodes that a cloud controller must initialize.
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// Time after which such a Node is reported. A cloud controller needs some seconds.
const REPORT_AFTER: Duration = Duration::from_mins(2);

/// Nodes with the taint.
#[derive(Default)]
pub(super) struct UninitializedNodes(BTreeMap<String, Waiting>);

struct Waiting {
    since: Instant,
    is_reported: bool,
}

impl UninitializedNodes {
    /// Forgets the other Nodes, by UID.
    pub(super) fn retain(&mut self, keep: impl Fn(&String) -> bool) {
        self.0.retain(|uid, _| keep(uid));
    }

    /// Notes a Node. Returns true once, if it has the taint for too long.
    fn is_due(&mut self, node: &Node) -> bool {
        let uid = node.uid().unwrap_or_default();
        let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        if !taints.any(|taint| taint.key == UNINITIALIZED) {
            self.0.remove(&uid);
            return false;
        }
        let new = || Waiting { since: Instant::now(), is_reported: false };
        let waiting = self.0.entry(uid).or_insert_with(new);
        waiting.since.elapsed() >= REPORT_AFTER && !std::mem::replace(&mut waiting.is_reported, true)
    }
}

impl Nodes {
    /// Reports once that the Node of a machine keeps the taint.
    pub(super) fn report_uninitialized(&mut self, name: &str) {
        let facts = self.view.node_named(&Hostname::new(name));
        let Some(machine) = facts.and_then(|facts| facts.machine) else { return };
        let Some(node) = self.seen.get(name).filter(|node| self.uninitialized.is_due(node)) else { return };
        tracing::warn!(
            node = node.name_any(),
            %machine,
            "no cloud controller initializes the Node, so it takes no pods; install one, or start kubelet without \
             --cloud-provider=external"
        );
        let message = format!(
            "Node {name} keeps the taint {UNINITIALIZED}, because no cloud controller initializes it (VPSie's does not): \
             install one, or set selfManaged.cloudController to none"
        );
        self.publish(name, &machine, EventType::Warning, "NodeUninitialized", &message);
    }
}
