//! Records as objects of the cluster: a machine is a VPSieNode, all else is a value of a ConfigMap.

mod increases;
mod machines;
mod notes;
mod shelf;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use super::{RefusedRecord, Store, StoreError};
use crate::api::{NotARecord, VPSieNode};
use crate::fleet::{Change, ClusterId, Machine, MachineId, RecordKey, Records, Stranger, StrangerKind};
use increases::Increase;
use notes::{MANAGED_BY, Place, Values};
use shelf::{Half, Kept, Shelf, Written};

/// All writes of a commit.
const COMMIT: Duration = Duration::from_secs(5);
/// Writes at a time.
const TOGETHER: usize = 16;
/// Objects a request reads.
const PAGE: u32 = 500;
/// Lists begun anew because the rest was not to be had any more.
const LISTS: u32 = 3;

/// Keeps records in a namespace of the cluster.
///
/// Each object is written for itself, and only as it was seen last: when somebody else changed what it records,
/// the commit fails and the caller loads again. Changes of labels, annotations and the like are nobody's harm. What
/// comes is written before what goes, so that a commit that breaks off loses nothing, as [`Store::commit`] says.
pub struct KubernetesStore {
    client: Client,
    namespace: String,
    nodes: Shelf<VPSieNode>,
    maps: Shelf<ConfigMap>,
    cluster: Mutex<Option<ClusterId>>,
    /// Told to be no records.
    told: Mutex<BTreeSet<String>>,
    /// Machines of increases that broke off: no records, to be removed with the next commit.
    incomplete: Mutex<BTreeSet<MachineId>>,
}

impl std::fmt::Debug for KubernetesStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesStore").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl KubernetesStore {
    /// A store in this namespace. Nothing is asked yet.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            nodes: Shelf::new(Api::namespaced(client.clone(), namespace), namespace),
            maps: Shelf::new(Api::namespaced(client.clone(), namespace), namespace),
            client,
            namespace: namespace.to_owned(),
            cluster: Mutex::default(),
            told: Mutex::default(),
            incomplete: Mutex::default(),
        }
    }

    /// Sets the cluster that new machines are recorded for.
    pub fn set_cluster(&self, cluster: ClusterId) {
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner) = Some(cluster);
    }

    /// The cluster that was set, or else that of a record.
    pub fn cluster(&self) -> Option<ClusterId> {
        let set = self.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let of = |node: &VPSieNode| Some(ClusterId::from(node.spec.resource_identifier.as_str()));
        set.or_else(|| self.nodes.find(of))
    }

    async fn list<K: Kept>(&self, params: ListParams) -> Result<Vec<DynamicObject>, StoreError> {
        let resource = ApiResource::erase::<K>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let mut begun = 1;
        let (mut objects, mut token) = (Vec::new(), None::<String>);
        loop {
            let mut params = params.clone().limit(PAGE);
            params.continue_token = token.take();
            let page = match api.list(&params).await {
                Ok(page) => page,
                Err(kube::Error::Api(status)) if status.code == 410 && begun < LISTS => {
                    (begun, objects) = (begun + 1, Vec::new());
                    continue;
                }
                Err(error) => {
                    let problem = format!("{} of namespace {}: {error}", resource.plural, self.namespace);
                    return Err(StoreError::Io { action: "read", problem });
                }
            };
            objects.extend(page.items);
            token = page.metadata.continue_.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(objects);
            }
        }
    }

    /// VPSieNodes that can be read. The others are left as they are: their VMs are never touched.
    fn typed_nodes(&self, objects: Vec<DynamicObject>) -> (Vec<VPSieNode>, Vec<Stranger>, u32) {
        let (mut nodes, mut untouchable, mut unreadable) = (Vec::new(), Vec::new(), 0);
        for object in objects {
            let name = object.name_any();
            let made = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let object = json!(object);
            let problem = match VPSieNode::read(&object) {
                Ok(node) => match node.machine() {
                    Err(NotARecord { field, .. }) if node.spec.recorded_at.is_some() => format!("no {field}"),
                    _ => {
                        nodes.push(node);
                        continue;
                    }
                },
                Err(error) => error.to_string(),
            };
            unreadable += 1;
            if let Some((hostname, id)) = VPSieNode::vm_of_unreadable(&object) {
                let first_seen = made.unwrap_or_default();
                untouchable.push(Stranger {
                    hostname,
                    id,
                    first_seen,
                    kind: StrangerKind::Foreign,
                    awaited_by: None,
                });
            }
            if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
                tracing::error!(
                    object = self.nodes.title(&name),
                    problem,
                    "a record cannot be read and is left as it is; its VM is not managed. Run the release that wrote it, or \
                     restore the record"
                );
            }
        }
        let newer = nodes.iter().filter(|node| machines::is_newer(node)).count();
        if newer > 0 {
            tracing::warn!(
                records = newer,
                "records were written by a newer vpsie-autoscaler; unknown fields are ignored"
            );
        }
        (nodes, untouchable, unreadable)
    }

    async fn save(
        &self,
        machine: &Machine,
        increase: Option<Increase>,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let name = machine.id.as_str();
        let mut halves = [Half::Main, Half::Status];
        if let Some(stored) = self.nodes.seen(name) {
            halves = machines::order(&stored, machine);
            let written = match self.patch(machine, halves, deadline).await? {
                // To save what is saved is to doubt that it is there.
                Written::AsItWas => self.nodes.check(name, deadline).await?,
                written => written,
            };
            if written != Written::Missing {
                return Ok(());
            }
        }
        let cluster = self.cluster().ok_or_else(|| StoreError::Io {
            action: "write",
            problem: format!("{}: no NodeGroup has named a cluster yet", self.nodes.title(name)),
        })?;
        let mut node = machines::new_node(machine, &cluster);
        if let Some(increase) = increase.filter(|increase| increase.machines.contains(&machine.id)) {
            increase.mark(&mut node);
        }
        self.nodes.create(&node, deadline).await?;
        match self.patch(machine, halves, deadline).await? {
            Written::Missing => Err(StoreError::Conflict { object: self.nodes.title(name) }),
            Written::Done | Written::AsItWas => Ok(()),
        }
    }

    async fn patch(
        &self,
        machine: &Machine,
        halves: [Half; 2],
        deadline: Instant,
    ) -> Result<Written, StoreError> {
        let mut all = Written::AsItWas;
        for half in halves {
            let wanted = |stored: &VPSieNode| machines::patch(stored, machine, half);
            match self.nodes.patch(machine.id.as_str(), half, deadline, wanted).await? {
                Written::AsItWas => {}
                Written::Done => all = Written::Done,
                Written::Missing => return Ok(Written::Missing),
            }
        }
        Ok(all)
    }

    async fn drop_machine(&self, id: &MachineId, deadline: Instant) -> Result<(), StoreError> {
        let released = self.nodes.patch(id.as_str(), Half::Main, deadline, machines::release).await?;
        if released != Written::Missing {
            self.nodes.delete(id.as_str(), deadline).await?;
        }
        Ok(())
    }

    async fn note(&self, map: &str, values: &Values, deadline: Instant) -> Result<(), StoreError> {
        let wanted = |stored: &ConfigMap| notes::patch(stored, values);
        let written = self.maps.patch(map, Half::Main, deadline, wanted).await?;
        if written != Written::Missing || values.values().all(Option::is_none) {
            return Ok(());
        }
        self.maps.create(&notes::new_map(map, values), deadline).await
    }

    fn warn_of(&self, nodes: &[VPSieNode]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in nodes.iter().filter_map(|node| node.machine().err()) {
            if told.insert(problem.name.clone()) {
                tracing::warn!(%problem, "a VPSieNode is left alone");
            }
        }
    }
}

