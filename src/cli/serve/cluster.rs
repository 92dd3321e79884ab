//! `serve` in a cluster: NodeGroups and records are objects, and one of several replicas leads.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::components::{
    Ports, ServeMetrics, Tasks, VpsieObservers, build_transport, check_notice_webhook, debug_router, finish,
    listen, serve_grpc, spawn, spawn_credentials, spawn_http, spawn_notice_webhook, spawn_vpsie,
    system_clock, unexpected_end,
};
use super::product::Product;
use crate::clock::Clock;
use crate::config::{ElectionArgs, Settings};
use crate::control::{
    Drain, DrainMetrics, FleetConfig, FleetHandle, FleetWriter, InterruptionMetrics, Interruptions,
    ListingTrigger, NodeGroups, Nodes, NodesView, RecordsWatch, ServedCluster, fence_transport,
};
use crate::fleet::{Binding, ClusterId, Declaration};
use crate::grpc::{ExpanderService, hand_over};
use crate::kubernetes::{
    self, ElectionConfig, Elector, Events, KubernetesAccess, LeaderAddresses, Leadership, LossReason, Role,
    fence_client,
};
use crate::store::{KubernetesStore, StoreError};
use crate::telemetry::{Readiness, RepeatedWarning, Unready};
use crate::vpsie::{Client, ManagedConfig};

/// Wait between attempts to read the records at start.
const LOAD_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Interval of the warning about the same error of that read.
const LOAD_WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// Time for another replica to take over the released Lease.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a Service to route to the next leader only.
const FORWARD_DURATION: Duration = Duration::from_secs(5);

/// The stage of a replica. Only a serving replica is ready, so that a Service routes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Standby,
    Loading,
    Serving,
}

