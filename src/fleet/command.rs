//! Commands of Cluster Autoscaler, and their refusals.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::ids::{
    Hostname, MachineId, NodeGroupName, PLACEHOLDER_PREFIX, PROVIDER_ID_PREFIX, ProviderId, VmId,
};
use super::machine::{DeletionReason, DrainState, Machine, Phase};
use super::query::Budget;
use super::record::{Change, UnmanagedKind};
use super::refusal::{CostLimitReached, Refusal};
use super::state::Fleet;

/// A node as Cluster Autoscaler names it in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRef {
    /// `spec.providerID`, or an Instance id for a node that never registered.
    pub provider_id: String,
    /// Name of the Node, or the Instance id for a node that never registered.
    pub name: String,
    /// Cluster Autoscaler made up the node for an instance that never registered or failed
    /// (docs/reference/cluster-autoscaler.md#made-up-nodes).
    pub fake: bool,
}

/// Generates the name of a new machine.
pub type Names<'a> = &'a mut dyn FnMut(&NodeGroupName) -> MachineId;

/// The object that a node of a deletion names.
enum DeletionTarget<'a> {
    Machine(&'a Machine),
    /// A machine or VM that no longer exists.
    Gone,
}

impl Fleet {
    /// `NodeGroupIncreaseSize`: takes over replacements that are on their way, and adds Pending machines for the rest
    /// of `delta`; or refuses all.
    ///
    /// From release 1.36 on, Cluster Autoscaler counts a coming machine as an upcoming node only if it requested one.
    /// With this request, it counts the replacements, so the target size need not grow for them. Earlier releases count
    /// them without a request, and ask for machines beyond them: such a request takes them over although it needs
    /// more, and is repeated in the next loop, because its pods still wait. That delays it by one loop for each
    /// replacement at most.
    pub fn increase(
        &mut self,
        pool: &str,
        delta: i32,
        now: Timestamp,
        names: Names<'_>,
    ) -> Result<Vec<Change>, Refusal> {
        let wanted = u32::try_from(delta).ok().filter(|delta| *delta > 0);
        let wanted = wanted.ok_or(Refusal::Delta { delta, allowed: "above 0" });
        let known = self.pool(pool).ok_or_else(|| Refusal::UnknownPool(pool.to_owned()))?;
        let id = known.id.clone();
        let size = known.offer.size;
        let wanted = wanted?;
        let taken_over = self.next_replacements(known, wanted);
        let added = wanted - taken_over.len() as u32;
        if added > 0 {
            self.may_grow(pool, added)?;
        }
        let mut changes = Vec::new();
        for replacement in taken_over {
            self.push_change(&mut changes, Change::SaveMachine(Machine { replaces: None, ..replacement }));
        }
        for _ in 0..added {
            let name = self.unused_name(&id.node_group, names);
            let machine = Machine::new(name, id.clone(), size, now, Phase::Pending);
            self.push_change(&mut changes, Change::SaveMachine(machine));
        }
        Ok(changes)
    }

    /// Checks whether the pool may grow by `wanted` machines now.
    pub(crate) fn may_grow(&self, pool: &str, wanted: u32) -> Result<(), Refusal> {
        let known = self.pool(pool).ok_or_else(|| Refusal::UnknownPool(pool.to_owned()))?;
        let not_growable = |why: &str| Refusal::NotGrowable { pool: known.id.clone(), why: why.to_owned() };
        let Some(group) = self.group(known) else {
            return Err(not_growable(if self.lacks_spec(&known.id.node_group) {
                "its NodeGroup is invalid or unreadable; see its condition Ready"
            } else {
                "its NodeGroup was deleted"
            }));
        };
        if group.deletion.is_some() {
            return Err(not_growable("its NodeGroup is being deleted"));
        }
        if known.position.is_none() {
            return Err(not_growable("its NodeGroup no longer lists its offer"));
        }
        if !known.growable {
            return Err(not_growable("VPSie's catalog no longer has its offer"));
        }
        if let Some(why) = self.payload_problem_of(&known.id) {
            return Err(not_growable(&format!("its VMs could not join the cluster: {why}")));
        }
        if let Some(why) = &self.limits_unknown {
            return Err(Refusal::LimitsUnknown { pool: known.id.clone(), why: Arc::clone(why) });
        }
        let headroom = self.headroom(group);
        if headroom.group < wanted {
            return Err(Refusal::AboveMax {
                pool: known.id.clone(),
                delta: wanted,
                group_target: self.group_target(known),
                group_max: group.max,
            });
        }
        if let Some(max) = self.max_machines
            && headroom.cluster < wanted
        {
            return Err(Refusal::AboveClusterMax {
                pool: known.id.clone(),
                delta: wanted,
                machines: self.total_target(),
                max,
            });
        }
        if headroom.guard < wanted {
            return Err(self.guard_refusal(known, wanted));
        }
        if headroom.paid < wanted {
            return Err(self.paid_refusal(known, group, wanted));
        }
        for Budget { whose, cost, limit } in self.budgets(group) {
            let pool = known.id.clone();
            let Some(price) = known.price else {
                return Err(Refusal::PriceUnknown { pool, offer: known.offer.name.clone() });
            };
            if cost + price * wanted > limit {
                let reached = CostLimitReached { pool, delta: wanted, whose, cost, limit, price };
                return Err(Refusal::AboveCostLimit(Box::new(reached)));
            }
        }
        // Last, so that a limit of all pools is not hidden by the limit of one.
        self.check_datacenter(group, known, wanted)?;
        self.check_spot_policy(group, known, wanted)
    }

