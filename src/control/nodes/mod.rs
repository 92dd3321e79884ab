//! Sets the identity of Nodes, records that machines run, and deletes Node objects of VMs that are gone.
//!
//! Cluster Autoscaler deletes no Node object (docs/reference/cluster-autoscaler.md#node-objects), and counts
//! a Node without `spec.providerID` as a VM that never registered
//! (docs/reference/cluster-autoscaler.md#provider-id). VPSie has no controller for either.

mod history;
mod identity;
mod machine_vm;
mod notices;
mod patch;
mod samples;
mod uninitialized;
mod unready;
mod view;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::FleetHandle;
use super::listing_trigger::ListingTrigger;
use crate::clock::{Clock, SystemClock};
use crate::fleet::{Hostname, Machine, MachineId, UnmanagedKind};
use crate::kubernetes::{EventType, Events, Object, ObjectEvent, watch_config};
use history::History;
use identity::{NodeAction, Owner, facts, node_action, owner_of, unmatched};
use samples::StableNodes;
use uninitialized::UninitializedNodes;
use watched::{is_conflict, is_stale, strip_unused};

pub use view::{NodeFacts, NodesView};

/// Minimum interval of checks after changes of the fleet.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of checks without changes, which retry failed actions.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);
/// Time after which a new Node that matches no machine is reported: until then, its VM may not be listed yet.
const UNMATCHED_AFTER: Duration = Duration::from_mins(1);
/// Maximum of concurrent patches.
const MAX_PATCHES: usize = 8;
/// Maximum of machines on which such a Node is reported.
const MAX_UNMATCHED_REPORTS: usize = 5;
/// Prefix of the UID of an unmatched Node in `reported`.
const UNMATCHED_PREFIX: &str = "unmatched ";

/// The loop over Nodes.
pub struct Nodes {
    handle: FleetHandle,
    api: Api<Node>,
    listing_trigger: Arc<ListingTrigger>,
    view: NodesView,
    seen: BTreeMap<String, Node>,
    listing: BTreeMap<String, Node>,
    history: History,
    /// UIDs of Nodes that match no machine although machines wait for their Nodes, with the time since when.
    unmatched: BTreeMap<String, Instant>,
    events: Events,
    /// UIDs of Nodes that were reported already.
    reported: BTreeSet<String>,
    stability: StableNodes,
    uninitialized: UninitializedNodes,
    /// Whether so many Nodes are not Ready that Cluster Autoscaler stops by default.
    stops_scaling: bool,
    clock: Arc<dyn Clock>,
}

impl Nodes {
    /// Creates the loop. It triggers a listing when a Node appears whose VM may not be listed yet.
    pub fn new(handle: FleetHandle, client: Client, listing_trigger: Arc<ListingTrigger>) -> Self {
        Self {
            handle,
            api: Api::all(client),
            listing_trigger,
            view: NodesView::default(),
            seen: BTreeMap::new(),
            listing: BTreeMap::new(),
            history: History::default(),
            unmatched: BTreeMap::new(),
            events: Events::none(),
            reported: BTreeSet::new(),
            stability: StableNodes::default(),
            uninitialized: UninitializedNodes::default(),
            stops_scaling: false,
            clock: Arc::new(SystemClock),
        }
    }

    /// Takes the time from this clock in place of the system's.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Publishes events.
    pub fn with_events(self, events: Events) -> Self {
        Self { events, ..self }
    }

    /// Updates an existing view.
    pub fn with_view(self, view: NodesView) -> Self {
        Self { view, ..self }
    }

