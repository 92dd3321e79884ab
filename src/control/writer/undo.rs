//! Undoes commands that Cluster Autoscaler saw fail. Otherwise a machine that it does not know of would be paid for, and
//! a Node that it takes back into use would lose its VM.

use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::{Change, Fleet, Machine, MachineId, Phase};

/// How long after a write that failed the API server may still do it.
const LATE: Duration = Duration::from_mins(2);

/// What failed commands changed, until it is certain that nothing of it is recorded any more.
#[derive(Debug, Default)]
pub(super) struct FailedCommands {
    commands: Vec<FailedCommand>,
    recheck_at: Option<Instant>,
}

/// A machine before a command that failed, and what the command made of it.
#[derive(Debug)]
struct FailedCommand {
    machine: Option<Machine>,
    after: Machine,
    failed_at: Instant,
}

impl FailedCommands {
    /// Notes what commands may have recorded, to the fleet as it was before them.
    pub(super) fn remember<'a>(&mut self, changes: impl Iterator<Item = &'a Change>, before: &Fleet) {
        let failed_at = Instant::now();
        for change in changes {
            let Change::SaveMachine(after) = change else { continue };
            let machine = before.machine(&after.id).cloned();
            self.commands.push(FailedCommand { machine, after: after.clone(), failed_at });
        }
        if !self.commands.is_empty() {
            self.recheck_at = Some(failed_at + LATE);
        }
    }

    /// Whether the records are to be read again, because a late write may have been done.
    pub(super) fn is_recheck_due(&self) -> bool {
        self.recheck_at.is_some_and(|at| Instant::now() >= at)
    }

    /// What undoes those that are recorded.
    pub(super) fn due(&self, fleet: &Fleet) -> Vec<Change> {
        self.commands.iter().filter_map(|command| command.undo(fleet.machine(&command.after.id)?)).collect()
    }

    /// Forgets what can be recorded no more.
    pub(super) fn reloaded(&mut self) {
        self.commands.retain(|command| command.failed_at.elapsed() < LATE);
        if self.commands.is_empty() {
            self.recheck_at = None;
        }
    }
}

impl FailedCommand {
    /// Nothing where the machine went on since, above all where VPSie was asked for it.
    fn undo(&self, recorded: &Machine) -> Option<Change> {
        let same = recorded.phase == self.after.phase && recorded.requests == self.after.requests;
        match &self.machine {
            _ if !same => None,
            None => is_unrequested(recorded).then(|| Change::DropMachine(recorded.id.clone())),
            Some(before) => (before.phase != recorded.phase).then(|| Change::SaveMachine(before.clone())),
        }
    }
}

fn is_unrequested(machine: &Machine) -> bool {
    machine.phase == Phase::Pending && machine.requests.is_empty()
}

/// What undoes changes that are recorded, of machines that nothing else in the batch changed. A machine that a command
/// removed stays away: nothing was asked of VPSie for it.
pub(super) fn undo(changes: Vec<&Change>, before: &Fleet, working: &Fleet) -> Vec<Change> {
    let mut undo: Vec<Change> = Vec::new();
    for change in changes {
        let Change::SaveMachine(after) = change else { continue };
        let before = |id: &MachineId| before.machine(id).cloned();
        let command =
            FailedCommand { machine: before(&after.id), after: after.clone(), failed_at: Instant::now() };
        undo.extend(working.machine(&after.id).and_then(|machine| command.undo(machine)));
    }
    undo
}
