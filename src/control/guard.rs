//! The [runaway guard](crate::fleet::Guard) between the loops and VPSie: it observes each listing and each
//! call, and must allow each creation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::audit::write_line;
use super::audit::{AuditAction, AuditEntry};
use super::handle::FleetHandle;
use super::nodes::NodesView;
use crate::catalog::{Catalog, DatacenterId};
use crate::fleet::{
    Cause, DeletableVm, Failure, FailureReason, Fleet, Guard, GuardOutcome, GuardStatus, Hostname, Maxima,
    NodeListing, PriorRecords, RequestOutcome, UnmanagedKind, Vm,
};
use crate::kubernetes::{EventType, Events, Object, ObjectEvent};
use crate::retry_after::RetryAfter;
use crate::vpsie::{Backend, BackendError, CreateRequest};

/// Minimum interval between two reads of VPSie's count of workers. It is shorter than the time for which a
/// creation with a lost reply counts, so the count is read within that time.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum time by which a read of the count delays a listing.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait before a stopped creation is retried.
const CREATION_RETRY: Duration = Duration::from_secs(30);

/// A backend with the runaway guard.
pub struct GuardedBackend {
    inner: Arc<dyn Backend>,
    handle: FleetHandle,
    nodes: Option<NodesView>,
    events: Events,
    started: Instant,
    state: Mutex<GuardState>,
}

#[derive(Default)]
struct GuardState {
    /// None until the first listing.
    guard: Option<Guard>,
    counted_at: Option<Duration>,
    published: Option<GuardStatus>,
}

/// Inputs of the guard from the fleet.
struct GuardInputs {
    before: PriorRecords,
    maxima: Maxima,
    /// Numbers of VMs by NodeGroup.
    vm_counts: BTreeMap<crate::fleet::NodeGroupName, u32>,
    by_hand: BTreeSet<Hostname>,
    /// Whether a node that was added by hand is not recorded yet.
    unrecorded: bool,
}

impl GuardedBackend {
    /// Guards the calls of `inner`. `nodes` has the annotations of Nodes that a user added.
    pub fn new(
        inner: Arc<dyn Backend>,
        handle: FleetHandle,
        nodes: Option<NodesView>,
        events: Events,
    ) -> Self {
        Self { inner, handle, nodes, events, started: Instant::now(), state: Mutex::default() }
    }

