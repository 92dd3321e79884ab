//! Records of the last two formats and of a future one (docs/reference/record-formats.md#tests). `UPDATE=1`
//! rewrites the records of the present format; a new format needs a new file instead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fake_kube::FakeKube;
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tests::cluster;
use super::{FileStore, KubernetesStore, Store};
use crate::catalog::{CapacityType, Catalog, Offer, Resources, SizeId};
use crate::fleet::{
    AbandonedRef, AbandonedRequests, Change, DatacenterHistory, DeletionReason, DrainState, Failure,
    FailureReason, Hostname, Machine, MovedRequest, NodeShape, Notice, NoticeSource, Phase, Records,
    RequestHistory, RequestOutcome, RequestRef, Sample, SizeProfile, SpotHistory, UnmanagedKind,
    UnmanagedNode, Vm, VmId, VmRequest,
};

const NAMESPACE: &str = "vpsie-system";
const PREVIOUS: &str = include_str!("formats/1.json");
const PRESENT: &str = include_str!("formats/2.json");
const FUTURE: &str = include_str!("formats/3.json");

const MACHINES: TableDefinition<'_, &str, &str> = TableDefinition::new("machines");
const UNMANAGED: TableDefinition<'_, &str, &str> = TableDefinition::new("unmanaged");
const PROFILES: TableDefinition<'_, u64, &str> = TableDefinition::new("profiles");
const HISTORY: TableDefinition<'_, &str, &str> = TableDefinition::new("request_history");
const SPOT_HISTORY: TableDefinition<'_, &str, &str> = TableDefinition::new("spot_history");
const DATACENTER_HISTORY: TableDefinition<'_, &str, &str> = TableDefinition::new("datacenter_history");
const CATALOG: TableDefinition<'_, &str, &str> = TableDefinition::new("catalog");
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("vpsie-autoscaler");

/// Revision of files, and format of objects, that this version writes.
const FORMAT: &str = "2";

/// The enum values that the previous release reads; it fails on others.
const WORDS: [(&str, &[&str]); 4] = [
    (
        "phase",
        &[
            "Pending", "Creating", "Running", "Failed", "Deleting", "pending", "creating", "running",
            "failed", "deleting",
        ],
    ),
    ("outcome", &["InFlight", "Accepted", "Unclear", "Lost", "inFlight", "accepted", "unclear", "lost"]),
    ("kind", &["VPSieNode", "ConfigMap", "foreign", "orphan", "gone"]),
    (
        "deletionReason",
        &[
            "ClusterAutoscaler",
            "VPSieNodeDeleted",
            "NodeGroupDeleted",
            "FailedExpired",
            "Orphan",
            "VMGone",
            "VMReturned",
            "InterruptionNotice",
        ],
    ),
];

#[derive(Deserialize, Serialize)]
struct RecordSet {
    /// VPSieNodes and ConfigMaps.
    objects: Vec<Value>,
    /// Rows of the file, by key.
    machines: BTreeMap<String, Value>,
    unmanaged: BTreeMap<String, Value>,
    #[serde(default)]
    profiles: BTreeMap<u64, Value>,
    #[serde(default)]
    request_history: BTreeMap<String, Value>,
    #[serde(default)]
    spot_history: BTreeMap<String, Value>,
    #[serde(default)]
    datacenter_history: BTreeMap<String, Value>,
    #[serde(default)]
    catalog: BTreeMap<String, Value>,
}

fn machine(name: &str, phase: Phase, requests: &[RequestOutcome]) -> Machine {
    let at = |seconds: i64| jiff::Timestamp::from_second(1_800_000_000 + seconds).unwrap();
    Machine {
        id: name.into(),
        pool: "workers/ams1/s-2vcpu-4gb/on-demand".parse().unwrap(),
        size: SizeId(12),
        created_at: at(0),
        phase,
        requests: requests
            .iter()
            .map(|outcome| VmRequest { at: at(1), outcome: *outcome, hostname: None })
            .collect(),
        notice: None,
        replaces: None,
    }
}

