//! Deletes the VMs of Deleting machines, each by its own id (invariant 7).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::handle::{CommandError, FleetHandle};
use super::listing_trigger::ListingTrigger;
use crate::fleet::{Cause, Machine, MachineId};
use crate::retry_after::RetryAfter;
use crate::vpsie::{Backend, BackendError};

/// Deletions at the same time.
const MAX_CALLS: usize = 4;
/// Interval of retries without other changes.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// The loop that deletes VMs.
pub struct Removal {
    handle: FleetHandle,
    backend: Arc<dyn Backend>,
    listing_trigger: Arc<ListingTrigger>,
    calls: JoinSet<Result<(), BackendError>>,
    calling: HashMap<Id, MachineId>,
    backoffs: BTreeMap<MachineId, Backoff>,
    /// Machines whose deletion VPSie accepted, if that is not recorded yet. It is not requested again.
    accepted: BTreeSet<MachineId>,
}

impl Removal {
    /// Creates the loop. It triggers a listing after each accepted deletion.
    pub fn new(handle: FleetHandle, backend: Arc<dyn Backend>, listing_trigger: Arc<ListingTrigger>) -> Self {
        Self {
            handle,
            backend,
            listing_trigger,
            calls: JoinSet::new(),
            calling: HashMap::new(),
            backoffs: BTreeMap::new(),
            accepted: BTreeSet::new(),
        }
    }

    /// Runs until `shutdown`, then waits for the open calls.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.record_accepted().await;
            self.start_deletions();
            let wakeup = self.next_wakeup();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(call) = self.calls.join_next_with_id(), if !self.calls.is_empty() => {
                    self.handle_result(call).await;
                }
                () = self.handle.changed() => {}
                () = tokio::time::sleep_until(wakeup) => {}
            }
        }
        while let Some(call) = self.calls.join_next_with_id().await {
            self.handle_result(call).await;
        }
        self.backoffs.clear();
        self.record_accepted().await;
    }

    fn next_wakeup(&self) -> Instant {
        let backoffs = self.backoffs.values().map(Backoff::until).filter(|until| *until > Instant::now());
        backoffs.chain([Instant::now() + POLL_INTERVAL]).min().unwrap_or_else(Instant::now)
    }

    /// Starts deletions, within the maximum of concurrent calls. Deletions that failed before come last, so
    /// that they delay no others.
    fn start_deletions(&mut self) {
        let free = MAX_CALLS.saturating_sub(self.calls.len());
        if free == 0 {
            return;
        }
        let calling = &self.calling;
        let backoffs = &mut self.backoffs;
        let accepted = &self.accepted;
        let next: Vec<_> = self.handle.read(|fleet| {
            backoffs.retain(|id, _| fleet.machine(id).is_some_and(Machine::needs_vm_deletion));
            let mut next = fleet.machines_to_delete();
            next.retain(|m| backoffs.get(&m.id).is_none_or(Backoff::is_ready));
            next.retain(|m| !calling.values().any(|id| *id == m.id) && !accepted.contains(&m.id));
            next.sort_by_key(|m| backoffs.contains_key(&m.id));
            next.into_iter().filter_map(|m| Some((m.id.clone(), m.deletable()?))).take(free).collect()
        });
        for (id, vm) in next {
            let backend = Arc::clone(&self.backend);
            let call = self.calls.spawn(async move { backend.delete(&vm).await });
            self.calling.insert(call.id(), id);
        }
    }

    async fn handle_result(&mut self, call: Result<(Id, Result<(), BackendError>), JoinError>) {
        let (call, result) = call.unwrap_or_else(|broken| {
            let message = format!("the task of the call failed: {broken}");
            (broken.id(), Err(BackendError::Unclear { message }))
        });
        let Some(id) = self.calling.remove(&call) else { return };
        match result {
            Ok(()) => {
                self.listing_trigger.list_soon();
                self.accepted.insert(id);
                self.record_accepted().await;
            }
            Err(error) => {
                tracing::warn!(machine = %id, %error, "cannot delete the VM of a machine; retrying");
                let wait = match error {
                    BackendError::Unavailable { retry_after, .. } => retry_after,
                    _ => None,
                };
                self.back_off(id, wait);
            }
        }
    }

    /// Records accepted deletions. Retries failed writes.
    async fn record_accepted(&mut self) {
        let ready = |id: &&MachineId| self.backoffs.get(*id).is_none_or(Backoff::is_ready);
        let due: Vec<MachineId> = self.accepted.iter().filter(ready).cloned().collect();
        if due.is_empty() {
            return;
        }
        let ids = due.clone();
        let recorded = self.handle.update_independent(Cause::VPSieReply, move |fleet, now, _| {
            ids.iter().flat_map(|id| fleet.deletion_accepted(id, now)).collect()
        });
        match recorded.await {
            Ok(_) => {
                for id in due {
                    // Its record was refused; the others are written.
                    if self.handle.read(|fleet| fleet.machine(&id).is_some_and(Machine::needs_vm_deletion)) {
                        self.back_off(id, None);
                    } else {
                        self.accepted.remove(&id);
                        self.backoffs.remove(&id);
                    }
                }
            }
            Err(CommandError::Store(_)) => due.into_iter().for_each(|id| self.back_off(id, None)),
            Err(_) => {}
        }
    }

    fn back_off(&mut self, id: MachineId, wait: Option<RetryAfter>) {
        let backoff = Backoff::new(Duration::from_secs(2), Duration::from_mins(1));
        self.backoffs.entry(id).or_insert(backoff).record_failure(wait);
    }
}