    /// `NodeGroupDecreaseTargetSize`: removes up to `-delta` machines that were never requested from VPSie,
    /// the newest first. It deletes no VM (docs/reference/cluster-autoscaler.md#nodegroupdecreasetargetsize).
    /// Without such a machine it succeeds: an error would abort Cluster Autoscaler's whole loop, often only
    /// because its view is older (docs/reference/cluster-autoscaler.md#target-size).
    pub fn decrease(&mut self, pool: &str, delta: i32) -> Result<Vec<Change>, Refusal> {
        let known = self.pool(pool).ok_or_else(|| Refusal::UnknownPool(pool.to_owned()))?;
        if delta >= 0 {
            return Err(Refusal::Delta { delta, allowed: "below 0" });
        }
        let mut pending: Vec<_> = self
            .machines_of(known)
            // A replacement belongs to no scale-up of Cluster Autoscaler.
            .filter(|m| m.phase == Phase::Pending && m.requests.is_empty() && m.replaces.is_none())
            .map(|m| (m.created_at, m.id.clone()))
            .collect();
        pending.sort_unstable_by(|a, b| b.cmp(a));
        let mut changes = Vec::new();
        for (_, id) in pending.into_iter().take(delta.unsigned_abs() as usize) {
            self.push_change(&mut changes, Change::DropMachine(id));
        }
        Ok(changes)
    }

    /// `NodeGroupDeleteNodes`: deletes all of the nodes, or none. A node that is deleted or being deleted
    /// already is a success (docs/reference/cluster-autoscaler.md#nodegroupdeletenodes).
    pub fn delete_nodes(
        &mut self,
        pool: &str,
        nodes: &[NodeRef],
        now: Timestamp,
    ) -> Result<Vec<Change>, Refusal> {
        let mut targets = BTreeMap::new();
        let mut healthy = 0;
        for node in nodes {
            match self.find_deletion_target(node) {
                Some(DeletionTarget::Gone) => {}
                Some(DeletionTarget::Machine(machine)) if machine.pool.to_string() == pool => {
                    let running = matches!(machine.phase, Phase::Running { .. });
                    // The placeholder of a Running machine is stale, because its Node registered since.
                    // Without a UUID the placeholder is still its id.
                    let stale = running
                        && node.provider_id.starts_with(PLACEHOLDER_PREFIX)
                        && machine.instance_id() != node.provider_id;
                    if machine.counts() && !stale && !targets.contains_key(&machine.id) {
                        healthy += u32::from(running && !node.fake);
                        // Cluster Autoscaler does not drain instances without a Node, and the Node may have
                        // registered since.
                        let drain = if node.fake { DrainState::Pending } else { DrainState::Done };
                        targets.insert(machine.id.clone(), drain);
                    }
                }
                _ => return Err(Refusal::ForeignNode { pool: pool.to_owned(), node: node.name.clone() }),
            }
        }
        self.check_minimum(pool, targets.len() as u32, healthy)?;
        let mut changes = Vec::new();
        for (id, drain) in targets {
            self.mark_for_deletion(&mut changes, &id, DeletionReason::ClusterAutoscaler, drain, now);
        }
        Ok(changes)
    }

