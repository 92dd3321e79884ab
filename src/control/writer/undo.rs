//! Undoes commands that failed for Cluster Autoscaler. Otherwise an unknown machine would be paid for, or a
//! Node that it uses again would lose its VM.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::super::backoff::Backoff;
use crate::fleet::{Change, Fleet, Machine, MachineId, Phase, RecordKey};

/// Time after a failed write in which the API server may still execute it.
const LATE_WRITE_LIMIT: Duration = Duration::from_mins(2);

/// First and longest wait before an undo that the store refused is retried.
const UNDO_RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_mins(10));

/// Failed commands, kept until they certainly have no record.
#[derive(Debug)]
pub(super) struct FailedCommands {
    commands: Vec<FailedCommand>,
    /// Backoff of undos that the store refused.
    retry: Backoff,
}

impl Default for FailedCommands {
    fn default() -> Self {
        Self { commands: Vec::new(), retry: Backoff::new(UNDO_RETRY.0, UNDO_RETRY.1) }
    }
}

/// Machines before a job. None for new machines.
pub(super) type MachinesBefore = BTreeMap<MachineId, Option<Machine>>;

/// A machine before and after a failed command.
#[derive(Clone, Debug)]
pub(super) struct FailedCommand {
    before: Option<Machine>,
    pub(super) after: Machine,
    failed_at: Instant,
    is_undo_refused: bool,
}

impl FailedCommands {
    /// Remembers commands that may be recorded. They are undone at the next reload.
    pub(super) fn remember(&mut self, commands: impl IntoIterator<Item = FailedCommand>) {
        self.commands.extend(commands);
    }

    /// Forgets earlier commands about these machines, because a later command about them was acknowledged.
    pub(super) fn forget<'a>(&mut self, machines: impl Iterator<Item = &'a MachineId>) {
        for machine in machines {
            self.commands.retain(|command| command.after.id != *machine);
        }
    }

    /// Remembers the commands whose undo the store refused, until it is written or the record changes
    /// otherwise.
    pub(super) fn remember_refused(&mut self, commands: Vec<FailedCommand>, refused: &BTreeSet<RecordKey>) {
        let is_refused = |command: &FailedCommand| refused.contains(&command.record());
        self.remember(commands.into_iter().filter(is_refused));
        self.note_refused(refused);
    }

    /// Notes the records whose undo the store refused. Their commands are remembered already.
    pub(super) fn note_refused(&mut self, refused: &BTreeSet<RecordKey>) {
        if refused.is_empty() {
            return;
        }
        self.retry.record_failure(None);
        for command in &mut self.commands {
            command.is_undo_refused |= refused.contains(&command.record());
        }
    }

    /// Whether the records must be read again, because a late write may have been executed, or a refused undo
    /// is retried.
    pub(super) fn is_recheck_due(&self) -> bool {
        let retry = self.commands.iter().any(|command| command.is_undo_refused) && self.retry.is_ready();
        let others = || self.commands.iter().filter(|command| !command.is_undo_refused);
        retry || others().next().is_some() && others().all(FailedCommand::is_old)
    }

    /// The changes that undo recorded commands.
    pub(super) fn due(&self, fleet: &Fleet) -> Vec<Change> {
        undo_all(self.commands.iter(), fleet)
    }

    /// Drops commands that can no longer be recorded, after their undo was written. `refused` are the records
    /// whose undo was refused.
    pub(super) fn reloaded(&mut self, refused: &BTreeSet<RecordKey>) {
        for command in &mut self.commands {
            command.is_undo_refused = false;
        }
        self.note_refused(refused);
        if refused.is_empty() {
            self.retry.record_success();
        }
        self.commands.retain(|command| command.is_undo_refused || !command.is_old());
    }
}

impl FailedCommand {
    pub(super) fn new(before: Option<Machine>, after: Machine) -> Self {
        Self { before, after, failed_at: Instant::now(), is_undo_refused: false }
    }

    fn record(&self) -> RecordKey {
        RecordKey::Machine(self.after.id.clone())
    }

    /// Whether a late write of it is certainly over.
    fn is_old(&self) -> bool {
        self.failed_at.elapsed() >= LATE_WRITE_LIMIT
    }

    /// The machine without the command; None to remove it. Err if it cannot be undone, because the machine has changed
    /// since, especially if it was requested from VPSie.
    fn undone(&self, recorded: &Machine) -> Result<Option<Machine>, Changed> {
        let same = recorded.phase == self.after.phase && recorded.requests == self.after.requests;
        match &self.before {
            None if same && is_unrequested(recorded) => Ok(None),
            Some(before) if same && before.phase != recorded.phase => Ok(Some(before.clone())),
            // A taken-over replacement; its creation may have progressed.
            Some(before) if before.replaces != self.after.replaces => {
                let is_live = recorded.counts() && !matches!(recorded.phase, Phase::Failed { .. });
                let is_taken_over = is_live && recorded.replaces == self.after.replaces;
                let undone = Machine { replaces: before.replaces.clone(), ..recorded.clone() };
                is_taken_over.then_some(Some(undone)).ok_or(Changed)
            }
            _ => Err(Changed),
        }
    }
}

/// The machine has changed since the command.
struct Changed;

/// The changes that undo commands, which are in the order of their execution. A machine that a command
/// removed is not restored, because it was never requested.
pub(super) fn undo_all<'a>(
    commands: impl DoubleEndedIterator<Item = &'a FailedCommand>,
    fleet: &Fleet,
) -> Vec<Change> {
    let mut restored: BTreeMap<&MachineId, Option<Machine>> = BTreeMap::new();
    for command in commands.rev() {
        let id = &command.after.id;
        let present = restored.get(id).map_or_else(|| fleet.machine(id), Option::as_ref);
        if let Some(Ok(undone)) = present.map(|machine| command.undone(machine)) {
            restored.insert(id, undone);
        }
    }
    let change = |(id, machine): (&MachineId, Option<Machine>)| match machine {
        None => Change::DropMachine(id.clone()),
        Some(machine) => Change::SaveMachine(machine),
    };
    restored.into_iter().map(change).collect()
}

fn is_unrequested(machine: &Machine) -> bool {
    machine.phase == Phase::Pending && machine.requests.is_empty()
}
