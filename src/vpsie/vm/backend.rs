//! Backend for plain VMs of a self-managed cluster (docs/designs/self-managed.md).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::account::{Account, OwnVm, listed};
use super::attachments::{Attachments, Wanted};
use super::creation::{Creation, check_hostname, refuse};
use super::deletion::Deletion;
use super::deletion_key::DeletionKey;
use super::group::VmGroup;
use super::memory::Memory;
use super::payload::PayloadSource;
use super::plans::{Plan, PlanPlace, places, read_categories, read_plans};
use super::script_list::{Script, Scripts};
use super::scripts::{ScriptAdditions, ScriptName};
use super::shared_account::SharedAccount;
use crate::catalog::{CapacityType, Catalog, DatacenterId, MachineClass};
use crate::fleet::{
    Attachment, ClusterId, DeletableVm, FailureReason, ListedNode, NodeGroupName, NodeListing, NodeRole, Vm,
    VmId, VmState,
};
use crate::vpsie::backend::{Backend, BackendError, CreateRequest};
use crate::vpsie::client::Client;
use crate::vpsie::error::ApiError;
use crate::vpsie::limiter::Purpose;

type Groups = Arc<BTreeMap<NodeGroupName, VmGroup>>;

/// Plain VMs of one self-managed cluster.
pub struct VmBackend {
    client: Client,
    payloads: Arc<dyn PayloadSource>,
    deletion_key: Option<DeletionKey>,
    config: Mutex<Config>,
    memory: Mutex<Memory>,
    scripts: ScriptAdditions,
    attachments: Attachments,
    account: SharedAccount,
}

#[derive(Default)]
struct Config {
    cluster: Option<ClusterId>,
    groups: Option<Groups>,
}

impl VmBackend {
    /// Creates a backend. Sends no request. All calls fail until the cluster and the NodeGroups are set.
    pub fn new(client: Client, payloads: Arc<dyn PayloadSource>) -> Self {
        Self {
            client,
            payloads,
            deletion_key: None,
            config: Mutex::default(),
            memory: Mutex::default(),
            scripts: ScriptAdditions::default(),
            attachments: Attachments::default(),
            account: SharedAccount::default(),
        }
    }

    /// Derives the passwords of VMs from a key, so that deletions can name them.
    pub fn with_deletion_key(self, key: DeletionKey) -> Self {
        Self { deletion_key: Some(key), ..self }
    }

    /// Sets the owner of the VMs: the cluster and the namespace of its NodeGroups
    /// (docs/reference/vpsie-api.md#owner-marker).
    pub fn set_cluster(&self, cluster: ClusterId) {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if config.cluster.as_ref().is_some_and(|known| *known != cluster) {
            *self.memory() = Memory::default();
        }
        config.cluster = Some(cluster);
    }

    /// Sets the properties of later VMs, by NodeGroup. Calls in progress keep the old ones.
    pub fn set_groups(&self, groups: BTreeMap<NodeGroupName, VmGroup>) {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).groups = Some(Arc::new(groups));
    }

    fn config(&self) -> Result<(ClusterId, Groups), BackendError> {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = config.cluster.clone().ok_or_else(|| unknown("the UID of the cluster is unknown"))?;
        let groups = config.groups.clone().ok_or_else(|| unknown("no NodeGroup has been read yet"))?;
        Ok((cluster, groups))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why VPSie may list no plan: it does not have a datacenter of the NodeGroups. Lists existing ones. VPSie has no list
    /// of images, so these are not checked.
    async fn explain_no_plans(&self, places: &BTreeMap<PlanPlace, bool>) -> Result<(), BackendError> {
        let known = self.client.list_datacenters().await.map_err(ApiError::into_read_error)?;
        for PlanPlace { datacenter, .. } in places.keys() {
            match known.iter().find(|known| known.id.eq_ignore_ascii_case(datacenter.as_str())) {
                Some(known) if known.active => {}
                Some(known) => tracing::warn!(
                    datacenter = datacenter.as_str(),
                    name = known.name,
                    "VPSie lists the datacenter as inactive"
                ),
                None => {
                    let known: Vec<String> =
                        known.iter().map(|known| format!("{} ({})", known.id, known.name)).collect();
                    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                    return Err(unknown(&format!(
                        "VPSie has no datacenter {datacenter} in this account; it has: {known}: correct the NodeGroup"
                    )));
                }
            }
        }
        Ok(())
    }

    /// The plan of a class with an image. Reads the plans of the place if they are unknown.
    async fn plan(
        &self,
        place: &PlanPlace,
        allows_shared: bool,
        class: &MachineClass,
    ) -> Result<Option<Plan>, BackendError> {
        let known = self.memory().plans.find(place, class).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let categories = read_categories(&self.client).await.map_err(ApiError::into_read_error)?;
        let read = read_plans(&self.client, place, categories.as_deref(), allows_shared).await;
        let (plans, whole) = read.map_err(ApiError::into_read_error)?;
        let memory = &mut *self.memory();
        memory.plans.set(place.clone(), plans, whole);
        Ok(memory.plans.find(place, class).cloned())
    }

    /// Restores the VMs that an earlier process attached to their networks, so that their attachments are not repeated.
    pub fn restore_attached(&self, vms: impl IntoIterator<Item = VmId>) {
        self.attachments.restore(vms);
    }

    /// Starts the attachments that are due, and sets those of the listed VMs. A VM that is not attached is shown as being
    /// created.
    fn attach(&self, account: &mut Account, groups: &Groups) {
        let ids = Memory::listed_ids(account);
        let mut wanted = Vec::new();
        for own in &mut account.own {
            let group = groups.get(&own.pool.node_group);
            // Unknown while the NodeGroup is not in force.
            let Some(place) = group.and_then(|group| group.places.get(&own.pool.datacenter)) else {
                continue;
            };
            let Some(id) = own.vm.id.clone() else { continue };
            let attachment = self.attachments.attachment(&id, &place.network);
            if attachment != Attachment::Done && own.state == VmState::Running {
                own.state = VmState::Provisioning;
                wanted.push(Wanted {
                    id,
                    hostname: own.hostname.clone(),
                    datacenter: own.pool.datacenter.clone(),
                    network: place.network.clone(),
                });
            }
            own.attachment = Some(attachment);
        }
        self.attachments.start(&self.client, wanted, account.has_all_vms.then_some(&ids));
    }

    fn list_own(&self, own: OwnVm) -> ListedNode {
        let datacenter = own.datacenter();
        let size = own.vm.plan.as_deref().and_then(|plan| self.memory().plans.size_of(plan));
        let node = listed(own.hostname, NodeRole::Worker, own.state, own.vm);
        ListedNode { size, datacenter, attachment: own.attachment, pool: Some(own.pool), ..node }
    }
}

