//! The only writer of the fleet.
//!
//! It works on a fleet of its own: a decision changes that one at once, so that decisions that arrive together
//! see each other and share one write. Only what is durable is applied to the fleet that everybody reads, and
//! only then acknowledged (invariant 2).

use std::sync::{Arc, PoisonError, RwLock};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, oneshot, watch};

use super::clock::Clock;
use super::handle::{CommandError, FleetHandle, Job, Message};
use super::journal::Journal;
use crate::fleet::{Basis, Change, Declaration, Fleet, MachineId, NodeGroupName};
use crate::store::{Store, StoreError};

/// Decisions that share one write, at most.
const BATCH: usize = 256;

/// What a fleet is made of, apart from its records.
#[derive(Clone, Debug)]
pub struct Declared {
    /// What users declare.
    pub declaration: Declaration,
    /// What is assumed of nodes and prices.
    pub basis: Basis,
}

/// The only writer of the fleet.
pub struct Keeper {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: StdRng,
    journal: Journal,
    /// Ahead of `shared` by what is being written. None after a write failed: what was written is not known.
    working: Option<Fleet>,
    shared: Arc<RwLock<Fleet>>,
    messages: mpsc::Receiver<Message>,
    commits: watch::Sender<u64>,
}

struct Waiting {
    changes: Vec<Change>,
    reply: oneshot::Sender<Result<Vec<Change>, CommandError>>,
}

impl Keeper {
    /// Loads the fleet. Names of machines are drawn from `seed`.
    pub async fn load(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        declared: Declared,
        seed: u64,
        journal: Journal,
    ) -> Result<(Self, FleetHandle), StoreError> {
        let fleet = Fleet::restore(declared.declaration, store.load().await?, declared.basis);
        let shared = Arc::new(RwLock::new(fleet.clone()));
        let (sender, messages) = mpsc::channel(BATCH);
        let (commits, seen) = watch::channel(0);
        let handle = FleetHandle { fleet: Arc::clone(&shared), messages: sender, commits: seen };
        let random = StdRng::seed_from_u64(seed);
        let keeper = Self { store, clock, random, journal, working: Some(fleet), shared, messages, commits };
        Ok((keeper, handle))
    }

    /// Decides until every handle is gone.
    pub async fn run(mut self) {
        while let Some(first) = self.messages.recv().await {
            let (mut batch, mut next) = (Vec::new(), Some(first));
            while let Some(message) = next.take() {
                match message {
                    Message::Job(job) => batch.push(job),
                    Message::Declare(declaration, reply) => {
                        // In their order: what came before is decided before.
                        self.decide(std::mem::take(&mut batch)).await;
                        self.declare(declaration);
                        // Whoever waited may be gone.
                        let _ = reply.send(());
                    }
                }
                if batch.len() < BATCH {
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

    async fn decide(&mut self, batch: Vec<Job>) {
        if batch.is_empty() {
            return;
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
        // Who stopped waiting was told that it failed: what is not begun yet must not happen after that.
        for Job { decide, reply } in batch.into_iter().filter(|job| !job.reply.is_closed()) {
            match decide(&mut working, now, &mut draw) {
                Ok(changes) => waiting.push(Waiting { changes, reply }),
                Err(refusal) => {
                    self.journal.refused(&refusal);
                    drop(reply.send(Err(refusal.into())));
                }
            }
        }
        let changes: Vec<Change> = waiting.iter().flat_map(|w| w.changes.iter().cloned()).collect();
        if !changes.is_empty() {
            if let Err(error) = self.store.commit(&changes).await {
                tracing::error!(%error, "the records could not be written; what was asked is not acknowledged");
                let error = Arc::new(error);
                for Waiting { reply, .. } in waiting {
                    drop(reply.send(Err(CommandError::Store(Arc::clone(&error)))));
                }
                return;
            }
            self.publish(&changes);
        }
        self.shared.write().unwrap_or_else(PoisonError::into_inner).share_sightings(&working);
        self.working = Some(working);
        for Waiting { changes, reply } in waiting {
            drop(reply.send(Ok(changes)));
        }
    }

    fn publish(&self, changes: &[Change]) {
        let mut entries = Vec::with_capacity(changes.len());
        {
            let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                entries.push(Journal::entry(&shared, change));
                shared.apply(change);
            }
        }
        self.commits.send_modify(|commits| *commits += 1);
        for (change, entry) in changes.iter().zip(entries) {
            self.journal.write(change, entry);
        }
    }

    /// After a write that failed: the records say how far it came.
    async fn reload(&self) -> Result<Fleet, StoreError> {
        let records = self.store.load().await?;
        let fleet = {
            let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
            *shared = shared.reloaded(records);
            shared.clone()
        };
        self.commits.send_modify(|commits| *commits += 1);
        Ok(fleet)
    }
}

fn refuse(batch: Vec<Job>, error: &Arc<StoreError>) {
    for Job { reply, .. } in batch {
        drop(reply.send(Err(CommandError::Store(Arc::clone(error)))));
    }
}

#[cfg(test)]
mod tests;
