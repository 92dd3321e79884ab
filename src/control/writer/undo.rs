//! Undoes commands that failed for Cluster Autoscaler. Otherwise an unknown machine would be paid for, or a Node that
//! it uses again would lose its VM.

use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::{Change, Fleet, Machine, MachineId, Phase};

/// How long after a failed write the API server may still execute it.
const LATE_WRITE_LIMIT: Duration = Duration::from_mins(2);

/// Changes of failed commands, kept until they certainly have no record.
#[derive(Debug, Default)]
pub(super) struct FailedCommands {
    commands: Vec<FailedCommand>,
    recheck_at: Option<Instant>,
}

/// A machine before and after a failed command.
#[derive(Debug)]
struct FailedCommand {
    machine: Option<Machine>,
    after: Machine,
    failed_at: Instant,
}

impl FailedCommands {
    /// Remembers changes that failed commands may have recorded. `before` is the fleet before them.
    pub(super) fn remember<'a>(&mut self, changes: impl Iterator<Item = &'a Change>, before: &Fleet) {
        let failed_at = Instant::now();
        for change in changes {
            let Change::SaveMachine(after) = change else { continue };
            let machine = before.machine(&after.id).cloned();
            self.commands.push(FailedCommand { machine, after: after.clone(), failed_at });
        }
        if !self.commands.is_empty() {
            self.recheck_at = Some(failed_at + LATE_WRITE_LIMIT);
        }
    }

    /// Whether the records must be read again, because a late write may have been executed.
    pub(super) fn is_recheck_due(&self) -> bool {
        self.recheck_at.is_some_and(|at| Instant::now() >= at)
    }

    /// The changes that undo recorded commands.
    pub(super) fn due(&self, fleet: &Fleet) -> Vec<Change> {
        self.commands.iter().filter_map(|command| command.undo(fleet.machine(&command.after.id)?)).collect()
    }

    /// Drops commands that can no longer be recorded.
    pub(super) fn reloaded(&mut self) {
        self.commands.retain(|command| command.failed_at.elapsed() < LATE_WRITE_LIMIT);
        if self.commands.is_empty() {
            self.recheck_at = None;
        }
    }
}

impl FailedCommand {
    /// The change that undoes the command. None if the machine has changed since, especially if it was requested from
    /// VPSie.
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

/// The changes that undo recorded changes, for machines that no other job of the batch changed. A machine that a
/// command removed is not restored, because it was never requested.
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
