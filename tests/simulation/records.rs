//! What outlives the process: its records, in memory or in a Kubernetes API server, and what goes wrong with them.

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

/// What keeps records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Memory,
    Kubernetes,
}

/// The records themselves.
#[derive(Clone)]
pub(crate) enum Backing {
    Memory(MemoryStore),
    /// With the records that were read last, and at which version.
    Kubernetes(FakeKube, Arc<Mutex<Option<(u64, Records)>>>),
}

impl Backing {
    pub(crate) fn records(&self) -> Records {
        match self {
            Self::Memory(store) => store.records(),
            Self::Kubernetes(kube, read) => {
                let (mut read, version) = (read.lock().unwrap(), kube.version());
                if read.as_ref().is_none_or(|(of, _)| *of != version) {
                    *read = Some((version, records_of(&kube.all(), &kube.all())));
                }
                read.as_ref().unwrap().1.clone()
            }
        }
    }
}

/// Records, and what goes wrong with them.
#[derive(Clone)]
pub(crate) struct FaultyStore {
    pub(crate) backing: Backing,
    pub(crate) countdown: CrashCountdown,
    bug: Option<PlantedBug>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// The disk is full, or the API server is down.
    failing: AtomicBool,
    /// The same, for seconds.
    gap: Mutex<Option<(Instant, Instant)>>,
    /// When it last failed.
    failed_at: Mutex<Option<Instant>>,
    /// Requests to the API server meet faults.
    flaky: AtomicBool,
    /// The machine whose object the API server refuses.
    refused: Mutex<Option<MachineId>>,
    /// The last write failed, and nobody has read since.
    failed: AtomicBool,
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
        let state = Arc::<State>::default();
        let backing = match store_kind {
            StoreKind::Memory => Backing::Memory(MemoryStore::new()),
            StoreKind::Kubernetes => {
                let clock = clock.right();
                let kube = FakeKube::new(move || clock.now());
                weather(&kube, seed, &state);
                Backing::Kubernetes(kube, Arc::default())
            }
        };
        Self { backing, countdown, bug, state }
    }

    /// The store of a process that starts.
    pub(crate) fn open(&self) -> Arc<dyn Store> {
        self.state.failed.store(false, Ordering::Relaxed);
        self.state.writing.store(false, Ordering::Relaxed);
        let inner: Arc<dyn Store> = match &self.backing {
            Backing::Memory(store) => Arc::new(Memory { store: store.clone(), disk: self.clone() }),
            Backing::Kubernetes(kube, _) => {
                let wire = ApiServerConnection {
                    inner: kube.connection("provider"),
                    countdown: self.countdown.clone(),
                    bug: self.bug,
                    disk: self.clone(),
                };
                let client = with_request_timeout(&kube::Client::new(wire, NAMESPACE));
                let store = KubernetesStore::new(client, NAMESPACE);
                store.set_cluster(DEFAULT_CLUSTER.into());
                Arc::new(store)
            }
        };
        Arc::new(ProcessStore { inner, disk: self.clone() })
    }

    pub(crate) fn set_failing(&self, failing: bool) {
        self.state.failing.store(failing, Ordering::Relaxed);
        if let Backing::Kubernetes(kube, _) = &self.backing {
            kube.set_down(failing);
        }
    }

    /// Lets writes fail for that long, from then on.
    pub(crate) fn set_gap(&self, from: Duration, lasts: Duration) {
        let from = Instant::now() + from;
        *self.state.gap.lock().unwrap() = Some((from, from + lasts));
    }

    /// For how long records could be read and written.
    pub(crate) fn fine_for(&self) -> Duration {
        self.state.failed_at.lock().unwrap().map_or(Duration::MAX, |at| at.elapsed())
    }

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

    /// Sets the machine whose object the API server refuses.
    pub(crate) fn refuse(&self, machine: Option<MachineId>) {
        *self.state.refused.lock().unwrap() = machine;
    }

    /// The machine whose object the API server refuses.
    pub(crate) fn refused(&self) -> Option<MachineId> {
        self.state.refused.lock().unwrap().clone()
    }

    /// Whether what is in memory may not be what is on disk, and answers may be errors.
    pub(crate) fn is_unavailable(&self) -> bool {
        let State { flaky, failed, writing, .. } = &*self.state;
        self.fails() || [flaky, failed, writing].iter().any(|flag| flag.load(Ordering::Relaxed))
    }

    /// Whether memory and disk must be the same.
    pub(crate) fn is_consistent(&self) -> bool {
        let State { failed, writing, .. } = &*self.state;
        !self.fails() && ![failed, writing].iter().any(|flag| flag.load(Ordering::Relaxed))
    }

    /// Somebody annotates all objects.
    pub(crate) fn touch(&self) {
        let Backing::Kubernetes(kube, _) = &self.backing else { return };
        for plural in ["vpsienodes", "configmaps"] {
            for object in kube.list(plural) {
                touch(kube, plural, object["metadata"]["name"].as_str().unwrap());
            }
        }
    }
}

