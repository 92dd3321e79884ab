//! A process of the provider as `serve` starts it in a cluster: the loops over VPSie and the loops over
//! objects.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vpsie_autoscaler::clock::Clock;
use vpsie_autoscaler::control::{
    AuditLog, CatalogRefresh, Drain, DrainMetrics, FleetConfig, FleetHandle, FleetWriter,
    InterruptionMetrics, Interruptions, ListingTrigger, NodeGroups, Nodes, NodesView, Provision,
    RecordsWatch, Removal, ServedCluster,
};
use vpsie_autoscaler::fleet::{Declaration, FleetSettings, Policy, Pool};
use vpsie_autoscaler::kubernetes::{Events, with_request_timeout};
use vpsie_autoscaler::simulator::{DEFAULT_CLUSTER, DEFAULT_DATACENTER, DEFAULT_TOKEN};
use vpsie_autoscaler::store::{KubernetesStore, Store};
use vpsie_autoscaler::vpsie::{
    Backend, BaseUrl, Client, ClientConfig, Credentials, ManagedBackend, ManagedConfig, Metrics, Transport,
};

use super::NAMESPACE;

/// The connections and clocks of a process.
pub(crate) struct ClusterProcessConfig<'a> {
    /// The client of the API server.
    pub(crate) client: kube::Client,
    pub(crate) clock: Arc<dyn Clock>,
    /// The clock of the loop over notices. It differs from `clock` only because of a planted bug.
    pub(crate) notice_clock: Arc<dyn Clock>,
    pub(crate) transport: Transport,
    /// Base URL of VPSie's API.
    pub(crate) base: &'a str,
    pub(crate) seed: u64,
}

/// The tasks and the memory of a process.
pub(crate) struct ClusterProcess {
    pub(crate) handle: FleetHandle,
    /// Maximum number of machines by pool id, at the time when gRPC opened.
    pub(crate) opened: Arc<OnceLock<BTreeMap<String, u32>>>,
    tasks: JoinSet<()>,
}

impl ClusterProcess {
    pub(crate) async fn start(config: ClusterProcessConfig<'_>) -> Result<Self, String> {
        let ClusterProcessConfig { client, clock, notice_clock, transport, base, seed } = config;
        let client = with_request_timeout(&client);
        let store = Arc::new(KubernetesStore::new(client.clone(), NAMESPACE));
        let base = BaseUrl::parse(base).map_err(|error| error.to_string())?;
        let config = ClientConfig { seed, ..ClientConfig::new(base, Credentials::token(DEFAULT_TOKEN)) };
        let vpsie = Client::new(config, transport, Arc::clone(&clock), Metrics::default());
        let declared =
            FleetConfig { declaration: Declaration::default(), settings: FleetSettings::default() };
        let backing: Arc<dyn Store> = Arc::clone(&store) as _;
        let (writer, handle) =
            FleetWriter::load(backing, Arc::clone(&clock), declared, seed, AuditLog::default())
                .await
                .map_err(|error| error.to_string())?;
        let managed =
            ManagedConfig { cluster: DEFAULT_CLUSTER.into(), datacenter: DEFAULT_DATACENTER.into() };
        let recorded = store.cluster().map(|_| managed);
        let managed = Arc::new(ManagedBackend::new(vpsie, recorded.clone()));
        if let Some(catalog) = handle.read(|fleet| fleet.catalog().cloned()) {
            managed.restore_offers(&catalog);
        }
        let backend: Arc<dyn Backend> = Arc::clone(&managed) as _;
        let listing_trigger = Arc::new(ListingTrigger::default());
        let view = NodesView::default();
        let never = CancellationToken::new();
        let (in_force, served) = watch::channel(ServedCluster::Unknown);
        let on_cluster = move |served: &ServedCluster| {
            if let ServedCluster::Managed(config) = served {
                store.set_cluster(config.cluster.clone());
                managed.set_config(config.clone());
            }
        };
        let nodes = Nodes::new(handle.clone(), client.clone(), Arc::clone(&listing_trigger))
            .with_clock(Arc::clone(&clock))
            .with_view(view.clone());
        let drain =
            Drain::new(handle.clone(), client.clone(), view.clone(), Events::none(), DrainMetrics::default())
                .with_clock(Arc::clone(&clock));
        let metrics = InterruptionMetrics::default();
        let interruptions =
            Interruptions::new(handle.clone(), client.clone(), view.clone(), notice_clock, metrics);
        let groups = NodeGroups::new(
            handle.clone(),
            clock,
            view.clone(),
            client.clone(),
            NAMESPACE,
            recorded,
            on_cluster,
        )
        .with_in_force(in_force);
        let records = RecordsWatch::new(handle.clone(), client, NAMESPACE);
        let policy = Policy { running_when_listed: false, ..Policy::default() };
        let catalog = CatalogRefresh::new(handle.clone(), Arc::clone(&backend), Duration::from_mins(15));
        let idle = Duration::from_mins(1);
        let provision =
            Provision::new(handle.clone(), Arc::clone(&backend), policy, idle, Arc::clone(&listing_trigger))
                .with_nodes(Some(view));
        let removal = Removal::new(handle.clone(), backend, listing_trigger);
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run());
        tasks.spawn(nodes.run(never.clone()));
        tasks.spawn(drain.run(never.clone()));
        tasks.spawn(interruptions.run(never.clone()));
        tasks.spawn(groups.run(never.clone()));
        tasks.spawn(records.run(never.clone()));
        let opened = Arc::new(OnceLock::new());
        let mut cluster_known = served.clone();
        tasks.spawn(open(handle.clone(), served, Arc::clone(&opened)));
        tasks.spawn(async move {
            if cluster_known.wait_for(|served| matches!(served, ServedCluster::Managed(_))).await.is_ok() {
                tokio::join!(catalog.run(never.clone()), provision.run(never.clone()), removal.run(never));
            }
        });
        Ok(Self { handle, opened, tasks })
    }

    /// Checks that no task has ended.
    pub(crate) fn check_tasks(&mut self) -> Result<(), String> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => Err(format!("L: a task of the provider ended: {ended:?}")),
        }
    }

    /// Ends all tasks at their present await points.
    pub(crate) async fn kill(mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Opens gRPC under the conditions of `serve`: the NodeGroups are in force, and the catalog is known.
async fn open(
    handle: FleetHandle,
    mut served: watch::Receiver<ServedCluster>,
    opened: Arc<OnceLock<BTreeMap<String, u32>>>,
) {
    let known = served.wait_for(|served| matches!(served, ServedCluster::Managed(_))).await.is_ok();
    while known && handle.read(|fleet| fleet.catalog().is_none()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let allowed = handle.read(|fleet| {
        let max = |pool: &Pool| fleet.group(pool).map_or(0, |group| group.max);
        fleet.pools().map(|pool| (pool.id.to_string(), max(pool))).collect()
    });
    opened.get_or_init(|| allowed);
    std::future::pending::<()>().await;
}
