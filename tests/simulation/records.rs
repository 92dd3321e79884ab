//! The store of the records, in memory or in an API server, with injected faults. It outlives the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use fake_kube::{Answer, ApiRequest, Connection, FakeKube, FaultEffect, RequestFault, Verb};
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio::time::Instant;
use tower::{BoxError, Service};
use vpsie_autoscaler::clock::Clock as _;
use vpsie_autoscaler::fleet::{Change, Machine, MachineId, Phase, Records, UnmanagedKind, UnmanagedNode};
use vpsie_autoscaler::kubernetes::with_request_timeout;
use vpsie_autoscaler::simulator::DEFAULT_CLUSTER;
use vpsie_autoscaler::store::{KubernetesStore, MemoryStore, Store, StoreError, records_of};

use super::clock::VirtualClock;
use super::network::CrashCountdown;
use super::planted_bugs::PlantedBug;

const NAMESPACE: &str = "vpsie-system";

/// The kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Memory,
    Kubernetes,
}

/// The records without faults.
#[derive(Clone)]
pub(crate) enum Backing {
    Memory(MemoryStore),
    /// The server, and a cache of the last records with their version.
    Kubernetes(FakeKube, Arc<Mutex<Option<(u64, Records)>>>),
}

impl Backing {
    /// Reads all records.
    pub(crate) fn records(&self) -> Records {
        match self {
            Self::Memory(store) => store.records(),
            Self::Kubernetes(kube, cache) => {
                let mut cache = cache.lock().unwrap();
                let version = kube.version();
                if cache.as_ref().is_none_or(|(cached, _)| *cached != version) {
                    *cache = Some((version, records_of(&kube.all(), &kube.all())));
                }
                cache.as_ref().unwrap().1.clone()
            }
        }
    }
}

/// The records with injected faults. Clones share the state.
#[derive(Clone)]
pub(crate) struct FaultyStore {
    pub(crate) backing: Backing,
    pub(crate) countdown: CrashCountdown,
    bug: Option<PlantedBug>,
    state: Arc<FaultState>,
}

#[derive(Default)]
struct FaultState {
    /// Whether all reads and writes fail, as from a full disk or an API server that is down.
    failing: AtomicBool,
    /// Start and end of a period in which they fail.
    gap: Mutex<Option<(Instant, Instant)>>,
    /// Time of the last failure.
    failed_at: Mutex<Option<Instant>>,
    /// Whether single requests to the API server have faults.
    flaky: AtomicBool,
    /// The machine whose record the API server rejects.
    rejected_machine: Mutex<Option<MachineId>>,
    /// Whether the last write failed and the records were not read again.
    failed: AtomicBool,
    /// Whether a write is in progress.
    writing: AtomicBool,
}

impl FaultyStore {
    pub(crate) fn new(
        store_kind: StoreKind,
        seed: u64,
        clock: &VirtualClock,
        countdown: CrashCountdown,
        bug: Option<PlantedBug>,
    ) -> Self {
        let state = Arc::<FaultState>::default();
        let backing = match store_kind {
            StoreKind::Memory => Backing::Memory(MemoryStore::new()),
            StoreKind::Kubernetes => {
                let clock = clock.unskewed();
                let kube = FakeKube::new(move || clock.now());
                inject_api_faults(&kube, seed, &state);
                Backing::Kubernetes(kube, Arc::default())
            }
        };
        Self { backing, countdown, bug, state }
    }

    /// Opens the store for a new process.
    pub(crate) fn open(&self) -> Arc<dyn Store> {
        self.state.failed.store(false, Ordering::Relaxed);
        self.state.writing.store(false, Ordering::Relaxed);
        let inner: Arc<dyn Store> = match &self.backing {
            Backing::Memory(store) => {
                Arc::new(FaultyMemoryStore { inner: store.clone(), faulty: self.clone() })
            }
            Backing::Kubernetes(kube, _) => {
                let connection = ApiServerConnection {
                    inner: kube.connection("provider"),
                    countdown: self.countdown.clone(),
                    bug: self.bug,
                    faulty: self.clone(),
                };
                let client = with_request_timeout(&kube::Client::new(connection, NAMESPACE));
                let store = KubernetesStore::new(client, NAMESPACE);
                store.set_cluster(DEFAULT_CLUSTER.into());
                Arc::new(store)
            }
        };
        Arc::new(ProcessStore { inner, faulty: self.clone() })
    }