    fn with_state<R>(&self, f: impl FnOnce(&mut GuardState, Duration) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut state, self.started.elapsed())
    }

    fn with_guard<R>(&self, f: impl FnOnce(&mut Guard, Duration) -> R) -> Option<R> {
        self.with_state(|state, now| state.guard.as_mut().map(|guard| f(guard, now)))
    }

    async fn observe(&self, listing: &NodeListing, count: Option<u32>) {
        let by_hand = self.nodes.as_ref().map(NodesView::added_by_hand).unwrap_or_default();
        let inputs = self.handle.read(|fleet| read_inputs(fleet, by_hand));
        if inputs.unrecorded {
            let by_hand = inputs.by_hand.clone();
            if let Err(error) = self
                .handle
                .update(Cause::NodeAnnotated, move |fleet, _, _| fleet.note_added_by_hand(&by_hand))
                .await
            {
                tracing::warn!(%error, "cannot record which nodes were added by hand; retrying");
            }
        }
        // Nodes that only later listings show would count as results of requests.
        if !listing.complete && inputs.before.known.is_none() {
            return;
        }
        let listed = &listing.nodes;
        self.with_state(|state, now| {
            let guard = state.guard.get_or_insert_with(|| Guard::new(inputs.before));
            guard.declare(&inputs.maxima, &inputs.vm_counts);
            guard.note_added_by_hand(&inputs.by_hand);
            guard.observe(listed, now);
            if let Some(count) = count.filter(|_| listing.complete) {
                guard.note_count(count, listed, now);
            }
        });
        // At once: after a restart, a node without this record counts as the result of a request.
        if let Err(error) = self.record_known_before().await {
            tracing::warn!(
                %error,
                "cannot record the nodes that existed before the first request; retrying with the next \
                 listing"
            );
        }
        self.publish_status().await;
    }

    /// Reads VPSie's count of workers, if unlisted VMs may be paid for.
    async fn read_count(&self) -> Option<u32> {
        let due = self.with_state(|state, now| {
            let due = state.counted_at.is_none_or(|at| now.saturating_sub(at) >= COUNT_INTERVAL)
                && state.guard.as_ref().is_some_and(|guard| guard.needs_count(now));
            state.counted_at = if due { Some(now) } else { state.counted_at };
            due
        });
        if !due {
            return None;
        }
        match tokio::time::timeout(COUNT_TIMEOUT, self.inner.count()).await {
            Ok(Ok(count)) => count,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot read VPSie's count of workers; retrying later");
                None
            }
            Err(_) => {
                tracing::warn!(
                    "cannot read VPSie's count of workers within {COUNT_TIMEOUT:?}; retrying later"
                );
                None
            }
        }
    }

    /// Records the nodes that no request can have made: with each listing that shows new ones, and before
    /// each request.
    async fn record_known_before(&self) -> Result<(), BackendError> {
        let Some(Some(known)) = self.with_guard(|guard, _| guard.known_before().cloned()) else {
            return Err(not_listed());
        };
        if self.handle.read(|fleet| fleet.request_history().known_before.as_ref() == Some(&known)) {
            return Ok(());
        }
        let recorded =
            self.handle.update(Cause::VPSieListing, move |fleet, _, _| fleet.note_known_before(known)).await;
        recorded.map(drop).map_err(|error| unavailable(format!("the records cannot be written: {error}")))
    }

    /// Sets the guard's status in the fleet, and announces the start and the end of a halt.
    async fn publish_status(&self) {
        let news = self.with_state(|state, now| {
            let status = state.guard.as_ref()?.status(now);
            Some((state.published.replace(status.clone()), status))
        });
        let Some((old, status)) = news else { return };
        let reason = |status: &GuardStatus| status.halt.as_ref().map(crate::fleet::Halt::reason);
        if old.as_ref().and_then(reason) != reason(&status) {
            self.announce(&status);
        }
        // Compared with the fleet's status: an earlier one is lost if the records cannot be written.
        if self.handle.read(|fleet| fleet.guard_status() == Some(&status)) {
            return;
        }
        // The next listing publishes it again if this fails.
        let _ = self
            .handle
            .update(Cause::RunawayGuard, move |fleet, _, _| {
                fleet.set_guard_status(status);
                Vec::new()
            })
            .await;
    }

    fn announce(&self, status: &GuardStatus) {
        let (kind, event, reason, message) = if let Some(halt) = &status.halt {
            (AuditAction::GrowthHalted, EventType::Warning, "GrowthHalted", halt.to_string())
        } else {
            let message = format!(
                "growth is allowed again: {} VMs may be paid for, and at most {} are allowed",
                status.counted, status.limit
            );
            (AuditAction::GrowthResumed, EventType::Normal, "GrowthResumed", message)
        };
        write_line(&AuditEntry {
            failure: Some(Failure { reason: FailureReason::Refused, message: message.clone() }),
            halt: status.halt.as_ref().map(crate::fleet::Halt::reason),
            ..AuditEntry::for_cluster(kind, Cause::RunawayGuard)
        });
        let groups = self.handle.read(Fleet::group_names);
        for group in groups {
            let on = Object::NodeGroup(group.to_string());
            self.events.publish(ObjectEvent::new(on, event, reason, message.clone()));
        }
    }
}

#[async_trait]
impl Backend for GuardedBackend {
    async fn catalog(&self) -> Result<Catalog, BackendError> {
        self.inner.catalog().await
    }

    async fn inactive_datacenters(&self) -> Result<BTreeSet<DatacenterId>, BackendError> {
        self.inner.inactive_datacenters().await
    }

