//! VPSie-managed Kubernetes: workers come in VPSie groups, one group a size
//! (docs/reference/vpsie-api.md#groups).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::backend::{Backend, BackendError, CreateRequest};
use super::client::Client;
use super::endpoints::Deletion;
use super::error::{ApiError, Kind, SAME_SIZE};
use super::identity::Account;
use super::limiter::Purpose;
use super::sizes::{Sizes, group_name};
use super::wire::Node;
use crate::catalog::{Catalog, DatacenterId, SizeId};
use crate::fleet::{
    Binding, ClusterId, DeletableVm, FailureReason, Hostname, ListedNode, NodeRole, Vm, VmId,
};
use crate::retry_after::RetryAfter;

/// What a [`ManagedBackend`] works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// The datacenters whose offers are of interest.
    pub datacenters: Vec<DatacenterId>,
}

/// Workers of one VPSie-managed cluster.
pub struct ManagedBackend {
    client: Client,
    target: Mutex<Option<ManagedConfig>>,
    memory: Mutex<Memory>,
    /// One group is made at a time, so that two creations of a new size do not make two.
    making: Semaphore,
}

/// What earlier replies told, to save calls.
#[derive(Default)]
struct Memory {
    sizes: Sizes,
    /// Groups that nodes name and that VPSie does not list.
    unlisted: BTreeSet<String>,
    /// UUIDs by hostname, with the numeric id of the node that each was found for.
    ids: BTreeMap<Hostname, (Option<String>, VmId)>,
    /// Workers whose UUID is not known, with the listings in a row that did not show it.
    unidentified: BTreeMap<Hostname, u32>,
    /// Sizes that VPSie makes no group for, since when, and its refusal.
    refused: BTreeMap<SizeId, (Instant, BackendError)>,
}

/// Times that groups are listed until a new one shows, and the pause between.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);
/// Listings in a row without a worker's UUID after which that is in the log.
const UNIDENTIFIED: u32 = 3;
/// How long a refusal to make a group is the answer for its size without asking again.
const REFUSED_FOR: Duration = Duration::from_mins(1);

impl ManagedBackend {
    /// A backend. Sends nothing yet; without a target it answers that there is none.
    pub fn new(client: Client, target: impl Into<Option<ManagedConfig>>) -> Self {
        let target = target.into();
        if let Some(target) = &target {
            client.set_cluster(target.cluster.clone());
        }
        Self { client, target: Mutex::new(target), memory: Mutex::default(), making: Semaphore::new(1) }
    }

