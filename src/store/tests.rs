use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{ReadableDatabase as _, TableDefinition};
use tempfile::TempDir;

use super::{FileStore, MemoryStore, Store, StoreError};
use crate::catalog::{CapacityType, Catalog, Offer, Resources, SizeId};
use crate::fleet::{
    AbandonedRequests, Change, ClusterId, Hostname, Machine, MachineId, NodeShape, Phase, Records,
    RequestHistory, Sample, SizeProfile, UnmanagedKind, UnmanagedNode,
};

const META: TableDefinition<'_, &str, &str> = TableDefinition::new("vpsie-autoscaler");
const MACHINES: TableDefinition<'_, &str, &str> = TableDefinition::new("machines");
const HISTORY: TableDefinition<'_, &str, &str> = TableDefinition::new("request_history");

pub(super) fn cluster() -> ClusterId {
    "c1".into()
}

pub(super) fn machine(name: &str) -> Machine {
    Machine {
        id: name.into(),
        pool: "workers/ams1/s-2vcpu-4gb/on-demand".parse().unwrap(),
        size: SizeId(12),
        created_at: "2026-11-24T10:00:00Z".parse().unwrap(),
        phase: Phase::Pending,
        requests: Vec::new(),
        notice: None,
        replaces: None,
    }
}

pub(super) fn unmanaged(hostname: &str) -> UnmanagedNode {
    UnmanagedNode {
        hostname: Hostname::new(hostname),
        id: None,
        first_seen: "2026-11-24T10:00:00Z".parse().unwrap(),
        kind: UnmanagedKind::Foreign,
        awaited_by: None,
        request: None,
        abandoned_request: None,
    }
}

fn resources() -> Resources {
    Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 80, pods: 110 }
}

fn profile() -> SizeProfile {
    let shape = NodeShape {
        extended_capacity: [("nvidia.com/gpu".to_owned(), 1)].into(),
        architecture: Some("arm64".to_owned()),
        labels: [("region".to_owned(), "ams1".to_owned())].into(),
        ..NodeShape::new(resources(), resources())
    };
    let sample = Sample {
        node: "uid-1".to_owned(),
        registered: "2026-11-24T10:00:00Z".parse().unwrap(),
        node_group: "workers".into(),
        relearn: Some("1".to_owned()),
        shape,
    };
    SizeProfile::from_nodes(vec![sample]).unwrap()
}

fn catalog() -> Arc<Catalog> {
    Arc::new(Catalog {
        offers: vec![Offer {
            size: SizeId(12),
            name: "s-2vcpu-4gb".to_owned(),
            identifier: None,
            datacenter: "ams1".into(),
            capacity_type: CapacityType::OnDemand,
            resources: resources(),
            monthly: Some("24.5".parse().unwrap()),
            hourly: None,
        }],
    })
}

/// One change of every kind, and some that undo others.
pub(super) fn changes() -> Vec<Change> {
    vec![
        Change::SaveMachine(machine("workers-1")),
        Change::SaveMachine(machine("workers-2")),
        Change::SaveMachine(Machine { size: SizeId(13), ..machine("workers-2") }),
        Change::SaveMachine(machine("workers-3")),
        Change::DropMachine(MachineId::new("workers-3")),
        Change::DropMachine(MachineId::new("never-there")),
        Change::SaveUnmanaged(unmanaged("control-plane")),
        Change::SaveUnmanaged(unmanaged("passer-by")),
        Change::DropUnmanaged(Hostname::new("passer-by")),
        Change::SaveProfile(SizeId(12), profile()),
        Change::SaveCatalog(catalog()),
        Change::SaveRequestHistory(RequestHistory::default()),
        Change::SaveRequestHistory(request_history()),
    ]
}

pub(super) fn expected() -> Records {
    Records {
        machines: vec![machine("workers-1"), Machine { size: SizeId(13), ..machine("workers-2") }],
        unmanaged: vec![unmanaged("control-plane")],
        profiles: vec![(SizeId(12), profile())],
        request_history: request_history(),
        spot_history: crate::fleet::SpotHistory::default(),
        datacenter_history: crate::fleet::DatacenterHistory::default(),
        catalog: Some(catalog()),
        unreadable: 0,
    }
}

