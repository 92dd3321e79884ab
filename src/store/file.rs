//! Records in one local file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableHandle};
use serde::Serialize;

use super::{Store, StoreError};
use crate::catalog::SizeId;
use crate::fleet::{Change, ClusterId, Records, RequestHistory, lenient};

/// Increment it if older releases cannot read the new records.
const FORMAT: u64 = 1;
/// Increment it with every change of the records that older releases can read
/// (docs/reference/record-formats.md#rules).
const REVISION: u64 = 2;
/// The first bytes of every redb file.
const MAGIC: &[u8] = b"redb\x1A\x0A\xA9\x0D\x0A";
/// Small, because the fleet has all records in memory.
const CACHE_BYTES: usize = 4 << 20;

const META: TableDefinition<'_, &str, &str> = TableDefinition::new("vpsie-autoscaler");
const MACHINES: TableDefinition<'_, &str, &str> = TableDefinition::new("machines");
const UNMANAGED: TableDefinition<'_, &str, &str> = TableDefinition::new("unmanaged");
const PROFILES: TableDefinition<'_, u64, &str> = TableDefinition::new("profiles");
const HISTORY: TableDefinition<'_, &str, &str> = TableDefinition::new("request_history");
const SPOT_HISTORY: TableDefinition<'_, &str, &str> = TableDefinition::new("spot_history");
const DATACENTER_HISTORY: TableDefinition<'_, &str, &str> = TableDefinition::new("datacenter_history");
const CATALOG: TableDefinition<'_, &str, &str> = TableDefinition::new("catalog");
/// The key of [`CATALOG`], [`HISTORY`] and [`SPOT_HISTORY`].
const LAST: &str = "last";
/// A request history that could not be read, before it was replaced.
const UNREADABLE: &str = "unreadable";

/// Keeps records in one file. A commit is one transaction, which is on disk when the commit returns.
///
/// The file belongs to one process and one cluster. A file that is damaged, of a newer format, of another
/// cluster or not ours is refused and stays unchanged.
#[derive(Clone, Debug)]
pub struct FileStore {
    file: Arc<RecordFile>,
    /// None after a failure: redb refuses all operations then, so the next call opens the file again.
    database: Arc<Mutex<Option<Database>>>,
}

#[derive(Debug)]
struct RecordFile {
    path: PathBuf,
    cluster: ClusterId,
}

impl FileStore {
    /// Opens the file. Creates it, and its folders, if it does not exist.
    pub async fn open(path: impl Into<PathBuf>, cluster: &ClusterId) -> Result<Self, StoreError> {
        let file = Arc::new(RecordFile { path: path.into(), cluster: cluster.clone() });
        let store = Self { file, database: Arc::default() };
        store.run_blocking("read", |_| Ok(())).await?;
        Ok(store)
    }

    /// Closes the file as a failure does.
    #[cfg(test)]
    pub(super) fn close_file(&self) {
        *self.database.lock().unwrap() = None;
    }

    /// Runs a blocking operation on the open file.
    async fn run_blocking<R: Send + 'static>(
        &self,
        action: &'static str,
        operation: impl FnOnce(&Database) -> Result<R, Fault> + Send + 'static,
    ) -> Result<R, StoreError> {
        let file = self.file.clone();
        let database = self.database.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut slot = database.lock().unwrap_or_else(PoisonError::into_inner);
            let database = match slot.take() {
                Some(database) => database,
                None => file.open()?,
            };
            let result = operation(&database).map_err(|fault| file.explain(action, fault))?;
            *slot = Some(database);
            Ok(result)
        });
        // redb may panic if another process changes the open file.
        task.await.unwrap_or_else(|panic| Err(self.file.damaged(&panic)))
    }
}

#[async_trait]
impl Store for FileStore {
    async fn load(&self) -> Result<Records, StoreError> {
        self.run_blocking("read", read_records).await
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let changes = changes.to_vec();
        self.run_blocking("write", move |database| write_changes(database, &changes)).await
    }
}

/// A failure of the layer below.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Redb(#[from] redb::Error),
    #[error("a record cannot be written: {0}")]
    Encode(serde_json::Error),
}

