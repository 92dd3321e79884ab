//! Records in memory, for simulations: they outlive the one who uses them, as a file would.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Store, StoreError};
use crate::catalog::{Catalog, SizeId};
use crate::fleet::{Change, Hostname, Learned, Ledger, Machine, MachineId, Records, Stranger};

/// Keeps records in memory. Clones share them, so that a simulated crash of one user leaves them to the next.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    machines: BTreeMap<MachineId, Machine>,
    strangers: BTreeMap<Hostname, Stranger>,
    learned: BTreeMap<SizeId, Learned>,
    ledger: Ledger,
    catalog: Option<Arc<Catalog>>,
}

impl MemoryStore {
    /// A store without records.
    pub fn new() -> Self {
        Self::default()
    }

    /// All records, without waiting.
    pub fn records(&self) -> Records {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Records {
            machines: kept.machines.values().cloned().collect(),
            strangers: kept.strangers.values().cloned().collect(),
            learned: kept.learned.iter().map(|(size, learned)| (*size, learned.clone())).collect(),
            ledger: kept.ledger.clone(),
            catalog: kept.catalog.clone(),
            unreadable: 0,
        }
    }

    /// Writes the changes in their order, without waiting.
    pub fn write(&self, changes: &[Change]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change.clone() {
                Change::SaveMachine(machine) => {
                    kept.machines.insert(machine.id.clone(), machine);
                }
                Change::DropMachine(id) => {
                    kept.machines.remove(&id);
                }
                Change::SaveStranger(stranger) => {
                    kept.strangers.insert(stranger.hostname.clone(), stranger);
                }
                Change::DropStranger(hostname) => {
                    kept.strangers.remove(&hostname);
                }
                Change::SaveLearned(size, learned) => {
                    kept.learned.insert(size, learned);
                }
                Change::SaveLedger(ledger) => kept.ledger = ledger,
                Change::SaveCatalog(catalog) => kept.catalog = Some(catalog),
            }
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn load(&self) -> Result<Records, StoreError> {
        Ok(self.records())
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.write(changes);
        Ok(())
    }
}
