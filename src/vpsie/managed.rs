//! Backend for VPSie-managed Kubernetes. Its workers are in VPSie groups, one group per size
//! (docs/reference/vpsie-api.md#groups).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::backend::{Backend, BackendError, CreateRequest};
use super::client::Client;
use super::endpoints::DeletionReply;
use super::error::{ApiError, ErrorKind, SAME_SIZE};
use super::identity::Account;
use super::limiter::Purpose;
use super::managed_config::ManagedConfig;
use super::sizes::{Sizes, group_name};
use super::wire::{Node, NodeRows};
use crate::catalog::{Catalog, SizeId};
use crate::fleet::{
    ClusterId, DeletableVm, FailureReason, Hostname, ListedNode, NodeListing, NodeRole, Vm, VmId,
};
use crate::retry_after::RetryAfter;

/// Workers of one VPSie-managed cluster.
pub struct ManagedBackend {
    client: Client,
    config: Mutex<Option<ManagedConfig>>,
    memory: Mutex<Memory>,
    /// Allows one creation of a group at a time, so that two machines of a new size do not create two groups.
    group_creations: Semaphore,
}

/// Results of earlier replies, to save calls.
#[derive(Default)]
struct Memory {
    sizes: Sizes,
    /// Groups in rows of nodes that VPSie does not list.
    unlisted: BTreeSet<String>,
    /// UUIDs by hostname, each with the numeric id of its node.
    ids: BTreeMap<Hostname, (Option<String>, VmId)>,
    /// Workers without a known UUID, with the number of consecutive listings without it.
    unidentified: BTreeMap<Hostname, u32>,
    /// Nodes without a readable hostname in the last listing, and since when.
    nameless: BTreeMap<String, Instant>,
    /// Refusals to create a group, by size, with their times.
    refused: BTreeMap<SizeId, (Instant, BackendError)>,
}

/// Maximum listings of the groups after the creation of one, and the pause between them.
const GROUP_LISTINGS: u32 = 3;
const LISTING_PAUSE: Duration = Duration::from_secs(2);
/// Consecutive listings without the UUID of a worker after which a warning is logged.
const UNIDENTIFIED: u32 = 3;
/// Time that a node without a readable hostname makes listings incomplete. Without this limit, one broken row
/// would stop all growth and all conclusions.
const NAMELESS_FOR: Duration = Duration::from_hours(1);
/// Time that a refusal to create a group applies to its size without a new request.
const REFUSED_FOR: Duration = Duration::from_mins(1);

impl ManagedBackend {
    /// Creates a backend. Sends no request. Without a configuration, all calls fail.
    pub fn new(client: Client, config: impl Into<Option<ManagedConfig>>) -> Self {
        let config = config.into();
        if let Some(config) = &config {
            client.set_cluster(config.cluster.clone());
        }
        Self {
            client,
            config: Mutex::new(config),
            memory: Mutex::default(),
            group_creations: Semaphore::new(1),
        }
    }

