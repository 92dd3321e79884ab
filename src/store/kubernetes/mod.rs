//! Records as objects of the cluster: a machine is a VPSieNode, any other record a value of a ConfigMap.

mod config_maps;
mod format;
mod increases;
mod last_changes;
mod machines;
mod object_cache;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, ObjectMeta};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

use super::{RefusedRecord, Store, StoreError};
use crate::api::{NotARecord, VPSieNode};
use crate::fleet::{Change, ClusterId, Machine, MachineId, RecordKey, Records, UnmanagedKind, UnmanagedNode};
use config_maps::{MANAGED_BY, Values};
use increases::Increase;
use last_changes::{ConfigMapValue, LastChanges, group_by_map};
use object_cache::{Endpoint, ObjectCache, RecordObject, WriteResult};

/// Timeout of all writes of a commit.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of concurrent writes.
const CONCURRENT_WRITES: usize = 16;
/// Maximum number of objects in a page of a list.
const LIST_PAGE_SIZE: u32 = 500;
/// Maximum attempts at a list whose continue token expires (410 Gone).
const MAX_LISTS: u32 = 3;

/// Keeps records in a namespace of the cluster.
///
/// Each object is written separately, and only at the version that was read last. If another writer changed
/// the record in it, the commit fails and the caller loads again; changes of labels and annotations do no
/// harm. Saves are written before removals, so an interrupted commit loses nothing: see [`Store::commit`].
pub struct KubernetesStore {
    client: Client,
    namespace: String,
    nodes: ObjectCache<VPSieNode>,
    maps: ObjectCache<ConfigMap>,
    cluster: Mutex<Option<ClusterId>>,
    /// Names of VPSieNodes without a readable record that were logged already.
    warned: Mutex<BTreeSet<String>>,
    /// Machines of interrupted increases. They are no records; the next commit removes their objects.
    incomplete: Mutex<BTreeSet<MachineId>>,
}