    /// The view of the Nodes, for other loops.
    pub fn view(&self) -> NodesView {
        self.view.clone()
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let events = watcher(self.api.clone(), watch_config())
            .default_backoff()
            .inspect_err(|error| tracing::warn!(%error, "cannot watch Nodes; the watch is restarted"));
        let mut events = std::pin::pin!(events);
        let mut commits = self.handle.clone();
        self.handle.read(|fleet| self.history.note_records(fleet));
        let mut next = Instant::now() + RETRY_INTERVAL;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                event = events.next() => match event {
                    Some(Ok(event)) => match self.apply_event(event) {
                        WatchEffect::Node(name) => self.reconcile(&name).await,
                        WatchEffect::All => {
                            // Identified Nodes come first, before a Node is matched by name or address.
                            for name in self.seen.keys().cloned().collect::<Vec<_>>() {
                                drop(self.assess(&name));
                            }
                            self.reconcile_all().await;
                            next = Instant::now() + RETRY_INTERVAL;
                        }
                        WatchEffect::Nothing => {}
                    },
                    Some(Err(_)) => {}
                    None => return,
                },
                () = tokio::time::sleep_until(next) => {
                    self.reconcile_all().await;
                    next = Instant::now() + RETRY_INTERVAL;
                }
                () = commits.changed() => {
                    // At once: a Node that registers later is younger.
                    self.handle.read(|fleet| self.history.note_records(fleet));
                    next = next.min(Instant::now() + MIN_INTERVAL);
                }
            }
        }
    }

    /// Applies an event of the watch. It may be older than the reply to a patch.
    fn apply_event(&mut self, event: watcher::Event<Node>) -> WatchEffect {
        match event {
            watcher::Event::Apply(node) => {
                let name = node.name_any();
                let node = strip_unused(node);
                if self.seen.get(&name).is_some_and(|known| is_stale(&node, known)) {
                    return WatchEffect::Nothing;
                }
                self.note_node(&node, false);
                self.seen.insert(name.clone(), node);
                return WatchEffect::Node(name);
            }
            watcher::Event::Delete(node) => {
                let name = node.name_any();
                // A new Node of the same name may exist already.
                if self.seen.get(&name).is_some_and(|known| known.uid() == node.uid()) {
                    self.seen.remove(&name);
                    self.view.forget_node(&name);
                }
                self.history.forget_node(&node);
                let uid = node.uid().unwrap_or_default();
                self.reported.remove(&format!("{UNMATCHED_PREFIX}{uid}"));
                self.unmatched.remove(&uid);
                self.reported.remove(&uid);
                self.stability.forget_node(&uid);
                self.uninitialized.retain(|known| *known != uid);
            }
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(node) => {
                self.listing.insert(node.name_any(), strip_unused(node));
            }
            watcher::Event::InitDone => {
                let mut before = std::mem::replace(&mut self.seen, std::mem::take(&mut self.listing));
                for (name, node) in &mut self.seen {
                    if let Some(known) = before.remove(name).filter(|known| is_stale(node, known)) {
                        *node = known;
                    }
                }
                let uids: BTreeSet<_> = self.seen.values().filter_map(Node::uid).collect();
                self.stability.retain(|uid| uids.contains(uid));
                self.uninitialized.retain(|uid| uids.contains(uid));
                self.reported.retain(|uid| uids.contains(uid.trim_start_matches(UNMATCHED_PREFIX)));
                self.unmatched.retain(|uid, _| uids.contains(uid));
                let first = !self.view.has_listed();
                for node in self.seen.values().cloned().collect::<Vec<_>>() {
                    self.note_node(&node, first);
                }
                self.history.retain_nodes(self.seen.values());
                self.view.retain_nodes(|name| self.seen.contains_key(name));
                return WatchEffect::All;
            }
        }
        WatchEffect::Nothing
    }

    /// Observes a Node, after the records that existed before it.
    fn note_node(&mut self, node: &Node, initial: bool) {
        self.handle.read(|fleet| self.history.note_records(fleet));
        self.history.note_node(node, initial);
    }

    async fn reconcile_all(&mut self) {
        let is_deleting = |machine: &&Machine| !machine.counts() && machine.vm().is_some();
        let deleting = self
            .handle
            .read(|fleet| fleet.machines().filter(is_deleting).map(|machine| machine.id.clone()).collect());
        let names: Vec<String> = self.seen.keys().cloned().collect();
        let failed = self.patch_all(&names).await;
        for name in names.iter().filter(|name| !failed.contains(*name)) {
            self.reconcile(name).await;
        }
        self.view.set_compared(deleting);
        self.note_unready().await;
    }

    /// Patches all Nodes that need it, [`MAX_PATCHES`] at a time, so that one slow reply does not delay other cordons.
    /// Returns the Nodes whose patch failed.
    async fn patch_all(&mut self, names: &[String]) -> BTreeSet<String> {
        let mut patches = Vec::new();
        for name in names {
            if let Some(NodeAction::Patch(patch)) = self.assess(name) {
                patches.push((name.clone(), patch));
            }
        }
        let api = self.api.clone();
        let send = |(name, patch): (String, serde_json::Value)| {
            let api = api.clone();
            async move { (send_patch(&api, &name, patch).await, name) }
        };
        let mut replies = std::pin::pin!(stream::iter(patches).map(send).buffer_unordered(MAX_PATCHES));
        let mut failed = BTreeSet::new();
        while let Some((reply, name)) = replies.next().await {
            if !self.note_patch(&name, reply) {
                failed.insert(name);
            }
        }
        failed
    }

    async fn reconcile(&mut self, name: &str) {
        let Some(mut action) = self.assess(name) else { return };
        if let NodeAction::KeepJoined(machine, vm) = action {
            match self.keep_joined(name, machine, vm).await.then(|| self.assess(name)) {
                Some(Some(next)) => action = next,
                _ => return,
            }
        }
        if let NodeAction::Adopt(machine, provider_id) = action {
            match self.adopt_provider_id(name, machine, provider_id).await.then(|| self.assess(name)) {
                Some(Some(next)) => action = next,
                _ => return,
            }
        }
        if let NodeAction::Patch(patch) = action {
            // The reply is newer than the watch, so the Node is assessed again.
            match self.patch_node(name, patch).await.then(|| self.assess(name)) {
                Some(Some(next)) => action = next,
                _ => return,
            }
        }
        let uid = self.seen.get(name).and_then(Node::uid);
        match action {
            NodeAction::None | NodeAction::Patch(_) | NodeAction::Adopt(..) | NodeAction::KeepJoined(..) => {}
            NodeAction::Register(hostname) => {
                if let Err(error) = self.handle.note_registered(hostname).await {
                    tracing::warn!(node = name, %error, "cannot record that a Node registered; retrying");
                }
            }
            NodeAction::Delete => self.delete_node(name, uid).await,
            NodeAction::Contradiction(machine, found) => self.report_conflict(name, uid, &machine, &found),
            NodeAction::ListVms => {
                if self.reported.insert(uid.unwrap_or_default()) {
                    self.listing_trigger.list_now();
                }
            }
        }
        self.report_unmatched(name);
        self.report_uninitialized(name);
        self.record_sample(name).await;
    }

    /// Records a sample of the Node for the templates.
    async fn record_sample(&mut self, name: &str) {
        let Some(node) = self.seen.get(name) else { return };
        let Some(facts) = self.view.node_named(&Hostname::new(name)) else { return };
        let stability = &mut self.stability;
        let time = self.clock.now();
        let sample =
            self.handle.read(|fleet| stability.new_sample(fleet, node, &facts, time, Instant::now()));
        if let Some((vm, shown)) = sample
            && let Err(error) = self.handle.add_node_sample(vm, shown).await
        {
            tracing::warn!(node = name, %error, "cannot record the resources and labels of a Node; retrying");
        }
    }

    /// Updates the view with the owner of a Node, and returns the action for it.
    fn assess(&mut self, name: &str) -> Option<NodeAction> {
        let node = self.seen.get(name)?;
        let view = &self.view;
        let history = &self.history;
        let (facts, action, listed) = self.handle.read(|fleet| {
            let owner = match owner_of(fleet, history, node) {
                // All Nodes of a machine that is being deleted are drained.
                Owner::Machine { machine, identified: false } | Owner::Adoptable { machine, .. }
                    if machine.counts() && view.has_other_node(&machine.id, name) =>
                {
                    Owner::Unowned
                }
                owner => owner,
            };
            let unmanaged = fleet.unmanaged_node(&Hostname::new(name));
            let listed =
                unmanaged.is_some_and(|unmanaged| !matches!(unmanaged.kind, UnmanagedKind::Gone { .. }));
            (facts(node, owner), node_action(fleet, history, node, owner), listed)
        });
        if listed {
            self.history.note_listed(node);
        }
        if let Some(machine) = &facts.machine {
            self.history.note_machine(node, machine);
        }
        self.view.set_node(facts);
        Some(action)
    }

    /// Publishes an event on the Node and on the VPSieNode.
    fn publish(&self, node: &str, machine: &MachineId, kind: EventType, reason: &'static str, message: &str) {
        let uid = self.seen.get(node).and_then(Node::uid).unwrap_or_default();
        let on = Object::VPSieNode(machine.to_string());
        self.events.publish(ObjectEvent::new(on.clone(), kind, reason, message));
        self.events.publish(ObjectEvent::node(node, uid, kind, reason, message).with_related(on));
    }

    /// Reports once that a Node with the name or address of a machine's VM has a contradictory providerID.
    fn report_conflict(&mut self, name: &str, uid: Option<String>, machine: &MachineId, found: &str) {
        if !self.reported.insert(uid.unwrap_or_default()) {
            return;
        }
        tracing::warn!(
            node = name,
            %machine,
            provider_id = found,
            "the Node has the providerID of another VM and cannot be matched; delete the Node object, and restart \
             its kubelet"
        );
        let message = format!(
            "Node {name} has the providerID {found} of another VM and is not matched to machine {machine}; delete \
             the Node object, and restart its kubelet"
        );
        self.publish(name, machine, EventType::Warning, "IdentityConflict", &message);
    }

    /// Reports once that a Node registered and matches no machine, while machines wait for their Nodes.
    fn report_unmatched(&mut self, name: &str) {
        let Some(node) = self.seen.get(name) else { return };
        let uid = node.uid().unwrap_or_default();
        let owned = self.view.node_named(&Hostname::new(name)).is_some_and(|facts| facts.machine.is_some());
        let has_node = |machine: &MachineId| self.view.node_of(machine).is_some();
        let of = |machine: &Machine| Some((machine.id.clone(), machine.vm()?.hostname.clone()));
        let waiting: Vec<_> = self.handle.read(|fleet| {
            let machines = unmatched(fleet, &self.history, node, has_node).into_iter();
            machines.filter(|_| !owned).filter_map(of).take(MAX_UNMATCHED_REPORTS).collect()
        });
        if waiting.is_empty() {
            self.unmatched.remove(&uid);
            return;
        }
        let since = *self.unmatched.entry(uid.clone()).or_insert_with(Instant::now);
        if since.elapsed() < UNMATCHED_AFTER || !self.reported.insert(format!("{UNMATCHED_PREFIX}{uid}")) {
            return;
        }
        for (machine, vm) in &waiting {
            tracing::warn!(
                node = name,
                %machine,
                %vm,
                "a Node matches no VM that waits for its Node; register the Node under the hostname of its VM"
            );
            let message = format!(
                "Node {name} matches no VM that waits for its Node; if it is the Node of VM {vm}, register it under \
                 the name {vm}"
            );
            self.publish(name, machine, EventType::Warning, "NodeUnmatched", &message);
        }
    }

    /// Patches a Node. Returns whether it was patched; then `seen` has the reply.
    async fn patch_node(&mut self, name: &str, patch: serde_json::Value) -> bool {
        let reply = send_patch(&self.api, name, patch).await;
        self.note_patch(name, reply)
    }

    /// Records the reply to a patch. Returns whether the Node was patched.
    fn note_patch(&mut self, name: &str, reply: kube::Result<Node>) -> bool {
        match reply {
            Ok(node) => {
                let spec = node.spec.as_ref();
                tracing::info!(
                    node = name,
                    provider_id = spec.and_then(|spec| spec.provider_id.as_deref()),
                    unschedulable = spec.and_then(|spec| spec.unschedulable),
                    "patched a Node: providerID, labels, taints or cordon"
                );
                let before = self.seen.insert(name.to_owned(), strip_unused(node));
                self.report_identity(name, before.as_ref());
                return true;
            }
            Err(error) if is_conflict(&error) => {
                tracing::debug!(node = name, "the Node changed during the patch; waiting for the watch");
            }
            Err(error) => tracing::warn!(node = name, %error, "cannot patch the Node; retrying"),
        }
        false
    }

    fn report_identity(&self, name: &str, before: Option<&Node>) {
        let provider_id = |node: &Node| node.spec.as_ref().and_then(|spec| spec.provider_id.clone());
        let Some(node) = self.seen.get(name) else { return };
        let Some(id) = provider_id(node).filter(|_| before.and_then(provider_id).is_none()) else { return };
        let machine = self.view.node_named(&Hostname::new(name)).and_then(|facts| facts.machine);
        let of = machine.map_or_else(|| "its VM".to_owned(), |machine| format!("machine {machine}"));
        let uid = node.uid().unwrap_or_default();
        let message = format!("vpsie-autoscaler set providerID {id}: this is the Node of {of}");
        self.events.publish(ObjectEvent::node(name, uid, EventType::Normal, "IdentityGiven", message));
    }

    async fn delete_node(&self, name: &str, uid: Option<String>) {
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.api.delete(name, &params).await {
            Ok(_) => {
                tracing::info!(node = name, "deleted the Node object, because its VM is gone");
                let uid = self.seen.get(name).and_then(Node::uid).unwrap_or_default();
                let message = "vpsie-autoscaler deleted the Node object, because its VM is gone";
                self.events.publish(ObjectEvent::node(name, uid, EventType::Normal, "NodeDeleted", message));
            }
            Err(error) if is_conflict(&error) => {
                tracing::debug!(node = name, "the Node was deleted or replaced; waiting for the watch");
            }
            Err(error) => tracing::warn!(node = name, %error, "cannot delete the Node object; retrying"),
        }
    }
}

async fn send_patch(api: &Api<Node>, name: &str, patch: serde_json::Value) -> kube::Result<Node> {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

/// The effect of an event of the watch.
enum WatchEffect {
    Node(String),
    All,
    Nothing,
}