    async fn list(&self) -> Result<NodeListing, BackendError> {
        // The count comes first: a listing must be fresh when it is returned.
        let count = self.read_count().await;
        let listing = self.inner.list().await?;
        self.observe(&listing, count).await;
        Ok(listing)
    }

    async fn count(&self) -> Result<Option<u32>, BackendError> {
        self.inner.count().await
    }

    async fn create(&self, request: &CreateRequest) -> Result<Option<Vm>, BackendError> {
        self.record_known_before().await?;
        let admitted = self.with_guard(Guard::admit);
        self.publish_status().await;
        let permit = match admitted {
            Some(Ok(permit)) => permit,
            Some(Err(halt)) => return Err(unavailable(halt.to_string())),
            None => return Err(not_listed()),
        };
        let result = self.inner.create(request).await;
        let outcome = match &result {
            Ok(_) => GuardOutcome::Accepted,
            Err(BackendError::Unclear { .. }) => GuardOutcome::Unclear,
            Err(
                BackendError::Refused { .. }
                | BackendError::PasswordRefused { .. }
                | BackendError::Unavailable { .. },
            ) => GuardOutcome::Nothing,
        };
        self.with_guard(|guard, _| guard.note_outcome(permit, outcome));
        self.publish_status().await;
        result
    }

    async fn delete(&self, vm: &DeletableVm) -> Result<(), BackendError> {
        self.with_guard(|guard, now| guard.note_deletion_request(&vm.hostname, now));
        let result = self.inner.delete(vm).await;
        if result.is_ok() {
            self.with_guard(|guard, _| guard.note_deletion(&vm.hostname));
        }
        result
    }
}

fn not_listed() -> BackendError {
    unavailable("VPSie's nodes have not been listed completely yet".to_owned())
}

fn unavailable(message: String) -> BackendError {
    let retry_after = Some(RetryAfter::new(CREATION_RETRY));
    BackendError::Unavailable { reason: FailureReason::QuotaExceeded, message, retry_after }
}

fn read_inputs(fleet: &Fleet, by_hand: BTreeSet<Hostname>) -> GuardInputs {
    let mut vm_counts = BTreeMap::new();
    for machine in fleet.machines().filter(|machine| machine.vm().is_some()) {
        *vm_counts.entry(machine.pool.node_group.clone()).or_default() += 1;
    }
    let known = fleet.request_history().known_before.clone();
    let vms = fleet.machines().filter_map(|machine| machine.vm()).map(|vm| vm.hostname.clone());
    let ours =
        |kind: &UnmanagedKind| matches!(kind, UnmanagedKind::Orphan { .. } | UnmanagedKind::Gone { .. });
    let unmanaged = fleet
        .unmanaged_nodes()
        .filter(|unmanaged| ours(&unmanaged.kind))
        .map(|unmanaged| unmanaged.hostname.clone());
    let requests = || fleet.machines().flat_map(|machine| &machine.requests);
    let count = |which: fn(RequestOutcome) -> bool| {
        requests().filter(|request| which(request.outcome)).count() as u32
    };
    let accepted = count(|outcome| outcome == RequestOutcome::Accepted);
    let unclear = count(|outcome| matches!(outcome, RequestOutcome::InFlight | RequestOutcome::Unclear));
    let by_hand: BTreeSet<_> = by_hand.into_iter().filter(|name| fleet.machine_at(name).is_none()).collect();
    let recorded = |name: &Hostname| {
        known.as_ref().is_none_or(|known| known.contains(name))
            && fleet.unmanaged_node(name).is_none_or(|unmanaged| unmanaged.awaited_by.is_none())
    };
    let unrecorded = !by_hand.iter().all(recorded);
    // An accepted request without a VM counts as lost after minutes.
    let late =
        fleet.open_abandoned_requests().saturating_add(count(|outcome| outcome == RequestOutcome::Lost));
    let before = PriorRecords { known, ours: vms.chain(unmanaged).collect(), accepted, unclear, late };
    GuardInputs { before, maxima: fleet.maxima(), vm_counts, by_hand, unrecorded }
}
