//! Gives Nodes their identity, takes them for the sign that machines run, and removes those of VMs that are gone.
//!
//! Cluster Autoscaler deletes no Node object (contract §3.10), and takes a Node without `spec.providerID` for a
//! VM that never registered (contract R5). Nothing else does either for VPSie.

mod identity;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::FleetHandle;
use identity::{Verdict, verdict};
pub use view::NodesView;

/// Nodes looked at after the fleet changed: not more often than this.
const PASS: Duration = Duration::from_secs(1);
/// Nodes looked at all the same, for what failed before.
const REPEAT: Duration = Duration::from_secs(15);

/// The loop that gives Nodes their identity.
pub struct Nodes {
    handle: FleetHandle,
    api: Api<Node>,
    seen: BTreeMap<String, Node>,
    listing: BTreeMap<String, Node>,
}

impl Nodes {
    /// A loop over the Nodes of the cluster that the client talks to.
    pub fn new(handle: FleetHandle, client: Client) -> Self {
        Self { handle, api: Api::all(client), seen: BTreeMap::new(), listing: BTreeMap::new() }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let events = watcher(self.api.clone(), watcher::Config::default())
            .default_backoff()
            .inspect_err(|error| tracing::warn!(%error, "Nodes cannot be watched; trying again"));
        let mut events = std::pin::pin!(events);
        let mut commits = self.handle.clone();
        let mut next = Instant::now() + REPEAT;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        if let Some(name) = self.take(event) {
                            self.look(&name).await;
                        } else {
                            next = next.min(Instant::now() + PASS);
                        }
                    }
                    Some(Err(_)) => {}
                    None => return,
                },
                () = tokio::time::sleep_until(next) => {
                    for name in self.seen.keys().cloned().collect::<Vec<_>>() {
                        self.look(&name).await;
                    }
                    next = Instant::now() + REPEAT;
                }
                () = commits.changed() => next = next.min(Instant::now() + PASS),
            }
        }
    }

    /// Takes what the watch says. The name of the one Node that it is about, if it is one.
    fn take(&mut self, event: watcher::Event<Node>) -> Option<String> {
        match event {
            watcher::Event::Apply(node) => {
                let (name, node) = (node.name_any(), slim(node));
                self.seen.insert(name.clone(), node);
                return Some(name);
            }
            watcher::Event::Delete(node) => {
                self.seen.remove(&node.name_any());
            }
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(node) => {
                self.listing.insert(node.name_any(), slim(node));
            }
            watcher::Event::InitDone => self.seen = std::mem::take(&mut self.listing),
        }
        None
    }

    async fn look(&mut self, name: &str) {
        let Some(node) = self.seen.get(name) else { return };
        match self.handle.read(|fleet| verdict(fleet, node)) {
            Verdict::Leave => {}
            Verdict::Register(hostname, shows) => {
                if let Err(error) = self.handle.registered(hostname, shows).await {
                    tracing::warn!(node = name, %error, "a Node is not noted yet; trying again");
                }
            }
            Verdict::Patch(patch) => {
                let params = PatchParams::default();
                match self.api.patch(name, &params, &Patch::Merge(patch)).await {
                    Ok(node) => {
                        tracing::info!(
                            node = name,
                            provider_id = node.spec.as_ref().and_then(|s| s.provider_id.as_deref()),
                            "Node has its identity"
                        );
                        self.seen.insert(name.to_owned(), slim(node));
                    }
                    Err(error) => {
                        tracing::warn!(node = name, %error, "Node cannot be given its identity; trying again");
                    }
                }
            }
            Verdict::Delete => {
                let preconditions = Some(Preconditions { uid: node.uid(), resource_version: None });
                let params = DeleteParams { preconditions, ..DeleteParams::default() };
                match self.api.delete(name, &params).await {
                    Ok(_) => tracing::info!(node = name, "Node object deleted; its VM is gone"),
                    Err(error) => {
                        tracing::warn!(node = name, %error, "Node object cannot be deleted; trying again");
                    }
                }
            }
            Verdict::Contradiction(found) => tracing::warn!(
                node = name,
                found,
                "Node has the providerID of another VM and cannot be matched; delete the Node object so that it registers anew"
            ),
        }
    }
}

/// Most of a Node is its list of images and who set which field: nothing that is looked at here, times thousands.
fn slim(mut node: Node) -> Node {
    node.metadata.managed_fields = None;
    if let Some(status) = &mut node.status {
        status.images = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
    }
    node
}
