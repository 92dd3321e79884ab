//! The single writer of the fleet.
//!
//! It works on its own copy of the fleet. A decision changes the copy at once, so that decisions of one batch see each
//! other and share one write. Changes are applied to the fleet that readers see once they are durable, and are
//! acknowledged only then (invariant 2).

mod refused;
mod undo;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, oneshot, watch};

use super::audit::AuditLog;
use super::handle::{CommandError, FleetHandle, OnPartialWrite, WriteJob, WriterMessage};
use crate::clock::Clock;
use crate::fleet::{Cause, Change, Declaration, Fleet, FleetSettings, MachineId, NodeGroupName};
use crate::store::{Store, StoreError};
use refused::{Deferred, RefusedRecords, split_refused};
use undo::{FailedCommands, undo};

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
    /// Ahead of `shared` by the changes that are being written. None after a failed write, because it is unknown which
    /// changes were written.
    working: Option<Fleet>,
    failed_commands: FailedCommands,
    refusals: RefusedRecords,
    shared: Arc<RwLock<Fleet>>,
    messages: mpsc::Receiver<WriterMessage>,
    commits: watch::Sender<u64>,
}

struct PendingJob {
    cause: Cause,
    changes: Vec<Change>,
    reply: oneshot::Sender<Result<Vec<Change>, CommandError>>,
    on_partial_write: OnPartialWrite,
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
            refusals: RefusedRecords::default(),
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
                        // The caller may have gone.
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
        // Skips jobs whose caller has gone: it has already seen an error.
        for WriteJob { cause, decide, reply, on_partial_write } in
            batch.into_iter().filter(|job| !job.reply.is_closed())
        {
            match decide(&mut working, now, &mut draw) {
                Ok(changes) => waiting.push(PendingJob { cause, changes, reply, on_partial_write }),
                Err(refusal) => {
                    self.audit_log.refused(&refusal);
                    drop(reply.send(Err(refusal.into())));
                }
            }
        }
        let changes: Vec<Change> = waiting.iter().flat_map(|w| w.changes.iter().cloned()).collect();
        let deferred = match self.write(&changes, &waiting, &working).await {
            Ok(deferred) => deferred,
            Err(error) => {
                tracing::error!(%error, "cannot write the records; the callers get this error");
                let error = Arc::new(error);
                let commands =
                    waiting.iter().filter(|waiting| waiting.on_partial_write == OnPartialWrite::Undo);
                let before = Arc::clone(&self.shared);
                let before = before.read().unwrap_or_else(PoisonError::into_inner);
                self.failed_commands.remember(commands.flat_map(|waiting| &waiting.changes), &before);
                drop(before);
                for PendingJob { reply, .. } in waiting {
                    drop(reply.send(Err(CommandError::Store(Arc::clone(&error)))));
                }
                return;
            }
        };
        self.publish(&waiting, &deferred);
        self.shared.write().unwrap_or_else(PoisonError::into_inner).share_transient_state(&working);
        if !deferred.is_empty() {
            // The next decision must not see changes that were not written.
            working = self.shared().clone();
        }
        self.working = Some(working);
        for PendingJob { mut changes, reply, on_partial_write, .. } in waiting {
            let all = changes.len();
            changes.retain(|change| !deferred.contains(change));
            let failed = changes.len() < all && on_partial_write != OnPartialWrite::Keep;
            let answer = if failed { Err(CommandError::Store(deferred.error())) } else { Ok(changes) };
            drop(reply.send(answer));
        }
    }

    fn shared(&self) -> RwLockReadGuard<'_, Fleet> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the changes and returns the deferred ones, whose record is refused or waits for a refused one.
    /// Commands that are written in part, or whose caller has gone, are undone at once.
    async fn write(
        &mut self,
        changes: &[Change],
        waiting: &[PendingJob],
        working: &Fleet,
    ) -> Result<Deferred, StoreError> {
        let mut deferred = Deferred::default();
        deferred.add(changes, self.refusals.standing(changes));
        let due: Vec<Change> = changes.iter().filter(|change| !deferred.contains(change)).cloned().collect();
        if !due.is_empty() {
            let refused = split_refused(self.store.commit(&due).await)?;
            self.refusals.update_backoffs(&due, &refused);
            for refused in &refused {
                self.audit_log.record_refused(refused, &due);
            }
            // Only the changes that were due: the store defers the same ones.
            deferred
                .add(&due, refused.into_iter().map(|refused| (refused.record, refused.problem)).collect());
        }
        let failed = |waiting: &&PendingJob| {
            let in_part = waiting.changes.iter().any(|change| deferred.contains(change));
            waiting.on_partial_write == OnPartialWrite::Undo && (in_part || waiting.reply.is_closed())
        };
        let failed = waiting.iter().filter(failed).flat_map(|waiting| &waiting.changes);
        let failed: Vec<&Change> = failed.filter(|change| !deferred.contains(change)).collect();
        let undo = undo(failed, &self.shared(), working);
        if !undo.is_empty() {
            for refused in split_refused(self.store.commit(&undo).await)? {
                tracing::error!(
                    %refused.record,
                    problem = refused.problem,
                    "cannot undo a failed command in this record, because the API server refuses the new \
                     record"
                );
            }
            let problem = "the command was written in part only, or its caller has gone".to_owned();
            deferred.add(&[], undo.iter().map(|change| (change.record(), problem.clone())).collect());
        }
        Ok(deferred)
    }

    /// Applies the written changes to the fleet that readers see, then writes them to the audit log.
    fn publish(&self, waiting: &[PendingJob], deferred: &Deferred) {
        let mut reports = Vec::new();
        {
            let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
            for PendingJob { cause, changes, .. } in waiting {
                for change in changes.iter().filter(|change| !deferred.contains(change)) {
                    reports.push((change, AuditLog::report(&shared, change, *cause)));
                    shared.apply(change);
                }
            }
        }
        if reports.is_empty() {
            return;
        }
        self.commits.send_modify(|commits| *commits += 1);
        for (change, report) in reports {
            self.audit_log.write(change, report);
        }
    }

    /// Reads the records after a failed write, and undoes failed commands before readers see them.
    async fn reload(&mut self) -> Result<Fleet, StoreError> {
        let records = self.store.load().await?;
        let mut fleet = self.shared().reloaded(records);
        let undo = self.failed_commands.due(&fleet);
        if !undo.is_empty() {
            for refused in split_refused(self.store.commit(&undo).await)? {
                tracing::error!(
                    %refused.record,
                    problem = refused.problem,
                    "cannot undo a failed command in this record, because the API server refuses the new \
                     record"
                );
            }
            tracing::warn!(records = undo.len(), "undid failed commands in the records");
            for change in &undo {
                fleet.apply(change);
            }
        }
        self.failed_commands.reloaded();
        *self.shared.write().unwrap_or_else(PoisonError::into_inner) = fleet.clone();
        self.commits.send_modify(|commits| *commits += 1);
        Ok(fleet)
    }
}

fn refuse(batch: Vec<WriteJob>, error: &Arc<StoreError>) {
    for WriteJob { reply, .. } in batch {
        drop(reply.send(Err(CommandError::Store(Arc::clone(error)))));
    }
}

#[cfg(test)]
mod tests;