    /// Sets cluster and datacenters of later calls. Calls in progress keep the old ones.
    pub fn set_config(&self, config: ManagedConfig) {
        let mut current = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|known| known.cluster != config.cluster) {
            *self.memory() = Memory::default();
        }
        self.client.set_cluster(config.cluster.clone());
        *current = Some(config);
    }

    fn config(&self) -> Result<ManagedConfig, BackendError> {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        config.ok_or_else(|| BackendError::Unavailable {
            reason: FailureReason::InvalidConfiguration,
            message: "the cluster is unknown: no NodeGroup has been read yet".to_owned(),
            retry_after: None,
        })
    }

    /// Restores offers of an earlier run, so that the first listing can determine sizes.
    pub fn restore_offers(&self, catalog: &Catalog) {
        self.memory().sizes.set_offers(catalog.offers.clone());
    }

    /// Checks at the start that VPSie accepts the credentials, and that cluster and datacenter exist. The
    /// error lists existing ones.
    pub async fn check(&self) -> Result<(), BackendError> {
        let missing = |what: &str, id: &str, known: Vec<String>| {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!("VPSie has no {what} {id:?} in this account; it has: {known}");
            BackendError::Refused { reason: FailureReason::InvalidConfiguration, message }
        };
        let named = |name: &str, id: &str| format!("{id} ({name})");

        let config = self.config()?;
        let clusters = self.client.list_clusters().await.map_err(ApiError::into_read_error)?;
        let cluster = config.cluster.as_str();
        if !clusters.iter().any(|known| known.id.eq_ignore_ascii_case(cluster)) {
            let known = clusters.iter().map(|known| named(&known.name, &known.id)).collect();
            return Err(missing("cluster", cluster, known));
        }
        let datacenters = self.client.list_datacenters().await.map_err(ApiError::into_read_error)?;
        let datacenter = config.datacenter.as_str();
        match datacenters.iter().find(|known| known.id.eq_ignore_ascii_case(datacenter)) {
            Some(known) if known.active => Ok(()),
            Some(known) => {
                tracing::warn!(datacenter, name = known.name, "VPSie lists the datacenter as inactive");
                Ok(())
            }
            None => {
                let known = datacenters.iter().map(|known| named(&known.name, &known.id)).collect();
                Err(missing("datacenter", datacenter, known))
            }
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_groups(&self, cluster: &ClusterId) -> Result<(), ApiError> {
        let groups = self.client.list_groups(cluster).await?;
        let sizes = &mut self.memory().sizes;
        if groups.whole {
            sizes.set_groups(groups.rows);
        } else {
            sizes.add_groups(groups.rows);
        }
        Ok(())
    }

    /// Returns the group of the size, and creates it if necessary. No worker is requested, so no error leaves
    /// one behind.
    async fn ensure_group(
        &self,
        cluster: &ClusterId,
        size: SizeId,
        label: &str,
    ) -> Result<u64, BackendError> {
        let known = || self.memory().known_group(size);
        if let Some(known) = known() {
            return known;
        }
        let _turn = self.group_creations.acquire().await;
        if let Some(known) = known() {
            return known;
        }
        self.read_groups(cluster).await.map_err(ApiError::into_read_error)?;
        if let Some(known) = known() {
            return known;
        }
        let created = self.create_group(cluster, size, label).await;
        if let Err(refusal @ BackendError::Refused { .. }) = &created {
            self.memory().refused.insert(size, (Instant::now(), refusal.clone()));
        }
        created
    }

    async fn create_group(
        &self,
        cluster: &ClusterId,
        size: SizeId,
        label: &str,
    ) -> Result<u64, BackendError> {
        let known = || self.memory().sizes.group_for(size);
        let before = self.memory().sizes.group_ids();
        let name = group_name(label, size);
        match self.client.add_group(cluster, &name, size).await {
            Ok(()) => tracing::info!(%size, group = name, "created a VPSie group"),
            Err(error) if error.message.to_lowercase().contains(SAME_SIZE) => {
                self.read_groups(cluster).await.map_err(ApiError::into_read_error)?;
                let learned = self.memory().sizes.learn_from_refusal(size, &name, &error.message);
                return known().or(learned).ok_or_else(|| error.into_read_error());
            }
            Err(error) => return Err(error.into_read_error()),
        }
        for listing in 0..GROUP_LISTINGS {
            if listing > 0 {
                tokio::time::sleep(LISTING_PAUSE).await;
            }
            self.read_groups(cluster).await.map_err(ApiError::into_read_error)?;
            let created = self.memory().sizes.learn_created(size, &name, &before);
            if let Some(group) = known().or(created) {
                return Ok(group);
            }
        }
        Err(BackendError::Unavailable {
            reason: FailureReason::ApiUnavailable,
            message: format!("the new VPSie group {name:?} is not listed yet"),
            retry_after: Some(RetryAfter::new(LISTING_PAUSE)),
        })
    }

    /// Lists the nodes of the cluster, with UUIDs and groups from at most one further call.
    async fn list_nodes(&self, cluster: &ClusterId, purpose: Purpose) -> Result<NodeRows, ApiError> {
        let mut rows = self.client.list_nodes(cluster, purpose).await?;
        self.memory().note_nameless(&rows.nameless);
        let nodes = &mut rows.nodes;
        let (new_groups, needs_ids) = {
            let memory = &mut *self.memory();
            memory.recall_ids(nodes);
            (memory.new_groups(nodes), nodes.iter().any(needs_id))
        };
        // If this call fails, the listing is still useful.
        if new_groups {
            match self.read_groups(cluster).await {
                Ok(()) => self.memory().note_unlisted(nodes),
                Err(error) => tracing::warn!(error = error.message, "cannot list the VPSie groups"),
            }
        } else if needs_ids {
            match self.client.list_vm_names(purpose).await {
                Ok(vms) => {
                    let datacenter = self.config().map(|config| config.datacenter).ok();
                    self.memory().learn_ids(nodes, &Account::new(&vms, datacenter.as_ref()));
                }
                Err(error) => tracing::warn!(error = error.message, "cannot list VMs for the UUIDs of nodes"),
            }
        }
        let unidentified = self.memory().note_unidentified(nodes);
        self.client.metrics().set_unidentified(unidentified);
        Ok(rows)
    }

    /// Finds the UUID of a VM by its hostname. None if there is no such VM.
    async fn find_id(&self, cluster: &ClusterId, hostname: &Hostname) -> Result<Option<VmId>, BackendError> {
        let rows = self.list_nodes(cluster, Purpose::Deletion).await.map_err(ApiError::into_read_error)?;
        let Some(node) = rows.nodes.into_iter().find(|node| node.hostname == *hostname) else {
            return if self.memory().is_complete(&rows.nameless) { Ok(None) } else { Err(may_be_nameless()) };
        };
        if node.role != NodeRole::Worker {
            return Err(BackendError::Refused {
                reason: FailureReason::InvalidConfiguration,
                message: format!("VPSie lists {hostname} as control plane, or without a role"),
            });
        }
        node.id.map(Some).ok_or_else(|| BackendError::Unavailable {
            reason: FailureReason::ApiUnavailable,
            message: format!(
                "the UUID of worker {hostname} is not confirmed yet: VPSie must list exactly one VM with the same \
                 hostname, and with the same address or, as a Kubernetes node, in the same datacenter"
            ),
            retry_after: None,
        })
    }

    /// Checks by a listing that a VM is gone after VPSie replied "not found": with a wrong URL prefix, VPSie
    /// sends that reply for everything (docs/reference/vpsie-api.md#base-url).
    async fn confirm_gone(
        &self,
        cluster: &ClusterId,
        vm: &Vm,
        id: &VmId,
        refusal: String,
    ) -> Result<(), BackendError> {
        let rows = self.client.list_nodes(cluster, Purpose::Deletion).await;
        let rows = rows.map_err(ApiError::into_read_error)?;
        let is_it = |node: &Node| match &node.id {
            Some(listed) => listed == id,
            None => node.hostname == vm.hostname,
        };
        if rows.nameless.contains(id.as_str()) {
            return Err(may_be_nameless());
        }
        if !rows.nodes.iter().any(is_it) {
            self.memory().note_nameless(&rows.nameless);
            let is_complete = self.memory().is_complete(&rows.nameless);
            return if is_complete { Ok(()) } else { Err(may_be_nameless()) };
        }
        Err(BackendError::Unavailable {
            reason: FailureReason::ApiUnavailable,
            message: format!("VPSie lists the VM, but did not delete it: {refusal}"),
            retry_after: None,
        })
    }
}

#[async_trait]
impl Backend for ManagedBackend {
    async fn catalog(&self) -> Result<Catalog, BackendError> {
        let datacenter = self.config()?.datacenter;
        let found = self.client.list_offers(&datacenter).await.map_err(ApiError::into_read_error)?;
        if found.rows.is_empty() {
            return Err(BackendError::Unavailable {
                reason: FailureReason::InvalidConfiguration,
                message: format!("VPSie lists no offer for datacenter {datacenter}"),
                retry_after: None,
            });
        }
        let mut offers = Vec::new();
        if !found.whole {
            offers.extend(self.memory().sizes.other_offers(&datacenter, &found.rows));
        }
        offers.extend(found.rows);
        self.memory().sizes.set_offers(offers.clone());
        Ok(Catalog { offers })
    }

    async fn list(&self) -> Result<NodeListing, BackendError> {
        let cluster = self.config()?.cluster;
        let rows = self.list_nodes(&cluster, Purpose::Ordinary).await.map_err(ApiError::into_read_error)?;
        let memory = self.memory();
        let listed = |node: Node| ListedNode {
            size: memory.sizes.size_of_node(&node),
            excluded: memory.sizes.excluded_by(&node),
            // VPSie's reply has no datacenter, and settings may have changed since the request for the VM.
            datacenter: None,
            capacity_type: node.capacity_type,
            hostname: node.hostname,
            id: node.id,
            role: node.role,
            state: node.state,
            addresses: node.addresses.into_iter().collect(),
            created_at: node.created_at,
            interruption: node.interruption,
            attachment: None,
            pool: None,
        };
        let complete = memory.is_complete(&rows.nameless);
        Ok(NodeListing::of_nodes(rows.nodes.into_iter().map(listed).collect(), complete))
    }

    async fn count(&self) -> Result<Option<u32>, BackendError> {
        self.client.count_workers(&self.config()?.cluster).await.map_err(ApiError::into_read_error)
    }

    async fn create(&self, request: &CreateRequest) -> Result<Option<Vm>, BackendError> {
        let cluster = &self.config()?.cluster;
        let size = request.class.size;
        let label = request.pool.node_group.as_str();
        let group = self.ensure_group(cluster, size, label).await?;
        let capacity_type = request.class.capacity_type;
        let Err(error) = self.client.add_worker(cluster, group, capacity_type).await else {
            return Ok(None);
        };
        if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Unclear) {
            self.memory().sizes.forget_groups();
        }
        if error.kind != ErrorKind::NotFound {
            return Err(error.into_write_error());
        }
        // The group was deleted, so VPSie did nothing.
        let group = self.ensure_group(cluster, size, label).await?;
        self.client.add_worker(cluster, group, capacity_type).await.map_err(ApiError::into_write_error)?;
        Ok(None)
    }

    async fn delete(&self, vm: &DeletableVm) -> Result<(), BackendError> {
        let cluster = &self.config()?.cluster;
        let id = match &vm.id {
            Some(id) => id.clone(),
            None => match self.find_id(cluster, &vm.hostname).await? {
                Some(id) => id,
                None => return Ok(()),
            },
        };
        match self.client.delete_worker(cluster, &id).await.map_err(ApiError::into_write_error)? {
            DeletionReply::Accepted => Ok(()),
            DeletionReply::NotFound(message) => self.confirm_gone(cluster, vm, &id, message).await,
        }
    }
}

