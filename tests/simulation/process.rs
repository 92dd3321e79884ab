//! A process of the provider: its tasks and its memory, which a crash ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vpsie_autoscaler::clock::Clock;
use vpsie_autoscaler::control::{
    AuditLog, CatalogRefresh, FleetConfig, FleetHandle, FleetWriter, GuardedBackend, ListingTrigger,
    Provision, Removal,
};
use vpsie_autoscaler::fleet::Policy;
use vpsie_autoscaler::kubernetes::Events;
use vpsie_autoscaler::simulator::{DEFAULT_CLUSTER, DEFAULT_DATACENTER, DEFAULT_TOKEN};
use vpsie_autoscaler::store::Store;
use vpsie_autoscaler::vpsie::{
    Backend, BaseUrl, Client, ClientConfig, Credentials, ManagedBackend, ManagedConfig, Metrics, Transport,
};

pub(crate) struct Process {
    pub(crate) handle: FleetHandle,
    tasks: JoinSet<()>,
}

pub(crate) struct ProcessConfig {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) transport: Transport,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) declared: FleetConfig,
    pub(crate) policy: Policy,
    pub(crate) base: &'static str,
}

impl Process {
    pub(crate) async fn start(config: ProcessConfig, seed: u64) -> Result<Self, String> {
        let ProcessConfig { store, transport, clock, declared, policy, base } = config;
        let base = BaseUrl::parse(base).map_err(|error| error.to_string())?;
        let config = ClientConfig { seed, ..ClientConfig::new(base, Credentials::token(DEFAULT_TOKEN)) };
        let client = Client::new(config, transport, Arc::clone(&clock), Metrics::default());
        let managed =
            ManagedConfig { cluster: DEFAULT_CLUSTER.into(), datacenter: DEFAULT_DATACENTER.into() };
        let (writer, handle) = FleetWriter::load(store, clock, declared, seed, AuditLog::default())
            .await
            .map_err(|error| error.to_string())?;
        let backend = ManagedBackend::new(client, managed);
        if let Some(catalog) = handle.read(|fleet| fleet.catalog().cloned()) {
            backend.restore_offers(&catalog);
        }
        let guarded = GuardedBackend::new(Arc::new(backend), handle.clone(), None, Events::default());
        let backend: Arc<dyn Backend> = Arc::new(guarded);
        let listing_trigger = Arc::new(ListingTrigger::default());
        let never = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run());
        let every = Duration::from_mins(15);
        tasks.spawn(CatalogRefresh::new(handle.clone(), Arc::clone(&backend), every).run(never.clone()));
        let idle = Duration::from_mins(1);
        let provision =
            Provision::new(handle.clone(), Arc::clone(&backend), policy, idle, Arc::clone(&listing_trigger));
        tasks.spawn(provision.run(never.clone()));
        tasks.spawn(Removal::new(handle.clone(), backend, listing_trigger).run(never));
        Ok(Self { handle, tasks })
    }

    /// Checks that no task has ended or panicked.
    pub(crate) fn check_tasks(&mut self) -> Result<(), String> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(Ok(())) => Err("L: a task of the provider ended".to_owned()),
            Some(Err(error)) => Err(format!("L: a task of the provider panicked: {error}")),
        }
    }

    /// Ends all tasks at their present await points.
    pub(crate) async fn kill(mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }
}