fn touch(kube: &FakeKube, plural: &str, name: &str) {
    let patch = json!({"metadata": {"annotations": {"touched": kube.version().to_string()}}});
    // It may be gone.
    drop(kube.patch(plural, NAMESPACE, name, patch));
}

/// What requests to the API server meet while it is flaky.
fn weather(kube: &FakeKube, seed: u64, state: &Arc<State>) {
    let server = kube.clone();
    let state = Arc::clone(state);
    let rng = Mutex::new(StdRng::seed_from_u64(seed ^ 0x5707));
    kube.on_request(move |asked: &ApiRequest| {
        let refused = state.refused.lock().unwrap().clone();
        if asked.verb.writes() && refused.is_some_and(|machine| asked.name == machine.as_str()) {
            return RequestFault::refused(422);
        }
        if !state.flaky.load(Ordering::Relaxed) {
            return RequestFault::default();
        }
        let mut rng = rng.lock().unwrap();
        let named = asked.verb != Verb::Get && !asked.name.is_empty();
        match rng.random_range(0..30) {
            0..3 if named => {
                touch(&server, &asked.plural, &asked.name);
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

/// The store of one process.
struct ProcessStore {
    inner: Arc<dyn Store>,
    disk: FaultyStore,
}

#[async_trait]
impl Store for ProcessStore {
    async fn load(&self) -> Result<Records, StoreError> {
        let loaded = self.inner.load().await;
        self.disk.state.failed.store(loaded.is_err(), Ordering::Relaxed);
        loaded
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let State { failed, writing, .. } = &*self.disk.state;
        writing.store(true, Ordering::Relaxed);
        let backing: Vec<Change> = changes.iter().filter(|change| self.keeps(change)).cloned().collect();
        let mut done = Ok(());
        for part in self.parts(backing) {
            if done.is_ok() {
                done = self.inner.commit(&part).await;
            }
        }
        writing.store(false, Ordering::Relaxed);
        failed.store(done.is_err(), Ordering::Relaxed);
        if done.is_err() {
            *self.disk.state.failed_at.lock().unwrap() = Some(Instant::now());
        }
        done
    }
}

impl ProcessStore {
    fn keeps(&self, change: &Change) -> bool {
        match self.disk.bug {
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

    /// Where a planted bug changes the order of writes.
    fn parts(&self, changes: Vec<Change>) -> Vec<Vec<Change>> {
        if self.disk.bug != Some(PlantedBug::HalvesSwapped) {
            return vec![changes];
        }
        let before = self.disk.backing.records().machines;
        let half = |change: &Change| {
            let Change::SaveMachine(new) = change else { return None };
            let old = before.iter().find(|m| m.id == new.id && m.requests.len() > new.requests.len())?;
            Some(Change::SaveMachine(Machine { phase: old.phase.clone(), ..new.clone() }))
        };
        vec![changes.iter().filter_map(half).collect(), changes]
    }
}

/// Records in memory: one step a commit.
struct Memory {
    store: MemoryStore,
    disk: FaultyStore,
}

#[async_trait]
impl Store for Memory {
    async fn load(&self) -> Result<Records, StoreError> {
        self.store.load().await
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.disk.countdown.count_down().await;
        if self.disk.fails() {
            // A part of it may be written.
            self.store.write(&changes[..changes.len() / 2]);
            return Err(StoreError::Io { action: "write", problem: "disk full".to_owned() });
        }
        self.store.write(changes);
        self.disk.countdown.count_down().await;
        Ok(())
    }
}

/// The process's connection to the API server: it may die before and after each request.
#[derive(Clone)]
struct ApiServerConnection {
    inner: Connection,
    countdown: CrashCountdown,
    bug: Option<PlantedBug>,
    disk: FaultyStore,
}

impl Service<Request<Body>> for ApiServerConnection {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Answer>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut wire = self.clone();
        Box::pin(async move {
            wire.countdown.count_down().await;
            if wire.disk.fails() {
                return Err("the API server is away".into());
            }
            let patched = (request.method() == Method::PATCH).then(|| request.uri().path().to_owned());
            let reply = wire.inner.call(request).await?;
            wire.countdown.count_down().await;
            if let Some(path) = patched
                && wire.bug == Some(PlantedBug::ConflictTakenForDone)
                && reply.status() == StatusCode::CONFLICT
            {
                let path = path.trim_end_matches("/status");
                return wire.inner.call(Request::get(path).body(Body::empty())?).await;
            }
            Ok(reply)
        })
    }
}
