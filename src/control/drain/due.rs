//! Machines whose Node must be drained.

use jiff::Timestamp;

use crate::fleet::{DrainState, Fleet, Machine, MachineId, Notice, Phase};

/// A machine whose drain is pending, or whose VM may be deleted only while no Node of it is known.
#[derive(Clone, Debug)]
pub(super) struct DueDrain {
    pub(super) machine: MachineId,
    pub(super) drain: DrainState,
    /// Deadline of its interruption notice.
    pub(super) deadline: Option<Timestamp>,
}

/// Machines with a due drain: first those with an interruption notice, the most urgent first, then the longest Deleting.
pub(super) fn due_drains(fleet: &Fleet) -> Vec<DueDrain> {
    let mut all: Vec<_> = fleet.machines().filter_map(|machine| due_drain(fleet, machine)).collect();
    all.sort_by(|(a, one), (b, other)| {
        let order = |since: &Timestamp, due: &DueDrain| (due.deadline.is_none(), due.deadline, *since);
        (order(a, one), &one.machine).cmp(&(order(b, other), &other.machine))
    });
    all.into_iter().map(|(_, due)| due).collect()
}

/// The drain of the machine, if it is due.
pub(super) fn find_due_drain(fleet: &Fleet, machine: &MachineId) -> Option<DueDrain> {
    Some(due_drain(fleet, fleet.machine(machine)?)?.1)
}

/// The drain of the machine with the time at which the deletion began, if it is due.
fn due_drain(fleet: &Fleet, machine: &Machine) -> Option<(Timestamp, DueDrain)> {
    match machine.phase {
        Phase::Deleting {
            drain: drain @ (DrainState::Pending | DrainState::NoNode),
            vm: Some(_),
            accepted_at: None,
            since,
            ..
        } if !fleet.is_control_plane(machine) => {
            let deadline = machine.notice.as_ref().map(Notice::deadline);
            Some((since, DueDrain { machine: machine.id.clone(), drain, deadline }))
        }
        _ => None,
    }
}
