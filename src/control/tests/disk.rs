//! A store that fails on demand.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::fleet::{DeferredChanges, RecordKey};
use crate::store::RefusedRecord;

type Refuses = Box<dyn Fn(&Change) -> bool + Send>;

/// A disk that can be full, slow, lose its replies, or refuse some records.
#[derive(Clone, Default)]
pub(super) struct Disk {
    pub(super) memory: MemoryStore,
    full: Arc<AtomicBool>,
    deaf: Arc<AtomicBool>,
    slow_ms: Arc<AtomicU64>,
    refuses: Arc<Mutex<Option<Refuses>>>,
    pub(super) commits: Arc<Mutex<Vec<usize>>>,
}

impl Disk {
    pub(super) fn fill(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// It writes, and returns an error.
    pub(super) fn lose_replies(&self, lose: bool) {
        self.deaf.store(lose, Ordering::Relaxed);
    }

    pub(super) fn slow_down(&self, to: Duration) {
        self.slow_ms.store(to.as_millis() as u64, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self, refuses: impl Fn(&Change) -> bool + Send + 'static) {
        *self.refuses.lock().unwrap() = Some(Box::new(refuses));
    }
}

#[async_trait]
impl Store for Disk {
    async fn load(&self) -> Result<Records, StoreError> {
        self.memory.load().await
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        tokio::time::sleep(Duration::from_millis(self.slow_ms.load(Ordering::Relaxed))).await;
        if self.full.load(Ordering::Relaxed) {
            return Err(StoreError::Io { action: "write", problem: "disk full".to_owned() });
        }
        self.commits.lock().unwrap().push(changes.len());
        let refuses =
            |change: &&Change| self.refuses.lock().unwrap().as_ref().is_some_and(|refuses| refuses(change));
        let refused: BTreeSet<RecordKey> = changes.iter().filter(refuses).map(Change::record).collect();
        let held = DeferredChanges::new(changes, refused.clone());
        let written: Vec<Change> = changes.iter().filter(|change| !held.contains(change)).cloned().collect();
        self.memory.commit(&written).await?;
        if self.deaf.load(Ordering::Relaxed) {
            return Err(StoreError::Io { action: "write", problem: "no reply".to_owned() });
        }
        if refused.is_empty() {
            return Ok(());
        }
        let problem = "kubeSizeID: must be at least 1";
        let refused = refused.into_iter().map(|record| RefusedRecord { record, problem: problem.to_owned() });
        Err(StoreError::Refused(refused.collect()))
    }
}