#[async_trait]
impl Store for KubernetesStore {
    async fn load(&self) -> Result<Records, StoreError> {
        let ours = ListParams::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        let nodes = self.list::<VPSieNode>(ListParams::default()).await?;
        let (nodes, untouchable, unreadable) = self.typed_nodes(nodes);
        let maps = self.list::<ConfigMap>(ours).await?;
        let maps: Vec<ConfigMap> = maps.into_iter().filter_map(|map| map.try_parse().ok()).collect();
        self.warn_of(&nodes);
        let mut records = records_of(&nodes, &maps);
        records.unreadable += unreadable;
        let untouchable: Vec<Stranger> = untouchable.into_iter().filter(|vm| !records.knows_vm(vm)).collect();
        records.strangers.extend(untouchable);
        self.note_incomplete(increases::incomplete(&nodes));
        self.nodes.fill(nodes.into_iter().filter(|node| node.machine().is_ok()));
        self.maps.fill(maps);
        Ok(records)
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let deadline = Instant::now() + COMMIT;
        let mut last = Last::of(changes)?;
        last.dropped.extend(self.incomplete());
        let increase = self.increase(&last);
        let note = |(map, values): (String, Values)| {
            async move { (None, self.note(&map, &values, deadline).await) }.boxed()
        };
        let save = |machine: Machine| {
            let increase = increase.clone();
            async move { (Some(machine.id.clone()), self.save(&machine, increase, deadline).await) }.boxed()
        };
        let drop =
            |id: MachineId| async move { (Some(id.clone()), self.drop_machine(&id, deadline).await) }.boxed();
        together(by_map(last.noted).into_iter().map(note).collect()).await?;
        let mut refused = together(last.saved.into_values().map(save).collect()).await?;
        refused.extend(self.release_increases(&mut last.dropped, deadline).await?);
        let keys = refused.iter().map(|refused| refused.record.clone()).collect();
        for record in Change::with_dependent(changes, keys) {
            if let RecordKey::Stranger(hostname) = &record
                && last.forgotten.remove(&Place::stranger(hostname)).is_some()
            {
                let problem = "its VM's new record is refused".to_owned();
                refused.push(RefusedRecord { record, problem });
            }
        }
        let dropped = last.dropped.into_iter().map(drop);
        let gone = dropped.chain(by_map(last.forgotten).into_iter().map(note)).collect();
        refused.extend(together(gone).await?);
        if refused.is_empty() { Ok(()) } else { Err(StoreError::Refused(refused)) }
    }
}

