//! Undoes commands that failed for Cluster Autoscaler. Otherwise an unknown machine would be paid for, or a Node that
//! it uses again would lose its VM.

use std::collections::BTreeMap;
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

/// Machines before a job. None for new machines.
pub(super) type MachinesBefore = BTreeMap<MachineId, Option<Machine>>;

/// A machine before and after a failed command.
#[derive(Clone, Debug)]
pub(super) struct FailedCommand {
    before: Option<Machine>,
    pub(super) after: Machine,
    failed_at: Instant,
}

impl FailedCommands {
    /// Remembers commands that may be recorded. They are undone at the next reload.
    pub(super) fn remember(&mut self, commands: impl IntoIterator<Item = FailedCommand>) {
        let known = self.commands.len();
        self.commands.extend(commands);
        if self.commands.len() > known {
            self.recheck_at = Some(Instant::now() + LATE_WRITE_LIMIT);
        }
    }

    /// Whether the records must be read again, because a late write may have been executed.
    pub(super) fn is_recheck_due(&self) -> bool {
        self.recheck_at.is_some_and(|at| Instant::now() >= at)
    }

    /// The changes that undo recorded commands.
    pub(super) fn due(&self, fleet: &Fleet) -> Vec<Change> {
        undo_all(self.commands.iter(), fleet)
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
    pub(super) fn new(before: Option<Machine>, after: Machine) -> Self {
        Self { before, after, failed_at: Instant::now() }
    }

    /// Whether it can be undone. Not if the machine has changed since, especially if it was requested from VPSie.
    fn can_undo(&self, recorded: &Machine) -> bool {
        let same = recorded.phase == self.after.phase && recorded.requests == self.after.requests;
        same && self
            .before
            .as_ref()
            .map_or_else(|| is_unrequested(recorded), |before| before.phase != recorded.phase)
    }
}

/// The changes that undo commands, which are in the order of their execution. A machine that a command removed is not
/// restored, because it was never requested.
pub(super) fn undo_all<'a>(
    commands: impl DoubleEndedIterator<Item = &'a FailedCommand>,
    fleet: &Fleet,
) -> Vec<Change> {
    let mut restored: BTreeMap<&MachineId, Option<&Machine>> = BTreeMap::new();
    for command in commands.rev() {
        let id = &command.after.id;
        let present = restored.get(id).copied().unwrap_or_else(|| fleet.machine(id));
        if present.is_some_and(|machine| command.can_undo(machine)) {
            restored.insert(id, command.before.as_ref());
        }
    }
    let change = |(id, machine): (&MachineId, Option<&Machine>)| match machine {
        None => Change::DropMachine(id.clone()),
        Some(machine) => Change::SaveMachine(machine.clone()),
    };
    restored.into_iter().map(change).collect()
}

fn is_unrequested(machine: &Machine) -> bool {
    machine.phase == Phase::Pending && machine.requests.is_empty()
}