/// Records in the files of the last two formats.
fn machines_and_unmanaged_nodes() -> Records {
    let at = |seconds: i64| jiff::Timestamp::from_second(1_800_000_000 + seconds).unwrap();
    let vm = |n: u32| Vm {
        hostname: Hostname::new(&format!("ams-slave-{n}")),
        id: Some(VmId::new(format!("u-{n}"))),
        addresses: vec![std::net::IpAddr::from([10, 0, 0, n as u8])],
        provider_id: None,
        attached: None,
        request: None,
    };
    let failure = Failure { reason: FailureReason::Stockout, message: "none left".to_owned() };
    let deleting = Phase::Deleting {
        vm: Some(vm(4)),
        since: at(4),
        reason: DeletionReason::NodeGroupDeleted,
        drain: DrainState::Pending,
        accepted_at: None,
    };
    let orphan =
        UnmanagedKind::Orphan { pool: "workers/ams1/s-2vcpu-4gb/on-demand".parse().unwrap(), size: None };
    let unmanaged = |name: &str, kind| UnmanagedNode {
        hostname: Hostname::new(name),
        id: None,
        first_seen: at(0),
        kind,
        awaited_by: None,
        request: None,
        abandoned_request: None,
    };
    Records {
        machines: vec![
            machine("workers-1", Phase::Pending, &[]),
            machine("workers-2", Phase::Creating { vm: None, since: at(1) }, &[RequestOutcome::Accepted]),
            machine("workers-3", Phase::Running { vm: vm(3), since: at(3) }, &[RequestOutcome::Lost]),
            machine("workers-4", deleting, &[]),
            machine("workers-5", Phase::Failed { failure, at: at(5) }, &[]),
        ],
        unmanaged: vec![unmanaged("ams-master-1", UnmanagedKind::Foreign), unmanaged("ams-slave-9", orphan)],
        ..Records::default()
    }
}

