//! Interruption notices: replacement of a machine, and its drain in time (docs/designs/spot.md).

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::counts::CapacityCounts;
use super::notice::Notice;
use crate::catalog::{CapacityType, MachineClass, Resources};
use crate::cost::UsdPerHour;
use crate::fleet::age::{TOLERANCE, age};
use crate::fleet::command::Names;
use crate::fleet::group::NodeGroup;
use crate::fleet::ids::MachineId;
use crate::fleet::machine::{DeletionReason, Machine, Phase};
use crate::fleet::record::Change;
use crate::fleet::state::{Fleet, Pool};
use crate::fleet::taint::TaintEffect;

/// Maximum number of failed replacements for one notice.
const MAX_FAILED_REPLACEMENTS: usize = 4;
/// Number of replacements that do not run yet from which another pool is preferred: Cluster Autoscaler stops growing a
/// pool with more than three unready nodes, if they are more than 45 percent.
const MANY_COMING: usize = 3;
/// Maximum ratio of the price of that pool to the price of the cheapest one.
const MANY_COMING_MARKUP: f64 = 1.25;
/// Time for which a replacement whose notice was withdrawn replaces the same machine after a new notice.
const REUSED_FOR: Duration = Duration::from_mins(15);

/// The progress of the replacement of a machine with a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplacementState {
    /// There is none.
    Missing,
    /// It was recorded, and does not run yet.
    Coming,
    /// Its Node registered.
    Registered,
    /// No further one is tried.
    Exhausted,
}

