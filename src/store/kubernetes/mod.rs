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
use crate::fleet::{
    Change, ClusterId, HeldBack, Machine, MachineId, RecordKey, Records, Stranger, StrangerKind,
};
use increases::Increase;
use notes::{MANAGED_BY, Place, Values};
use shelf::{Half, Kept, Shelf, Written};

/// All writes of a commit.
const COMMIT: Duration = Duration::from_secs(5);
/// Writes at a time.
const TOGETHER: usize = 16;
/// Objects a request reads.
const PAGE: u32 = 500;
/// Maximum restarts of a list whose continue token expired (410 Gone).
const LISTS: u32 = 3;

/// Keeps records in a namespace of the cluster.
///
/// Each object is written separately, and only at the version that was read last. If another writer changed the record
/// in it, the commit fails and the caller loads again; changes of labels and annotations do no harm. Saves are written
/// before removals, so an interrupted commit loses nothing: see [`Store::commit`].
pub struct KubernetesStore {
    client: Client,
    namespace: String,
    nodes: Shelf<VPSieNode>,
    maps: Shelf<ConfigMap>,
    cluster: Mutex<Option<ClusterId>>,
    /// VPSieNodes that a warning named already: they are not records.
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
                // No diff: verify that the object still exists.
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

    /// Writes values of one ConfigMap. If the API server refuses them together, the values are halved until only the
    /// refused ones are left out.
    async fn note(&self, map: &str, notes: Notes, deadline: Instant) -> Refusals {
        let (mut parts, mut refused) = (vec![notes], Vec::new());
        while let Some(mut part) = parts.pop() {
            match self.note_part(map, &part, deadline).await {
                Ok(()) => {}
                Err(StoreError::Invalid { .. }) if part.len() > 1 => {
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([rest, part]);
                }
                Err(StoreError::Invalid { object, problem }) => {
                    refused.extend(part.into_iter().map(|note| RefusedRecord {
                        record: note.record,
                        problem: format!("{object}, key {}: {problem}", note.key),
                    }));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    async fn note_part(&self, map: &str, part: &[Note], deadline: Instant) -> Result<(), StoreError> {
        let values: Values = part.iter().map(|note| (note.key.clone(), note.value.clone())).collect();
        let wanted = |stored: &ConfigMap| notes::patch(stored, &values);
        let written = self.maps.patch(map, Half::Main, deadline, wanted).await?;
        if written != Written::Missing || values.values().all(Option::is_none) {
            return Ok(());
        }
        self.maps.create(&notes::new_map(map, &values), deadline).await
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
        let note =
            |(map, notes): (String, Notes)| async move { self.note(&map, notes, deadline).await }.boxed();
        let noted = std::mem::take(&mut last.noted);
        let saved: BTreeSet<RecordKey> = noted.values().map(|(record, _)| record.clone()).collect();
        let mut refused = together(by_map(noted).into_iter().map(note).collect()).await?;
        last.hold_back(changes, &refused);
        let increase = self.increase(&last);
        let save = |machine: Machine| {
            let increase = increase.clone();
            async move { refusal(&machine.id, self.save(&machine, increase, deadline).await) }.boxed()
        };
        let saves = std::mem::take(&mut last.saved).into_values().map(save);
        refused.extend(together(saves.collect()).await?);
        refused.extend(self.release_increases(&mut last.dropped, deadline).await?);
        last.hold_back(changes, &refused);
        let drop =
            |id: MachineId| async move { refusal(&id, self.drop_machine(&id, deadline).await) }.boxed();
        let dropped = last.dropped.into_iter().map(drop);
        let gone = dropped.chain(by_map(last.forgotten).into_iter().map(note)).collect();
        let gone = together(gone).await?;
        if let Some(stays) = gone.iter().find(|refused| saved.contains(&refused.record)) {
            // The same commit saved this record, so it cannot be reported as unchanged.
            let problem = format!("{} cannot be removed: {}", stays.record, stays.problem);
            return Err(StoreError::Io { action: "write", problem });
        }
        refused.extend(gone);
        refused.sort_by(|a, b| a.record.cmp(&b.record));
        refused.dedup_by(|a, b| a.record == b.record);
        if refused.is_empty() { Ok(()) } else { Err(StoreError::Refused(refused)) }
    }
}

/// A value of a ConfigMap to be written or removed, and the record that it is of.
struct Note {
    key: String,
    value: Option<String>,
    record: RecordKey,
}

/// Values of one ConfigMap.
type Notes = Vec<Note>;

/// The last change of each object.
#[derive(Default)]
struct Last {
    noted: BTreeMap<Place, (RecordKey, Option<String>)>,
    saved: BTreeMap<MachineId, Machine>,
    dropped: BTreeSet<MachineId>,
    forgotten: BTreeMap<Place, (RecordKey, Option<String>)>,
}

impl Last {
    fn of(changes: &[Change]) -> Result<Self, StoreError> {
        let mut last = Self::default();
        for change in changes {
            let record = change.record();
            match change {
                Change::SaveMachine(machine) => {
                    last.dropped.remove(&machine.id);
                    last.saved.insert(machine.id.clone(), machine.clone());
                }
                Change::DropMachine(id) => {
                    last.saved.remove(id);
                    last.dropped.insert(id.clone());
                }
                Change::SaveStranger(stranger) => {
                    last.note(Place::stranger(&stranger.hostname), record, stranger)?;
                }
                // An earlier save of the node is written too: its VM may have moved to a machine since, and the commit
                // may be interrupted before that machine is written.
                Change::DropStranger(hostname) => {
                    last.forgotten.insert(Place::stranger(hostname), (record, None));
                }
                Change::SaveLearned(size, learned) => {
                    // Earlier releases read the summary. It rarely changes.
                    last.note(Place::learned(*size), record.clone(), &learned.summary())?;
                    last.note(Place::learned_nodes(*size), record, &learned.nodes)?;
                }
                Change::SaveLedger(ledger) => last.note(Place::ledger(), record, ledger)?,
                Change::SaveCatalog(catalog) => last.note(Place::catalog(), record, catalog)?,
            }
        }
        Ok(last)
    }

    fn note(&mut self, place: Place, record: RecordKey, value: &impl Serialize) -> Result<(), StoreError> {
        let text = serde_json::to_string(value).map_err(|error| StoreError::Io {
            action: "write",
            problem: format!("{}[{:?}] cannot be written: {error}", place.map, place.key),
        })?;
        self.forgotten.remove(&place);
        self.noted.insert(place, (record, Some(text)));
        Ok(())
    }

    /// Leaves out the changes that must wait for refused records.
    fn hold_back(&mut self, changes: &[Change], refused: &[RefusedRecord]) {
        if refused.is_empty() {
            return;
        }
        let held = HeldBack::new(changes, refused.iter().map(|refused| refused.record.clone()).collect());
        for change in changes.iter().filter(|change| held.holds(change)) {
            match change {
                Change::SaveMachine(machine) => {
                    self.saved.remove(&machine.id);
                }
                Change::DropMachine(id) => {
                    self.dropped.remove(id);
                }
                Change::DropStranger(hostname) => {
                    self.forgotten.remove(&Place::stranger(hostname));
                }
                _ => {}
            }
        }
    }
}

fn by_map(notes: BTreeMap<Place, (RecordKey, Option<String>)>) -> BTreeMap<String, Notes> {
    let mut maps: BTreeMap<String, Notes> = BTreeMap::new();
    for (Place { map, key }, (record, value)) in notes {
        maps.entry(map).or_default().push(Note { key, value, record });
    }
    maps
}

/// The records that were refused in a write, or its failure.
type Refusals = Result<Vec<RefusedRecord>, StoreError>;

/// A write of objects.
type Write<'a> = BoxFuture<'a, Refusals>;

/// Turns a refusal of a machine's object into a refused record.
fn refusal(machine: &MachineId, written: Result<(), StoreError>) -> Refusals {
    match written {
        Ok(()) => Ok(Vec::new()),
        Err(StoreError::Invalid { problem, .. }) => {
            Ok(vec![RefusedRecord { record: RecordKey::Machine(machine.clone()), problem }])
        }
        Err(error) => Err(error),
    }
}

/// Completes all writes, even if one fails, so that no outcome stays unknown. Returns the refused records, or the first
/// failure.
async fn together(writes: Vec<Write<'_>>) -> Refusals {
    let mut results = futures::stream::iter(writes).buffer_unordered(TOGETHER);
    let (mut first, mut refused) = (Ok(()), Vec::new());
    while let Some(result) = results.next().await {
        match result {
            Ok(some) => refused.extend(some),
            Err(error) => first = first.and(Err(error)),
        }
    }
    first.map(|()| refused)
}

/// The records in these objects. VPSieNodes that are not machines, and those of incomplete increases, are left out.
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
