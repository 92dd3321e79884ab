//! Requests VMs for machines, and lists VPSie's nodes. Both are one loop: a request needs a fresh listing,
//! and makes the next listing due.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attachments::{AttachmentReporter, failed_attachments};
use super::backoff::Backoff;
use super::control_plane::ControlPlaneReporter;
use super::handle::{CommandError, FleetHandle};
use super::listing_trigger::ListingTrigger;
use super::nodes::NodesView;
use crate::catalog::MachineClass;
use crate::fleet::{
    Cause, Change, CreationOutcome, Failure, Fleet, ListedNode, Machine, MachineId, Names, Phase, Policy,
    RequestOutcome, Vm,
};
use crate::kubernetes::Events;
use crate::retry_after::RetryAfter;
use crate::vpsie::{Backend, BackendError, CreateRequest};

/// Maximum of concurrent requests for one class.
const MAX_CALLS_PER_CLASS: usize = 8;
/// Maximum of concurrent requests. It is larger than for one class: calls that hang must not block other
/// classes.
const MAX_CALLS: usize = 16;
/// Maximum age of a listing when requests are sent.
const LISTING_FRESH_FOR: Duration = Duration::from_secs(5);
/// Interval of the check of time limits.
const DEADLINE_INTERVAL: Duration = Duration::from_secs(10);
/// Interval until the first listing after a request. It doubles with each listing, up to the idle interval.
const FIRST_LISTING_AFTER: Duration = Duration::from_secs(4);
/// Minimum interval of listings.
const MIN_LISTING_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum of attempts to record the last outcomes before the process ends.
const SHUTDOWN_WRITE_ATTEMPTS: usize = 4;

/// The loop that requests VMs and lists nodes.
pub struct Provision {
    handle: FleetHandle,
    backend: Arc<dyn Backend>,
    policy: Policy,
    /// Maximum interval of listings: that of an idle fleet.
    idle: Duration,
    /// Nodes of the cluster. Existing workers need one to be adopted. None without an API server.
    nodes: Option<NodesView>,
    control_plane: ControlPlaneReporter,
    attachments: AttachmentReporter,
    /// Other loops make listings due by it.
    listing_trigger: Arc<ListingTrigger>,
    calls: JoinSet<Result<Option<Vm>, BackendError>>,
    calling: HashMap<Id, (MachineId, MachineClass)>,
    /// Outcomes that are not recorded yet. They are kept, because VPSie does not repeat a reply.
    unrecorded: Vec<Unrecorded>,
    listed_at: Option<Instant>,
    next_listing: Instant,
    interval: Duration,
    next_deadline_check: Instant,
    listing: Backoff,
    /// Backoff of each class, so that a class that VPSie cannot create delays no other.
    creating: BTreeMap<MachineClass, Backoff>,
    /// While the records cannot be written, no requests are sent.
    recording: Backoff,
}

/// The outcome of a request that is not recorded yet.
#[derive(Clone)]
struct Unrecorded {
    machine: MachineId,
    outcome: CreationOutcome,
    /// Whether the API server refused its record before.
    refused: bool,
}

impl Unrecorded {
    fn new(machine: MachineId, outcome: CreationOutcome) -> Self {
        Self { machine, outcome, refused: false }
    }
}

/// The result of a call's task.
type CallResult = Result<(Id, Result<Option<Vm>, BackendError>), JoinError>;

impl Provision {
    /// Creates the loop. It lists at the `idle` interval when nothing is in progress; `listing_trigger` makes
    /// a listing due earlier.
    pub fn new(
        handle: FleetHandle,
        backend: Arc<dyn Backend>,
        policy: Policy,
        idle: Duration,
        listing_trigger: Arc<ListingTrigger>,
    ) -> Self {
        let now = Instant::now();
        Self {
            handle,
            backend,
            policy,
            idle,
            nodes: None,
            control_plane: ControlPlaneReporter::default(),
            attachments: AttachmentReporter::default(),
            listing_trigger,
            calls: JoinSet::new(),
            calling: HashMap::new(),
            unrecorded: Vec::new(),
            listed_at: None,
            next_listing: now,
            interval: FIRST_LISTING_AFTER,
            next_deadline_check: now,
            listing: call_backoff(),
            creating: BTreeMap::new(),
            recording: Backoff::new(Duration::from_secs(1), Duration::from_secs(20)),
        }
    }