/// All kinds of records.
fn records() -> Records {
    let at = |seconds: i64| jiff::Timestamp::from_second(1_800_000_000 + seconds).unwrap();
    let pool = || "workers/ams1/s-2vcpu-4gb/on-demand".parse().unwrap();
    let resources = Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 80, pods: 110 };
    let mut records = machines_and_unmanaged_nodes();
    let gone = UnmanagedKind::Gone {
        machine: "workers-6".into(),
        pool: pool(),
        size: SizeId(12),
        deleted: true,
        deletion_accepted: false,
    };
    let unmanaged = |name: &str, kind, awaited_by| UnmanagedNode {
        hostname: Hostname::new(name),
        id: Some(VmId::new(format!("u-{name}"))),
        first_seen: at(6),
        kind,
        awaited_by,
        request: None,
        abandoned_request: None,
    };
    let request = |machine: &str| Some(RequestRef { machine: machine.into(), at: at(1) });
    let gone = UnmanagedNode { request: request("workers-6"), ..unmanaged("ams-slave-6", gone, None) };
    let abandoned_request = Some(AbandonedRef { pool: pool(), size: SizeId(12), at: at(2) });
    let foreign = unmanaged("ams-slave-7", UnmanagedKind::Foreign, Some(pool()));
    records.unmanaged.extend([gone, UnmanagedNode { abandoned_request, ..foreign }]);
    if let Phase::Running { vm, .. } = &mut records.machines[2].phase {
        vm.request = request("workers-3");
    }
    records.unmanaged.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    let shape = NodeShape {
        capacity: resources,
        allocatable: Resources { cpu_millis: 1900, memory_mib: 3500, ..resources },
        extended_capacity: BTreeMap::from([("example.com/device".to_owned(), 1)]),
        extended_allocatable: BTreeMap::from([("example.com/device".to_owned(), 1)]),
        architecture: Some("amd64".to_owned()),
        operating_system: Some("linux".to_owned()),
        labels: BTreeMap::from([("example.com/rack".to_owned(), "r1".to_owned())]),
    };
    let sample = Sample {
        node: "node-uid-3".to_owned(),
        registered: at(3),
        node_group: "workers".into(),
        relearn: Some("1".to_owned()),
        shape,
    };
    records.profiles.extend(SizeProfile::from_nodes(vec![sample]).map(|profile| (SizeId(12), profile)));
    let abandoned = AbandonedRequests { pool: pool(), size: SizeId(12), at: at(2), count: 1 };
    let known_before = Some([Hostname::new("ams-master-1")].into());
    let moved = MovedRequest { request: request("workers-5").unwrap(), moved_at: at(7) };
    records.request_history = RequestHistory { known_before, abandoned: vec![abandoned], moved: vec![moved] };
    records.machines[2].notice = Some(Notice {
        received_at: at(8),
        deadlines: [(NoticeSource::Node, at(128)), (NoticeSource::VPSie, at(120))].into(),
        failed_pools: vec![pool()],
    });
    records.machines[0].replaces = Some("workers-3".into());
    records.spot_history = serde_json::from_value(serde_json::json!([{
        "datacenter": "ams1", "size": 12,
        "breaker": {
            "state": {"state": "open", "until": at(308)}, "failures": 1,
            "lastFailure": {"reason": "refused", "at": at(8)},
        },
        "interruptions": {"millionths": 1_000_000, "machineSeconds": 7200, "until": at(8), "last": at(8)},
        "counted": ["workers-3"],
    }]))
    .unwrap();
    records.datacenter_history = serde_json::from_value(serde_json::json!([{
        "datacenter": "ams1",
        "breaker": {
            "state": {"state": "open", "since": at(9), "until": at(129)}, "outages": 1,
            "last": {"cause": "offersFailed", "at": at(9)},
        },
        "failures": [{"failure": "refused", "size": 12, "at": at(9)}],
    }]))
    .unwrap();
    let offer = Offer {
        size: SizeId(12),
        name: "s-2vcpu-4gb".to_owned(),
        identifier: Some("o-12".to_owned()),
        datacenter: "ams1".into(),
        capacity_type: CapacityType::OnDemand,
        resources,
        monthly: Some(rust_decimal::Decimal::from(24)),
        hourly: None,
    };
    records.catalog = Some(Arc::new(Catalog { offers: vec![offer] }));
    records
}

fn changes(records: Records) -> Vec<Change> {
    let machines = records.machines.into_iter().map(Change::SaveMachine);
    let unmanaged = records.unmanaged.into_iter().map(Change::SaveUnmanaged);
    let profile = records.profiles.into_iter().map(|(size, profile)| Change::SaveProfile(size, profile));
    let history = (records.request_history != RequestHistory::default())
        .then_some(Change::SaveRequestHistory(records.request_history));
    let spot = (records.spot_history != SpotHistory::default())
        .then_some(Change::SaveSpotHistory(records.spot_history));
    let datacenters = (records.datacenter_history != DatacenterHistory::default())
        .then_some(Change::SaveDatacenterHistory(records.datacenter_history));
    let catalog = records.catalog.map(Change::SaveCatalog);
    machines
        .chain(unmanaged)
        .chain(profile)
        .chain(history)
        .chain(spot)
        .chain(datacenters)
        .chain(catalog)
        .collect()
}

fn server() -> FakeKube {
    FakeKube::new(|| "2026-11-24T10:00:00Z".parse().unwrap())
}

fn store(kube: &FakeKube) -> KubernetesStore {
    let store = KubernetesStore::new(kube.client("store", NAMESPACE), NAMESPACE);
    store.set_cluster(cluster());
    store
}

async fn from_objects(text: &str) -> (FakeKube, Records) {
    let written: RecordSet = serde_json::from_str(text).unwrap();
    let kube = server();
    for object in written.objects {
        kube.put_object(object).unwrap();
    }
    let records = store(&kube).load().await.unwrap();
    (kube, records)
}