#[async_trait]
impl Scripts for VmBackend {
    async fn list_scripts(&self) -> Result<Vec<Script>, BackendError> {
        let (cluster, _) = self.config()?;
        let rows = self.client.list_script_rows().await.map_err(ApiError::into_read_error)?;
        let own = rows.into_iter().filter_map(|row| {
            let hostname = ScriptName::read(&row.name, &cluster)?.hostname().clone();
            Some(Script { id: row.id, hostname })
        });
        Ok(own.collect())
    }

    async fn delete_script(&self, script: &Script) -> Result<(), BackendError> {
        self.client.delete_script_row(&script.id).await.map_err(ApiError::into_write_error)
    }
}

#[async_trait]
impl Backend for VmBackend {
    async fn catalog(&self) -> Result<Catalog, BackendError> {
        let (_, groups) = self.config()?;
        let places = places(&groups);
        let mut first_error = None;
        if !places.is_empty() {
            let categories = read_categories(&self.client).await.map_err(ApiError::into_read_error)?;
            for (place, allows_shared) in &places {
                match read_plans(&self.client, place, categories.as_deref(), *allows_shared).await {
                    Ok((plans, whole)) => self.memory().plans.set(place.clone(), plans, whole),
                    Err(error) => {
                        tracing::warn!(
                            datacenter = %place.datacenter,
                            image = place.image,
                            error = error.message,
                            "cannot read the plans of the datacenter; known offers stay"
                        );
                        first_error.get_or_insert(error);
                    }
                }
            }
        }
        let offers = self.memory().plans.offers(&places);
        match (offers.is_empty(), first_error) {
            (false, _) => Ok(Catalog { offers }),
            (true, _) if places.is_empty() => Err(unknown("no NodeGroup names a datacenter")),
            (true, error) => {
                if error.as_ref().is_none_or(|error| error.kind.is_lasting()) {
                    self.explain_no_plans(&places).await?;
                }
                let no_plan = || unknown("VPSie lists no plan for the images: check osImageID and imageIDs");
                Err(error.map_or_else(no_plan, ApiError::into_read_error))
            }
        }
    }

    async fn inactive_datacenters(&self) -> Result<BTreeSet<DatacenterId>, BackendError> {
        let (_, groups) = self.config()?;
        let used: BTreeSet<DatacenterId> =
            places(&groups).into_keys().map(|place| place.datacenter).collect();
        if used.len() < 2 {
            return Ok(BTreeSet::new());
        }
        let known = self.client.list_datacenters().await.map_err(ApiError::into_read_error)?;
        let is_inactive = |datacenter: &DatacenterId| {
            let found = known.iter().find(|known| known.id.eq_ignore_ascii_case(datacenter.as_str()));
            found.is_some_and(|known| !known.active)
        };
        Ok(used.into_iter().filter(is_inactive).collect())
    }