/// The last change of each object.
#[derive(Default)]
struct Last {
    noted: BTreeMap<Place, Option<String>>,
    saved: BTreeMap<MachineId, Machine>,
    dropped: BTreeSet<MachineId>,
    forgotten: BTreeMap<Place, Option<String>>,
}

impl Last {
    fn of(changes: &[Change]) -> Result<Self, StoreError> {
        let mut last = Self::default();
        for change in changes {
            match change {
                Change::SaveMachine(machine) => {
                    last.dropped.remove(&machine.id);
                    last.saved.insert(machine.id.clone(), machine.clone());
                }
                Change::DropMachine(id) => {
                    last.saved.remove(id);
                    last.dropped.insert(id.clone());
                }
                Change::SaveStranger(stranger) => last.note(Place::stranger(&stranger.hostname), stranger)?,
                // If it was saved before, that is written all the same: its VM may have gone to a machine since, and the
                // write may break off before that.
                Change::DropStranger(hostname) => {
                    last.forgotten.insert(Place::stranger(hostname), None);
                }
                Change::SaveLearned(size, learned) => {
                    // Read by earlier releases, and the same for a long time.
                    last.note(Place::learned(*size), &learned.summary())?;
                    last.note(Place::learned_nodes(*size), &learned.nodes)?;
                }
                Change::SaveLedger(ledger) => last.note(Place::ledger(), ledger)?,
                Change::SaveCatalog(catalog) => last.note(Place::catalog(), catalog)?,
            }
        }
        Ok(last)
    }

    fn note(&mut self, place: Place, value: &impl Serialize) -> Result<(), StoreError> {
        let text = serde_json::to_string(value).map_err(|error| StoreError::Io {
            action: "write",
            problem: format!("{}[{:?}] cannot be written: {error}", place.map, place.key),
        })?;
        self.forgotten.remove(&place);
        self.noted.insert(place, Some(text));
        Ok(())
    }
}

fn by_map(notes: BTreeMap<Place, Option<String>>) -> BTreeMap<String, Values> {
    let mut maps: BTreeMap<String, Values> = BTreeMap::new();
    for (Place { map, key }, value) in notes {
        maps.entry(map).or_default().insert(key, value);
    }
    maps
}

/// A write of a machine's record, or of others.
type Write<'a> = BoxFuture<'a, (Option<MachineId>, Result<(), StoreError>)>;

/// Does all of it, also when a part fails: what was begun is not left unknown. The machines whose records are refused as
/// they are, or the first failure.
async fn together(writes: Vec<Write<'_>>) -> Result<Vec<RefusedRecord>, StoreError> {
    let mut results = futures::stream::iter(writes).buffer_unordered(TOGETHER);
    let (mut first, mut refused) = (Ok(()), Vec::new());
    while let Some(result) = results.next().await {
        match result {
            (Some(machine), Err(StoreError::Invalid { problem, .. })) => {
                refused.push(RefusedRecord { record: RecordKey::Machine(machine), problem });
            }
            (_, result) => first = first.and(result),
        }
    }
    first.map(|()| refused)
}

/// The records that these objects are. VPSieNodes that are no machine's are left out, and so are those of increases that
/// broke off.
pub fn records_of(nodes: &[VPSieNode], maps: &[ConfigMap]) -> Records {
    let mut records = Records::default();
    let incomplete = increases::incomplete(nodes);
    let machines = nodes.iter().filter_map(|node| node.machine().ok());
    records.machines.extend(machines.filter(|machine| !incomplete.contains(&machine.id)));
    for map in maps {
        notes::read(map, &mut records);
    }
    records.machines.sort_by(|a, b| a.id.cmp(&b.id));
    records.strangers.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    // The Nodes of a size stand before its summary.
    records.learned.sort_by_key(|(size, learned)| (*size, learned.nodes.is_empty()));
    records.learned.dedup_by_key(|(size, _)| *size);
    records
}