    pub(crate) fn set_failing(&self, failing: bool) {
        self.state.failing.store(failing, Ordering::Relaxed);
        if let Backing::Kubernetes(kube, _) = &self.backing {
            kube.set_down(failing);
        }
    }

    /// Lets reads and writes fail for `duration`, beginning `delay` from now.
    pub(crate) fn set_gap(&self, delay: Duration, duration: Duration) {
        let from = Instant::now() + delay;
        *self.state.gap.lock().unwrap() = Some((from, from + duration));
    }

    /// Time since the store last failed or was flaky.
    pub(crate) fn time_since_failure(&self) -> Duration {
        self.state.failed_at.lock().unwrap().map_or(Duration::MAX, |at| at.elapsed())
    }

    /// Returns true iff reads and writes fail now. Notes the time of failures.
    fn fails(&self) -> bool {
        let gap = *self.state.gap.lock().unwrap();
        let in_gap = gap.is_some_and(|(from, until)| (from..until).contains(&Instant::now()));
        let fails = in_gap || self.state.failing.load(Ordering::Relaxed);
        if fails || self.state.flaky.load(Ordering::Relaxed) {
            *self.state.failed_at.lock().unwrap() = Some(Instant::now());
        }
        fails
    }

    pub(crate) fn set_flaky(&self, flaky: bool) {
        self.state.flaky.store(flaky, Ordering::Relaxed);
    }

    /// Sets the machine whose record the API server rejects. None: it rejects none.
    pub(crate) fn reject_record(&self, machine: Option<MachineId>) {
        *self.state.rejected_machine.lock().unwrap() = machine;
    }

    /// The machine whose record the API server rejects.
    pub(crate) fn rejected_machine(&self) -> Option<MachineId> {
        self.state.rejected_machine.lock().unwrap().clone()
    }

    /// Returns true iff the provider's memory may differ from the records, and its replies may be errors.
    pub(crate) fn is_unavailable(&self) -> bool {
        let FaultState { flaky, failed, writing, .. } = &*self.state;
        self.fails() || [flaky, failed, writing].iter().any(|flag| flag.load(Ordering::Relaxed))
    }

    /// Returns true iff the provider's memory must equal the records.
    pub(crate) fn is_consistent(&self) -> bool {
        let FaultState { failed, writing, .. } = &*self.state;
        !self.fails() && ![failed, writing].iter().any(|flag| flag.load(Ordering::Relaxed))
    }

    /// Annotates all records, as another client could.
    pub(crate) fn annotate_all(&self) {
        let Backing::Kubernetes(kube, _) = &self.backing else { return };
        for plural in ["vpsienodes", "configmaps"] {
            for object in kube.list(plural) {
                annotate(kube, plural, object["metadata"]["name"].as_str().unwrap());
            }
        }
    }
}

fn annotate(kube: &FakeKube, plural: &str, name: &str) {
    let patch = json!({"metadata": {"annotations": {"touched": kube.version().to_string()}}});
    // The object may have been deleted.
    drop(kube.patch(plural, NAMESPACE, name, patch));
}

/// Injects faults into requests to the API server: rejects one record, and has random faults while it is
/// flaky.
fn inject_api_faults(kube: &FakeKube, seed: u64, state: &Arc<FaultState>) {
    let server = kube.clone();
    let state = Arc::clone(state);
    let rng = Mutex::new(StdRng::seed_from_u64(seed ^ 0x5707));
    kube.on_request(move |request: &ApiRequest| {
        let rejected = state.rejected_machine.lock().unwrap().clone();
        if request.verb.writes() && rejected.is_some_and(|machine| request.name == machine.as_str()) {
            return RequestFault::refused(422);
        }
        if !state.flaky.load(Ordering::Relaxed) {
            return RequestFault::default();
        }
        let mut rng = rng.lock().unwrap();
        let is_named_write = request.verb != Verb::Get && !request.name.is_empty();
        match rng.random_range(0..30) {
            0..3 if is_named_write => {
                annotate(&server, &request.plural, &request.name);
                RequestFault::default()
            }
            3..5 => FaultEffect::ReplyLost.into(),
            5 => FaultEffect::RequestLost.into(),
            6 => RequestFault::refused(500),
            7 => RequestFault::refused(503),
            8 => RequestFault::throttled(rng.random_range(0..7)),
            9 => RequestFault {
                delay: Duration::from_millis(rng.random_range(1..3000)),
                effect: FaultEffect::Done,
            },
            10 if rng.random_bool(0.3) => FaultEffect::Hangs.into(),
            11 if rng.random_bool(0.3) => FaultEffect::DoneAndHangs.into(),
            _ => RequestFault::default(),
        }
    });
}

