//! Machines of one increase are recorded all or not at all. Each has its own object, annotated with the
//! increase, so that an interrupted write is recognized, also after a restart.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::{RefusedRecord, StoreError};
use super::object_cache::Endpoint;
use super::{KubernetesStore, LastChanges};
use crate::api::VPSieNode;
use crate::fleet::{Machine, MachineId, Phase, RecordKey};

/// Annotation: the increase of a machine, `<first machine>/<number of machines>`.
const INCREASE: &str = "autoscaler.vpsie.com/increase";

/// New machines that one commit records, before any request to VPSie.
#[derive(Clone)]
pub(super) struct Increase {
    pub(super) machines: BTreeSet<MachineId>,
}

impl Increase {
    pub(super) fn mark(&self, node: &mut VPSieNode) {
        let Some(first) = self.machines.first() else { return };
        let value = format!("{first}/{}", self.machines.len());
        node.metadata.annotations.get_or_insert_default().insert(INCREASE.to_owned(), value);
    }
}

fn read_mark(node: &VPSieNode) -> Option<(&str, usize)> {
    let text = node.annotations().get(INCREASE)?;
    let (_, count) = text.rsplit_once('/')?;
    Some((text, count.parse().ok()?))
}

fn is_unasked(machine: &Machine) -> bool {
    machine.phase == Phase::Pending && machine.requests.is_empty()
}

/// The machines of increases whose write was interrupted. An increase with a requested machine was complete
/// once.
pub(super) fn incomplete(nodes: &[VPSieNode]) -> BTreeSet<MachineId> {
    let mut increases: BTreeMap<&str, (usize, Vec<MachineId>, bool)> = BTreeMap::new();
    for node in nodes {
        let (Some((increase, count)), Ok(machine)) = (read_mark(node), node.to_machine()) else { continue };
        let (_, machines, unasked) = increases.entry(increase).or_insert((count, Vec::new(), true));
        *unasked &= is_unasked(&machine);
        machines.push(machine.id);
    }
    let interrupted =
        increases.into_values().filter(|(count, machines, unasked)| *unasked && machines.len() < *count);
    interrupted.flat_map(|(_, machines, _)| machines).collect()
}

fn release(stored: &VPSieNode) -> Option<Value> {
    read_mark(stored).map(|_| json!({"metadata": {"annotations": {INCREASE: null}}}))
}

impl KubernetesStore {
    pub(super) fn note_incomplete(&self, machines: BTreeSet<MachineId>) {
        if !machines.is_empty() {
            tracing::warn!(
                machines = machines.len(),
                "a NodeGroupIncreaseSize was interrupted; no VM was requested, and the next write removes the records of its \
                 machines"
            );
        }
        *self.lock_incomplete() = machines;
    }

    /// Machines of interrupted increases whose objects still exist.
    pub(super) fn incomplete(&self) -> BTreeSet<MachineId> {
        let mut incomplete = self.lock_incomplete();
        incomplete.retain(|id| self.nodes.get(id.as_str()).is_some());
        incomplete.clone()
    }

    fn lock_incomplete(&self) -> std::sync::MutexGuard<'_, BTreeSet<MachineId>> {
        self.incomplete.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The increase of a commit. A single machine needs none.
    pub(super) fn increase(&self, last: &LastChanges) -> Option<Increase> {
        let new = last.saved.values().filter(|m| is_unasked(m) && self.nodes.get(m.id.as_str()).is_none());
        let machines: BTreeSet<MachineId> = new.map(|m| m.id.clone()).collect();
        (machines.len() > 1).then_some(Increase { machines })
    }

    /// Removes the annotation from the remaining machines of an increase before others of it are removed;
    /// otherwise the increase would look interrupted. If the API server refuses that, no machine of the
    /// increase is removed.
    pub(super) async fn release_increases(
        &self,
        dropped: &mut BTreeSet<MachineId>,
        deadline: Instant,
    ) -> Result<Vec<RefusedRecord>, StoreError> {
        let increase = |id: &MachineId| {
            let node = self.nodes.get(id.as_str())?;
            read_mark(&node).map(|(increase, _)| increase.to_owned())
        };
        let increases: BTreeSet<String> = dropped.iter().filter_map(increase).collect();
        let mut refused = Vec::new();
        for increase_id in increases {
            let remaining = self.nodes.filter_map(|node| {
                let is_member = read_mark(node).is_some_and(|(increase, _)| increase == increase_id);
                let remains = |machine: Machine| is_unasked(&machine) && !dropped.contains(&machine.id);
                (is_member && node.to_machine().is_ok_and(remains)).then(|| node.name_any())
            });
            for name in remaining {
                match self.nodes.patch(&name, Endpoint::Main, deadline, release).await {
                    Ok(_) => {}
                    Err(StoreError::Invalid { problem, .. }) => {
                        let (members, others): (BTreeSet<MachineId>, _) = dropped
                            .iter()
                            .cloned()
                            .partition(|id| increase(id).as_ref() == Some(&increase_id));
                        *dropped = others;
                        refused.extend(members.into_iter().map(|id| RefusedRecord {
                            record: RecordKey::Machine(id),
                            problem: problem.clone(),
                        }));
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(refused)
    }
}

#[cfg(test)]
mod tests;
