//! The loop over NodeGroups and the AutoscalerConfig: it puts changes in force and writes statuses.

mod condition_fact;
mod datacenter_status;
mod declared;
mod spot_status;
mod status;
mod watched;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::{CommandError, FleetHandle};
use super::nodes::NodesView;
use crate::api::{AutoscalerConfig, AutoscalerConfigStatus, NodeGroup};
use crate::clock::Clock;
use crate::fleet::{Binding, Cause, Fleet, Machine, NodeGroupName, Phase, RequestOutcome};
use crate::kubernetes::merge_patch;
use crate::validation::SelfManagedGroup;
use crate::vpsie::ManagedConfig;
use declared::{Declarations, ObservedConfig};
use status::{status, unreadable};
use watched::{Unreadable, Watched, user_metadata, watch_objects};

/// The name of the only AutoscalerConfig that is used.
const CONFIG: &str = "default";

/// Keeps a NodeGroup until its machines are gone.
pub const NODE_GROUP_FINALIZER: &str = "nodegroup.autoscaler.vpsie.com/finalizer";

/// Minimum interval of status updates after changes.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of retries.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);

/// The loop over NodeGroups.
pub struct NodeGroups {
    handle: FleetHandle,
    clock: Arc<dyn Clock>,
    nodes: NodesView,
    client: Client,
    namespace: String,
    seen: Watched<NodeGroup>,
    config: Watched<AutoscalerConfig>,
    declared: Declarations,
    /// The status that was last written to unreadable objects.
    reported: BTreeMap<String, (Option<i64>, String)>,
    /// The cluster of the machines at the start.
    recorded: Option<ManagedConfig>,
    /// The last value that was passed to `on_cluster`.
    served: ServedCluster,
    on_cluster: Box<dyn Fn(&ServedCluster) + Send + Sync>,
    in_force: watch::Sender<ServedCluster>,
}

/// The cluster that the NodeGroups name. This process serves it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ServedCluster {
    /// The NodeGroups have not been read yet.
    #[default]
    Unknown,
    /// There is no NodeGroup, and no machine; for plain VMs also no VM that may return.
    None,
    /// This managed cluster.
    Managed(ManagedConfig),
    /// The self-managed cluster of the API server, with the plain VMs of each NodeGroup.
    SelfManaged(Arc<BTreeMap<NodeGroupName, SelfManagedGroup>>),
}

impl NodeGroups {
    /// Creates the loop over the NodeGroups of a namespace. `recorded` is the cluster of the records.
    /// `on_cluster` gets the cluster of the NodeGroups before they are in force.
    pub fn new(
        handle: FleetHandle,
        clock: Arc<dyn Clock>,
        nodes: NodesView,
        client: Client,
        namespace: &str,
        recorded: Option<ManagedConfig>,
        on_cluster: impl Fn(&ServedCluster) + Send + Sync + 'static,
    ) -> Self {
        Self {
            handle,
            clock,
            nodes,
            client,
            namespace: namespace.to_owned(),
            seen: Watched::default(),
            config: Watched::optional(),
            declared: Declarations::default(),
            reported: BTreeMap::new(),
            recorded,
            served: ServedCluster::Unknown,
            on_cluster: Box::new(on_cluster),
            in_force: watch::Sender::new(ServedCluster::Unknown),
        }
    }