    /// The object that the node names. None if it is neither a machine nor a VM of this installation.
    fn find_deletion_target(&self, node: &NodeRef) -> Option<DeletionTarget<'_>> {
        if let Some(machine) = self.machine_of(&node.provider_id, &node.name) {
            return Some(DeletionTarget::Machine(machine));
        }
        if node.provider_id.starts_with(PLACEHOLDER_PREFIX) {
            return Some(DeletionTarget::Gone);
        }
        let vm = node.provider_id.strip_prefix(PROVIDER_ID_PREFIX).map(VmId::from);
        let same = vm.as_ref().and_then(|vm| self.unmanaged_by_vm_id(vm));
        match same.or_else(|| self.unmanaged.get(&Hostname::new(&node.name))) {
            Some(unmanaged) => {
                matches!(unmanaged.kind, UnmanagedKind::Gone { .. }).then_some(DeletionTarget::Gone)
            }
            None => vm.map(|_| DeletionTarget::Gone),
        }
    }

    /// Refuses deletions of healthy nodes below the minimum of the NodeGroup or of its datacenter, or beyond the maximum
    /// share of spot machines. Deletions of other nodes may break these limits
    /// (docs/reference/cluster-autoscaler.md#nodegroupdeletenodes).
    fn check_minimum(&self, pool: &str, deleted: u32, healthy: u32) -> Result<(), Refusal> {
        let Some(known) = self.pool(pool) else { return Ok(()) };
        let group_target = self.group_target(known);
        let group_min = match self.group(known) {
            Some(group) => group.minimum(),
            None if self.lacks_spec(&known.id.node_group) => group_target,
            None => 0,
        };
        if healthy > 0 && group_target.saturating_sub(deleted) < group_min {
            return Err(Refusal::BelowMin { pool: known.id.clone(), healthy, group_target, group_min });
        }
        self.check_datacenter_minimum(known, deleted, healthy)?;
        self.check_share_after_deletion(known, healthy)
    }

    /// Marks a machine for deletion; its Node is drained first. A Deleting machine stays unchanged.
    pub fn retire(&mut self, id: &MachineId, reason: DeletionReason, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.machines.get(id).is_some_and(Machine::counts) {
            self.mark_for_deletion(&mut changes, id, reason, DrainState::Pending, now);
        }
        changes
    }

    /// Writes the record of a machine again, because a user removed it.
    pub fn rewrite_record(&self, id: &MachineId) -> Vec<Change> {
        self.machines.get(id).cloned().map(Change::SaveMachine).into_iter().collect()
    }

    /// Adopts the providerID that another controller set on the machine's Node as the machine's Instance id.
    pub fn adopt_provider_id(&mut self, id: &MachineId, provider_id: &ProviderId) -> Vec<Change> {
        let mut changes = Vec::new();
        let known = self.machine_of(provider_id.as_str(), "").is_some();
        let Some(mut machine) = self.machines.get(id).filter(|_| !known).cloned() else { return changes };
        if let Phase::Creating { vm: Some(vm), .. } | Phase::Running { vm, .. } = &mut machine.phase {
            vm.provider_id = Some(provider_id.clone());
            self.push_change(&mut changes, Change::SaveMachine(machine));
        }
        changes
    }

    /// Records the drain state of a machine that is being deleted.
    pub fn note_drain(&mut self, id: &MachineId, seen: DrainState) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(mut machine) = self.machines.get(id).cloned() else { return changes };
        if let Phase::Deleting { drain, .. } = &mut machine.phase
            && *drain != DrainState::Done
            && *drain != seen
        {
            *drain = seen;
            self.push_change(&mut changes, Change::SaveMachine(machine));
        }
        changes
    }

    /// Completes all drains: without an API server, VMs are deleted without a drain.
    pub(super) fn skip_drains(&mut self, changes: &mut Vec<Change>) {
        let due =
            |m: &&Machine| matches!(m.phase, Phase::Deleting { vm: Some(_), drain: DrainState::Pending, .. });
        for id in self.machines.values().filter(due).map(|m| m.id.clone()).collect::<Vec<_>>() {
            changes.extend(self.note_drain(&id, DrainState::Done));
        }
    }

    /// Marks a machine Deleting while it may have a VM; otherwise removes it. The drain of a VM that is not
    /// known yet is pending, because the VM may have a Node when it appears.
    pub(super) fn mark_for_deletion(
        &mut self,
        changes: &mut Vec<Change>,
        id: &MachineId,
        reason: DeletionReason,
        drain: DrainState,
        now: Timestamp,
    ) {
        let Some(machine) = self.machines.get(id) else { return };
        let vm = machine.vm().cloned();
        let drain = if vm.is_some() { drain } else { DrainState::Pending };
        let change = if vm.is_none() && machine.requests.is_empty() {
            Change::DropMachine(id.clone())
        } else {
            let phase = Phase::Deleting { vm, since: now, reason, drain, accepted_at: None };
            Change::SaveMachine(Machine { phase, ..machine.clone() })
        };
        self.push_change(changes, change);
    }

    pub(super) fn unused_name(&self, group: &NodeGroupName, names: Names<'_>) -> MachineId {
        loop {
            let name = names(group);
            if !self.machines.contains_key(&name) {
                return name;
            }
        }
    }
}
