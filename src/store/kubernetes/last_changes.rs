//! The changes of a commit by object: saves, removals, and changes that must wait for a refused record.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::config_maps::ConfigMapKey;
use crate::fleet::{Change, DeferredChanges, Machine, MachineId, RecordKey};
use crate::store::{RefusedRecord, StoreError};

/// A value of a ConfigMap to be written, or removed if it is None, and its record.
pub(super) struct ConfigMapValue {
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) record: RecordKey,
}

/// Values by their key, with their record. None removes a value.
pub(super) type SavedValues = BTreeMap<ConfigMapKey, (RecordKey, Option<String>)>;

/// The last change of each object.
#[derive(Default)]
pub(super) struct LastChanges {
    pub(super) saved_values: SavedValues,
    pub(super) saved: BTreeMap<MachineId, Machine>,
    pub(super) dropped: BTreeSet<MachineId>,
    pub(super) dropped_values: SavedValues,
}

impl LastChanges {
    pub(super) fn collect(changes: &[Change]) -> Result<Self, StoreError> {
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
                Change::SaveUnmanaged(unmanaged) => {
                    last.save_value(ConfigMapKey::unmanaged(&unmanaged.hostname), record, unmanaged)?;
                }
                // An earlier save of the node is written too: its VM may have moved to a machine since, and
                // the commit may be interrupted before that machine is written.
                Change::DropUnmanaged(hostname) => {
                    last.dropped_values.insert(ConfigMapKey::unmanaged(hostname), (record, None));
                }
                Change::SaveProfile(size, profile) => {
                    // Earlier releases read the summary. It rarely changes.
                    last.save_value(ConfigMapKey::profile(*size), record.clone(), &profile.summary())?;
                    last.save_value(ConfigMapKey::profile_nodes(*size), record, &profile.nodes)?;
                }
                Change::SaveRequestHistory(history) => {
                    last.save_value(ConfigMapKey::request_history(), record, history)?;
                }
                Change::SaveSpotHistory(history) => {
                    last.save_value(ConfigMapKey::spot_history(), record, history)?;
                }
                Change::SaveDatacenterHistory(history) => {
                    last.save_value(ConfigMapKey::datacenter_history(), record, history)?;
                }
                Change::SaveCatalog(catalog) => last.save_value(ConfigMapKey::catalog(), record, catalog)?,
            }
        }
        Ok(last)
    }

    fn save_value(
        &mut self,
        key: ConfigMapKey,
        record: RecordKey,
        value: &impl Serialize,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(value).map_err(|error| StoreError::Io {
            action: "write",
            problem: format!("{}[{:?}] cannot be encoded: {error}", key.map, key.key),
        })?;
        self.dropped_values.remove(&key);
        self.saved_values.insert(key, (record, Some(text)));
        Ok(())
    }

    /// Removes the changes that must wait for refused records.
    pub(super) fn defer(&mut self, changes: &[Change], refused: &[RefusedRecord]) {
        if refused.is_empty() {
            return;
        }
        let deferred =
            DeferredChanges::new(changes, refused.iter().map(|refused| refused.record.clone()).collect());
        for change in changes.iter().filter(|change| deferred.contains(change)) {
            match change {
                Change::SaveMachine(machine) => {
                    self.saved.remove(&machine.id);
                }
                Change::DropMachine(id) => {
                    self.dropped.remove(id);
                }
                Change::DropUnmanaged(hostname) => {
                    self.dropped_values.remove(&ConfigMapKey::unmanaged(hostname));
                }
                _ => {}
            }
        }
    }
}

pub(super) fn group_by_map(values: SavedValues) -> BTreeMap<String, Vec<ConfigMapValue>> {
    let mut maps: BTreeMap<String, Vec<ConfigMapValue>> = BTreeMap::new();
    for (ConfigMapKey { map, key }, (record, value)) in values {
        maps.entry(map).or_default().push(ConfigMapValue { key, value, record });
    }
    maps
}
