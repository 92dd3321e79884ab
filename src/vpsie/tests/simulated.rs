use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

use super::request;
use super::script::TestClock;
use crate::catalog::{CapacityType, MachineClass, SizeId};
use crate::fleet::{DeletableVm, Hostname, ListedNode, NodeListing, NodeRole, Vm, VmState};
use crate::simulator::{
    DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_CLUSTER, DEFAULT_DATACENTER, Prefix, Shapes, Simulator,
    SimulatorConfig,
};
use crate::vpsie::{
    Backend, BackendError, BaseUrl, Client, ClientConfig, CreateRequest, Credentials, ManagedBackend,
    ManagedConfig, Metrics,
};

/// An offer with unique resources, and an offer with the resources of another one.
const ALONE: SizeId = SizeId(9);
const TWIN: SizeId = SizeId(2);

fn backend(simulator: &Simulator, shapes: &Shapes) -> ManagedBackend {
    let prefix = match shapes.prefix {
        Prefix::AppsAndApi | Prefix::Apps => "",
        Prefix::Api => "/api/v2",
        Prefix::Bare => "/v2",
    };
    let base = BaseUrl::parse(&format!("https://vpsie.test{prefix}")).unwrap();
    let config = ClientConfig::new(base, Credentials::client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET));
    let clock = Arc::new(TestClock::default());
    let client = Client::new(config, simulator.transport(), clock, Metrics::default());
    ManagedBackend::new(
        client,
        ManagedConfig { cluster: DEFAULT_CLUSTER.into(), datacenter: DEFAULT_DATACENTER.into() },
    )
}

fn workers(listed: Vec<ListedNode>) -> Vec<ListedNode> {
    listed.into_iter().filter(|node| node.role == NodeRole::Worker).collect()
}

/// Start, three workers of two sizes, a restart, an additional worker, a deletion.
async fn live(shapes: Shapes) -> Result<(), BackendError> {
    let config = SimulatorConfig { shapes, ..SimulatorConfig::default() };
    let simulator = Simulator::new(config, Arc::new(TestClock::default())).unwrap();
    let first = backend(&simulator, &shapes);
    first.check().await?;
    assert_eq!(first.catalog().await?.offers.len(), 10);
    let before = workers(first.list().await?.nodes).len();
    for size in [ALONE, ALONE, TWIN] {
        first.create(&request(size, "pool")).await?;
    }

    let second = backend(&simulator, &shapes);
    second.catalog().await?;
    second.create(&request(ALONE, "another")).await?;
    tokio::time::sleep(Duration::from_secs(90)).await;
    second.list().await?;
    let listed = second.list().await?.nodes;
    assert_eq!(listed.iter().filter(|node| node.role == NodeRole::ControlPlane).count(), 1);
    let up = workers(listed);
    assert_eq!(up.len(), before + 4);
    for node in &up {
        assert!(node.id.is_some(), "{node:?}");
        assert_eq!(node.state, VmState::Running, "{node:?}");
        assert!(node.size.is_none_or(|size| [ALONE, TWIN].contains(&size)), "{node:?}");
    }

    let victim = up[1].hostname.clone();
    let vm = |id| {
        let hostname = victim.clone();
        DeletableVm::assumed(Vm {
            hostname,
            id,
            addresses: Vec::new(),
            provider_id: None,
            attached: None,
            request: None,
        })
    };
    second.delete(&vm(up[1].id.clone())).await?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let left: Vec<Hostname> =
        workers(second.list().await?.nodes).into_iter().map(|node| node.hostname).collect();
    let want: Vec<Hostname> =
        up.iter().map(|node| node.hostname.clone()).filter(|name| *name != victim).collect();
    assert_eq!(left, want);
    second.delete(&vm(up[1].id.clone())).await?;
    second.delete(&vm(None)).await
}

