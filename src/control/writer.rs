//! The single writer of the fleet.
//!
//! It works on its own copy of the fleet. A decision changes the copy at once, so that decisions of one batch
//! see each other and share one write. Changes are applied to the fleet that readers see once they are
//! durable, and are acknowledged only then (invariant 2).

mod refused;
mod undo;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, oneshot, watch};

use super::audit::AuditLog;
use super::handle::{CommandError, FleetHandle, OnPartialWrite, WriteJob, WriterMessage};
use crate::clock::Clock;
use crate::fleet::{
    Cause, Change, Declaration, Fleet, FleetSettings, Machine, MachineId, NodeGroupName, RecordKey,
};
use crate::store::{Store, StoreError};
use refused::{Deferred, RecordBackoffs, split_refused};
use undo::{FailedCommand, FailedCommands, MachinesBefore, undo_all};

/// Maximum of decisions that share one write.
const MAX_BATCH: usize = 256;

/// The declarations and settings of a fleet.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Declarations of users.
    pub declaration: Declaration,
    /// Assumptions about nodes, prices, cost limit.
    pub settings: FleetSettings,
}

/// The single writer of the fleet.
pub struct FleetWriter {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: StdRng,
    audit_log: AuditLog,
    /// Ahead of `shared` by the changes that are being written. None after a failed write, because it is
    /// unknown which changes were written.
    working: Option<Fleet>,
    failed_commands: FailedCommands,
    record_backoffs: RecordBackoffs,
    shared: Arc<RwLock<Fleet>>,
    messages: mpsc::Receiver<WriterMessage>,
    commits: watch::Sender<u64>,
}

struct PendingJob {
    cause: Cause,
    changes: Vec<Change>,
    /// Machines before the job changed them. None for new ones.
    before: MachinesBefore,
    reply: oneshot::Sender<Result<Vec<Change>, CommandError>>,
    on_partial_write: OnPartialWrite,
}

/// The result of a write.
#[derive(Default)]
struct Written {
    deferred: Deferred,
    /// Indexes of the jobs that were undone.
    undone: BTreeSet<usize>,
    /// The changes that undid them, in the order of their writes.
    undo: Vec<Change>,
}

impl FleetWriter {
    /// Loads the fleet. `seed` determines the names of new machines.
    pub async fn load(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        config: FleetConfig,
        seed: u64,
        audit_log: AuditLog,
    ) -> Result<(Self, FleetHandle), StoreError> {
        let fleet = Fleet::restore(config.declaration, store.load().await?, config.settings);
        let shared = Arc::new(RwLock::new(fleet.clone()));
        let (sender, messages) = mpsc::channel(MAX_BATCH);
        let (commits, seen) = watch::channel(0);
        let handle = FleetHandle { fleet: Arc::clone(&shared), messages: sender, commits: seen };
        let random = StdRng::seed_from_u64(seed);
        let writer = Self {
            store,
            clock,
            random,
            audit_log,
            working: Some(fleet),
            failed_commands: FailedCommands::default(),
            record_backoffs: RecordBackoffs::default(),
            shared,
            messages,
            commits,
        };
        Ok((writer, handle))
    }

    /// Runs until every handle is dropped.
    pub async fn run(mut self) {
        while let Some(first) = self.messages.recv().await {
            let mut batch = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next.take() {
                match message {
                    WriterMessage::Job(job) => batch.push(job),
                    WriterMessage::Declare(declaration, reply) => {
                        // In order of arrival: earlier jobs come first.
                        self.decide(std::mem::take(&mut batch)).await;
                        self.declare(declaration);
                        // The caller may have stopped waiting.
                        let _ = reply.send(());
                    }
                }
                if batch.len() < MAX_BATCH {
                    next = self.messages.try_recv().ok();
                }
            }
            self.decide(batch).await;
        }
    }

    fn declare(&mut self, declaration: Declaration) {
        if let Some(working) = &mut self.working {
            working.declare(declaration.clone());
        }
        self.shared.write().unwrap_or_else(PoisonError::into_inner).declare(declaration);
        self.commits.send_modify(|commits| *commits += 1);
    }