fn request_history() -> RequestHistory {
    let abandoned = AbandonedRequests {
        pool: "workers/ams1/s-2vcpu-4gb/on-demand".parse().unwrap(),
        size: SizeId(12),
        at: "2026-11-24T09:00:00Z".parse().unwrap(),
        count: 2,
    };
    RequestHistory {
        known_before: Some([Hostname::new("control-plane")].into()),
        abandoned: vec![abandoned],
        moved: Vec::new(),
    }
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn filled(&self) -> PathBuf {
        let path = self.path("records.redb");
        let store = FileStore::open(&path, &cluster()).await.unwrap();
        store.commit(&changes()).await.unwrap();
        path
    }
}

async fn refusal(path: &Path) -> String {
    let before = std::fs::read(path).unwrap();
    let error = FileStore::open(path, &cluster()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unusable { .. }), "{error}");
    assert!(std::fs::read(path).unwrap() == before, "the refused file was changed");
    let error = error.to_string();
    assert!(error.starts_with(path.to_str().unwrap()), "{error}");
    error
}

#[tokio::test]
async fn every_kind_of_record_comes_back_after_a_restart() {
    let folder = Folder::new();
    let path = folder.filled().await;
    let store = FileStore::open(&path, &cluster()).await.unwrap();
    assert_eq!(store.load().await.unwrap(), expected());
}

#[tokio::test]
async fn memory_store_shares_records_between_clones() {
    let store = MemoryStore::new();
    let user = store.clone();
    user.commit(&changes()).await.unwrap();
    drop(user);
    assert_eq!(store.load().await.unwrap(), expected());
}

#[tokio::test]
async fn a_new_file_has_no_records_and_its_folder_is_made() {
    let folder = Folder::new();
    let path = folder.path("a/b/records.redb");
    let store = FileStore::open(&path, &cluster()).await.unwrap();
    assert_eq!(store.load().await.unwrap(), Records::default());
    assert!(!folder.path("a/b/records.redb.new").exists());
}

#[tokio::test]
async fn a_crash_during_creation_does_not_block_the_next_one() {
    let folder = Folder::new();
    std::fs::write(folder.path("records.redb.new"), b"redb half made").unwrap();
    let path = folder.filled().await;
    assert!(FileStore::open(&path, &cluster()).await.is_ok());
}

#[tokio::test]
async fn commits_are_on_disk_when_the_process_dies() {
    let folder = Folder::new();
    let path = folder.path("records.redb");
    let store = FileStore::open(&path, &cluster()).await.unwrap();
    let mut images = Vec::new();
    for n in 0..5 {
        store.commit(&[Change::SaveMachine(machine(&format!("workers-{n}")))]).await.unwrap();
        // The file of a killed process: it was never closed.
        let image = folder.path(&format!("image-{n}"));
        std::fs::copy(&path, &image).unwrap();
        images.push(image);
    }
    for (n, image) in images.iter().enumerate() {
        let survivor = FileStore::open(image, &cluster()).await.unwrap();
        assert_eq!(survivor.load().await.unwrap().machines.len(), n + 1);
        survivor.commit(&[Change::DropMachine("workers-0".into())]).await.unwrap();
        assert_eq!(survivor.load().await.unwrap().machines.len(), n);
    }
}

#[tokio::test]
async fn a_second_process_cannot_open_the_file() {
    let folder = Folder::new();
    let path = folder.path("records.redb");
    let first = FileStore::open(&path, &cluster()).await.unwrap();
    let problem = FileStore::open(&path, &cluster()).await.unwrap_err().to_string();
    assert!(problem.contains("in use by another process"), "{problem}");
    first.commit(&changes()).await.unwrap();
    drop(first);
    assert!(FileStore::open(&path, &cluster()).await.is_ok());
}

#[tokio::test]
async fn a_file_of_something_else_is_refused() {
    let folder = Folder::new();
    for (name, bytes) in [("text", "minNodes: 1\n".repeat(1000).into_bytes()), ("empty", Vec::new())] {
        std::fs::write(folder.path(name), bytes).unwrap();
        let problem = refusal(&folder.path(name)).await;
        assert!(problem.contains("is not a record file of vpsie-autoscaler"), "{problem}");
    }
}

