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
    let of = |machine: &Machine| match machine.phase {
        Phase::Deleting {
            drain: drain @ (DrainState::Pending | DrainState::NoNode),
            vm: Some(_),
            accepted_at: None,
            since,
            ..
        } => {
            let deadline = machine.notice.as_ref().map(Notice::deadline);
            Some((since, DueDrain { machine: machine.id.clone(), drain, deadline }))
        }
        _ => None,
    };
    let workers = fleet.machines().filter(|machine| !fleet.is_control_plane(machine));
    let mut all: Vec<_> = workers.filter_map(of).collect();
    all.sort_by(|(a, one), (b, other)| {
        let order = |since: &Timestamp, due: &DueDrain| (due.deadline.is_none(), due.deadline, *since);
        (order(a, one), &one.machine).cmp(&(order(b, other), &other.machine))
    });
    all.into_iter().map(|(_, due)| due).collect()
}