/// A file with the rows of a format.
struct FileOf {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl FileOf {
    async fn new(text: &str, revision: &str) -> Self {
        let written: RecordSet = serde_json::from_str(text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.redb");
        drop(FileStore::open(&path, &cluster()).await.unwrap());
        let database = redb::Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("revision", revision).unwrap();
        let tables = [
            (MACHINES, written.machines),
            (UNMANAGED, written.unmanaged),
            (HISTORY, written.request_history),
            (SPOT_HISTORY, written.spot_history),
            (DATACENTER_HISTORY, written.datacenter_history),
            (CATALOG, written.catalog),
        ];
        for (table, rows) in tables {
            let mut table = transaction.open_table(table).unwrap();
            for (key, value) in rows {
                table.insert(key.as_str(), value.to_string().as_str()).unwrap();
            }
        }
        for (size, value) in written.profiles {
            let mut table = transaction.open_table(PROFILES).unwrap();
            table.insert(size, value.to_string().as_str()).unwrap();
        }
        transaction.commit().unwrap();
        Self { _folder: folder, path }
    }

    async fn open(&self) -> FileStore {
        FileStore::open(&self.path, &cluster()).await.unwrap()
    }

    async fn read(&self) -> Records {
        self.open().await.load().await.unwrap()
    }

    fn revision(&self) -> String {
        let database = redb::Database::open(&self.path).unwrap();
        let meta = database.begin_read().unwrap().open_table(META).unwrap();
        meta.get("revision").unwrap().unwrap().value().to_owned()
    }
}

async fn write_records() -> RecordSet {
    let kube = server();
    store(&kube).load().await.unwrap();
    let store = store(&kube);
    store.load().await.unwrap();
    for change in changes(records()) {
        store.commit(&[change]).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.redb");
    FileStore::open(&path, &cluster()).await.unwrap().commit(&changes(records())).await.unwrap();
    written(&kube, &path)
}

/// All records of a server and a file.
fn written(kube: &FakeKube, path: &Path) -> RecordSet {
    let mut objects: Vec<Value> =
        kube.list("vpsienodes").into_iter().chain(kube.list("configmaps")).collect();
    for object in &mut objects {
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.retain(|key, _| {
            ["name", "namespace", "labels", "annotations", "finalizers"].contains(&key.as_str())
        });
    }
    RecordSet {
        objects,
        machines: rows(path, MACHINES),
        unmanaged: rows(path, UNMANAGED),
        profiles: profile_rows(path),
        request_history: rows(path, HISTORY),
        spot_history: rows(path, SPOT_HISTORY),
        datacenter_history: rows(path, DATACENTER_HISTORY),
        catalog: rows(path, CATALOG),
    }
}

fn profile_rows(path: &Path) -> BTreeMap<u64, Value> {
    let database = redb::Database::open(path).unwrap();
    let table = database.begin_read().unwrap().open_table(PROFILES).unwrap();
    let rows = table.iter().unwrap().map(Result::unwrap);
    rows.map(|(key, value)| (key.value(), serde_json::from_str(value.value()).unwrap())).collect()
}

fn rows(path: &Path, table: TableDefinition<'_, &str, &str>) -> BTreeMap<String, Value> {
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_read().unwrap();
    let table = transaction.open_table(table).unwrap();
    let rows = table.iter().unwrap().map(Result::unwrap);
    rows.map(|(key, value)| (key.value().to_owned(), serde_json::from_str(value.value()).unwrap())).collect()
}

#[tokio::test(start_paused = true)]
async fn records_of_the_last_two_formats_are_read() {
    for (text, revision, records) in
        [(PREVIOUS, "1", machines_and_unmanaged_nodes()), (PRESENT, FORMAT, records())]
    {
        assert_eq!(from_objects(text).await.1, records);
        assert_eq!(FileOf::new(text, revision).await.read().await, records);
    }
}

#[tokio::test(start_paused = true)]
async fn saves_rewrite_records_in_the_present_format() {
    for (text, revision) in [(PREVIOUS, "1"), (PRESENT, FORMAT)] {
        let (kube, _) = from_objects(text).await;
        let objects = store(&kube);
        objects.load().await.unwrap();
        objects.commit(&changes(records())).await.unwrap();
        let file = FileOf::new(text, revision).await;
        file.open().await.commit(&changes(records())).await.unwrap();
        let now = serde_json::to_value(written(&kube, &file.path)).unwrap();
        let present: Value = serde_json::from_str(PRESENT).unwrap();
        assert_eq!(now, present, "of format {revision}");
        assert_eq!(file.revision(), FORMAT);
    }
}

#[tokio::test(start_paused = true)]
async fn records_are_written_as_in_the_file() {
    let now = serde_json::to_string_pretty(&write_records().await).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/formats/2.json");
        std::fs::write(path, &now).unwrap();
        return;
    }
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(json(&now), json(PRESENT), "a new format: write a new file, and keep the last two");
}

#[test]
fn previous_release_knows_every_enum_value() {
    fn check(value: &Value) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let known = WORDS.iter().find(|(field, _)| field == key).map(|(_, words)| words);
                    if let (Some(known), Some(word)) = (known, value.as_str()) {
                        assert!(known.contains(&word), "{key}: {word}");
                    }
                    check(value);
                }
            }
            Value::Array(values) => values.iter().for_each(check),
            // Values of ConfigMaps.
            Value::String(text) if text.starts_with('{') => check(&serde_json::from_str(text).unwrap()),
            _ => {}
        }
    }
    check(&serde_json::from_str(PRESENT).unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_newer_format_loses_no_vm_and_blocks_nothing() {
    let (kube, read) = from_objects(FUTURE).await;
    let file = FileOf::new(FUTURE, "3").await;
    for records in [read, file.read().await] {
        let phase = |name: &str| records.machines.iter().find(|m| m.id.as_str() == name).map(|m| &m.phase);
        assert!(
            matches!(phase("workers-1"), Some(Phase::Running { vm, .. }) if vm.id == Some("u-1".into())),
            "{records:?}"
        );
        assert!(matches!(phase("workers-2"), Some(Phase::Creating { vm: None, .. })), "{records:?}");
        assert!(
            matches!(phase("workers-3"), Some(Phase::Deleting { drain: DrainState::Pending, .. })),
            "{records:?}"
        );
        assert_eq!(phase("workers-4"), None, "neither a VM nor requests");
        let requests = &records.machines[1].requests;
        assert!(
            requests.iter().all(|request| request.outcome == RequestOutcome::Unclear) && !requests.is_empty()
        );
        let kind =
            |name: &str| records.unmanaged.iter().find(|s| s.hostname.as_str() == name).map(|s| &s.kind);
        assert_eq!(kind("ams-slave-9"), Some(&UnmanagedKind::Foreign));
        assert_eq!(phase("workers-5"), None, "no pool of this version");
        assert_eq!(kind("ams-slave-5"), Some(&UnmanagedKind::Foreign), "its VM is never touched");
        assert_eq!(records.unreadable, 2);
        let known_before = records.request_history.known_before.unwrap();
        assert!(known_before.contains(&Hostname::new("ams-master-1")), "unknown fields are ignored");
        assert_eq!(records.catalog.unwrap().offers.len(), 1);
        assert_eq!(records.profiles.len(), 1);
    }
    file.open().await.commit(&changes(machines_and_unmanaged_nodes())).await.unwrap();
    assert_eq!(file.revision(), "3", "other rows still have it");
    let before = kube.list("vpsienodes");
    let store = store(&kube);
    store.load().await.unwrap();
    store
        .commit(&changes(Records {
            machines: vec![machine("workers-8", Phase::Pending, &[])],
            ..Records::default()
        }))
        .await
        .unwrap();
    assert!(
        before.iter().all(|object| kube.list("vpsienodes").contains(object)),
        "unreadable records stay unchanged"
    );
}