    /// Adopts only workers whose Node [identifies](NodesView::identifies) them.
    pub fn with_nodes(self, nodes: Option<NodesView>) -> Self {
        Self { nodes, ..self }
    }

    /// Publishes events of machines whose VM VPSie lists as control plane, or does not attach to its network.
    pub fn with_events(self, events: Events) -> Self {
        let attachments = AttachmentReporter::new(events.clone());
        Self { control_plane: ControlPlaneReporter::new(events), attachments, ..self }
    }

    /// Runs until `shutdown`, then waits for the open calls.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            if let Err(CommandError::Stopped) = self.step(&shutdown).await {
                return;
            }
            let listing_trigger = Arc::clone(&self.listing_trigger);
            let wakeup = self.next_wakeup();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(call) = self.calls.join_next_with_id(), if !self.calls.is_empty() => {
                    self.handle_result(call).await;
                }
                () = listing_trigger.soon.notified() => self.list_soon(),
                () = listing_trigger.now.notified() => self.list_now(),
                () = self.handle.changed() => {}
                () = tokio::time::sleep_until(wakeup) => {}
            }
        }
        while let Some(call) = self.calls.join_next_with_id().await {
            self.handle_result(call).await;
        }
        for _ in 0..SHUTDOWN_WRITE_ATTEMPTS {
            if self.unrecorded.is_empty() {
                return;
            }
            tokio::time::sleep_until(self.recording.until()).await;
            if self.record_outcomes().await.is_err() {
                break;
            }
        }
        if !self.unrecorded.is_empty() {
            tracing::error!(
                requests = self.unrecorded.len(),
                "cannot record the outcomes of requests to VPSie before the process ends; after a restart their \
                 replies count as lost"
            );
        }
    }

    fn next_wakeup(&self) -> Instant {
        let retries = self.creating.values().filter(|backoff| !backoff.is_ready()).map(Backoff::until);
        let listing = self.next_listing.max(self.listing.until());
        let wakeup = retries.chain([listing]).fold(self.next_deadline_check, Instant::min);
        wakeup.max(self.recording.until())
    }

    async fn step(&mut self, shutdown: &CancellationToken) -> Result<(), CommandError> {
        let now = Instant::now();
        if !self.recording.is_ready() {
            return Ok(());
        }
        // Outcomes come first: a machine that is requested again must not get the outcome of its last
        // request.
        self.record_outcomes().await?;
        if !self.recording.is_ready() {
            return Ok(());
        }
        if now >= self.next_deadline_check {
            self.next_deadline_check = now + DEADLINE_INTERVAL;
            let policy = self.policy;
            let calling = self.calling.values().map(|(id, _)| id.clone());
            let unrecorded = self.unrecorded.iter().map(|outcome| outcome.machine.clone());
            let calling: Vec<MachineId> = calling.chain(unrecorded).collect();
            self.commit(Cause::Expiry, move |fleet, now, names| {
                fleet.set_in_flight(calling);
                fleet.apply_deadlines(now, &policy, names)
            })
            .await?;
        }
        let needs_requests = !self.machines_to_request().is_empty();
        if (needs_requests && !self.has_fresh_listing() || now >= self.next_listing)
            && self.listing.is_ready()
        {
            self.list(shutdown).await?;
        }
        if needs_requests && self.has_fresh_listing() && self.recording.is_ready() && !shutdown.is_cancelled()
        {
            self.send_requests().await?;
        }
        Ok(())
    }

    /// Machines to request now, within the maximum of concurrent calls.
    fn machines_to_request(&self) -> Vec<MachineId> {
        let ready = |class: &MachineClass| self.creating.get(class).is_none_or(Backoff::is_ready);
        let mut wanted = self.handle.read(|fleet| fleet.machines_to_request_where(ready));
        let mut calls: BTreeMap<MachineClass, usize> = BTreeMap::new();
        for (_, class) in self.calling.values() {
            *calls.entry(class.clone()).or_default() += 1;
        }
        wanted.retain(|(id, _)| self.unrecorded.iter().all(|outcome| outcome.machine != *id));
        wanted.retain(|(_, class)| {
            let calls = calls.entry(class.clone()).or_default();
            *calls += 1;
            *calls <= MAX_CALLS_PER_CLASS
        });
        wanted.truncate(MAX_CALLS.saturating_sub(self.calls.len()));
        wanted.into_iter().map(|(id, _)| id).collect()
    }

    fn has_fresh_listing(&self) -> bool {
        self.listed_at.is_some_and(|at| at.elapsed() <= LISTING_FRESH_FOR)
    }

    /// Makes a listing due soon, because a request was sent.
    fn list_soon(&mut self) {
        self.interval = FIRST_LISTING_AFTER;
        self.next_listing = self.next_listing.min(Instant::now() + FIRST_LISTING_AFTER);
    }

    /// Makes a listing due now, because an effect is visible that the last one did not show.
    fn list_now(&mut self) {
        self.list_soon();
        let earliest = self.listed_at.map_or_else(Instant::now, |at| at + MIN_LISTING_INTERVAL);
        self.next_listing = self.next_listing.min(earliest);
    }

    async fn list(&mut self, shutdown: &CancellationToken) -> Result<(), CommandError> {
        let Some(listed) = shutdown.run_until_cancelled(self.backend.list()).await else { return Ok(()) };
        match listed {
            Ok(listing) => {
                self.listing.record_success();
                self.listed_at = Some(Instant::now());
                self.next_listing = Instant::now() + self.idle;
                let policy = self.policy;
                let failed = failed_attachments(&listing);
                let shown = |node: &&ListedNode| self.nodes.as_ref().is_none_or(|view| view.identifies(node));
                let shown: Vec<_> = listing.nodes.iter().filter(shown).cloned().collect();
                self.commit(Cause::VPSieListing, move |fleet, now, names| {
                    let mut changes = fleet.observe(&listing, now, &policy);
                    changes.extend(fleet.adopt_workers(&shown, now, names));
                    changes
                })
                .await?;
                let (control_plane, attachments) = (&mut self.control_plane, &mut self.attachments);
                self.handle.read(|fleet| {
                    control_plane.report(fleet);
                    attachments.report(fleet, failed);
                });
                if self.handle.read(|fleet| fleet.machines().any(expects_change)) {
                    self.next_listing = self.next_listing.min(Instant::now() + self.interval);
                }
                self.interval = (self.interval * 2).min(self.idle);
            }
            Err(error) => {
                self.listing.record_failure(retry_after(&error));
                tracing::warn!(%error, "cannot list VPSie's nodes; Cluster Autoscaler gets the last known state");
            }
        }
        Ok(())
    }

    async fn send_requests(&mut self) -> Result<(), CommandError> {
        let ids = self.machines_to_request();
        let wanted = ids.clone();
        let record =
            move |fleet: &mut Fleet, now: Timestamp, _: Names<'_>| fleet.record_requests(&wanted, now);
        let Some(recorded) = self.try_commit(Cause::Provisioning, record).await? else {
            // The requests of some of them may be recorded.
            self.unrecorded.extend(ids.into_iter().map(|id| Unrecorded::new(id, CreationOutcome::NotSent)));
            return Ok(());
        };
        for change in recorded {
            if let Change::SaveMachine(machine) = change {
                let hostname = machine.requests.last().and_then(|request| request.hostname.clone());
                self.spawn_call(CreateRequest {
                    class: machine.class(),
                    hostname,
                    machine: machine.id,
                    pool: machine.pool,
                });
            }
        }
        Ok(())
    }

    fn spawn_call(&mut self, request: CreateRequest) {
        let backend = Arc::clone(&self.backend);
        let called = (request.machine.clone(), request.class.clone());
        let call = self.calls.spawn(async move { backend.create(&request).await });
        self.calling.insert(call.id(), called);
    }

    async fn handle_result(&mut self, call: CallResult) {
        let (call, result) = call.unwrap_or_else(|broken| {
            let message = format!("the task of the call failed: {broken}");
            (broken.id(), Err(BackendError::Unclear { message }))
        });
        let Some((id, class)) = self.calling.remove(&call) else { return };
        let outcome = match result {
            Ok(vm) => {
                self.creating.remove(&class);
                vm.map_or(CreationOutcome::Accepted, CreationOutcome::Created)
            }
            Err(BackendError::Unclear { message }) => {
                tracing::warn!(
                    machine = %id,
                    error = message,
                    "VPSie's reply to a request was lost; the nodes are listed before the next request"
                );
                CreationOutcome::Unclear
            }
            Err(BackendError::Refused { reason, message }) => {
                CreationOutcome::Refused(Failure { reason, message: truncate_message(&message) })
            }
            Err(BackendError::PasswordRefused { message }) => {
                let reason = crate::fleet::FailureReason::Refused;
                CreationOutcome::Refused(Failure { reason, message: truncate_message(&message) })
            }
            Err(BackendError::Unavailable { reason, message, retry_after }) => {
                tracing::warn!(
                    machine = %id,
                    error = message,
                    "VPSie cannot create a VM now; the request is retried"
                );
                self.creating.entry(class).or_insert_with(call_backoff).record_failure(retry_after);
                CreationOutcome::Unavailable(Failure { reason, message: truncate_message(&message) })
            }
        };
        self.list_soon();
        self.unrecorded.push(Unrecorded::new(id, outcome));
        if self.recording.is_ready()
            && let Err(error) = self.record_outcomes().await
        {
            tracing::warn!(%error, "cannot record the outcome of a request to VPSie; retrying");
        }
    }

    /// Records the outcomes of requests. An outcome that cannot be recorded is kept and retried.
    async fn record_outcomes(&mut self) -> Result<(), CommandError> {
        if self.unrecorded.is_empty() {
            return Ok(());
        }
        let outcomes = self.unrecorded.clone();
        let policy = self.policy;
        let recorded = self.handle.update_independent(Cause::VPSieReply, move |fleet, now, _| {
            let record = |Unrecorded { machine, outcome, refused }| {
                if refused {
                    fleet.record_delayed_outcome(&machine, outcome, now, &policy)
                } else {
                    fleet.record_outcome(&machine, outcome, now, &policy)
                }
            };
            outcomes.into_iter().flat_map(record).collect()
        });
        match recorded.await {
            Ok(changes) => {
                // Without a change nothing was written.
                if !changes.is_empty() {
                    self.recording.record_success();
                }
                let unrecorded = &mut self.unrecorded;
                self.handle.read(|fleet| {
                    unrecorded.retain(|outcome| {
                        fleet.machine(&outcome.machine).is_some_and(Machine::has_request_in_flight)
                    });
                });
                for outcome in unrecorded {
                    outcome.refused = true;
                }
                Ok(())
            }
            Err(CommandError::Store(_)) => {
                self.recording.record_failure(None);
                Ok(())
            }
            Err(stopped) => Err(stopped),
        }
    }

    /// Changes the fleet. If the store fails, the writer logs it, and the change is retried later.
    async fn commit(
        &mut self,
        cause: Cause,
        change: impl FnOnce(&mut Fleet, Timestamp, Names<'_>) -> Vec<Change> + Send + 'static,
    ) -> Result<Vec<Change>, CommandError> {
        Ok(self.try_commit(cause, change).await?.unwrap_or_default())
    }

    /// Changes the fleet as [`commit`](Self::commit) does. None when the records could not be written.
    async fn try_commit(
        &mut self,
        cause: Cause,
        change: impl FnOnce(&mut Fleet, Timestamp, Names<'_>) -> Vec<Change> + Send + 'static,
    ) -> Result<Option<Vec<Change>>, CommandError> {
        match self.handle.update_independent(cause, change).await {
            Err(CommandError::Store(_)) => {
                self.recording.record_failure(None);
                // The effects of the listing are not recorded.
                self.listed_at = None;
                self.next_listing = Instant::now();
                Ok(None)
            }
            Ok(changes) => {
                if !changes.is_empty() {
                    self.recording.record_success();
                }
                Ok(Some(changes))
            }
            Err(stopped) => Err(stopped),
        }
    }
}

fn call_backoff() -> Backoff {
    Backoff::new(Duration::from_secs(2), Duration::from_mins(1))
}

/// Whether the next listings are likely to change the machine.
fn expects_change(machine: &Machine) -> bool {
    match &machine.phase {
        Phase::Creating { .. } => true,
        Phase::Deleting { accepted_at, vm, .. } => accepted_at.is_some() || vm.is_none(),
        _ => machine.requests.iter().any(|request| request.outcome != RequestOutcome::Lost),
    }
}

fn retry_after(error: &BackendError) -> Option<RetryAfter> {
    match error {
        BackendError::Unavailable { retry_after, .. } => *retry_after,
        _ => None,
    }
}

/// Truncates a message for Cluster Autoscaler's events to 200 characters
/// (docs/reference/cluster-autoscaler.md#creation-errors).
fn truncate_message(message: &str) -> String {
    message.chars().take(200).collect()
}
