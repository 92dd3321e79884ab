//! The state of the simulator behind a lock, with its clock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use tokio::sync::watch;

use super::config::SimulatorConfig;
use super::config_error::ConfigError;
use super::fault::Faults;
use super::operations::RateLimit;
use super::persist::{Saver, Snapshot, SnapshotError};
use super::state::{Context, State};
use crate::clock::Clock;

/// A VPSie in a process. Cheap to clone: clones share one state.
#[derive(Clone)]
pub struct Simulator {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    world: Mutex<World>,
    changes: watch::Sender<u64>,
    saver: OnceLock<Saver>,
}

/// The state that the lock protects.
pub(super) struct World {
    pub config: SimulatorConfig,
    pub state: State,
    pub rng: Xoshiro256PlusPlus,
    pub faults: Faults,
    pub fault_rng: Xoshiro256PlusPlus,
    pub rate: RateLimit,
    pub outage: bool,
    pub calls: BTreeMap<String, u64>,
}

impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator").finish_non_exhaustive()
    }
}

impl Simulator {
    /// Starts with the objects of the configuration.
    pub fn new(config: SimulatorConfig, clock: Arc<dyn Clock>) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(config.seed);
        let state = State::new(&mut Context { config: &config, now: clock.now(), rng: &mut rng });
        Ok(Self::assemble(config, clock, state, rng))
    }

    /// Restores a snapshot. Behaviour comes from the configuration; objects, capacity and quota come from the
    /// snapshot.
    pub fn restore(
        config: SimulatorConfig,
        clock: Arc<dyn Clock>,
        snapshot: Snapshot,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self::assemble(config, clock, snapshot.state, snapshot.rng))
    }

    fn assemble(
        config: SimulatorConfig,
        clock: Arc<dyn Clock>,
        state: State,
        rng: Xoshiro256PlusPlus,
    ) -> Self {
        let mut faults = Faults::default();
        for rule in &config.faults {
            faults.add(rule.clone());
        }
        let rate = RateLimit::full(config.rate_limit.unwrap_or_default(), clock.now());
        let fault_rng = Xoshiro256PlusPlus::seed_from_u64(!config.seed);
        let changes = watch::Sender::new(state.revision);
        let calls = BTreeMap::new();
        let world = World { config, state, rng, faults, fault_rng, rate, outage: false, calls };
        let inner = Inner { clock, world: Mutex::new(world), changes, saver: OnceLock::new() };
        Self { inner: Arc::new(inner) }
    }

    /// A snapshot of the current state.
    pub fn snapshot(&self) -> Snapshot {
        self.world(|world| Snapshot::new(world.state.clone(), world.rng.clone()))
    }

    /// Writes the state to the file now, and before the reply to every change.
    pub async fn persist_to(&self, path: PathBuf) -> Result<(), SnapshotError> {
        self.inner.saver.get_or_init(|| Saver::new(path));
        self.save().await
    }

    /// Writes the state to its file, if it has one and has changed.
    pub(super) async fn save(&self) -> Result<(), SnapshotError> {
        let Some(saver) = self.inner.saver.get() else { return Ok(()) };
        let changed = |saved| {
            self.world(|world| {
                let is_saved = saved == Some(world.state.revision);
                (!is_saved).then(|| Snapshot::new(world.state.clone(), world.rng.clone()))
            })
        };
        saver.save(changed).await
    }

    pub(super) fn world<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        let mut world = self.inner.world.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut world)
    }

    /// Runs `f` on the state at the current time.
    pub(super) fn with_state<R>(
        &self,
        f: impl FnOnce(&mut State, &mut Context<'_>, &mut RateLimit) -> R,
    ) -> R {
        let now = self.now();
        self.world(|world| {
            world.state.advance_to(now);
            let World { config, state, rng, rate, .. } = world;
            state.apply_events(&mut Context { config, now, rng });
            let result = f(state, &mut Context { config, now, rng }, rate);
            self.inner.changes.send_if_modified(|seen| {
                let changed = *seen != state.revision;
                *seen = state.revision;
                changed
            });
            result
        })
    }

    pub(super) fn now(&self) -> jiff::Timestamp {
        self.inner.clock.now()
    }

    /// Notified when an object is created, changed or deleted, but not when time alone changes it.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }
}