    async fn decide(&mut self, batch: Vec<WriteJob>) {
        if batch.is_empty() {
            return;
        }
        if self.failed_commands.is_recheck_due() {
            self.working = None;
        }
        let mut working = match self.working.take() {
            Some(working) => working,
            None => match self.reload().await {
                Ok(fleet) => fleet,
                Err(error) => return refuse(batch, &Arc::new(error)),
            },
        };
        let now = self.clock.now();
        let random = &mut self.random;
        let mut draw =
            |group: &NodeGroupName| MachineId::new(format!("{group}-{:08x}", random.random::<u32>()));
        let mut waiting = Vec::with_capacity(batch.len());
        let shared = Arc::clone(&self.shared);
        // Machines as earlier jobs of the batch left them.
        let mut latest = MachinesBefore::new();
        // Skips jobs whose caller has stopped waiting: it has already seen an error.
        for WriteJob { cause, decide, reply, on_partial_write } in
            batch.into_iter().filter(|job| !job.reply.is_closed())
        {
            match decide(&mut working, now, &mut draw) {
                Ok(changes) => {
                    let shared = shared.read().unwrap_or_else(PoisonError::into_inner);
                    let before = machines_before(&changes, &latest, &shared);
                    latest.extend(before.keys().map(|id| (id.clone(), working.machine(id).cloned())));
                    waiting.push(PendingJob { cause, changes, before, reply, on_partial_write });
                }
                Err(refusal) => {
                    self.audit_log.refused(&refusal);
                    drop(reply.send(Err(refusal.into())));
                }
            }
        }
        let changes: Vec<Change> = waiting.iter().flat_map(|w| w.changes.iter().cloned()).collect();
        let written = match self.write(&changes, &waiting, &working).await {
            Ok(written) => written,
            Err(error) => {
                tracing::error!(%error, "cannot write the records; the commands fail with this error");
                let error = Arc::new(error);
                let commands = waiting.iter().filter(|job| job.is_command());
                self.failed_commands.remember(commands.flat_map(PendingJob::commands));
                for PendingJob { reply, .. } in waiting {
                    drop(reply.send(Err(CommandError::Store(Arc::clone(&error)))));
                }
                return;
            }
        };
        let undo = self.publish(waiting, &written, &working);
        if !written.deferred.is_empty() || !written.undone.is_empty() || !undo.is_empty() {
            // The next decision must not see changes that were not written.
            working = self.shared().clone();
        }
        self.working = Some(working);
        if !undo.is_empty() {
            match self.commit_undo(&undo).await {
                Ok(refused) => self.failed_commands.note_refused(&refused),
                Err(error) => {
                    tracing::error!(
                        %error,
                        "cannot undo a failed command; reading the records again"
                    );
                    self.working = None;
                }
            }
        }
    }

    fn shared(&self) -> RwLockReadGuard<'_, Fleet> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the changes. Some are deferred: their record is refused, or depends on a refused one. Commands
    /// that are written in part, or whose caller has stopped waiting, are undone at once.
    async fn write(
        &mut self,
        changes: &[Change],
        waiting: &[PendingJob],
        working: &Fleet,
    ) -> Result<Written, StoreError> {
        let mut written = Written::default();
        let deferred = &mut written.deferred;
        deferred.add(changes, self.record_backoffs.waiting(changes));
        let due: Vec<Change> = changes.iter().filter(|change| !deferred.contains(change)).cloned().collect();
        if !due.is_empty() {
            let refused = split_refused(self.store.commit(&due).await)?;
            self.record_backoffs.update(&due, &refused);
            for refused in &refused {
                self.audit_log.record_refused(refused, &due);
            }
            // Only the changes that were due: the store defers the same ones.
            deferred
                .add(&due, refused.into_iter().map(|refused| (refused.record, refused.problem)).collect());
        }
        // A caller that stops waiting has seen an error. Repeats while callers do so during the writes.
        loop {
            let failed: Vec<usize> = (0..waiting.len())
                .filter(|index| {
                    !written.undone.contains(index) && waiting[*index].has_failed(&written.deferred)
                })
                .collect();
            if failed.is_empty() {
                return Ok(written);
            }
            written.undone.extend(failed);
            let commands: Vec<FailedCommand> = written
                .undone
                .iter()
                .flat_map(|index| waiting[*index].commands())
                .filter(|command| !written.deferred.contains(&Change::SaveMachine(command.after.clone())))
                .collect();
            written.undo = undo_all(commands.iter(), working);
            if !written.undo.is_empty() {
                let refused = self.commit_undo(&written.undo).await?;
                self.failed_commands.remember_refused(commands, &refused);
            }
        }
    }

    /// Writes an undo. Returns the records that the store refused.
    async fn commit_undo(&self, undo: &[Change]) -> Result<BTreeSet<RecordKey>, StoreError> {
        let refused = split_refused(self.store.commit(undo).await)?;
        for refused in &refused {
            self.audit_log.record_refused(refused, undo);
        }
        Ok(refused.into_iter().map(|refused| refused.record).collect())
    }