pub(super) async fn run(
    settings: Settings,
    access: &KubernetesAccess,
    namespace: &str,
    election: &ElectionArgs,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let http = listen("--http-listen", settings.http_listen).await?;
    // Fails early if a port is in use. A standby replica must not listen.
    drop(Ports::open(&settings).await?);
    check_notice_webhook(settings.notice_webhook.as_ref()).await?;
    let client = kubernetes::connect(access).await?;
    let clock = system_clock();
    let (transport, vpsie_config) = build_transport(&settings.vpsie).await?;
    let ServeMetrics {
        registry,
        catalog,
        grpc: grpc_metrics,
        vpsie,
        audit_log,
        events,
        drain,
        interruptions,
        credentials,
        decisions,
        fleet,
    } = ServeMetrics::new(settings.vpsie.credential_source());
    let (stage, staged) = watch::channel(Stage::Standby);
    let mut tasks = Tasks::new();

    let identity = kubernetes::identity();
    tracing::info!(identity, namespace, lease = election.leader_election_id, "waiting for the Lease");
    let config = ElectionConfig {
        namespace: namespace.to_owned(),
        name: election.leader_election_id.clone(),
        identity,
        lease_duration: election.leader_election_lease_duration,
        renew_deadline: election.leader_election_renew_deadline,
        retry_period: election.leader_election_retry_period,
        addresses: election.pod_ip.map(|ip| leader_addresses(&settings, ip)),
    };
    let mut elector = Elector::new(client.clone(), config, Arc::clone(&clock), rand::random());
    let debug = debug_router(&decisions, &fleet);
    let ready = readiness(staged, elector.is_on_standby());
    spawn_http(&mut tasks, http, registry, ready, debug, shutdown.clone());
    let pod = election.pod_name.as_deref();
    if let Some(pod) = pod {
        Role::new(client.clone(), namespace, pod).remove_own_label().await;
    }
    let acquired = tokio::select! {
        biased;
        acquired = elector.acquire(&shutdown) => acquired,
        ended = tasks.join_next() => return Err(unexpected_end(ended)),
    };
    let Some(leadership) = acquired else {
        elector.release().await;
        return Ok(());
    };
    stage.send_replace(Stage::Loading);
    let over = CancellationToken::new();
    let lease_task = spawn_lease_renewal(elector, &over, &mut tasks, &shutdown);

    let client = fence_client(&client, leadership.clone());
    if let Some(pod) = pod {
        let role = Role::new(client.clone(), namespace, pod);
        let serves = |stage: &Stage| *stage == Stage::Serving;
        spawn(&mut tasks, "role", role.run(stage.subscribe(), serves, shutdown.clone()));
    }
    let (events, publisher) = Events::new(client.clone(), namespace, events);
    spawn(&mut tasks, "events", publisher.run(shutdown.clone()));
    let components = LeaderComponents {
        client,
        namespace: namespace.to_owned(),
        clock,
        leadership,
        events,
        nodes: NodesView::default(),
        drain,
        interruptions,
        deletes_pods: settings.spot_delete_pods,
        shutdown: shutdown.clone(),
    };
    let audit_log = audit_log.with_events(components.events.clone());
    let Some(LoadedRecords { store, writer, handle, recorded }) = components.load(&settings, audit_log).await
    else {
        return release_lease(lease_task, over, Ok(()), None).await;
    };
    drop(fleet.set(handle.clone()));
    drop(fleet);
    let writer_task = tokio::spawn(writer.run());
    let transport = fence_transport(transport, components.leadership.clone());
    let vpsie_client = Client::new(vpsie_config, transport, Arc::clone(&components.clock), vpsie);
    let events = components.events.clone();
    let kube = Some(&components.client);
    spawn_credentials(&mut tasks, &settings.vpsie, &vpsie_client, kube, credentials, events, &shutdown)?;
    let Some(product) = components.build_product(&settings, &handle, vpsie_client, recorded.clone()).await
    else {
        return release_lease(lease_task, over, Ok(()), None).await;
    };
    handle.read(|fleet| product.restore(fleet));
    let (in_force, served) = watch::channel(ServedCluster::Unknown);
    let ready = wait_for_cluster(served.clone(), shutdown.clone()).boxed().shared();
    let backend = product.backend();
    let observers = VpsieObservers {
        metrics: catalog,
        events: components.events.clone(),
        nodes: Some(components.nodes.clone()),
    };
    let listing_trigger = spawn_vpsie(&mut tasks, &settings, &handle, &backend, observers, ready, &shutdown);
    let create_timeout = settings.timing.create_timeout;
    let (events, nodes) = (components.events.clone(), components.nodes.clone());
    product.spawn(&mut tasks, &handle, events, nodes, create_timeout, &shutdown);
    components.spawn_watches(
        &mut tasks,
        &handle,
        listing_trigger,
        BindingReceivers { store, product, recorded, in_force },
    );
    drop(backend);
    let LeaderComponents { nodes, clock, .. } = &components;
    let webhook = settings.notice_webhook.as_ref();
    spawn_notice_webhook(&mut tasks, webhook, &handle, nodes, clock, &shutdown);
    let expander = ExpanderService::new(handle.clone(), Arc::clone(&components.clock), decisions);
    let grace = settings.timing.shutdown_grace;
    let stop = shutdown.clone();
    let open_ports = Arc::new(OnceLock::new());
    let opened = Arc::clone(&open_ports);
    tasks.spawn(async move {
        let served = async {
            if !wait_until_loaded(handle.clone(), served, &stop).await {
                return Ok(());
            }
            let ports = Ports::open(&settings).await?;
            let ports = opened.get_or_init(|| ports).clone();
            let tls = if settings.grpc.tls.is_some() { "mTLS" } else { "plaintext" };
            tracing::info!(grpc = %ports.grpc.local_addr()?, tls, "serving Cluster Autoscaler");
            stage.send_replace(Stage::Serving);
            let served = serve_grpc(&settings, ports, handle, expander, grpc_metrics, stop);
            let served = Box::pin(served).await;
            stage.send_replace(Stage::Standby);
            served
        };
        ("gRPC", served.await)
    });
    let finished = finish(tasks, writer_task, shutdown, grace).await;
    release_lease(lease_task, over, finished, open_ports.get()).await
}

/// Components of a leader.
struct LeaderComponents {
    client: kube::Client,
    namespace: String,
    clock: Arc<dyn Clock>,
    leadership: Leadership,
    events: Events,
    nodes: NodesView,
    drain: DrainMetrics,
    interruptions: InterruptionMetrics,
    deletes_pods: bool,
    shutdown: CancellationToken,
}

struct LoadedRecords {
    store: Arc<KubernetesStore>,
    writer: FleetWriter,
    handle: FleetHandle,
    /// The cluster of the records.
    recorded: Option<ManagedConfig>,
}

