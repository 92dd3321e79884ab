//! Deletes the VMs of Deleting machines, each by its own id (invariant 7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::{CommandError, FleetHandle};
use super::pace::Backoff;
use crate::fleet::{MachineId, Vm};
use crate::vpsie::{Backend, BackendError};

/// Deletions at the same time.
const CONCURRENCY: usize = 4;
/// How often what is left is looked at, should nothing ring.
const LOOK: Duration = Duration::from_secs(10);

/// The loop that deletes.
pub struct Removal {
    handle: FleetHandle,
    backend: Arc<dyn Backend>,
    bell: Arc<Notify>,
    calls: JoinSet<(MachineId, Result<(), BackendError>)>,
    calling: BTreeSet<MachineId>,
    troubled: BTreeMap<MachineId, Backoff>,
}

impl Removal {
    /// A loop that rings the bell after each deletion that VPSie accepted.
    pub fn new(handle: FleetHandle, backend: Arc<dyn Backend>, bell: Arc<Notify>) -> Self {
        Self {
            handle,
            backend,
            bell,
            calls: JoinSet::new(),
            calling: BTreeSet::new(),
            troubled: BTreeMap::new(),
        }
    }

    /// Runs until `shutdown`, then waits for the answers to what is asked.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.start();
            let wake = self.wake();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(answered) = self.calls.join_next(), if !self.calls.is_empty() => self.answered(answered).await,
                () = self.handle.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        while let Some(answered) = self.calls.join_next().await {
            self.answered(answered).await;
        }
    }

    fn wake(&self) -> Instant {
        let troubled = self.troubled.values().map(Backoff::until).filter(|until| *until > Instant::now());
        troubled.chain([Instant::now() + LOOK]).min().unwrap_or_else(Instant::now)
    }

    fn start(&mut self) {
        let unwanted: Vec<(MachineId, Vm)> = self.handle.read(|fleet| {
            fleet.unwanted().into_iter().filter_map(|m| Some((m.id.clone(), m.vm()?.clone()))).collect()
        });
        self.troubled.retain(|id, _| unwanted.iter().any(|(other, _)| other == id));
        for (id, vm) in unwanted {
            if self.calls.len() >= CONCURRENCY {
                return;
            }
            let waits = self.troubled.get(&id).is_some_and(|backoff| !backoff.ready());
            if waits || !self.calling.insert(id.clone()) {
                continue;
            }
            let backend = Arc::clone(&self.backend);
            self.calls.spawn(async move {
                let answer = backend.delete(&vm).await;
                (id, answer)
            });
        }
    }

    async fn answered(
        &mut self,
        answered: Result<(MachineId, Result<(), BackendError>), tokio::task::JoinError>,
    ) {
        let Ok((id, answer)) = answered else {
            // Whose call it was is not known: all of them may be made again, which does no harm.
            self.calling.clear();
            return;
        };
        self.calling.remove(&id);
        let noted = match answer {
            Ok(()) => {
                self.bell.notify_one();
                let machine = id.clone();
                self.handle
                    .update(move |fleet, now, _| fleet.deletion_accepted(&machine, now))
                    .await
                    .map(drop)
            }
            Err(error) => {
                tracing::warn!(machine = %id, %error, "a VM could not be deleted; trying again");
                let wait = match error {
                    BackendError::Unavailable { retry_after, .. } => retry_after,
                    _ => None,
                };
                self.trouble(id, wait);
                return;
            }
        };
        if let Err(CommandError::Store(_)) = noted {
            self.trouble(id, None);
        }
    }

    fn trouble(&mut self, id: MachineId, wait: Option<Duration>) {
        let backoff = Backoff::new(Duration::from_secs(2), Duration::from_mins(1));
        self.troubled.entry(id).or_insert(backoff).failure(wait);
    }
}
