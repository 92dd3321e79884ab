//! Which machines are requested from VPSie now. Where listings do not show the size of workers, sizes take turns, so
//! that a new node can be assigned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::age::age;
use super::ids::MachineId;
use super::machine::{AskOutcome, Machine, Phase};
use super::state::Fleet;
use crate::catalog::SizeId;

/// How long a request keeps machines of other sizes waiting where listings do not show sizes. A VM that is listed later
/// may be bound to a machine of another size; a longer wait would let Cluster Autoscaler give healthy pools up.
pub(super) const HOLD_UP: Duration = Duration::from_mins(2);

impl Fleet {
    /// Machines to ask VPSie for, in this order.
    pub fn wanted(&self) -> Vec<(MachineId, SizeId)> {
        self.wanted_of(|_| true)
    }

    /// The same, of the sizes that can be asked for now: one that cannot must not hold up another.
    pub fn wanted_of(&self, ready: impl Fn(SizeId) -> bool) -> Vec<(MachineId, SizeId)> {
        let mut wanted: Vec<_> = self.machines.values().filter(|m| m.needs_ask() && ready(m.size)).collect();
        // A machine whose requests were lost must not hold up one that was never asked for.
        wanted.sort_by_key(|m| (m.asks.len(), m.created_at, &m.id));
        let wanted = if self.sightings.sizes_told { alternate(wanted) } else { self.in_turn(wanted) };
        wanted.into_iter().map(|m| (m.id.clone(), m.size)).collect()
    }

    /// Machines of the size whose turn it is. A turn ends when no request of the size is open, or when the newest is
    /// older than [`HOLD_UP`]; machines that are newer than one of another size wait for the next turn.
    fn in_turn<'a>(&self, mut wanted: Vec<&'a Machine>) -> Vec<&'a Machine> {
        let open = self.open_requests();
        wanted.sort_by_key(|m| self.is_overdue(m.size));
        let turn = open.keys().find(|size| !self.is_overdue(**size)).copied();
        let Some(size) = turn.or_else(|| wanted.first().map(|m| m.size)) else { return wanted };
        let other = wanted.iter().find(|m| m.size != size && !self.is_overdue(m.size));
        let before = other.filter(|_| turn.is_some()).map(|m| (m.asks.len(), m.created_at));
        wanted.retain(|m| m.size == size && before.is_none_or(|other| (m.asks.len(), m.created_at) <= other));
        wanted
    }

    /// Whether listings do not show sizes, and the newest open request for the size is older than [`HOLD_UP`].
    pub(super) fn is_overdue(&self, size: SizeId) -> bool {
        self.sightings.overdue.contains(&size)
    }

    /// When VPSie was last asked for each size with a request that may still have a result and a machine that waits
    /// for it.
    pub(super) fn open_requests(&self) -> BTreeMap<SizeId, Timestamp> {
        let mut open: BTreeMap<SizeId, Timestamp> = BTreeMap::new();
        for machine in self.machines.values().filter(|m| matches!(m.phase, Phase::Creating { vm: None, .. }))
        {
            let asked = machine.asks.iter().filter(|ask| ask.outcome != AskOutcome::Lost).map(|ask| ask.at);
            if let Some(newest) = asked.max() {
                let at = open.entry(machine.size).or_insert(newest);
                *at = newest.max(*at);
            }
        }
        open
    }

    /// Notes which sizes hold up others no more, and which machines other sizes hold up.
    pub(super) fn note_turns(&mut self, now: Timestamp) {
        let open = if self.sightings.sizes_told { BTreeMap::new() } else { self.open_requests() };
        let overdue: BTreeSet<SizeId> =
            open.iter().filter(|(_, at)| age(**at, now) >= HOLD_UP).map(|(size, _)| *size).collect();
        let turn = open.keys().any(|size| !overdue.contains(size));
        if self.sightings.overdue != overdue {
            self.sightings.overdue = overdue;
        }
        if !turn && self.sightings.held_up.is_empty() {
            return;
        }
        let machines = &self.machines;
        self.sightings.held_up.retain(|id, _| machines.contains_key(id));
        if turn {
            let wanted: BTreeSet<MachineId> = self.wanted().into_iter().map(|(id, _)| id).collect();
            let pending = self.machines.values().filter(|m| m.phase == Phase::Pending);
            let held = pending.filter(|m| !wanted.contains(&m.id)).map(|m| (m.id.clone(), now));
            self.sightings.held_up.extend(held);
        }
    }

    /// Since when nothing but VPSie keeps a machine from being asked for.
    pub(super) fn waits_since(&self, machine: &Machine) -> Timestamp {
        self.sightings.held_up.get(&machine.id).map_or(machine.created_at, |at| machine.created_at.max(*at))
    }
}

/// One machine of each size after the other, so that no size waits for all of another.
fn alternate(wanted: Vec<&Machine>) -> Vec<&Machine> {
    let mut seen: BTreeMap<SizeId, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, &Machine)> = Vec::with_capacity(wanted.len());
    for machine in wanted {
        let nth = seen.entry(machine.size).or_default();
        ranked.push((*nth, machine));
        *nth += 1;
    }
    ranked.sort_by_key(|(nth, _)| *nth);
    ranked.into_iter().map(|(_, machine)| machine).collect()
}