fn may_be_nameless() -> BackendError {
    BackendError::Unavailable {
        reason: FailureReason::ApiUnavailable,
        message: "VPSie lists nodes without a readable hostname, and the VM may be one of them".to_owned(),
        retry_after: None,
    }
}

fn needs_id(node: &Node) -> bool {
    node.role == NodeRole::Worker && node.id.is_none()
}

fn groups_of(nodes: &[Node]) -> impl Iterator<Item = &String> {
    nodes.iter().filter(|node| node.role == NodeRole::Worker).filter_map(|node| node.group.as_ref())
}

impl Memory {
    fn note_nameless(&mut self, nameless: &BTreeSet<String>) {
        if nameless.iter().any(|id| !self.nameless.contains_key(id)) {
            tracing::warn!(
                nodes = nameless.len(),
                "VPSie lists nodes without a readable hostname; for one hour no VM counts as gone"
            );
        }
        let since = |id: &String| self.nameless.get(id).copied().unwrap_or_else(Instant::now);
        self.nameless = nameless.iter().map(|id| (id.clone(), since(id))).collect();
    }

    /// Whether a listing with these nodes counts as complete.
    fn is_complete(&self, nameless: &BTreeSet<String>) -> bool {
        nameless.iter().all(|id| self.nameless.get(id).is_some_and(|since| since.elapsed() >= NAMELESS_FOR))
    }

