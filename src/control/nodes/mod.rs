//! Gives Nodes their identity, takes them for the sign that machines run, and removes those of VMs that are gone.
//!
//! Cluster Autoscaler deletes no Node object (contract §3.10), and takes a Node without `spec.providerID` for a
//! VM that never registered (contract R5). Nothing else does either for VPSie.

mod identity;
mod learning;
mod view;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bell::Bell;
use super::handle::FleetHandle;
use crate::fleet::Hostname;
use crate::kubernetes::{EventType, Events, Happening, watch_config};
use identity::{Owner, Verdict, facts, owner, verdict};
use learning::Settling;

pub use view::{NodeFacts, NodesView};

/// Nodes looked at after the fleet changed: not more often than this.
const PASS: Duration = Duration::from_secs(1);
/// Nodes looked at all the same, for what failed before.
const REPEAT: Duration = Duration::from_secs(15);

/// The loop that gives Nodes their identity.
pub struct Nodes {
    handle: FleetHandle,
    api: Api<Node>,
    bell: Arc<Bell>,
    view: NodesView,
    seen: BTreeMap<String, Node>,
    listing: BTreeMap<String, Node>,
    events: Events,
    /// UIDs of Nodes that something was said of already, and is not to be said again.
    told: BTreeSet<String>,
    settling: Settling,
}

impl Nodes {
    /// A loop over the Nodes of the cluster that the client talks to. It rings the bell when a Node appears that
    /// may be of a VM which was not listed yet.
    pub fn new(handle: FleetHandle, client: Client, bell: Arc<Bell>) -> Self {
        Self {
            handle,
            api: Api::all(client),
            bell,
            view: NodesView::default(),
            seen: BTreeMap::new(),
            listing: BTreeMap::new(),
            events: Events::none(),
            told: BTreeSet::new(),
            settling: Settling::default(),
        }
    }

    /// The same, telling events.
    pub fn with_events(self, events: Events) -> Self {
        Self { events, ..self }
    }

    /// The same, with a view that others have already.
    pub fn with_view(self, view: NodesView) -> Self {
        Self { view, ..self }
    }

