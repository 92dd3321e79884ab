//! Records of the last two formats and of a future one. `UPDATE=1` rewrites the records of the present
//! format; a new format needs a new file instead.

use std::collections::BTreeMap;
use std::path::Path;

use fake_kube::FakeKube;
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tests::cluster;
use super::{FileStore, KubernetesStore, Store};
use crate::catalog::SizeId;
use crate::fleet::{
    Ask, AskOutcome, Change, DeletionReason, DrainState, Failure, FailureReason, Hostname, Machine, Phase,
    Records, Stranger, StrangerKind, Vm, VmId,
};

const NAMESPACE: &str = "vpsie-system";
const PREVIOUS: &str = include_str!("formats/1.json");
const PRESENT: &str = include_str!("formats/2.json");
const FUTURE: &str = include_str!("formats/3.json");

const MACHINES: TableDefinition<'_, &str, &str> = TableDefinition::new("machines");
const STRANGERS: TableDefinition<'_, &str, &str> = TableDefinition::new("strangers");

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
        ],
    ),
];

#[derive(Deserialize, Serialize)]
struct RecordSet {
    /// VPSieNodes and ConfigMaps.
    objects: Vec<Value>,
    /// Rows of the file, by key.
    machines: BTreeMap<String, Value>,
    strangers: BTreeMap<String, Value>,
}

fn machine(name: &str, phase: Phase, asks: &[AskOutcome]) -> Machine {
    let at = |seconds: i64| jiff::Timestamp::from_second(1_800_000_000 + seconds).unwrap();
    Machine {
        id: name.into(),
        pool: "workers/ams1/s-2vcpu-4gb/on-demand".parse().unwrap(),
        size: SizeId(12),
        created_at: at(0),
        phase,
        asks: asks.iter().map(|outcome| Ask { at: at(1), outcome: *outcome }).collect(),
    }
}

fn records() -> Records {
    let at = |seconds: i64| jiff::Timestamp::from_second(1_800_000_000 + seconds).unwrap();
    let vm = |n: u32| Vm {
        hostname: Hostname::new(&format!("ams-slave-{n}")),
        id: Some(VmId::new(format!("u-{n}"))),
        addresses: vec![std::net::IpAddr::from([10, 0, 0, n as u8])],
        provider_id: None,
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
        StrangerKind::Orphan { pool: "workers/ams1/s-2vcpu-4gb/on-demand".parse().unwrap(), size: None };
    let stranger = |name: &str, kind| Stranger {
        hostname: Hostname::new(name),
        id: None,
        first_seen: at(0),
        kind,
        awaited_by: None,
    };
    Records {
        machines: vec![
            machine("workers-1", Phase::Pending, &[]),
            machine("workers-2", Phase::Creating { vm: None, since: at(1) }, &[AskOutcome::Accepted]),
            machine("workers-3", Phase::Running { vm: vm(3), since: at(3) }, &[AskOutcome::Lost]),
            machine("workers-4", deleting, &[]),
            machine("workers-5", Phase::Failed { failure, at: at(5) }, &[]),
        ],
        strangers: vec![stranger("ams-master-1", StrangerKind::Foreign), stranger("ams-slave-9", orphan)],
        ..Records::default()
    }
}

fn changes(records: Records) -> Vec<Change> {
    let machines = records.machines.into_iter().map(Change::SaveMachine);
    machines.chain(records.strangers.into_iter().map(Change::SaveStranger)).collect()
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
        kube.put(object).unwrap();
    }
    let records = store(&kube).load().await.unwrap();
    (kube, records)
}

async fn from_file(text: &str) -> Records {
    let written: RecordSet = serde_json::from_str(text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.redb");
    drop(FileStore::open(&path, &cluster()).await.unwrap());
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    for (table, rows) in [(MACHINES, written.machines), (STRANGERS, written.strangers)] {
        let mut table = transaction.open_table(table).unwrap();
        for (key, value) in rows {
            table.insert(key.as_str(), value.to_string().as_str()).unwrap();
        }
    }
    transaction.commit().unwrap();
    drop(database);
    FileStore::open(&path, &cluster()).await.unwrap().load().await.unwrap()
}

async fn write_records() -> RecordSet {
    let kube = server();
    store(&kube).load().await.unwrap();
    let store = store(&kube);
    store.load().await.unwrap();
    for change in changes(records()) {
        store.commit(&[change]).await.unwrap();
    }
    let mut objects: Vec<Value> =
        kube.list("vpsienodes").into_iter().chain(kube.list("configmaps")).collect();
    for object in &mut objects {
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.retain(|key, _| {
            ["name", "namespace", "labels", "annotations", "finalizers"].contains(&key.as_str())
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.redb");
    FileStore::open(&path, &cluster()).await.unwrap().commit(&changes(records())).await.unwrap();
    RecordSet { objects, machines: rows(&path, MACHINES), strangers: rows(&path, STRANGERS) }
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
    for text in [PREVIOUS, PRESENT] {
        assert_eq!(from_objects(text).await.1, records());
        assert_eq!(from_file(text).await, records());
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
    for records in [read, from_file(FUTURE).await] {
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
        let asks = &records.machines[1].asks;
        assert!(asks.iter().all(|ask| ask.outcome == AskOutcome::Unclear) && !asks.is_empty());
        let kind =
            |name: &str| records.strangers.iter().find(|s| s.hostname.as_str() == name).map(|s| &s.kind);
        assert_eq!(kind("ams-slave-9"), Some(&StrangerKind::Foreign));
        assert_eq!(phase("workers-5"), None, "no pool of this version");
        assert_eq!(kind("ams-slave-5"), Some(&StrangerKind::Foreign), "its VM is never touched");
        assert_eq!(records.unreadable, 2);
    }
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
