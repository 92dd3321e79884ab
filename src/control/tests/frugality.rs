//! Number of calls to VPSie, counted at the wire: for a node, an idle hour, an outage.

use bytes::Bytes;
use http::Request;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use super::*;
use crate::simulator::{DEFAULT_CLUSTER, DEFAULT_DATACENTER, DEFAULT_TOKEN, Simulator, SimulatorConfig};
use crate::vpsie::{
    BaseUrl, Client, ClientConfig, Credentials, ManagedBackend, ManagedConfig, Metrics, Transport,
};

struct Simulated {
    process: Process,
    simulator: Simulator,
    calls: Arc<Mutex<BTreeMap<String, usize>>>,
}

const POOL: &str = "web/ams1/s-2vcpu-4gb/on-demand";

impl Simulated {
    async fn new() -> Self {
        let mut config = SimulatorConfig::default();
        config.shapes.set("prefix=apps-and-api").unwrap();
        let clock: Arc<dyn Clock> = Arc::new(TokioClock(Instant::now()));
        let simulator = Simulator::new(config, Arc::clone(&clock)).unwrap();
        let calls: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let counted = calls.clone();
        let inner = simulator.clone();
        let transport: Transport =
            BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
                let kind = ["add/slave", "delete/slave", "byId", "offers"];
                let path = request.uri().path().to_owned();
                let kind = kind.into_iter().find(|kind| path.contains(kind)).unwrap_or("other");
                *counted.lock().unwrap().entry(kind.to_owned()).or_default() += 1;
                let inner = inner.clone();
                async move { inner.transport().oneshot(request).await }
            }));
        let base = BaseUrl::parse("https://vpsie.test").unwrap();
        let config = ClientConfig::new(base, Credentials::token(DEFAULT_TOKEN));
        let client = Client::new(config, transport, clock, Metrics::default());
        let managed =
            ManagedConfig { cluster: DEFAULT_CLUSTER.into(), datacenter: DEFAULT_DATACENTER.into() };
        let backend: Arc<dyn Backend> = Arc::new(ManagedBackend::new(client, managed));
        let mut declared = declared();
        declared.declaration.groups[0].pools = vec![POOL.parse().unwrap()];
        let mut process = Process::with_disk(Disk::default(), declared).await;
        process.start_with(&backend);
        process.watch_prices_of(backend, Duration::from_mins(30));
        seconds(60).await;
        Self { process, simulator, calls }
    }

    fn take_counts(&self) -> (usize, BTreeMap<String, usize>) {
        let calls = std::mem::take(&mut *self.calls.lock().unwrap());
        (calls.values().sum(), calls)
    }

    /// Waits until all machines are Running, and returns the seconds that took.
    async fn wait_until_running(&self) -> u64 {
        let start = Instant::now();
        while self.process.handle.read(|fleet| fleet.machines().any(|m| m.phase.name() != "Running")) {
            seconds(1).await;
            assert!(start.elapsed() < Duration::from_mins(10), "not all machines are Running");
        }
        start.elapsed().as_secs()
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_costs_few_calls() {
    for (nodes, allowed) in [(1, 10), (10, 30), (50, 150)] {
        let world = Simulated::new().await;
        world.take_counts();
        world.process.increase(POOL, nodes).await;
        let up = world.wait_until_running().await;
        let (made, kinds) = world.take_counts();
        println!("{nodes} up in {up} s: {made} calls, {kinds:?}");
        world.process.delete_all(POOL).await;
        let down = world.wait_until_running().await;
        let (removed, kinds) = world.take_counts();
        println!("{nodes} down in {down} s: {removed} calls, {kinds:?}");
        assert_eq!(world.simulator.worker_count(), 0);
        assert!(made <= allowed && removed <= allowed, "{nodes}: {made} and {removed} calls");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_hour_costs_its_listings() {
    let world = Simulated::new().await;
    world.process.increase(POOL, 5).await;
    world.wait_until_running().await;
    seconds(120).await;
    world.take_counts();
    seconds(3600).await;
    let (all, kinds) = world.take_counts();
    println!("idle hour: {all} calls, {kinds:?}");
    assert!(all <= 123, "{kinds:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_two_minutes_gets_few_calls() {
    let world = Simulated::new().await;
    world.process.increase(POOL, 40).await;
    world.wait_until_running().await;
    world.take_counts();
    world.simulator.set_outage(true);
    world.process.delete_all(POOL).await;
    world.process.increase(POOL, 40).await;
    seconds(120).await;
    let (all, kinds) = world.take_counts();
    println!("outage: {all} calls, {kinds:?}");
    assert!(all <= 30, "{kinds:?}");
    world.simulator.set_outage(false);
    let after = world.wait_until_running().await;
    println!("settled {after} s after it, {:?}", world.take_counts());
    assert_eq!(world.simulator.worker_count(), 40);
    assert!(after < 240, "{after}");
}