    /// What it knows of the Nodes, for others.
    pub fn view(&self) -> NodesView {
        self.view.clone()
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let events = watcher(self.api.clone(), watch_config())
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
                    Some(Ok(event)) => match self.take(event) {
                        Taken::Node(name) => self.look(&name).await,
                        Taken::All => {
                            // Which Nodes are identified, before one is claimed by name or address.
                            self.seen.keys().for_each(|name| drop(self.judge(name)));
                            self.look_at_all().await;
                            next = Instant::now() + REPEAT;
                        }
                        Taken::Nothing => {}
                    },
                    Some(Err(_)) => {}
                    None => return,
                },
                () = tokio::time::sleep_until(next) => {
                    self.look_at_all().await;
                    next = Instant::now() + REPEAT;
                }
                () = commits.changed() => next = next.min(Instant::now() + PASS),
            }
        }
    }

    /// Takes what the watch says. What it says may be older than what a patch answered.
    fn take(&mut self, event: watcher::Event<Node>) -> Taken {
        match event {
            watcher::Event::Apply(node) => {
                let (name, node) = (node.name_any(), slim(node));
                if self.seen.get(&name).is_some_and(|known| is_stale(&node, known)) {
                    return Taken::Nothing;
                }
                self.seen.insert(name.clone(), node);
                return Taken::Node(name);
            }
            watcher::Event::Delete(node) => {
                let name = node.name_any();
                // One of the same name may be there since.
                if self.seen.get(&name).is_some_and(|known| known.uid() == node.uid()) {
                    self.seen.remove(&name);
                    self.view.forget(&name);
                }
                let uid = node.uid().unwrap_or_default();
                self.told.remove(&uid);
                self.settling.forget(&uid);
            }
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(node) => {
                self.listing.insert(node.name_any(), slim(node));
            }
            watcher::Event::InitDone => {
                let mut before = std::mem::replace(&mut self.seen, std::mem::take(&mut self.listing));
                for (name, node) in &mut self.seen {
                    if let Some(known) = before.remove(name).filter(|known| is_stale(node, known)) {
                        *node = known;
                    }
                }
                let uids: BTreeSet<_> = self.seen.values().filter_map(Node::uid).collect();
                self.told.retain(|uid| uids.contains(uid));
                self.settling.retain(|uid| uids.contains(uid));
                self.view.keep(|name| self.seen.contains_key(name));
                return Taken::All;
            }
        }
        Taken::Nothing
    }

    async fn look_at_all(&mut self) {
        for name in self.seen.keys().cloned().collect::<Vec<_>>() {
            self.look(&name).await;
        }
    }

    async fn look(&mut self, name: &str) {
        let Some(mut verdict) = self.judge(name) else { return };
        if let Verdict::Patch(patch) = verdict {
            // The watch tells nothing newer than the answer, so that is looked at here.
            match self.patch(name, patch).await.then(|| self.judge(name)) {
                Some(Some(next)) => verdict = next,
                _ => return,
            }
        }
        let uid = self.seen.get(name).and_then(Node::uid);
        match verdict {
            Verdict::Leave | Verdict::Patch(_) => {}
            Verdict::Register(hostname) => {
                if let Err(error) = self.handle.registered(hostname).await {
                    tracing::warn!(node = name, %error, "a Node is not noted yet; trying again");
                }
            }
            Verdict::Delete => self.delete(name, uid).await,
            Verdict::Contradiction(found) => {
                if self.told.insert(uid.unwrap_or_default()) {
                    tracing::warn!(
                        node = name,
                        found,
                        "Node has the providerID of another VM and cannot be matched; delete the Node object so that it registers anew"
                    );
                }
            }
            Verdict::Unknown => {
                if self.told.insert(uid.unwrap_or_default()) {
                    self.bell.now();
                }
            }
        }
        self.learn(name).await;
    }

    /// Takes what the Node of a machine has, for the templates.
    async fn learn(&mut self, name: &str) {
        let Some(node) = self.seen.get(name) else { return };
        let Some(facts) = self.view.named(&Hostname::new(name)) else { return };
        let settling = &mut self.settling;
        let news = self.handle.read(|fleet| settling.news(fleet, node, &facts, Instant::now()));
        if let Some((vm, shown)) = news
            && let Err(error) = self.handle.learn(vm, shown).await
        {
            tracing::warn!(node = name, %error, "what the Node has is not recorded yet; trying again");
        }
    }

    /// Whose a Node is goes to the view; what is to be done about it is returned.
    fn judge(&self, name: &str) -> Option<Verdict> {
        let node = self.seen.get(name)?;
        let (facts, verdict) = self.handle.read(|fleet| {
            let owner = match owner(fleet, node) {
                // Each Node of a machine that is being deleted is drained.
                Owner::Machine { machine, identified: false }
                    if machine.counts() && self.view.taken(&machine.id, name) =>
                {
                    Owner::Nobody
                }
                owner => owner,
            };
            (facts(node, owner), verdict(fleet, node, owner))
        });
        self.view.note(facts);
        Some(verdict)
    }

    /// Whether it was done. The answer is then the newest that is known of the Node.
    async fn patch(&mut self, name: &str, patch: serde_json::Value) -> bool {
        match self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(node) => {
                let spec = node.spec.as_ref();
                tracing::info!(
                    node = name,
                    provider_id = spec.and_then(|spec| spec.provider_id.as_deref()),
                    unschedulable = spec.and_then(|spec| spec.unschedulable),
                    "Node has what it lacked"
                );
                let before = self.seen.insert(name.to_owned(), slim(node));
                self.tell_identity(name, before.as_ref());
                return true;
            }
            Err(error) if is_conflict(&error) => {
                tracing::debug!(node = name, "Node changed meanwhile; the watch brings it");
            }
            Err(error) => tracing::warn!(node = name, %error, "Node cannot be patched; trying again"),
        }
        false
    }

    fn tell_identity(&self, name: &str, before: Option<&Node>) {
        let provider_id = |node: &Node| node.spec.as_ref().and_then(|spec| spec.provider_id.clone());
        let Some(node) = self.seen.get(name) else { return };
        let Some(id) = provider_id(node).filter(|_| before.and_then(provider_id).is_none()) else { return };
        let machine = self.view.named(&Hostname::new(name)).and_then(|facts| facts.machine);
        let of = machine.map(|machine| format!(" of machine {machine}")).unwrap_or_default();
        let uid = node.uid().unwrap_or_default();
        let message = format!("is the Node{of}: providerID {id}");
        self.events.publish(Happening::node(name, uid, EventType::Normal, "IdentityGiven", message));
    }

    async fn delete(&self, name: &str, uid: Option<String>) {
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.api.delete(name, &params).await {
            Ok(_) => {
                tracing::info!(node = name, "Node object deleted; its VM is gone");
                let uid = self.seen.get(name).and_then(Node::uid).unwrap_or_default();
                let message = "Node object deleted: its VM is gone";
                self.events.publish(Happening::node(name, uid, EventType::Normal, "NodeDeleted", message));
            }
            Err(error) if is_conflict(&error) => {
                tracing::debug!(node = name, "Node is gone or another one; the watch tells");
            }
            Err(error) => tracing::warn!(node = name, %error, "Node object cannot be deleted; trying again"),
        }
    }
}

/// What an event of the watch was about.
enum Taken {
    Node(String),
    All,
    Nothing,
}

/// Whether what the watch says of a Node is older than what is known of it, or the same.
fn is_stale(told: &Node, known: &Node) -> bool {
    if told.uid() != known.uid() {
        return false;
    }
    let version = |node: &Node| node.resource_version()?.parse::<u64>().ok();
    match (version(told), version(known)) {
        (Some(told), Some(known)) => told.cmp(&known) != Ordering::Greater,
        _ => told.resource_version() == known.resource_version(),
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
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
