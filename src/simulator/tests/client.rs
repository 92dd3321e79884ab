//! This project's client with every shape.

use super::*;
use crate::catalog::{CapacityType, SizeId};
use crate::cost::{HoursPerMonth, Prices};
use crate::fleet::{DeletableVm, ListedNode, NodeRole, Vm as FleetVm, VmState};
use crate::vpsie::{
    Backend, BackendError, BaseUrl, Client, ClientConfig, CreateRequest, Credentials, ManagedBackend,
    ManagedConfig,
};

fn backend(sim: &Simulator) -> ManagedBackend {
    let prefix = match sim.shapes().prefix {
        Prefix::AppsAndApi | Prefix::Apps => "/apps/v2",
        Prefix::Api => "/api/v2",
        Prefix::Bare => "/v2",
    };
    let base = BaseUrl::parse(&format!("https://vpsie.test{prefix}")).unwrap();
    let config =
        ClientConfig::new(base, Credentials::client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET.to_owned()));
    let clock = Arc::new(TestClock(tokio::time::Instant::now()));
    let metrics = crate::vpsie::Metrics::default();
    let client = Client::new(config, sim.transport(), clock, metrics);
    let config = ManagedConfig { cluster: DEFAULT_CLUSTER.into(), datacenter: DEFAULT_DATACENTER.into() };
    ManagedBackend::new(client, config)
}

fn workers_of(listed: &[ListedNode]) -> Vec<&ListedNode> {
    listed.iter().filter(|node| node.role == NodeRole::Worker).collect()
}

/// Creates and deletes a worker of an offer of the catalog.
async fn create_and_delete_worker(sim: &Simulator) -> Result<(), BackendError> {
    let backend = backend(sim);
    let catalog = backend.catalog().await?;
    assert_eq!(catalog.offers.len(), 10);
    let offer =
        catalog.resolve(&DEFAULT_DATACENTER.into(), &"s-4vcpu-8gb".into(), CapacityType::OnDemand).unwrap();
    assert_eq!((offer.size, offer.resources.cpu_millis, offer.resources.memory_mib), (SizeId(3), 4000, 8192));
    let prices = Prices { hours_per_month: HoursPerMonth::new(720).unwrap(), ..Prices::default() };
    assert_eq!(prices.price(offer).unwrap().0.round_dp(4).to_string(), "0.0667");

    assert!(workers_of(&backend.list().await?.nodes).is_empty());
    for _ in 0..2 {
        let request = CreateRequest {
            machine: "workers-1".into(),
            class: offer.class(),
            pool: "workers/dc-1/small/on-demand".parse().unwrap(),
            hostname: None,
        };
        backend.create(&request).await?;
    }
    tokio::time::sleep(Duration::from_mins(1)).await;
    let listed = backend.list().await?.nodes;
    let found = workers_of(&listed);
    assert_eq!(found.len(), 2);
    for vm in workers(sim) {
        let hostname = vm.vm.hostname.to_lowercase();
        let node = found.iter().find(|node| node.hostname.as_str() == hostname).unwrap();
        assert_eq!(node.id.as_ref().unwrap().as_str(), vm.vm.uuid);
        assert_eq!(node.state, VmState::Running);
    }
    let victim = DeletableVm::assumed(FleetVm {
        hostname: found[0].hostname.clone(),
        id: found[0].id.clone(),
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    });
    backend.delete(&victim).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    backend.delete(&victim).await?;
    assert_eq!(workers_of(&backend.list().await?.nodes).len(), 1);
    assert_eq!(workers(sim).len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_client_creates_and_deletes_in_every_shape() {
    let all = [("default".to_owned(), Shapes::default()), ("original".to_owned(), Shapes::original_client())];
    let mut failed = Vec::new();
    for (name, shapes) in all.into_iter().chain(Shapes::each()) {
        let sim = simulator(SimulatorConfig { shapes, ..steady() });
        match tokio::spawn(async move { create_and_delete_worker(&sim).await }).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{name}: {error}")),
            Err(panic) => failed.push(format!("{name}: {panic}")),
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