#[tokio::test(start_paused = true)]
async fn works_with_each_shape_of_the_replies() {
    let mut failed = Vec::new();
    for (name, shapes) in Shapes::each() {
        match tokio::spawn(live(shapes)).await {
            Ok(Ok(())) => {}
            other => failed.push(format!("{name}: {other:?}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn works_with_random_shapes_of_the_replies() {
    for seed in 0..20 {
        let shapes = Shapes::random(&mut StdRng::seed_from_u64(seed));
        let result = tokio::spawn(live(shapes)).await;
        assert!(matches!(result, Ok(Ok(()))), "seed {seed}: {result:?} with {shapes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn long_lists_are_read_to_their_end() {
    let offer = |id: u64| json!({"id": id, "name": format!("o-{id:03}"), "cpu": 2, "ram": 4096 + id, "disk": 80, "monthly": 24});
    let config = json!({
        "offers": (1..=130).map(offer).collect::<Vec<_>>(),
        "clusters": [{"identifier": DEFAULT_CLUSTER, "name": "HEL-K8s", "datacenter": DEFAULT_DATACENTER,
            "offer": "o-001", "foreignWorkers": 45}],
    });
    for paging in ["rows", "pages"] {
        for total in ["total", "count", "pagination", "absent"] {
            let mut config: SimulatorConfig = serde_json::from_value(config.clone()).unwrap();
            config.shapes.set(&format!("paging={paging}")).unwrap();
            config.shapes.set(&format!("total={total}")).unwrap();
            let shapes = config.shapes;
            let simulator = Simulator::new(config, Arc::new(TestClock::default())).unwrap();
            let backend = backend(&simulator, &shapes);
            assert_eq!(backend.catalog().await.unwrap().offers.len(), 130, "{paging} {total}");
            backend.create(&request(SizeId(125), "pool")).await.unwrap();
            tokio::time::sleep(Duration::from_secs(90)).await;
            backend.list().await.unwrap();
            let workers = workers(backend.list().await.unwrap().nodes);
            assert_eq!(workers.len(), 46, "{paging} {total}");
            let unidentified = workers.iter().filter(|node| node.id.is_none()).count();
            assert_eq!(unidentified, 0, "{paging} {total}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn determines_sizes_at_the_first_listing_by_restored_offers() {
    let count_sized = |listed: Result<NodeListing, BackendError>| {
        workers(listed.unwrap().nodes).iter().filter(|node| node.size == Some(ALONE)).count()
    };
    let mut gained = 0;
    for (name, shapes) in Shapes::each() {
        let config = SimulatorConfig { shapes, ..SimulatorConfig::default() };
        let simulator = Simulator::new(config, Arc::new(TestClock::default())).unwrap();
        let first = backend(&simulator, &shapes);
        let catalog = first.catalog().await.unwrap();
        first.create(&request(ALONE, "pool")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(90)).await;
        let second = backend(&simulator, &shapes);
        second.restore_offers(&catalog);
        let at_once = count_sized(second.list().await);
        assert_eq!(at_once, count_sized(first.list().await), "{name}");
        gained += at_once - count_sized(backend(&simulator, &shapes).list().await);
    }
    assert!(gained > 0);
}

#[tokio::test(start_paused = true)]
async fn requests_and_lists_spot_vms() {
    let mut config = SimulatorConfig::default();
    let sold = config.offers.iter_mut().find(|offer| offer.id == ALONE.0).unwrap();
    sold.spot_monthly = Some(20.into());
    let simulator = Simulator::new(config, Arc::new(TestClock::default())).unwrap();
    let backend = backend(&simulator, &Shapes::default());
    let offers = backend.catalog().await.unwrap().offers;
    let spot: Vec<_> = offers.iter().filter(|offer| offer.capacity_type == CapacityType::Spot).collect();
    assert_eq!((offers.len(), spot.len(), spot[0].size, spot[0].monthly), (11, 1, ALONE, Some(20.into())));

    let spot_request = |size| {
        let on_demand = request(size, "pool");
        let class = MachineClass { capacity_type: CapacityType::Spot, ..on_demand.class };
        CreateRequest { class, ..on_demand }
    };
    backend.create(&spot_request(ALONE)).await.unwrap();
    backend.create(&request(ALONE, "pool")).await.unwrap();
    assert!(matches!(backend.create(&spot_request(TWIN)).await, Err(BackendError::Refused { .. })));
    tokio::time::sleep(Duration::from_secs(90)).await;
    let listed = workers(backend.list().await.unwrap().nodes);
    let mut types: Vec<_> = listed.iter().map(|node| node.capacity_type).collect();
    types.sort_unstable();
    assert_eq!(types, [Some(CapacityType::OnDemand), Some(CapacityType::Spot)]);
}