    /// Works on this from now on. Calls that are under way end as they began.
    pub fn set_target(&self, target: ManagedConfig) {
        let mut current = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|known| known.cluster != target.cluster) {
            *self.memory() = Memory::default();
        }
        self.client.set_cluster(target.cluster.clone());
        *current = Some(target);
    }

    fn target(&self) -> Result<ManagedConfig, BackendError> {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        target.ok_or_else(|| BackendError::Unavailable {
            reason: FailureReason::InvalidConfiguration,
            message: "no NodeGroup says yet which cluster it is".to_owned(),
            retry_after: None,
        })
    }

    /// Starts from offers that were read before, so that the first listing can tell sizes.
    pub fn remember(&self, catalog: &Catalog) {
        self.memory().sizes.set_offers(catalog.offers.clone());
    }

    /// For the start: whether the credentials are accepted, and cluster and datacenters are there. Says what
    /// there is when they are not.
    pub async fn check(&self) -> Result<(), BackendError> {
        let missing = |what: &str, id: &str, known: Vec<String>| {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!("VPSie has no {what} {id:?} in this account; it has: {known}");
            BackendError::Refused { reason: FailureReason::InvalidConfiguration, message }
        };
        let named = |name: &str, id: &str| format!("{id} ({name})");

        let target = self.target()?;
        let clusters = self.client.clusters().await.map_err(ApiError::of_read)?;
        let cluster = target.cluster.as_str();
        if !clusters.iter().any(|known| known.id.eq_ignore_ascii_case(cluster)) {
            let known = clusters.iter().map(|known| named(&known.name, &known.id)).collect();
            return Err(missing("cluster", cluster, known));
        }
        let datacenters = self.client.datacenters().await.map_err(ApiError::of_read)?;
        for wanted in &target.datacenters {
            match datacenters.iter().find(|known| known.id.eq_ignore_ascii_case(wanted.as_str())) {
                Some(known) if known.active => {}
                Some(known) => {
                    tracing::warn!(datacenter = %wanted, name = known.name, "VPSie says that the datacenter is not active");
                }
                None => {
                    let known = datacenters.iter().map(|known| named(&known.name, &known.id)).collect();
                    return Err(missing("datacenter", wanted.as_str(), known));
                }
            }
        }
        Ok(())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_groups(&self, cluster: &ClusterId) -> Result<(), ApiError> {
        let groups = self.client.groups(cluster).await?;
        let sizes = &mut self.memory().sizes;
        if groups.whole {
            sizes.set_groups(groups.rows);
        } else {
            sizes.add_groups(groups.rows);
        }
        Ok(())
    }

    /// The group of the size; makes one when there is none. No worker is asked for, so whatever goes wrong,
    /// none will come.
    async fn group(&self, cluster: &ClusterId, size: SizeId, label: &str) -> Result<u64, BackendError> {
        let known = || self.memory().known_group(size);
        if let Some(known) = known() {
            return known;
        }
        let _turn = self.making.acquire().await;
        if let Some(known) = known() {
            return known;
        }
        self.read_groups(cluster).await.map_err(ApiError::of_read)?;
        if let Some(known) = known() {
            return known;
        }
        let made = self.make_group(cluster, size, label).await;
        if let Err(refusal @ BackendError::Refused { .. }) = &made {
            self.memory().refused.insert(size, (Instant::now(), refusal.clone()));
        }
        made
    }

    async fn make_group(&self, cluster: &ClusterId, size: SizeId, label: &str) -> Result<u64, BackendError> {
        let known = || self.memory().sizes.group_for(size);
        let before = self.memory().sizes.group_ids();
        let name = group_name(label, size);
        match self.client.add_group(cluster, &name, size).await {
            Ok(()) => tracing::info!(%size, group = name, "made a VPSie group"),
            Err(error) if error.message.to_lowercase().contains(SAME_SIZE) => {
                self.read_groups(cluster).await.map_err(ApiError::of_read)?;
                let learned = self.memory().sizes.learn_from_refusal(size, &name, &error.message);
                return known().or(learned).ok_or_else(|| error.of_read());
            }
            Err(error) => return Err(error.of_read()),
        }
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            self.read_groups(cluster).await.map_err(ApiError::of_read)?;
            let made = self.memory().sizes.learn_made(size, &name, &before);
            if let Some(group) = known().or(made) {
                return Ok(group);
            }
        }
        Err(BackendError::Unavailable {
            reason: FailureReason::ApiUnavailable,
            message: format!("the new VPSie group {name:?} is not listed yet"),
            retry_after: Some(RetryAfter::new(BETWEEN_LOOKS)),
        })
    }

    /// The cluster's nodes, with UUIDs and groups as far as one further call can bring them.
    async fn nodes(&self, cluster: &ClusterId, purpose: Purpose) -> Result<Vec<Node>, ApiError> {
        let mut nodes = self.client.nodes(cluster, purpose).await?;
        let (new_groups, needs_ids) = {
            let memory = &mut *self.memory();
            memory.recall_ids(&mut nodes);
            (memory.new_groups(&nodes), nodes.iter().any(needs_id))
        };
        // Either is worth a call, and neither is worth losing the listing.
        if new_groups {
            match self.read_groups(cluster).await {
                Ok(()) => self.memory().note_unlisted(&nodes),
                Err(error) => tracing::warn!(error = error.message, "cannot list the VPSie groups"),
            }
        } else if needs_ids {
            match self.client.vm_names(purpose).await {
                Ok(vms) => {
                    let datacenters = self.target().map(|target| target.datacenters).unwrap_or_default();
                    self.memory().learn_ids(&mut nodes, &Account::new(&vms, &datacenters));
                }
                Err(error) => tracing::warn!(error = error.message, "cannot look up UUIDs of nodes"),
            }
        }
        let unidentified = self.memory().note_unidentified(&nodes);
        self.client.metrics().unidentified(unidentified);
        Ok(nodes)
    }

    /// The UUID of a VM that is known by its hostname only. None when there is no such VM.
    async fn find(&self, cluster: &ClusterId, hostname: &Hostname) -> Result<Option<VmId>, BackendError> {
        let nodes = self.nodes(cluster, Purpose::Deletion).await.map_err(ApiError::of_read)?;
        let Some(node) = nodes.into_iter().find(|node| node.hostname == *hostname) else { return Ok(None) };
        if node.role != NodeRole::Worker {
            return Err(BackendError::Refused {
                reason: FailureReason::InvalidConfiguration,
                message: "it is listed as a part of the control plane, or without a role".to_owned(),
            });
        }
        node.id.map(Some).ok_or_else(|| BackendError::Unavailable {
            reason: FailureReason::ApiUnavailable,
            message: "no listing confirms its UUID yet: VPSie lists no VM, or several, with its hostname and with its \
                      address, or its datacenter as a Kubernetes node"
                .to_owned(),
            retry_after: None,
        })
    }

    /// Looks whether a VM that VPSie claims not to know is gone indeed: with a wrong prefix everything is
    /// "not found" (docs/reference/vpsie-api.md#base-url).
    async fn confirm_gone(
        &self,
        cluster: &ClusterId,
        vm: &Vm,
        id: &VmId,
        words: String,
    ) -> Result<(), BackendError> {
        let nodes = self.client.nodes(cluster, Purpose::Deletion).await;
        let nodes = nodes.map_err(ApiError::of_read)?;
        let is_it = |node: &Node| match &node.id {
            Some(listed) => listed == id,
            None => node.hostname == vm.hostname,
        };
        if !nodes.iter().any(is_it) {
            return Ok(());
        }
        Err(BackendError::Unavailable {
            reason: FailureReason::ApiUnavailable,
            message: format!("VPSie lists the VM but will not delete it: {words}"),
            retry_after: None,
        })
    }
}