    /// `in_force` gets the cluster of the NodeGroups once they are in force.
    #[must_use]
    pub fn with_in_force(mut self, in_force: watch::Sender<ServedCluster>) -> Self {
        self.in_force = in_force;
        self
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut groups = watch_objects(Api::namespaced(self.client.clone(), &self.namespace), "NodeGroups");
        let mut configs = watch_objects(Api::all(self.client.clone()), "AutoscalerConfigs");
        let mut commits = self.handle.clone();
        let mut nodes = self.nodes.changes();
        let mut next = Instant::now() + RETRY_INTERVAL;
        loop {
            let changed = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(event) = groups.next() => self.seen.apply_event(event),
                Some(event) = configs.next() => self.config.apply_event(event),
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + RETRY_INTERVAL;
                    self.seen.read && self.report().await
                }
                () = commits.changed() => {
                    next = next.min(Instant::now() + MIN_INTERVAL);
                    continue;
                }
                Ok(()) = nodes.changed() => {
                    next = next.min(Instant::now() + MIN_INTERVAL);
                    continue;
                }
            };
            if changed && self.seen.read && (self.config.read || self.config.failed.is_some()) {
                if self.declare().await.is_err() {
                    return;
                }
                next = next.min(Instant::now() + MIN_INTERVAL);
            }
        }
    }

    /// Puts the present declarations in force.
    async fn declare(&mut self) -> Result<(), CommandError> {
        let machines = self.handle.read(|fleet| fleet.machines().next().is_some());
        let recorded = self.declared.served.as_ref().or(self.recorded.as_ref()).filter(|_| machines);
        let (spot, binding) = self.handle.read(|fleet| (fleet.spot_defaults(), fleet.binding()));
        let next = self.declared.next(&self.seen, self.observed_config(), recorded, spot, binding);
        for (name, invalid) in &next.invalid {
            if self.declared.invalid.get(name) != Some(invalid) {
                tracing::warn!(
                    nodegroup = name,
                    "the NodeGroup is invalid: {}; {}",
                    invalid.message,
                    invalid.consequence()
                );
            }
        }
        match (self.declared.limits_unknown(), next.limits_unknown()) {
            (before, Some(error)) if before != Some(error) => {
                tracing::error!(
                    error,
                    "NodeGroups cannot grow: the limits of the AutoscalerConfig are unknown"
                );
            }
            (Some(_), None) => {
                tracing::info!("the limits of the AutoscalerConfig are known again; NodeGroups can grow");
            }
            _ => {}
        }
        for (name, group) in &next.groups {
            if self.declared.groups.get(name).is_none_or(|old| old.notes != group.notes) {
                group.notes.iter().for_each(|note| tracing::warn!(nodegroup = name, "NodeGroup {note}"));
            }
        }
        let served = match binding {
            Binding::ByDifference => next.served.clone().map_or(ServedCluster::None, ServedCluster::Managed),
            // A VM that VPSie creates late is found by its owner marker, without a NodeGroup.
            Binding::ByName if next.groups.is_empty() && !self.handle.read(Fleet::needs_listings) => {
                ServedCluster::None
            }
            Binding::ByName => ServedCluster::SelfManaged(Arc::new(next.self_managed())),
        };
        if served != self.served {
            (self.on_cluster)(&served);
            self.served = served;
        }
        if next.declaration() != self.declared.declaration() {
            self.handle.declare(next.declaration()).await?;
        }
        self.in_force
            .send_if_modified(|reported| std::mem::replace(reported, self.served.clone()) != self.served);
        let closing = next.groups.values().any(|group| group.group.deletion.is_some());
        self.declared = next;
        if closing
            && let Err(error @ CommandError::Store(_)) =
                self.handle.update(Cause::NodeGroupDeleted, |fleet, now, _| fleet.close_groups(now)).await
        {
            tracing::warn!(
                %error,
                "cannot record the deletion of the machines of a deleted NodeGroup; retrying"
            );
        }
        Ok(())
    }

    fn observed_config(&self) -> ObservedConfig<'_> {
        let Watched { objects, unreadable, read, failed, .. } = &self.config;
        match (objects.get(CONFIG), unreadable.get(CONFIG), failed) {
            (Some(config), _, _) => ObservedConfig::InForce(config),
            (None, Some(unreadable), _) => ObservedConfig::Unknown(&unreadable.error),
            (None, None, _) if *read => ObservedConfig::None,
            (None, None, Some(error)) => ObservedConfig::Unknown(error),
            (None, None, None) => ObservedConfig::Unknown("the AutoscalerConfig has not been read yet"),
        }
    }

    fn groups(&self) -> Api<NodeGroup> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn configs(&self) -> Api<AutoscalerConfig> {
        Api::all(self.client.clone())
    }

    /// Writes changed finalizers and statuses. Returns whether a reply shows a change by a user: a later
    /// event of the watch does not show it as a change.
    async fn report(&mut self) -> bool {
        let mut changed = false;
        let unreadable = self.seen.unreadable.clone();
        self.reported.retain(|name, _| unreadable.contains_key(name) || name == CONFIG);
        for (name, object) in unreadable {
            self.write_unreadable(&name, &object).await;
        }
        let readable = self.seen.objects.keys().filter(|name| !self.seen.unreadable.contains_key(*name));
        for name in readable.cloned().collect::<Vec<_>>() {
            let Some(object) = self.seen.objects.get(&name) else { continue };
            let Some(patched) = self.write(object).await else { continue };
            if let Some(object) = self.seen.objects.get_mut(&name) {
                changed |= user_metadata(object.meta()) != user_metadata(patched.meta());
                *object = patched;
            }
        }
        if let Some(config) = self.config.unreadable.get(CONFIG) {
            self.write_unreadable_config(&config.clone()).await;
        } else if let Some(config) = self.config.objects.get(CONFIG)
            && let Some(patched) = self.write_config(config).await
        {
            changed |= user_metadata(config.meta()) != user_metadata(patched.meta());
            self.config.objects.insert(CONFIG.to_owned(), patched);
        }
        changed
    }

    /// Updates the finalizer or status of one NodeGroup. Returns the written object.
    async fn write(&self, object: &NodeGroup) -> Option<NodeGroup> {
        let name = object.name_any();
        let known = self.declared.groups.contains_key(&name) || self.declared.invalid.contains_key(&name);
        let ours = object.finalizers().iter().any(|finalizer| finalizer == NODE_GROUP_FINALIZER);
        let deleted = object.metadata.deletion_timestamp.is_some();
        if deleted && ours && self.is_empty(&name) {
            let rest: Vec<_> = object.finalizers().iter().filter(|f| *f != NODE_GROUP_FINALIZER).collect();
            self.finalizers(object, json!(rest)).await;
            return None;
        }
        if !known {
            return None;
        }
        if !deleted && !ours {
            let mut all = object.finalizers().to_vec();
            all.push(NODE_GROUP_FINALIZER.to_owned());
            return self.finalizers(object, json!(all)).await;
        }
        let invalid = self.declared.invalid.get(&name);
        let now = self.clock.now();
        let ready = |machine: &_| self.nodes.is_ready(machine);
        let status = self.handle.read(|fleet| status(object, fleet, invalid, &ready, now));
        let patch = merge_patch(&json!({ "status": object.status }), &json!({ "status": status }))?;
        let written = self.groups().patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        log_failure(written, &name, "status")
    }

    async fn finalizers(&self, object: &NodeGroup, finalizers: serde_json::Value) -> Option<NodeGroup> {
        let name = object.name_any();
        let version = &object.metadata.resource_version;
        let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": version } });
        log_failure(
            self.groups().patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await,
            &name,
            "finalizer",
        )
    }

    /// Whether no machine of it can have a VM any more. A machine with only lost requests does not count: its
    /// record lasts without the NodeGroup.
    fn is_empty(&self, name: &str) -> bool {
        let over = |machine: &Machine| {
            matches!(machine.phase, Phase::Deleting { vm: None, .. })
                && machine.requests.iter().all(|request| request.outcome == RequestOutcome::Lost)
        };
        self.handle.read(|fleet| fleet.machines().filter(|m| m.pool.node_group.as_str() == name).all(over))
    }

    /// Writes the status of an unreadable NodeGroup, and removes its finalizer once it is deleted and empty.
    async fn write_unreadable(&mut self, name: &str, object: &Unreadable) {
        let Unreadable { meta, .. } = object;
        let ours = meta.finalizers.iter().flatten().any(|finalizer| finalizer == NODE_GROUP_FINALIZER);
        if meta.deletion_timestamp.is_some() && ours && self.is_empty(name) {
            let rest: Vec<_> =
                meta.finalizers.iter().flatten().filter(|f| *f != NODE_GROUP_FINALIZER).collect();
            let version = &meta.resource_version;
            let patch = json!({ "metadata": { "finalizers": rest, "resourceVersion": version } });
            let api: Api<PartialObjectMeta<NodeGroup>> =
                Api::namespaced(self.client.clone(), &self.namespace);
            let written = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            log_failure(written, name, "finalizer");
            return;
        }
        let Some(invalid) = self.declared.invalid.get(name) else { return };
        let reported = (meta.generation, invalid.message.clone());
        if self.reported.get(name) == Some(&reported) {
            return;
        }
        let conditions = unreadable(invalid, self.clock.now());
        let patch = json!({ "status": { "conditions": conditions } });
        let api: Api<PartialObjectMeta<NodeGroup>> = Api::namespaced(self.client.clone(), &self.namespace);
        let written = api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        if log_failure(written, name, "status").is_some() {
            self.reported.insert(name.to_owned(), reported);
        }
    }

    async fn write_unreadable_config(&mut self, config: &Unreadable) {
        let reported = (config.meta.generation, config.error.clone());
        if self.reported.get(CONFIG) == Some(&reported) {
            return;
        }
        let holds = match self.observed_config() {
            ObservedConfig::InForce(_) => "the last readable version stays in force",
            ObservedConfig::None | ObservedConfig::Unknown(_) => {
                "NodeGroups cannot grow until it can be read"
            }
        };
        let status = json!({
            "active": false,
            "message": format!("this version cannot read the AutoscalerConfig: {}; {holds}", config.error),
            "lastUpdated": Time(whole_seconds(self.clock.now())),
        });
        let api: Api<PartialObjectMeta<AutoscalerConfig>> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({ "status": status }));
        let written = api.patch_status(CONFIG, &PatchParams::default(), &patch).await;
        if log_config_failure(written).is_some() {
            self.reported.insert(CONFIG.to_owned(), reported);
        }
    }

    async fn write_config(&self, config: &AutoscalerConfig) -> Option<AutoscalerConfig> {
        let old = config.status.clone().unwrap_or_default();
        let mut status = AutoscalerConfigStatus {
            observed_generation: config.metadata.generation,
            last_updated: old.last_updated.clone(),
            active: true,
            message: self.declared.describe_limits(),
        };
        if status == old {
            return None;
        }
        status.last_updated = Some(Time(whole_seconds(self.clock.now())));
        let patch = Patch::Merge(json!({ "status": status }));
        log_config_failure(self.configs().patch_status(CONFIG, &PatchParams::default(), &patch).await)
    }
}

/// `metav1.Time` has no fractions: with them, the object would differ from its written form.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The written NodeGroup. A failure is logged, unless the NodeGroup no longer exists.
fn log_failure<K>(written: kube::Result<K>, nodegroup: &str, part: &str) -> Option<K> {
    ignore_missing(written)
        .inspect_err(|error| {
            tracing::warn!(nodegroup, %error, "cannot write the {part} of a NodeGroup; retrying");
        })
        .ok()
        .flatten()
}

/// The written AutoscalerConfig. A failure is logged, unless the object no longer exists.
fn log_config_failure<K>(written: kube::Result<K>) -> Option<K> {
    ignore_missing(written)
        .inspect_err(|error| {
            tracing::warn!(%error, "cannot write the status of the AutoscalerConfig; retrying");
        })
        .ok()
        .flatten()
}

fn ignore_missing<K>(written: kube::Result<K>) -> kube::Result<Option<K>> {
    match written {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(missing)) if missing.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}