macro_rules! faults {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::Redb(error.into())
            }
        }
    )*};
}
faults!(
    redb::CommitError,
    redb::DatabaseError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    std::io::Error
);

impl RecordFile {
    fn open(&self) -> Result<Database, StoreError> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return self.create(),
            Err(error) => return Err(self.unusable(format!("cannot be opened: {error}"))),
        };
        self.lock(&file)?;
        self.check_copy(&file)?;
        open_database(file).map_err(|fault| self.explain("read", fault))
    }

    /// Creates the file under another name first, so that a crash leaves no incomplete file.
    fn create(&self) -> Result<Database, StoreError> {
        let folder = match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let make = || -> std::io::Result<File> {
            std::fs::create_dir_all(folder)?;
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&new)
        };
        let file = make().map_err(|error| self.unusable(format!("cannot be created: {error}")))?;
        self.lock(&file)?;
        // Another process may have created the file before this one had the lock.
        if self.path.exists() {
            return Err(self.in_use());
        }
        let build = || -> Result<Database, Fault> {
            file.set_len(0)?;
            let database = open_database(file)?;
            let transaction = database.begin_write()?;
            {
                let mut meta = transaction.open_table(META)?;
                meta.insert("format", FORMAT.to_string().as_str())?;
                meta.insert("revision", REVISION.to_string().as_str())?;
                meta.insert("cluster", self.cluster.as_str())?;
                transaction.open_table(MACHINES)?;
                transaction.open_table(UNMANAGED)?;
                transaction.open_table(PROFILES)?;
                transaction.open_table(CATALOG)?;
            }
            transaction.commit()?;
            std::fs::rename(&new, &self.path)?;
            File::open(folder)?.sync_all()?;
            Ok(database)
        };
        build().map_err(|fault| self.explain("write", fault))
    }

    fn lock(&self, file: &File) -> Result<(), StoreError> {
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(self.in_use()),
            Err(TryLockError::Error(error)) => Err(self.unusable(format!("cannot be locked: {error}"))),
        }
    }

    /// Checks on a copy in memory that the file is intact and ours, because opening the file writes to it.
    fn check_copy(&self, mut file: &File) -> Result<(), StoreError> {
        let mut start = Vec::new();
        let mut copy = || -> std::io::Result<InMemoryBackend> {
            file.take(MAGIC.len() as u64).read_to_end(&mut start)?;
            let backend = InMemoryBackend::new();
            if start == MAGIC {
                let mut bytes = Vec::new();
                file.seek(SeekFrom::Start(0))?;
                file.read_to_end(&mut bytes)?;
                backend.set_len(bytes.len() as u64)?;
                backend.write(0, &bytes)?;
            }
            Ok(backend)
        };
        let backend = copy().map_err(|error| self.unusable(format!("cannot be read: {error}")))?;
        if start != MAGIC {
            return Err(self.foreign());
        }
        let database = redb::Builder::new()
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
            .map_err(|error| match error {
                redb::DatabaseError::UpgradeRequired(_) => self.foreign(),
                error => self.damaged(&error),
            })?;
        self.check_meta(&database)?;
        read_records(&database).map(drop).map_err(|fault| self.explain("read", fault))
    }

    fn check_meta(&self, database: &Database) -> Result<(), StoreError> {
        let read = || -> Result<Option<(String, String)>, Fault> {
            let transaction = database.begin_read()?;
            if !transaction.list_tables()?.any(|table| table.name() == META.name()) {
                return Ok(None);
            }
            let meta = transaction.open_table(META)?;
            let text = |key| -> Result<String, Fault> {
                Ok(meta.get(key)?.map(|v| v.value().to_owned()).unwrap_or_default())
            };
            Ok(Some((text("format")?, text("cluster")?)))
        };
        let Some((format, cluster)) = read().map_err(|fault| self.explain("read", fault))? else {
            return Err(self.foreign());
        };
        match format.parse::<u64>() {
            Ok(FORMAT) => {}
            Ok(newer) if newer > FORMAT => {
                return Err(self.unusable(format!(
                    "has format {newer}, written by a newer vpsie-autoscaler; this one reads format {FORMAT}. \
                     Run the newer release, or name another file with --data-file"
                )));
            }
            _ => return Err(self.damaged(&format!("its format is {format:?}"))),
        }
        if cluster != self.cluster.as_str() {
            return Err(self.unusable(format!(
                "holds the records of cluster {cluster}, and the NodeGroups name cluster {}. Name another \
                 file with --data-file",
                self.cluster
            )));
        }
        Ok(())
    }

    fn explain(&self, action: &'static str, fault: Fault) -> StoreError {
        match fault {
            Fault::Redb(redb::Error::DatabaseAlreadyOpen) => self.in_use(),
            Fault::Redb(error @ redb::Error::Corrupted(_)) => self.damaged(&error),
            fault => StoreError::Io { action, problem: format!("{}: {fault}", self.path.display()) },
        }
    }

    fn in_use(&self) -> StoreError {
        self.unusable(
            "is in use by another process. Stop the other vpsie-autoscaler, or name another file with \
             --data-file"
                .to_owned(),
        )
    }

    fn foreign(&self) -> StoreError {
        self.unusable(
            "is not a record file of vpsie-autoscaler; it stays unchanged. Name another file with \
             --data-file"
                .to_owned(),
        )
    }

    fn damaged(&self, what: &dyn std::fmt::Display) -> StoreError {
        self.unusable(format!(
            "is damaged ({what}); it stays unchanged. Restore a copy, or move the file away to start without \
             records: existing workers then count as foreign"
        ))
    }

    fn unusable(&self, problem: String) -> StoreError {
        StoreError::Unusable { path: self.path.display().to_string(), problem }
    }
}