#[async_trait]
impl Backend for ManagedBackend {
    fn binding(&self) -> Binding {
        Binding::ByDifference
    }

    async fn catalog(&self) -> Result<Catalog, BackendError> {
        let mut offers = Vec::new();
        for datacenter in &self.target()?.datacenters {
            let found = self.client.offers(datacenter).await.map_err(ApiError::of_read)?;
            if found.rows.is_empty() {
                return Err(BackendError::Unavailable {
                    reason: FailureReason::InvalidConfiguration,
                    message: format!("VPSie lists no offer for datacenter {datacenter}"),
                    retry_after: None,
                });
            }
            if !found.whole {
                offers.extend(self.memory().sizes.other_offers(datacenter, &found.rows));
            }
            offers.extend(found.rows);
        }
        self.memory().sizes.set_offers(offers.clone());
        Ok(Catalog { offers })
    }

    async fn list(&self) -> Result<Vec<ListedNode>, BackendError> {
        let cluster = self.target()?.cluster;
        let nodes = self.nodes(&cluster, Purpose::Ordinary).await.map_err(ApiError::of_read)?;
        let memory = self.memory();
        let listed = |node: Node| ListedNode {
            size: memory.sizes.size_of_node(&node),
            excluded: memory.sizes.excluded_by(&node),
            // VPSie's reply has neither, and settings may have changed since the VM was requested.
            datacenter: None,
            capacity_type: None,
            hostname: node.hostname,
            id: node.id,
            role: node.role,
            state: node.state,
            addresses: node.addresses.into_iter().collect(),
            created_at: node.created_at,
        };
        Ok(nodes.into_iter().map(listed).collect())
    }

    async fn count(&self) -> Result<Option<u32>, BackendError> {
        let groups = self.client.groups(&self.target()?.cluster).await.map_err(ApiError::of_read)?;
        // A group without a count, or that is missing, leaves the sum unknown.
        Ok(groups.rows.iter().map(|group| group.nodes).sum::<Option<u32>>().filter(|_| groups.whole))
    }

    async fn create(&self, request: &CreateRequest) -> Result<Option<Vm>, BackendError> {
        let cluster = &self.target()?.cluster;
        let size = request.class.size;
        let label = request.group_label.as_str();
        let group = self.group(cluster, size, label).await?;
        let Err(error) = self.client.add_worker(cluster, group).await else { return Ok(None) };
        if matches!(error.kind, Kind::NotFound | Kind::Unclear) {
            self.memory().sizes.forget_groups();
        }
        if error.kind != Kind::NotFound {
            return Err(error.of_write());
        }
        // The group was deleted; nothing was done.
        let group = self.group(cluster, size, label).await?;
        self.client.add_worker(cluster, group).await.map_err(ApiError::of_write)?;
        Ok(None)
    }

    async fn delete(&self, vm: &DeletableVm) -> Result<(), BackendError> {
        let cluster = &self.target()?.cluster;
        let id = match &vm.id {
            Some(id) => id.clone(),
            None => match self.find(cluster, &vm.hostname).await? {
                Some(id) => id,
                None => return Ok(()),
            },
        };
        match self.client.delete_worker(cluster, &id).await.map_err(ApiError::of_write)? {
            Deletion::Accepted => Ok(()),
            Deletion::NotThere(words) => self.confirm_gone(cluster, vm, &id, words).await,
        }
    }
}

fn needs_id(node: &Node) -> bool {
    node.role == NodeRole::Worker && node.id.is_none()
}

fn groups_of(nodes: &[Node]) -> impl Iterator<Item = &String> {
    nodes.iter().filter(|node| node.role == NodeRole::Worker).filter_map(|node| node.group.as_ref())
}

impl Memory {
    /// Fills in UUIDs that were found before, and forgets those of nodes that are gone.
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

    /// Fills in UUIDs that the account's VMs confirm.
    fn learn_ids(&mut self, nodes: &mut [Node], account: &Account<'_>) {
        for node in nodes.iter_mut().filter(|node| needs_id(node)) {
            if let Some(id) = account.identify(node) {
                self.ids.insert(node.hostname.clone(), (node.row_id.clone(), id.clone()));
                node.id = Some(id.clone());
            }
        }
    }

    /// Counts the workers whose UUID is not known. Each is in the log once.
    fn note_unidentified(&mut self, nodes: &[Node]) -> usize {
        let before = std::mem::take(&mut self.unidentified);
        for node in nodes.iter().filter(|node| needs_id(node)) {
            let listings = before.get(&node.hostname).copied().unwrap_or(0).saturating_add(1);
            if listings == UNIDENTIFIED {
                tracing::warn!(
                    hostname = %node.hostname,
                    "VPSie's lists do not confirm the UUID of a worker; it cannot be deleted until they do"
                );
            }
            self.unidentified.insert(node.hostname.clone(), listings);
        }
        self.unidentified.len()
    }

    /// The group of the size, or a recent refusal to make one.
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