    /// Sets UUIDs that are known from earlier listings, and drops those of nodes that are gone.
    fn recall_ids(&mut self, nodes: &mut [Node]) {
        let mut known = std::mem::take(&mut self.ids);
        for node in nodes {
            if let (None, Some((row_id, id))) = (&node.id, known.remove(&node.hostname))
                && row_id == node.row_id
            {
                node.id = Some(id);
            }
            if let Some(id) = &node.id {
                self.ids.insert(node.hostname.clone(), (node.row_id.clone(), id.clone()));
            }
        }
    }

    /// Sets UUIDs that the VMs of the account confirm.
    fn learn_ids(&mut self, nodes: &mut [Node], account: &Account<'_>) {
        for node in nodes.iter_mut().filter(|node| needs_id(node)) {
            if let Some(id) = account.identify(node) {
                self.ids.insert(node.hostname.clone(), (node.row_id.clone(), id.clone()));
                node.id = Some(id.clone());
            }
        }
    }

    /// Counts workers without a known UUID. Logs each of them once.
    fn note_unidentified(&mut self, nodes: &[Node]) -> usize {
        let before = std::mem::take(&mut self.unidentified);
        for node in nodes.iter().filter(|node| needs_id(node)) {
            let listings = before.get(&node.hostname).copied().unwrap_or(0).saturating_add(1);
            if listings == UNIDENTIFIED {
                tracing::warn!(
                    vm = %node.hostname,
                    "the UUID of a worker is not confirmed; the worker cannot be deleted until VPSie's listings \
                     confirm its UUID"
                );
            }
            self.unidentified.insert(node.hostname.clone(), listings);
        }
        self.unidentified.len()
    }

    /// The group of the size, or a recent refusal to create one.
    fn known_group(&mut self, size: SizeId) -> Option<Result<u64, BackendError>> {
        if let Some(group) = self.sizes.group_for(size) {
            self.refused.remove(&size);
            return Some(Ok(group));
        }
        self.refused.retain(|_, (since, _)| since.elapsed() < REFUSED_FOR);
        self.refused.get(&size).map(|(_, refusal)| Err(refusal.clone()))
    }

    fn new_groups(&self, nodes: &[Node]) -> bool {
        groups_of(nodes).any(|group| !self.sizes.knows_group(group) && !self.unlisted.contains(group))
    }

    fn note_unlisted(&mut self, nodes: &[Node]) {
        self.unlisted = groups_of(nodes).filter(|group| !self.sizes.knows_group(group)).cloned().collect();
    }
}