/// The store as one process sees it: notes the progress of writes, and has the planted bugs.
struct ProcessStore {
    inner: Arc<dyn Store>,
    faulty: FaultyStore,
}

#[async_trait]
impl Store for ProcessStore {
    async fn load(&self) -> Result<Records, StoreError> {
        let loaded = self.inner.load().await;
        self.faulty.state.failed.store(loaded.is_err(), Ordering::Relaxed);
        loaded
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let FaultState { failed, writing, .. } = &*self.faulty.state;
        writing.store(true, Ordering::Relaxed);
        let kept: Vec<Change> = changes.iter().filter(|change| self.is_kept(change)).cloned().collect();
        let mut done = Ok(());
        for part in self.split(kept) {
            if done.is_ok() {
                done = self.inner.commit(&part).await;
            }
        }
        writing.store(false, Ordering::Relaxed);
        failed.store(done.is_err(), Ordering::Relaxed);
        if done.is_err() {
            *self.faulty.state.failed_at.lock().unwrap() = Some(Instant::now());
        }
        done
    }
}

impl ProcessStore {
    /// Returns false for a change that the planted bug omits.
    fn is_kept(&self, change: &Change) -> bool {
        match self.faulty.bug {
            Some(PlantedBug::AcknowledgedBeforeDurable) => {
                !matches!(change, Change::SaveMachine(machine) if machine.phase == Phase::Pending)
            }
            Some(PlantedBug::OrphanForgotten) => !matches!(
                change,
                Change::SaveUnmanaged(UnmanagedNode { kind: UnmanagedKind::Orphan { .. }, .. })
            ),
            _ => true,
        }
    }

    /// Splits a commit into several, as the planted bug requires.
    fn split(&self, changes: Vec<Change>) -> Vec<Vec<Change>> {
        if self.faulty.bug != Some(PlantedBug::RequestRemovedFirst) {
            return vec![changes];
        }
        let before = self.faulty.backing.records().machines;
        let removal = |change: &Change| {
            let Change::SaveMachine(new) = change else { return None };
            let old = before.iter().find(|m| m.id == new.id && m.requests.len() > new.requests.len())?;
            Some(Change::SaveMachine(Machine { phase: old.phase.clone(), ..new.clone() }))
        };
        vec![changes.iter().filter_map(removal).collect(), changes]
    }
}

/// A store in memory with injected faults.
struct FaultyMemoryStore {
    inner: MemoryStore,
    faulty: FaultyStore,
}

#[async_trait]
impl Store for FaultyMemoryStore {
    async fn load(&self) -> Result<Records, StoreError> {
        self.inner.load().await
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.faulty.countdown.count_down().await;
        if self.faulty.fails() {
            // A failed commit may have written a part of the changes.
            self.inner.write(&changes[..changes.len() / 2]);
            return Err(StoreError::Io { action: "write", problem: "disk full".to_owned() });
        }
        self.inner.write(changes);
        self.faulty.countdown.count_down().await;
        Ok(())
    }
}

/// The process's connection to the API server. The process may crash before and after each request.
#[derive(Clone)]
struct ApiServerConnection {
    inner: Connection,
    countdown: CrashCountdown,
    bug: Option<PlantedBug>,
    faulty: FaultyStore,
}

impl Service<Request<Body>> for ApiServerConnection {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Answer>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut connection = self.clone();
        Box::pin(async move {
            connection.countdown.count_down().await;
            if connection.faulty.fails() {
                return Err("the API server is down".into());
            }
            let patched = (request.method() == Method::PATCH).then(|| request.uri().path().to_owned());
            let reply = connection.inner.call(request).await?;
            connection.countdown.count_down().await;
            if let Some(path) = patched
                && connection.bug == Some(PlantedBug::ConflictIsSuccess)
                && reply.status() == StatusCode::CONFLICT
            {
                let path = path.trim_end_matches("/status");
                return connection.inner.call(Request::get(path).body(Body::empty())?).await;
            }
            Ok(reply)
        })
    }
}
