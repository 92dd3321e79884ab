//! Records in memory, for simulations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Store, StoreError};
use crate::catalog::{Catalog, SizeId};
use crate::fleet::{
    Change, DatacenterHistory, Hostname, Machine, MachineId, Records, RequestHistory, SizeProfile,
    SpotHistory, UnmanagedNode,
};

/// Keeps records in memory. Clones share them, so that records survive a simulated crash.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<RecordMaps>>);

#[derive(Debug, Default)]
struct RecordMaps {
    machines: BTreeMap<MachineId, Machine>,
    unmanaged: BTreeMap<Hostname, UnmanagedNode>,
    profiles: BTreeMap<SizeId, SizeProfile>,
    request_history: RequestHistory,
    spot_history: SpotHistory,
    datacenter_history: DatacenterHistory,
    catalog: Option<Arc<Catalog>>,
}

impl MemoryStore {
    /// A store without records.
    pub fn new() -> Self {
        Self::default()
    }

    /// All records, without waiting.
    pub fn records(&self) -> Records {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Records {
            machines: records.machines.values().cloned().collect(),
            unmanaged: records.unmanaged.values().cloned().collect(),
            profiles: records.profiles.iter().map(|(size, profile)| (*size, profile.clone())).collect(),
            request_history: records.request_history.clone(),
            spot_history: records.spot_history.clone(),
            datacenter_history: records.datacenter_history.clone(),
            catalog: records.catalog.clone(),
            unreadable: 0,
        }
    }

    /// Writes the changes in their order, without waiting.
    pub fn write(&self, changes: &[Change]) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change.clone() {
                Change::SaveMachine(machine) => {
                    records.machines.insert(machine.id.clone(), machine);
                }
                Change::DropMachine(id) => {
                    records.machines.remove(&id);
                }
                Change::SaveUnmanaged(unmanaged) => {
                    records.unmanaged.insert(unmanaged.hostname.clone(), unmanaged);
                }
                Change::DropUnmanaged(hostname) => {
                    records.unmanaged.remove(&hostname);
                }
                Change::SaveProfile(size, profile) => {
                    records.profiles.insert(size, profile);
                }
                Change::SaveRequestHistory(history) => records.request_history = history,
                Change::SaveSpotHistory(history) => records.spot_history = history,
                Change::SaveDatacenterHistory(history) => records.datacenter_history = history,
                Change::SaveCatalog(catalog) => records.catalog = Some(catalog),
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