#[tokio::test]
async fn a_redb_file_of_another_program_is_refused() {
    let folder = Folder::new();
    let path = folder.path("other.redb");
    let database = redb::Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(MACHINES).unwrap().insert("a", "b").unwrap();
    transaction.commit().unwrap();
    drop(database);
    let problem = refusal(&path).await;
    assert!(problem.contains("is not a record file of vpsie-autoscaler"), "{problem}");
}

async fn edited(folder: &Folder, table: TableDefinition<'_, &str, &str>, key: &str, value: &str) -> PathBuf {
    let path = folder.filled().await;
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(table).unwrap().insert(key, value).unwrap();
    transaction.commit().unwrap();
    path
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let folder = Folder::new();
    let path = edited(&folder, META, "format", "2").await;
    let problem = refusal(&path).await;
    assert!(problem.contains("has format 2") && problem.contains("reads format 1"), "{problem}");
}

#[tokio::test]
async fn the_records_of_another_cluster_are_refused() {
    let folder = Folder::new();
    let path = edited(&folder, META, "cluster", "c2").await;
    let problem = refusal(&path).await;
    assert!(problem.contains("records of cluster c2, and the NodeGroups name cluster c1"), "{problem}");
}

#[tokio::test]
async fn an_unreadable_record_stays_unchanged_and_is_counted() {
    let folder = Folder::new();
    let path = edited(&folder, MACHINES, "workers-1", "{\"id\": 7}").await;
    let store = FileStore::open(&path, &cluster()).await.unwrap();
    let records = store.load().await.unwrap();
    assert_eq!((records.machines.len(), records.unreadable), (1, 1));
    store.commit(&[Change::DropMachine("workers-2".into())]).await.unwrap();
    assert_eq!(store.load().await.unwrap().unreadable, 1);
}

#[tokio::test]
async fn keeps_an_unreadable_history_beside_the_new_one() {
    let folder = Folder::new();
    let path = edited(&folder, HISTORY, "last", "{\"abandoned\": 7}").await;
    let store = FileStore::open(&path, &cluster()).await.unwrap();
    let records = store.load().await.unwrap();
    assert_eq!((records.request_history, records.unreadable), (RequestHistory::default(), 1));
    store.commit(&[Change::SaveRequestHistory(request_history())]).await.unwrap();
    let records = store.load().await.unwrap();
    assert_eq!((records.request_history, records.unreadable), (request_history(), 0));
    drop(store);
    let database = redb::Database::open(&path).unwrap();
    let table = database.begin_read().unwrap().open_table(HISTORY).unwrap();
    assert_eq!(table.get("unreadable").unwrap().unwrap().value(), "{\"abandoned\": 7}");
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let folder = Folder::new();
    let path = folder.filled().await;
    let whole = std::fs::read(&path).unwrap();
    for keep in [9, 100, 4096, whole.len() / 2, whole.len() - 4096] {
        std::fs::write(&path, &whole[..keep]).unwrap();
        let problem = refusal(&path).await;
        assert!(problem.contains("is damaged"), "{keep}: {problem}");
    }
}

#[tokio::test]
async fn damage_is_refused_or_harmless_wherever_it_is() {
    let folder = Folder::new();
    let path = folder.filled().await;
    let whole = std::fs::read(&path).unwrap();
    let mut refused = 0;
    let mut hit = Vec::new();
    // In steps that meet every page in use.
    for at in (0..whole.len()).step_by(509).filter(|at| whole[*at] != 0) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        std::fs::write(&path, &bytes).unwrap();
        hit.push(at);
        match FileStore::open(&path, &cluster()).await {
            Ok(store) => assert_eq!(store.load().await.unwrap(), expected(), "byte {at}"),
            Err(StoreError::Unusable { .. }) => {
                refused += 1;
                assert!(std::fs::read(&path).unwrap() == bytes, "the refused file was changed");
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(refused > 0, "none of {hit:?} was noticed");
}

#[tokio::test]
async fn a_store_recovers_after_a_failure() {
    let folder = Folder::new();
    let path = folder.path("records.redb");
    let store = FileStore::open(&path, &cluster()).await.unwrap();
    store.commit(&changes()).await.unwrap();
    store.close_file();
    assert_eq!(store.load().await.unwrap(), expected());
    store.close_file();
    store.commit(&[Change::DropMachine("workers-1".into())]).await.unwrap();
    assert_eq!(store.load().await.unwrap().machines.len(), 1);
}