impl LeaderComponents {
    /// Reads the records, with retries. None if the process must end first.
    async fn load(&self, settings: &Settings, audit_log: crate::control::AuditLog) -> Option<LoadedRecords> {
        let store = Arc::new(KubernetesStore::new(self.client.clone(), &self.namespace));
        let mut warning = RepeatedWarning::new(LOAD_WARNING_INTERVAL);
        let (writer, handle) = loop {
            let declared =
                FleetConfig { declaration: Declaration::default(), settings: settings.fleet.clone() };
            let seed = rand::random();
            let clock = Arc::clone(&self.clock);
            let loading =
                FleetWriter::load(Arc::clone(&store) as _, clock, declared, seed, audit_log.clone());
            let error: StoreError = match self.run_while_leading(loading).await? {
                Ok(loaded) => break loaded,
                Err(error) => error,
            };
            let error = error.to_string();
            if warning.is_due(&error) {
                tracing::warn!(error, "cannot read the records; retrying");
            }
            self.run_while_leading(tokio::time::sleep(LOAD_RETRY_INTERVAL)).await?;
        };
        let datacenter = handle.read(|fleet| fleet.machines().next().map(|m| m.pool.datacenter.clone()));
        let config = |cluster: ClusterId| Some(ManagedConfig { cluster, datacenter: datacenter? });
        let recorded = store.cluster().and_then(config);
        Some(LoadedRecords { store, writer, handle, recorded })
    }

    /// The product of the settings. None if the process must end first.
    async fn build_product(
        &self,
        settings: &Settings,
        handle: &FleetHandle,
        vpsie: Client,
        recorded: Option<ManagedConfig>,
    ) -> Option<Product> {
        match settings.fleet.binding {
            Binding::ByDifference => Some(Product::managed(vpsie, recorded)),
            Binding::ByName => {
                let uid = self.read_cluster_uid().await?;
                let key = settings.vm_deletion_key.clone();
                let (clock, namespace) = (&self.clock, &self.namespace);
                let kube = &self.client;
                Some(Product::self_managed(vpsie, key, &uid, handle, clock, kube, namespace))
            }
        }
    }

    /// The UID of the namespace `kube-system`, which identifies a self-managed cluster; with retries. None if the process
    /// must end first.
    async fn read_cluster_uid(&self) -> Option<String> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let mut warning = RepeatedWarning::new(LOAD_WARNING_INTERVAL);
        loop {
            let error = match self.run_while_leading(namespaces.get("kube-system")).await? {
                Ok(namespace) => match namespace.metadata.uid {
                    Some(uid) => return Some(uid),
                    None => "the namespace kube-system has no UID".to_owned(),
                },
                Err(error) => error.to_string(),
            };
            if warning.is_due(&error) {
                tracing::warn!(error, "cannot read the UID of the cluster; retrying");
            }
            self.run_while_leading(tokio::time::sleep(LOAD_RETRY_INTERVAL)).await?;
        }
    }

    async fn run_while_leading<T>(&self, operation: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => None,
            () = self.leadership.ended() => None,
            result = operation => Some(result),
        }
    }

    /// Starts the loops over objects of the cluster.
    fn spawn_watches(
        &self,
        tasks: &mut Tasks,
        handle: &FleetHandle,
        listing_trigger: Arc<ListingTrigger>,
        receivers: BindingReceivers,
    ) {
        let client = &self.client;
        let namespace = &self.namespace;
        let shutdown = &self.shutdown;
        let BindingReceivers { store, product, recorded, in_force } = receivers;
        let view = self.nodes.clone();
        let nodes = Nodes::new(handle.clone(), client.clone(), listing_trigger)
            .with_clock(Arc::clone(&self.clock))
            .with_events(self.events.clone())
            .with_view(view.clone());
        let events = self.events.clone();
        let metrics = self.drain.clone();
        let drain = Drain::new(handle.clone(), client.clone(), view.clone(), events, metrics)
            .with_clock(Arc::clone(&self.clock))
            .with_pod_deletion(self.deletes_pods);
        let clock = Arc::clone(&self.clock);
        let metrics = self.interruptions.clone();
        let interruptions = Interruptions::new(handle.clone(), client.clone(), view.clone(), clock, metrics);
        let on_cluster = move |served: &ServedCluster| product.apply(served, &store);
        let clock = Arc::clone(&self.clock);
        let groups =
            NodeGroups::new(handle.clone(), clock, view, client.clone(), namespace, recorded, on_cluster)
                .with_in_force(in_force);
        let records = RecordsWatch::new(handle.clone(), client.clone(), namespace);
        spawn(tasks, "nodes", nodes.run(shutdown.clone()));
        spawn(tasks, "drain", drain.run(shutdown.clone()));
        spawn(tasks, "interruptions", interruptions.run(shutdown.clone()));
        spawn(tasks, "nodegroups", groups.run(shutdown.clone()));
        spawn(tasks, "records", records.run(shutdown.clone()));
    }
}