impl Fleet {
    /// Adds a replacement for a machine with a notice, of the cheapest pool of its NodeGroup that has room for
    /// `needed`, or else of the one with the most memory. Nothing if there is a live one, or no pool can grow.
    pub fn replace_machine(
        &mut self,
        id: &MachineId,
        needed: Resources,
        now: Timestamp,
        names: Names<'_>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.replacement_state(id) != Some(ReplacementState::Missing) {
            return changes;
        }
        let Some(machine) = self.machines.get(id).cloned() else { return changes };
        let Some(pool) = self.replacement_pool(&machine, needed, now) else { return changes };
        let size = pool.offer.size;
        let pool = pool.id.clone();
        let name = self.unused_name(&pool.node_group, names);
        let replacement =
            Machine { replaces: Some(id.clone()), ..Machine::new(name, pool, size, now, Phase::Pending) };
        self.push_change(&mut changes, Change::SaveMachine(replacement));
        changes
    }

    /// Follows up on the failure of a replacement: its pool is recorded in the notice, and the failed machine is
    /// deleted, so that Cluster Autoscaler does not count it as a failed scale-up of its own.
    pub(in crate::fleet) fn note_failed_replacement(&mut self, changes: &mut Vec<Change>, failed: &Machine) {
        let (Phase::Failed { at, .. }, Some(replaced)) = (&failed.phase, &failed.replaces) else { return };
        let Some(mut machine) = self.machines.get(replaced).cloned() else { return };
        let Some(notice) = &mut machine.notice else { return };
        if !notice.failed_pools.contains(&failed.pool) {
            notice.failed_pools.push(failed.pool.clone());
            self.push_change(changes, Change::SaveMachine(machine));
        }
        changes.extend(self.retire(&failed.id, DeletionReason::FailedExpired, *at));
    }

    /// The progress of the replacement. None without a notice or a VM, and for a Deleting machine.
    pub fn replacement_state(&self, id: &MachineId) -> Option<ReplacementState> {
        let machine = self.machines.get(id).filter(|machine| machine.counts() && machine.vm().is_some())?;
        let notice = machine.notice.as_ref()?;
        Some(match self.live_replacement(id).map(|replacement| &replacement.phase) {
            Some(Phase::Running { .. }) => ReplacementState::Registered,
            Some(_) => ReplacementState::Coming,
            None if notice.failed_pools.len() >= MAX_FAILED_REPLACEMENTS => ReplacementState::Exhausted,
            None => ReplacementState::Missing,
        })
    }

    /// The replacement of the machine that neither failed nor has a notice itself.
    pub fn live_replacement<'a>(&'a self, id: &'a MachineId) -> Option<&'a Machine> {
        let is_live = |m: &&Machine| !matches!(m.phase, Phase::Failed { .. }) && m.notice.is_none();
        self.replacements_of(id).find(is_live)
    }

    /// The replacements of the machine that count in the target size.
    pub fn replacements_of<'a>(&'a self, id: &'a MachineId) -> impl Iterator<Item = &'a Machine> {
        let replacements = self.replacements.get(id).into_iter().flatten();
        replacements.filter_map(|id| self.machines.get(id)).filter(|machine| machine.counts())
    }

    /// Machines with a VM and a notice that are not being deleted, the most urgent first.
    pub fn machines_with_notice(&self) -> Vec<&Machine> {
        let has_notice = |m: &&Machine| m.notice.is_some() && m.counts() && m.vm().is_some();
        let mut noticed: Vec<&Machine> = self.machines.values().filter(has_notice).collect();
        noticed.sort_by_key(|m| (m.notice.as_ref().map(Notice::deadline), &m.id));
        noticed
    }

    /// Deletes a machine with a notice: its Node is drained first.
    pub fn retire_interrupted(&mut self, id: &MachineId, now: Timestamp) -> Vec<Change> {
        if self.machines.get(id).is_none_or(|machine| machine.notice.is_none()) {
            return Vec::new();
        }
        self.retire(id, DeletionReason::InterruptionNotice, now)
    }

    /// Whether the machine replaces a machine with a notice, or a Deleting machine.
    pub fn is_needed_replacement(&self, machine: &Machine) -> bool {
        let replaced = machine.replaces.as_ref().and_then(|id| self.machines.get(id));
        replaced.is_some_and(|replaced| replaced.notice.is_some() || !replaced.counts())
    }

    /// Deletes machines two minutes after their deadline. Clears `replaces` of a running replacement whose
    /// machine is gone, and of any replacement after [`REUSED_FOR`], unless its machine still needs it.
    pub(in crate::fleet) fn expire_notices(&mut self, changes: &mut Vec<Change>, now: Timestamp) {
        let concerned = |m: &&Machine| m.notice.is_some() || m.replaces.is_some();
        for machine in self.machines.values().filter(concerned).cloned().collect::<Vec<_>>() {
            let is_over =
                machine.notice.as_ref().is_some_and(|notice| age(notice.deadline(), now) >= TOLERANCE);
            if machine.counts() && is_over {
                changes.extend(self.retire_interrupted(&machine.id, now));
            } else if let Some(replaced) = &machine.replaces
                && !self.is_needed_replacement(&machine)
                && (age(machine.created_at, now) >= REUSED_FOR
                    || !self.machines.contains_key(replaced) && !machine.is_coming_replacement())
            {
                self.push_change(changes, Change::SaveMachine(Machine { replaces: None, ..machine }));
            }
        }
    }

    /// The pool for the replacement. Pools whose replacement failed are excluded, and the class of an interrupted spot
    /// machine; pools of other interrupted classes come last. A pool with many replacements that do not run yet counts as
    /// [`MANY_COMING_MARKUP`] times as expensive.
    fn replacement_pool(&self, machine: &Machine, needed: Resources, now: Timestamp) -> Option<&Pool> {
        let failed = machine.notice.as_ref().map_or(&[][..], |notice| &notice.failed_pools);
        let noticed = self.machines_with_notice();
        let class = |pool: &Pool| pool.id.class(pool.offer.size);
        let is_spot = |class: &MachineClass| class.capacity_type == CapacityType::Spot;
        let interrupted: BTreeSet<MachineClass> = noticed.iter().map(|m| m.class()).filter(is_spot).collect();
        let own = Some(machine.class()).filter(is_spot);
        let group = self.groups.get(&machine.pool.node_group)?;
        let leaving = Leaving::new(&noticed, group);
        let usable: Vec<&Pool> = group
            .pools
            .iter()
            .filter_map(|id| self.pool(&id.to_string()))
            .filter(|pool| !failed.contains(&pool.id) && Some(class(pool)) != own)
            .filter(|pool| self.can_add_replacement(group, pool, machine, &leaving, now))
            .collect();
        let price = |pool: &Pool| {
            let coming = pool.members.iter().filter_map(|id| self.machines.get(id));
            let coming = coming.filter(|m| m.replaces.is_some() && !matches!(m.phase, Phase::Running { .. }));
            let markup = if coming.count() >= MANY_COMING { MANY_COMING_MARKUP } else { 1.0 };
            self.expected_price(pool).map_or(f64::INFINITY, UsdPerHour::to_f64) * markup
        };
        let fits = |pool: &&&Pool| pool.template.allocatable.can_hold(needed);
        let cheapest = usable.iter().filter(fits).min_by(|a, b| {
            let is_interrupted = |pool: &Pool| interrupted.contains(&class(pool));
            is_interrupted(a).cmp(&is_interrupted(b)).then_with(|| price(a).total_cmp(&price(b)))
        });
        let largest = || usable.iter().max_by_key(|pool| pool.template.allocatable.memory_mib);
        cheapest.or_else(largest).copied()
    }

    /// Whether the pool can add the replacement. Machines with a notice make room for it in the maxima and in the share
    /// of spot machines, but not in the limits of the VMs that are paid for.
    fn can_add_replacement(
        &self,
        group: &NodeGroup,
        pool: &Pool,
        machine: &Machine,
        leaving: &Leaving,
        now: Timestamp,
    ) -> bool {
        let class = pool.id.class(pool.offer.size);
        if !pool.growable || self.limits_unknown.is_some() || self.shortages.active(&class, now).is_some() {
            return false;
        }
        let counts = self.capacity_counts(&group.name);
        let within_policy = match (group.spot, pool.id.capacity_type) {
            (Some(policy), CapacityType::Spot) => {
                let spot = counts.spot.saturating_sub(leaving.of_group.spot);
                let on_demand = counts.staying_on_demand();
                // Pods of an on-demand Node need not tolerate the taint.
                let is_repelled = policy.taint == Some(TaintEffect::NoSchedule)
                    && machine.pool.capacity_type == CapacityType::OnDemand;
                !is_repelled
                    && self.spot_block(pool).is_none()
                    && policy.max_share.headroom(spot, on_demand) > 0
            }
            (None, CapacityType::Spot) => false,
            (_, CapacityType::OnDemand) => {
                machine.pool.capacity_type == CapacityType::OnDemand || self.spot_headroom(group, pool) > 0
            }
        };
        let headroom = self.headroom(group);
        let of_group = leaving.of_group.spot + leaving.of_group.on_demand;
        within_policy
            && self.group_target(pool) < group.max.saturating_add(of_group)
            && self.max_machines.is_none_or(|max| self.total_target() < max.saturating_add(leaving.total))
            && headroom.paid > 0
            && headroom.guard > 0
            && self.health_limit(&pool.id.datacenter) > 0
            && self.affordable(group, pool) > 0
    }
}

/// Machines with a notice.
struct Leaving {
    /// Of the NodeGroup.
    of_group: CapacityCounts,
    /// Of all NodeGroups.
    total: u32,
}

impl Leaving {
    fn new(noticed: &[&Machine], group: &NodeGroup) -> Self {
        let mut of_group = CapacityCounts::default();
        let own = noticed.iter().filter(|machine| machine.pool.node_group == group.name);
        own.for_each(|machine| of_group.count(machine, true));
        Self { of_group, total: noticed.len() as u32 }
    }
}
