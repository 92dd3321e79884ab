//! Which machines are requested from VPSie now. Where listings do not show the class of workers, classes
//! take turns, so that a new node can be assigned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::age::age;
use super::ids::MachineId;
use super::machine::{AskOutcome, Machine, Phase};
use super::state::Fleet;
use crate::catalog::MachineClass;

/// How long a request keeps machines of other classes waiting where listings do not show classes. A VM that is listed later
/// may be bound to a machine of another class; a longer wait would let Cluster Autoscaler give healthy pools up.
pub(super) const HOLD_UP: Duration = Duration::from_mins(2);

impl Fleet {
    /// Machines to ask VPSie for, in this order.
    pub fn wanted(&self) -> Vec<(MachineId, MachineClass)> {
        self.wanted_of(|_| true)
    }

    /// The same, of the classes that can be requested now: one that cannot must not hold up another.
    pub fn wanted_of(&self, ready: impl Fn(&MachineClass) -> bool) -> Vec<(MachineId, MachineClass)> {
        let mut wanted: Vec<_> =
            self.machines.values().filter(|m| m.needs_ask() && ready(&m.class())).collect();
        // A machine whose requests were lost must not hold up one that was never asked for.
        wanted.sort_by_key(|m| (m.asks.len(), m.created_at, &m.id));
        let wanted = if self.sightings.shows_classes { alternate(wanted) } else { self.in_turn(wanted) };
        wanted.into_iter().map(|m| (m.id.clone(), m.class())).collect()
    }

    /// Machines of the class whose turn it is. A turn ends when no request of the class is open, or when the newest is
    /// older than [`HOLD_UP`]; machines that are newer than one of another class wait for the next turn.
    fn in_turn<'a>(&self, mut wanted: Vec<&'a Machine>) -> Vec<&'a Machine> {
        let open = self.open_requests();
        wanted.sort_by_key(|m| self.is_overdue(&m.class()));
        let turn = open.keys().find(|class| !self.is_overdue(class)).cloned();
        let has_turn = turn.is_some();
        let Some(class) = turn.or_else(|| wanted.first().map(|m| m.class())) else { return wanted };
        let other = wanted.iter().find(|m| m.class() != class && !self.is_overdue(&m.class()));
        let before = other.filter(|_| has_turn).map(|m| (m.asks.len(), m.created_at));
        wanted.retain(|m| {
            m.class() == class && before.is_none_or(|other| (m.asks.len(), m.created_at) <= other)
        });
        wanted
    }

    /// Whether listings do not show classes, and the newest open request for the class is older than [`HOLD_UP`].
    pub(super) fn is_overdue(&self, class: &MachineClass) -> bool {
        self.sightings.overdue.contains(class)
    }

    /// When VPSie was last asked for each class with a request that may still have a result and a machine that waits
    /// for it.
    pub(super) fn open_requests(&self) -> BTreeMap<MachineClass, Timestamp> {
        let mut open: BTreeMap<MachineClass, Timestamp> = BTreeMap::new();
        for machine in self.machines.values().filter(|m| matches!(m.phase, Phase::Creating { vm: None, .. }))
        {
            let asked = machine.asks.iter().filter(|ask| ask.outcome != AskOutcome::Lost).map(|ask| ask.at);
            if let Some(newest) = asked.max() {
                let at = open.entry(machine.class()).or_insert(newest);
                *at = newest.max(*at);
            }
        }
        open
    }

    /// Notes which classes hold up others no more, and which machines other classes hold up.
    pub(super) fn note_turns(&mut self, now: Timestamp) {
        let open = if self.sightings.shows_classes { BTreeMap::new() } else { self.open_requests() };
        let overdue: BTreeSet<MachineClass> =
            open.iter().filter(|(_, at)| age(**at, now) >= HOLD_UP).map(|(class, _)| class.clone()).collect();
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

/// One machine of each class after the other, so that no class waits for all of another.
fn alternate(wanted: Vec<&Machine>) -> Vec<&Machine> {
    let mut seen: BTreeMap<MachineClass, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, &Machine)> = Vec::with_capacity(wanted.len());
    for machine in wanted {
        let nth = seen.entry(machine.class()).or_default();
        ranked.push((*nth, machine));
        *nth += 1;
    }
    ranked.sort_by_key(|(nth, _)| *nth);
    ranked.into_iter().map(|(_, machine)| machine).collect()
}
