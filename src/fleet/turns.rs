//! The machines to request from VPSie now. Classes that listings do not distinguish take turns, so that a new
//! node can be assigned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::age::age;
use super::ids::MachineId;
use super::listing::ShownClass;
use super::machine::{Machine, Phase, RequestOutcome};
use super::state::Fleet;
use crate::catalog::MachineClass;

/// Time that a request delays machines of classes that listings do not distinguish from its own. A VM that is
/// listed later may be bound to a machine of another class; a longer wait would make Cluster Autoscaler back
/// off healthy pools.
pub(super) const MAX_TURN: Duration = Duration::from_mins(2);

/// A machine that waits for a request, and its class.
type MachineOfClass<'a> = (&'a Machine, MachineClass);

impl Fleet {
    /// Machines to request from VPSie, in this order.
    pub fn machines_to_request(&self) -> Vec<(MachineId, MachineClass)> {
        self.machines_to_request_where(|_| true)
    }

    /// Machines to request from VPSie, in this order, of classes that can be requested now.
    pub fn machines_to_request_where(
        &self,
        ready: impl Fn(&MachineClass) -> bool,
    ) -> Vec<(MachineId, MachineClass)> {
        let shown = self.transient.shown;
        let mut by_shown_class: BTreeMap<ShownClass, Vec<MachineOfClass<'_>>> = BTreeMap::new();
        for machine in self.machines.values().filter(|m| m.needs_request()) {
            let class = machine.class();
            if ready(&class) {
                by_shown_class.entry(shown.shown_class(&class)).or_default().push((machine, class));
            }
        }
        let mut turns: BTreeMap<ShownClass, MachineClass> = BTreeMap::new();
        for class in self.newest_open_requests().into_keys().filter(|class| !self.is_overdue(class)) {
            turns.entry(shown.shown_class(&class)).or_insert(class);
        }
        let of_shown_class = |(view, candidates)| self.retain_class_on_turn(candidates, turns.get(&view));
        let wanted = interleave_classes(by_shown_class.into_iter().flat_map(of_shown_class).collect());
        wanted.into_iter().map(|(machine, class)| (machine.id.clone(), class)).collect()
    }

    /// Retains the candidates of the class on turn, if listings do not distinguish their classes. A turn ends
    /// when the class has no open request, or its newest one is older than [`MAX_TURN`]. Machines that are
    /// newer than a machine of another class wait for the next turn.
    fn retain_class_on_turn<'a>(
        &self,
        mut candidates: Vec<MachineOfClass<'a>>,
        turn: Option<&MachineClass>,
    ) -> Vec<MachineOfClass<'a>> {
        let age = |machine: &Machine| (machine.requests.len(), machine.created_at);
        // A machine with lost requests must not delay a machine that was never requested.
        candidates.sort_by_key(|(machine, class)| (self.is_overdue(class), age(machine), &machine.id));
        let Some(class) = turn.or_else(|| candidates.first().map(|(_, class)| class)).cloned() else {
            return candidates;
        };
        let other = candidates.iter().find(|(_, other)| *other != class && !self.is_overdue(other));
        let before = other.filter(|_| turn.is_some()).map(|(machine, _)| age(machine));
        candidates.retain(|(machine, of)| *of == class && before.is_none_or(|other| age(machine) <= other));
        candidates
    }

    /// Whether the newest open request for the class is older than [`MAX_TURN`], so that it delays no other
    /// class.
    pub(super) fn is_overdue(&self, class: &MachineClass) -> bool {
        self.transient.overdue.contains(class)
    }

    /// The time of the newest open request of each class. Open: a machine waits for it, and it is not lost.
    pub(super) fn newest_open_requests(&self) -> BTreeMap<MachineClass, Timestamp> {
        let mut open: BTreeMap<MachineClass, Timestamp> = BTreeMap::new();
        for machine in self.machines.values().filter(|m| matches!(m.phase, Phase::Creating { vm: None, .. }))
        {
            let requested = machine
                .requests
                .iter()
                .filter(|request| request.outcome != RequestOutcome::Lost)
                .map(|request| request.at);
            if let Some(newest) = requested.max() {
                let at = open.entry(machine.class()).or_insert(newest);
                *at = newest.max(*at);
            }
        }
        open
    }

    /// Updates the classes that no longer delay others, and the machines that other classes delay.
    pub(super) fn note_turns(&mut self, now: Timestamp) {
        let open = self.newest_open_requests();
        let overdue: BTreeSet<MachineClass> = open
            .iter()
            .filter(|(_, at)| age(**at, now) >= MAX_TURN)
            .map(|(class, _)| class.clone())
            .collect();
        let turn = open.keys().any(|class| !overdue.contains(class));
        if self.transient.overdue != overdue {
            self.transient.overdue = overdue;
        }
        if !turn && self.transient.delayed.is_empty() {
            return;
        }
        let machines = &self.machines;
        self.transient.delayed.retain(|id, _| machines.contains_key(id));
        if turn {
            let wanted: BTreeSet<MachineId> =
                self.machines_to_request().into_iter().map(|(id, _)| id).collect();
            let pending = self.machines.values().filter(|m| m.phase == Phase::Pending);
            let delayed = pending.filter(|m| !wanted.contains(&m.id)).map(|m| (m.id.clone(), now));
            self.transient.delayed.extend(delayed);
        }
    }

    /// The time from which a machine waits only for VPSie, and not for its turn.
    pub(super) fn waits_since(&self, machine: &Machine) -> Timestamp {
        self.transient.delayed.get(&machine.id).map_or(machine.created_at, |at| machine.created_at.max(*at))
    }
}

/// Sorts by number of requests and age, then takes one machine of each class in turn, so that no class waits
/// for all of another.
fn interleave_classes(mut candidates: Vec<MachineOfClass<'_>>) -> Vec<MachineOfClass<'_>> {
    candidates.sort_by_key(|(machine, _)| (machine.requests.len(), machine.created_at, &machine.id));
    let mut seen: BTreeMap<MachineClass, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, MachineOfClass<'_>)> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let nth = seen.entry(candidate.1.clone()).or_default();
        ranked.push((*nth, candidate));
        *nth += 1;
    }
    ranked.sort_by_key(|(nth, _)| *nth);
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}