    /// Applies the written changes to the fleet that readers see, replies to the callers, and writes the
    /// audit log.
    ///
    /// A caller that has just stopped waiting has seen an error: its command is undone before readers see it.
    /// Returns these changes, which are still to be written.
    fn publish(&mut self, waiting: Vec<PendingJob>, written: &Written, working: &Fleet) -> Vec<Change> {
        let Written { deferred, undone, undo } = written;
        let mut reports = Vec::new();
        let mut unheard = Vec::new();
        let unheard_undo = {
            let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
            for (index, PendingJob { cause, changes, .. }) in waiting.iter().enumerate() {
                for change in changes.iter().filter(|change| !deferred.contains(change)) {
                    if !undone.contains(&index) {
                        reports.push((index, change.clone(), AuditLog::report(&shared, change, *cause)));
                    }
                    shared.apply(change);
                }
            }
            for change in undo {
                shared.apply(change);
            }
            shared.share_transient_state(working);
            for (index, mut job) in waiting.into_iter().enumerate() {
                let in_part = job.on_partial_write != OnPartialWrite::Keep && job.is_in_part(deferred);
                if in_part || undone.contains(&index) {
                    drop(job.reply.send(Err(CommandError::Store(deferred.error()))));
                    continue;
                }
                let commands = if job.is_command() { job.commands() } else { Vec::new() };
                job.changes.retain(|change| !deferred.contains(change));
                if job.reply.send(Ok(job.changes)).is_ok() {
                    self.failed_commands.forget(commands.iter().map(|command| &command.after.id));
                } else if !commands.is_empty() {
                    reports.retain(|(of, ..)| *of != index);
                    unheard.extend(commands);
                }
            }
            let undo = undo_all(unheard.iter(), &shared);
            for change in &undo {
                shared.apply(change);
            }
            undo
        };
        self.failed_commands.remember(unheard);
        if !reports.is_empty() {
            self.commits.send_modify(|commits| *commits += 1);
            for (_, change, report) in reports {
                self.audit_log.write(&change, report);
            }
        }
        unheard_undo
    }

    /// Reads the records after a failed write, and undoes failed commands before readers see them.
    async fn reload(&mut self) -> Result<Fleet, StoreError> {
        let records = self.store.load().await?;
        let mut fleet = self.shared().reloaded(records);
        let undo = self.failed_commands.due(&fleet);
        let mut refused = BTreeSet::new();
        if !undo.is_empty() {
            refused = self.commit_undo(&undo).await?;
            let records = undo.len() - refused.len();
            if records > 0 {
                tracing::warn!(records, "undid failed commands in the records");
            }
            for change in &undo {
                fleet.apply(change);
            }
        }
        self.failed_commands.reloaded(&refused);
        *self.shared.write().unwrap_or_else(PoisonError::into_inner) = fleet.clone();
        self.commits.send_modify(|commits| *commits += 1);
        Ok(fleet)
    }
}

/// The machines that the changes save, as they were before. `latest` has the machines that the batch changed
/// earlier.
fn machines_before(changes: &[Change], latest: &MachinesBefore, shared: &Fleet) -> MachinesBefore {
    let before = |id: &MachineId| latest.get(id).cloned().unwrap_or_else(|| shared.machine(id).cloned());
    let saved = changes.iter().filter_map(|change| match change {
        Change::SaveMachine(machine) => Some(&machine.id),
        _ => None,
    });
    saved.map(|id| (id.clone(), before(id))).collect()
}

impl PendingJob {
    /// Whether it is a command of Cluster Autoscaler, which is undone if it fails.
    fn is_command(&self) -> bool {
        self.on_partial_write == OnPartialWrite::Undo
    }

    /// Whether some of its changes are deferred.
    fn is_in_part(&self, deferred: &Deferred) -> bool {
        self.changes.iter().any(|change| deferred.contains(change))
    }

    /// Whether Cluster Autoscaler sees its command fail: it is written in part, or its caller has stopped
    /// waiting.
    fn has_failed(&self, deferred: &Deferred) -> bool {
        self.is_command() && (self.reply.is_closed() || self.is_in_part(deferred))
    }

    /// The machines that its undo restores.
    fn commands(&self) -> Vec<FailedCommand> {
        let saved = self.changes.iter().filter_map(|change| match change {
            Change::SaveMachine(after) => Some(after),
            _ => None,
        });
        let command = |after: &Machine| {
            let before = self.before.get(&after.id).cloned().flatten();
            FailedCommand::new(before, after.clone())
        };
        saved.map(command).collect()
    }
}

fn refuse(batch: Vec<WriteJob>, error: &Arc<StoreError>) {
    for WriteJob { reply, .. } in batch {
        drop(reply.send(Err(CommandError::Store(Arc::clone(error)))));
    }
}

#[cfg(test)]
mod tests;