/// The components that need the cluster of the NodeGroups.
struct BindingReceivers {
    store: Arc<KubernetesStore>,
    product: Product,
    /// The cluster of the records.
    recorded: Option<ManagedConfig>,
    /// Set once the NodeGroups are applied. Requests to VPSie begin and gRPC opens only then.
    in_force: watch::Sender<ServedCluster>,
}

type LeaseTask = JoinHandle<(Elector, Result<(), LossReason>)>;

/// Starts the renewal of the Lease. The loss of the Lease ends the process.
fn spawn_lease_renewal(
    mut elector: Elector,
    over: &CancellationToken,
    tasks: &mut Tasks,
    shutdown: &CancellationToken,
) -> LeaseTask {
    let over = over.clone();
    let lost = CancellationToken::new();
    let lost_here = lost.clone();
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = lost_here.cancelled() => ("leadership", Err(anyhow::anyhow!("another replica may lead now"))),
            () = shutdown.cancelled() => ("leadership", Ok(())),
        }
    });
    tokio::spawn(async move {
        let result = elector.renew_until(&over).await;
        if result.is_err() {
            lost.cancel();
        }
        (elector, result)
    })
}

/// Releases the Lease after all tasks have ended, so that another replica takes over at once, and forwards
/// connections to these ports to it.
async fn release_lease(
    lease_task: LeaseTask,
    over: CancellationToken,
    finished: anyhow::Result<()>,
    ports: Option<&Ports>,
) -> anyhow::Result<()> {
    over.cancel();
    match lease_task.await {
        Ok((mut elector, Ok(()))) => {
            if elector.release().await
                && let Some(ports) = ports
            {
                forward_connections(&elector, ports).await;
            }
            finished
        }
        Ok((_, Err(lost))) => Err(anyhow::Error::new(lost).context("this replica no longer leads")),
        Err(broken) => Err(anyhow::anyhow!("the election panicked: {broken}")),
    }
}

async fn forward_connections(elector: &Elector, ports: &Ports) {
    let Ok(next) = tokio::time::timeout(SUCCESSOR_TIMEOUT, elector.successor()).await else {
        tracing::info!("no next leader published its addresses in time; connections are not forwarded");
        return;
    };
    let grpc = hand_over(Arc::clone(&ports.grpc), next.grpc, FORWARD_DURATION);
    let expander = async {
        match ports.expander.clone().zip(next.expander) {
            Some((listener, next)) => hand_over(listener, next, FORWARD_DURATION).await,
            None => 0,
        }
    };
    let (grpc, expander) = tokio::join!(grpc, expander);
    tracing::info!(next = %next.grpc, connections = grpc + expander, "forwarded connections to the next leader");
}

/// The addresses of this replica's ports for the others.
fn leader_addresses(settings: &Settings, ip: IpAddr) -> LeaderAddresses {
    let expander = settings.expander.as_ref().map(|(address, _)| SocketAddr::new(ip, address.port()));
    LeaderAddresses { grpc: SocketAddr::new(ip, settings.grpc_listen.port()), expander }
}

/// A replica that has never seen a leader is not on standby: the state of the cluster is unknown.
fn readiness(stage: watch::Receiver<Stage>, is_on_standby: watch::Receiver<bool>) -> Readiness {
    Arc::new(move || match *stage.borrow() {
        Stage::Standby if *is_on_standby.borrow() => Err(Unready::Standby),
        Stage::Standby => Err(Unready::NoLeader),
        Stage::Loading => Err(Unready::Loading),
        Stage::Serving => Ok(()),
    })
}

/// Waits for the cluster of the NodeGroups. Returns false at shutdown.
async fn wait_for_cluster(mut served: watch::Receiver<ServedCluster>, shutdown: CancellationToken) -> bool {
    let cluster =
        served.wait_for(|served| matches!(served, ServedCluster::Managed(_) | ServedCluster::SelfManaged(_)));
    tokio::select! {
        biased;
        () = shutdown.cancelled() => false,
        result = cluster => result.is_ok(),
    }
}

/// Waits until the pools are known, or known to be none. Returns false at shutdown.
async fn wait_until_loaded(
    mut handle: FleetHandle,
    mut served: watch::Receiver<ServedCluster>,
    shutdown: &CancellationToken,
) -> bool {
    loop {
        let present = served.borrow_and_update().clone();
        let catalog = handle.read(|fleet| fleet.catalog().is_some());
        if present == ServedCluster::None || present != ServedCluster::Unknown && catalog {
            return true;
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return false,
            changed = served.changed() => if changed.is_err() { return false },
            () = handle.changed() => {}
        }
    }
}