    async fn list(&self) -> Result<NodeListing, BackendError> {
        let (cluster, groups) = self.config()?;
        let account = Account::read(&self.client, &cluster, Purpose::Ordinary).await;
        let mut account = account.map_err(ApiError::into_read_error)?;
        let (complete, pending) = {
            let mut memory = self.memory();
            (memory.note_listing(&account), memory.note_pending(&account))
        };
        let has_rows = account.has_rows;
        self.attach(&mut account, &groups);
        let mut nodes: Vec<ListedNode> = account.own.into_iter().map(|own| self.list_own(own)).collect();
        nodes.extend(account.others.into_iter().filter_map(|vm| {
            let (hostname, state) = (vm.hostname.clone()?, vm.state?);
            Some(listed(hostname, NodeRole::Unknown, state, vm))
        }));
        let memory = self.memory();
        nodes.extend(account.pending.into_iter().map(|vm| vm.into_listed(&memory.plans)));
        Ok(NodeListing { nodes, complete, pending, has_rows })
    }

    /// A second listing, independent of the last one.
    async fn count(&self) -> Result<Option<u32>, BackendError> {
        let (cluster, _) = self.config()?;
        let account = Account::read(&self.client, &cluster, Purpose::Ordinary).await;
        let account = account.map_err(ApiError::into_read_error)?;
        let is_known = account.has_all_vms && account.has_all_pending && account.is_list;
        let count = account.own.len() + account.others.len() + account.pending.len();
        Ok(u32::try_from(count).ok().filter(|_| is_known && account.nameless.is_empty()))
    }

    async fn create(&self, request: &CreateRequest) -> Result<Option<Vm>, BackendError> {
        let (cluster, groups) = self.config()?;
        let class = &request.class;
        let pool = &request.pool;
        let hostname = request.hostname.as_ref().ok_or_else(|| refuse("the request has no hostname"))?;
        check_hostname(hostname)?;
        if class.capacity_type == CapacityType::Spot {
            return Err(refuse("VPSie has no spot offers for plain VMs"));
        }
        let group = groups.get(&pool.node_group);
        let group =
            group.ok_or_else(|| refuse(format!("NodeGroup {} has no selfManaged", pool.node_group)))?;
        let place = group.places.get(&class.datacenter);
        let place = place.ok_or_else(|| {
            refuse(format!("NodeGroup {} has no image for datacenter {}", pool.node_group, class.datacenter))
        })?;
        let plans = PlanPlace { datacenter: class.datacenter.clone(), image: place.image.clone() };
        let allows_shared = places(&groups).get(&plans).copied().unwrap_or_default();
        let plan = self.plan(&plans, allows_shared, class).await?;
        let plan = plan.ok_or_else(|| {
            let image = &plans.image;
            refuse(format!("VPSie lists no plan {} for image {image} in {}", pool.offer, class.datacenter))
        })?;
        if plan.shares_memory && !group.allow_shared_memory {
            return Err(refuse(format!(
                "plan {} shares memory between VMs (category A): set selfManaged.allowSharedMemory to allow it",
                plan.offer.name
            )));
        }
        let creation = Creation {
            client: &self.client,
            payloads: &*self.payloads,
            scripts: &self.scripts,
            deletion_key: self.deletion_key.as_ref(),
            cluster,
            group,
            place,
            plan: plan.offer.identifier.unwrap_or_default(),
            request,
            hostname,
        };
        let result = creation.run().await;
        self.account.note_request();
        // The plan or its identifier may have changed.
        if let Err(BackendError::Refused { reason: FailureReason::InvalidConfiguration, .. }) = &result {
            self.memory().plans.forget(&plans);
        }
        result
    }

    async fn delete(&self, vm: &DeletableVm) -> Result<(), BackendError> {
        let (cluster, _) = self.config()?;
        let (is_null_empty, lacks_pending) = {
            let memory = self.memory();
            (memory.is_null_empty(), memory.lacks_pending_list())
        };
        let deletion = Deletion {
            client: &self.client,
            key: self.deletion_key.as_ref(),
            cluster: &cluster,
            account: &self.account,
            is_null_empty,
            lacks_pending,
        };
        let id = match &vm.id {
            Some(id) => id.clone(),
            None => match deletion.find_id(&vm.hostname).await? {
                Some(id) => id,
                None => return Ok(()),
            },
        };
        let refusal = self.memory().recent_refusal(&id);
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let password = self.memory().password(&id);
        let result = deletion.run(&vm.hostname, &id, password).await;
        self.memory().note_deletion(&id, &result);
        result
    }
}

fn unknown(message: &str) -> BackendError {
    BackendError::Unavailable {
        reason: FailureReason::InvalidConfiguration,
        message: message.to_owned(),
        retry_after: None,
    }
}