fn open_database(file: File) -> Result<Database, Fault> {
    let backend = FileBackend::new(file)?;
    Ok(redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
}

fn read_records(database: &Database) -> Result<Records, Fault> {
    let transaction = database.begin_read()?;
    let mut records = Records::default();
    let meta = transaction.open_table(META)?;
    let revision = revision(&meta)?;
    if let Some(newer) = revision.filter(|revision| *revision > REVISION) {
        tracing::warn!(
            revision = newer,
            "a newer vpsie-autoscaler wrote the records; unknown fields are ignored"
        );
    }
    let mut untouchable = Vec::new();
    for row in transaction.open_table(MACHINES)?.iter()? {
        let (key, value) = row?;
        let machine = lenient::read_machine(value.value());
        if machine.is_err() {
            untouchable.extend(lenient::vm_of_unreadable(value.value()));
        }
        records.machines.extend(readable(&MACHINES, &key.value(), machine, &mut records.unreadable));
    }
    for row in transaction.open_table(UNMANAGED)?.iter()? {
        let (key, value) = row?;
        let unmanaged = lenient::read_unmanaged(value.value());
        records.unmanaged.extend(readable(&UNMANAGED, &key.value(), unmanaged, &mut records.unreadable));
    }
    untouchable.retain(|vm| !records.knows_vm(vm));
    records.unmanaged.extend(untouchable);
    for row in transaction.open_table(PROFILES)?.iter()? {
        let (key, value) = row?;
        let size = SizeId(key.value());
        let profile = serde_json::from_str(value.value());
        let profile = readable(&PROFILES, &size, profile, &mut records.unreadable);
        records.profiles.extend(profile.map(|profile| (size, profile)));
    }
    if let Some(value) = transaction.open_table(CATALOG)?.get(LAST)? {
        let catalog = serde_json::from_str(value.value());
        records.catalog = readable(&CATALOG, &LAST, catalog, &mut records.unreadable);
    }
    if let Some(text) = read_last(&transaction, SPOT_HISTORY)? {
        match serde_json::from_str(&text) {
            Ok(history) => records.spot_history = history,
            Err(error) => tracing::warn!(
                table = SPOT_HISTORY.name(),
                %error,
                "cannot read the spot history; starting with an empty one: circuit breakers are closed, and interruption rates are the assumed ones"
            ),
        }
    }
    if let Some(text) = read_last(&transaction, DATACENTER_HISTORY)? {
        match serde_json::from_str(&text) {
            Ok(history) => records.datacenter_history = history,
            Err(error) => tracing::warn!(
                table = DATACENTER_HISTORY.name(),
                %error,
                "cannot read the datacenter history; starting with an empty one: circuit breakers are closed"
            ),
        }
    }
    if let Some(text) = read_last(&transaction, HISTORY)? {
        match serde_json::from_str(&text) {
            Ok(history) => records.request_history = history,
            Err(error) => {
                records.unreadable += 1;
                tracing::error!(
                    table = HISTORY.name(),
                    %error,
                    "cannot read the request history; it is kept as {UNREADABLE}. VMs of its requests that VPSie lists \
                     later count as foreign: delete them at VPSie"
                );
            }
        }
    }
    Ok(records)
}

/// The last value of a table that files of earlier releases lack.
fn read_last(
    transaction: &redb::ReadTransaction,
    table: TableDefinition<'_, &str, &str>,
) -> Result<Option<String>, Fault> {
    match transaction.open_table(table) {
        Ok(table) => Ok(table.get(LAST)?.map(|text| text.value().to_owned())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A record, or None if this version cannot read it. It stays unchanged in the file then.
fn readable<T>(
    table: &impl TableHandle,
    key: &dyn std::fmt::Display,
    record: Result<T, serde_json::Error>,
    unreadable: &mut u32,
) -> Option<T> {
    record
        .inspect_err(|error| {
            *unreadable += 1;
            tracing::error!(
                table = table.name(),
                %key,
                %error,
                "cannot read a record; it stays unchanged and its VM is not managed. Run the release that wrote it"
            );
        })
        .ok()
}

fn write_changes(database: &Database, changes: &[Change]) -> Result<(), Fault> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        // Rows of a newer revision may remain.
        if revision(&meta)?.is_none_or(|revision| revision < REVISION) {
            meta.insert("revision", REVISION.to_string().as_str())?;
        }
        let mut machines = transaction.open_table(MACHINES)?;
        let mut unmanaged_rows = transaction.open_table(UNMANAGED)?;
        let mut profile = transaction.open_table(PROFILES)?;
        for change in changes {
            match change {
                Change::SaveMachine(machine) => {
                    machines.insert(machine.id.as_str(), encode(machine)?.as_str())?;
                }
                Change::DropMachine(id) => {
                    machines.remove(id.as_str())?;
                }
                Change::SaveUnmanaged(unmanaged) => {
                    unmanaged_rows.insert(unmanaged.hostname.as_str(), encode(unmanaged)?.as_str())?;
                }
                Change::DropUnmanaged(hostname) => {
                    unmanaged_rows.remove(hostname.as_str())?;
                }
                Change::SaveProfile(size, seen) => {
                    profile.insert(size.0, encode(seen)?.as_str())?;
                }
                Change::SaveRequestHistory(history) => {
                    let mut table = transaction.open_table(HISTORY)?;
                    let stored = table.get(LAST)?.map(|text| text.value().to_owned());
                    let is_unreadable = |text: &String| serde_json::from_str::<RequestHistory>(text).is_err();
                    if let Some(unreadable) = stored.filter(is_unreadable) {
                        table.insert(UNREADABLE, unreadable.as_str())?;
                    }
                    table.insert(LAST, encode(history)?.as_str())?;
                }
                Change::SaveSpotHistory(history) => {
                    transaction.open_table(SPOT_HISTORY)?.insert(LAST, encode(history)?.as_str())?;
                }
                Change::SaveDatacenterHistory(history) => {
                    transaction.open_table(DATACENTER_HISTORY)?.insert(LAST, encode(history)?.as_str())?;
                }
                Change::SaveCatalog(catalog) => {
                    transaction.open_table(CATALOG)?.insert(LAST, encode(catalog)?.as_str())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn revision(meta: &impl ReadableTable<&'static str, &'static str>) -> Result<Option<u64>, Fault> {
    Ok(meta.get("revision")?.and_then(|text| text.value().parse().ok()))
}

fn encode<T: Serialize>(record: &T) -> Result<String, Fault> {
    serde_json::to_string(record).map_err(Fault::Encode)
}
