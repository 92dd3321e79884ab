//! A process of the provider as `serve --backend=vm` starts it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vpsie_autoscaler::clock::Clock;
use vpsie_autoscaler::control::{
    AuditLog, CatalogRefresh, Drain, DrainMetrics, FleetConfig, FleetHandle, FleetWriter, GuardedBackend,
    JoinCleanup, JoinPayloads, ListingTrigger, NodeGroups, Nodes, NodesView, Provision, RecordsWatch,
    Removal, ServedCluster,
};
use vpsie_autoscaler::fleet::{Binding, Declaration, FleetSettings, Policy};
use vpsie_autoscaler::kubernetes::{Events, with_request_timeout};
use vpsie_autoscaler::simulator::DEFAULT_TOKEN;
use vpsie_autoscaler::store::{KubernetesStore, Store};
use vpsie_autoscaler::vpsie::{
    Backend, BaseUrl, Client, ClientConfig, Credentials, Metrics, Transport, VmBackend,
};

use super::{CLUSTER, NAMESPACE};

/// The tasks and the memory of a process.
pub(super) struct Process {
    pub(super) handle: FleetHandle,
    pub(super) served: watch::Receiver<ServedCluster>,
    tasks: JoinSet<()>,
}

impl Process {
    pub(super) async fn start(
        client: kube::Client,
        clock: Arc<dyn Clock>,
        transport: Transport,
        base: &str,
        seed: u64,
        create_timeout: Duration,
    ) -> Result<Self, String> {
        let client = with_request_timeout(&client);
        let store = Arc::new(KubernetesStore::new(client.clone(), NAMESPACE));
        store.set_cluster(CLUSTER.into());
        let base = BaseUrl::parse(base).map_err(|error| error.to_string())?;
        let config = ClientConfig { seed, ..ClientConfig::new(base, Credentials::token(DEFAULT_TOKEN)) };
        let vpsie = Client::new(config, transport, Arc::clone(&clock), Metrics::default());
        let settings = FleetSettings { binding: Binding::ByName, ..FleetSettings::default() };
        let declared = FleetConfig { declaration: Declaration::default(), settings };
        let backing: Arc<dyn Store> = Arc::clone(&store) as _;
        let (writer, handle) =
            FleetWriter::load(backing, Arc::clone(&clock), declared, seed, AuditLog::default())
                .await
                .map_err(|error| error.to_string())?;
        let payloads =
            Arc::new(JoinPayloads::new(handle.clone(), Arc::clone(&clock), &client, NAMESPACE, CLUSTER));
        let vms = Arc::new(VmBackend::new(vpsie, Arc::clone(&payloads) as _));
        vms.set_cluster(CLUSTER.into());
        vms.restore_attached(handle.read(|fleet| fleet.attached_vms().cloned().collect::<Vec<_>>()));
        let view = NodesView::default();
        let scripts = Arc::clone(&vms) as _;
        let cleanup = JoinCleanup::new(
            Arc::clone(&payloads),
            handle.clone(),
            Some(scripts),
            Events::none(),
            create_timeout,
        )
        .with_deadlines(view.clone());
        let guarded = GuardedBackend::new(Arc::clone(&vms) as _, handle.clone(), None, Events::none());
        let backend: Arc<dyn Backend> = Arc::new(guarded);
        let listing_trigger = Arc::new(ListingTrigger::default());
        let never = CancellationToken::new();
        let (in_force, served) = watch::channel(ServedCluster::Unknown);
        let on_cluster = move |served: &ServedCluster| {
            if let ServedCluster::SelfManaged(groups) = served {
                let vms_of = groups.iter().map(|(name, group)| (name.clone(), group.vms.clone()));
                vms.set_groups(vms_of.collect::<BTreeMap<_, _>>());
                payloads.set_groups(groups.as_ref().clone());
            }
        };
        let nodes = Nodes::new(handle.clone(), client.clone(), Arc::clone(&listing_trigger))
            .with_clock(Arc::clone(&clock))
            .with_view(view.clone());
        let drain =
            Drain::new(handle.clone(), client.clone(), view.clone(), Events::none(), DrainMetrics::default())
                .with_clock(Arc::clone(&clock));
        let groups =
            NodeGroups::new(handle.clone(), clock, view.clone(), client.clone(), NAMESPACE, None, on_cluster)
                .with_in_force(in_force);
        let records = RecordsWatch::new(handle.clone(), client, NAMESPACE);
        let policy = Policy { running_when_listed: false, create_timeout, ..Policy::default() };
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
        tasks.spawn(groups.run(never.clone()));
        tasks.spawn(records.run(never.clone()));
        tasks.spawn(cleanup.run(never.clone()));
        let mut known = served.clone();
        tasks.spawn(async move {
            if known.wait_for(|served| matches!(served, ServedCluster::SelfManaged(_))).await.is_ok() {
                tokio::join!(catalog.run(never.clone()), provision.run(never.clone()), removal.run(never));
            }
        });
        Ok(Self { handle, served, tasks })
    }

    /// Checks that no task has ended.
    pub(super) fn check_tasks(&mut self) -> Result<(), String> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => Err(format!("L: a task of the provider ended: {ended:?}")),
        }
    }

    /// Ends all tasks at their present await points.
    pub(super) async fn kill(mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }
}