impl std::fmt::Debug for KubernetesStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesStore").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl KubernetesStore {
    /// A store in this namespace. Makes no request yet.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            nodes: ObjectCache::new(Api::namespaced(client.clone(), namespace), namespace),
            maps: ObjectCache::new(Api::namespaced(client.clone(), namespace), namespace),
            client,
            namespace: namespace.to_owned(),
            cluster: Mutex::default(),
            warned: Mutex::default(),
            incomplete: Mutex::default(),
        }
    }

    /// Sets the cluster that new machines are recorded for.
    pub fn set_cluster(&self, cluster: ClusterId) {
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner) = Some(cluster);
    }

    /// The cluster that was set, or else the cluster of a record.
    pub fn cluster(&self) -> Option<ClusterId> {
        let set = self.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let recorded = |node: &VPSieNode| Some(ClusterId::from(node.spec.resource_identifier.as_str()));
        set.or_else(|| self.nodes.find_map(recorded))
    }

    async fn list<K: RecordObject>(&self, params: ListParams) -> Result<Vec<DynamicObject>, StoreError> {
        let resource = ApiResource::erase::<K>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let mut attempts = 1;
        let mut objects = Vec::new();
        let mut token = None::<String>;
        loop {
            let mut params = params.clone().limit(LIST_PAGE_SIZE);
            params.continue_token = token.take();
            let page = match api.list(&params).await {
                Ok(page) => page,
                Err(kube::Error::Api(status)) if status.code == 410 && attempts < MAX_LISTS => {
                    attempts += 1;
                    objects.clear();
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

    /// Readable VPSieNodes, foreign VMs of unreadable VPSieNodes, and the number of unreadable VPSieNodes.
    fn parse_nodes(&self, objects: Vec<DynamicObject>) -> (Vec<VPSieNode>, Vec<UnmanagedNode>, u32) {
        let mut nodes = Vec::new();
        let mut untouchable = Vec::new();
        let mut unreadable = 0;
        for object in objects {
            let name = object.name_any();
            let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let object = json!(object);
            let error = match VPSieNode::read(&object) {
                Ok(node) => match node.to_machine() {
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
                let first_seen = created.unwrap_or_default();
                untouchable.push(UnmanagedNode::new(hostname, id, first_seen, UnmanagedKind::Foreign));
            }
            if self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
                tracing::error!(
                    object = self.nodes.display_name(&name),
                    error,
                    "cannot read a record; it stays unchanged and its VM is not managed. Run the release that wrote \
                     it, or restore the record"
                );
            }
        }
        (nodes, untouchable, unreadable)
    }

    async fn save_machine(
        &self,
        machine: &Machine,
        increase: Option<Increase>,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let name = machine.id.as_str();
        let mut endpoints = [Endpoint::Main, Endpoint::Status];
        if let Some(stored) = self.nodes.get(name) {
            endpoints = machines::order(&stored, machine);
            let written = match self.patch_machine(machine, endpoints, deadline).await? {
                // No diff: verify that the object still exists.
                WriteResult::Unchanged => self.nodes.verify(name, deadline).await?,
                written => written,
            };
            if written != WriteResult::Missing {
                return Ok(());
            }
        }
        let cluster = self.cluster().ok_or_else(|| StoreError::Io {
            action: "write",
            problem: format!(
                "{}: no NodeGroup with a cluster has been read yet",
                self.nodes.display_name(name)
            ),
        })?;
        let mut node = machines::new_node(machine, &cluster);
        if let Some(increase) = increase.filter(|increase| increase.machines.contains(&machine.id)) {
            increase.mark(&mut node);
        }
        self.nodes.create(&node, deadline).await?;
        match self.patch_machine(machine, endpoints, deadline).await? {
            WriteResult::Missing => Err(StoreError::Conflict { object: self.nodes.display_name(name) }),
            WriteResult::Written | WriteResult::Unchanged => Ok(()),
        }
    }

    async fn patch_machine(
        &self,
        machine: &Machine,
        endpoints: [Endpoint; 2],
        deadline: Instant,
    ) -> Result<WriteResult, StoreError> {
        let mut result = WriteResult::Unchanged;
        for endpoint in endpoints {
            let wanted = |stored: &VPSieNode| machines::patch(stored, machine, endpoint);
            match self.nodes.patch(machine.id.as_str(), endpoint, deadline, wanted).await? {
                WriteResult::Unchanged => {}
                WriteResult::Written => result = WriteResult::Written,
                WriteResult::Missing => return Ok(WriteResult::Missing),
            }
        }
        Ok(result)
    }

    async fn drop_machine(&self, id: &MachineId, deadline: Instant) -> Result<(), StoreError> {
        let released = self.nodes.patch(id.as_str(), Endpoint::Main, deadline, machines::release).await?;
        if released != WriteResult::Missing {
            self.nodes.delete(id.as_str(), deadline).await?;
        }
        Ok(())
    }

    /// Writes values of one ConfigMap. If the API server refuses them together, they are bisected until only
    /// the refused ones are left out.
    async fn write_values(
        &self,
        map: &str,
        values: Vec<ConfigMapValue>,
        deadline: Instant,
    ) -> Result<Vec<RefusedRecord>, StoreError> {
        let mut batches = vec![values];
        let mut refused = Vec::new();
        while let Some(mut batch) = batches.pop() {
            match self.write_batch(map, &batch, deadline).await {
                Ok(()) => {}
                Err(StoreError::Invalid { .. }) if batch.len() > 1 => {
                    let second = batch.split_off(batch.len() / 2);
                    batches.extend([second, batch]);
                }
                Err(StoreError::Invalid { object, problem }) => {
                    refused.extend(batch.into_iter().map(|value| RefusedRecord {
                        record: value.record,
                        problem: format!("{object}, key {}: {problem}", value.key),
                    }));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    async fn write_batch(
        &self,
        map: &str,
        batch: &[ConfigMapValue],
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let values: Values = batch.iter().map(|value| (value.key.clone(), value.value.clone())).collect();
        let wanted = |stored: &ConfigMap| config_maps::patch(stored, &values);
        let result = self.maps.patch(map, Endpoint::Main, deadline, wanted).await?;
        if result != WriteResult::Missing || values.values().all(Option::is_none) {
            return Ok(());
        }
        self.maps.create(&config_maps::new_map(map, &values), deadline).await
    }

    fn warn_about_non_records(&self, nodes: &[VPSieNode]) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in nodes.iter().filter_map(|node| node.to_machine().err()) {
            if warned.insert(problem.name.clone()) {
                tracing::warn!(error = %problem, "ignored a VPSieNode that is not a record of vpsie-autoscaler");
            }
        }
    }
}

#[async_trait]
impl Store for KubernetesStore {
    async fn load(&self) -> Result<Records, StoreError> {
        let ours = ListParams::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        let nodes = self.list::<VPSieNode>(ListParams::default()).await?;
        let (nodes, untouchable, unreadable) = self.parse_nodes(nodes);
        let maps = self.list::<ConfigMap>(ours).await?;
        let maps: Vec<ConfigMap> = maps.into_iter().filter_map(|map| map.try_parse().ok()).collect();
        self.warn_about_non_records(&nodes);
        warn_about_newer(nodes.iter().map(|node| &node.metadata).chain(maps.iter().map(|map| &map.metadata)));
        let mut records = records_of(&nodes, &maps);
        records.unreadable += unreadable;
        let untouchable: Vec<UnmanagedNode> =
            untouchable.into_iter().filter(|vm| !records.knows_vm(vm)).collect();
        records.unmanaged.extend(untouchable);
        self.note_incomplete(increases::incomplete(&nodes));
        self.nodes.replace_all(nodes.into_iter().filter(|node| node.to_machine().is_ok()));
        self.maps.replace_all(maps);
        Ok(records)
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let deadline = Instant::now() + COMMIT_TIMEOUT;
        let mut last = LastChanges::collect(changes)?;
        last.dropped.extend(self.incomplete());
        let write_map = |(map, values): (String, Vec<ConfigMapValue>)| {
            async move { self.write_values(&map, values, deadline).await }.boxed()
        };
        let saved_values = std::mem::take(&mut last.saved_values);
        let saved: BTreeSet<RecordKey> = saved_values.values().map(|(record, _)| record.clone()).collect();
        let saves = group_by_map(saved_values).into_iter().map(write_map);
        let mut refused = complete_all(saves.collect()).await?;
        last.defer(changes, &refused);
        let increase = self.increase(&last);
        let save = |machine: Machine| {
            let increase = increase.clone();
            async move { as_refused(&machine.id, self.save_machine(&machine, increase, deadline).await) }
                .boxed()
        };
        let saves = std::mem::take(&mut last.saved).into_values().map(save);
        refused.extend(complete_all(saves.collect()).await?);
        refused.extend(self.release_increases(&mut last.dropped, deadline).await?);
        last.defer(changes, &refused);
        let drop_machine =
            |id: MachineId| async move { as_refused(&id, self.drop_machine(&id, deadline).await) }.boxed();
        let drops = last.dropped.into_iter().map(drop_machine);
        let drops = drops.chain(group_by_map(last.dropped_values).into_iter().map(write_map));
        let not_dropped = complete_all(drops.collect()).await?;
        if let Some(refused) = not_dropped.iter().find(|refused| saved.contains(&refused.record)) {
            // The same commit saved this record, so it cannot be reported as unchanged.
            let problem = format!("{} cannot be removed: {}", refused.record, refused.problem);
            return Err(StoreError::Io { action: "write", problem });
        }
        refused.extend(not_dropped);
        refused.sort_by(|a, b| a.record.cmp(&b.record));
        refused.dedup_by(|a, b| a.record == b.record);
        if refused.is_empty() { Ok(()) } else { Err(StoreError::Refused(refused)) }
    }
}

/// A write of objects. Returns the records that the API server refused.
type Write<'a> = BoxFuture<'a, Result<Vec<RefusedRecord>, StoreError>>;

/// Turns a refusal of a machine's object into a refused record.
fn as_refused(machine: &MachineId, result: Result<(), StoreError>) -> Result<Vec<RefusedRecord>, StoreError> {
    match result {
        Ok(()) => Ok(Vec::new()),
        Err(StoreError::Invalid { problem, .. }) => {
            Ok(vec![RefusedRecord { record: RecordKey::Machine(machine.clone()), problem }])
        }
        Err(error) => Err(error),
    }
}

/// Completes all writes, even if one fails, so that no result stays unknown. Returns the refused records, or
/// the first failure.
async fn complete_all(writes: Vec<Write<'_>>) -> Result<Vec<RefusedRecord>, StoreError> {
    let mut results = futures::stream::iter(writes).buffer_unordered(CONCURRENT_WRITES);
    let mut first_error = Ok(());
    let mut refused = Vec::new();
    while let Some(result) = results.next().await {
        match result {
            Ok(records) => refused.extend(records),
            Err(error) => first_error = first_error.and(Err(error)),
        }
    }
    first_error.map(|()| refused)
}

/// Logs how many records a newer release wrote.
fn warn_about_newer<'a>(records: impl Iterator<Item = &'a ObjectMeta>) {
    let newer = records.filter(|meta| format::is_newer(meta)).count();
    if newer > 0 {
        tracing::warn!(
            records = newer,
            "a newer vpsie-autoscaler wrote some records; unknown fields are ignored"
        );
    }
}

/// The records in these objects. VPSieNodes that are not machines, and those of incomplete increases, are
/// left out.
pub fn records_of(nodes: &[VPSieNode], maps: &[ConfigMap]) -> Records {
    let mut records = Records::default();
    let incomplete = increases::incomplete(nodes);
    let machines = nodes.iter().filter_map(|node| node.to_machine().ok());
    records.machines.extend(machines.filter(|machine| !incomplete.contains(&machine.id)));
    for map in maps {
        config_maps::read(map, &mut records);
    }
    records.machines.sort_by(|a, b| a.id.cmp(&b.id));
    records.unmanaged.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    // Keeps the Nodes of a size rather than its summary.
    records.profiles.sort_by_key(|(size, profile)| (*size, profile.nodes.is_empty()));
    records.profiles.dedup_by_key(|(size, _)| *size);
    records
}
