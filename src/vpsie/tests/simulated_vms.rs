use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::script::TestClock;
use crate::catalog::{CapacityType, DatacenterId, MachineClass, SizeId};
use crate::fleet::{DeletableVm, Hostname, ListedNode, NodeRole, PoolId, Vm, VmState};
use crate::simulator::{
    DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_DATACENTER, Prefix, Shapes, Simulator, SimulatorConfig,
};
use crate::vpsie::{
    Backend, BackendError, BaseUrl, Client, ClientConfig, CreateRequest, Credentials, DeletionKey, Delivery,
    Metrics, Payload, PayloadError, PayloadSource, Scripts as _, VmBackend, VmGroup, VmNetwork, VmPlace,
};

const PLAN: &str = "c-2vcpu-4gb";

struct Joins;

#[async_trait]
impl PayloadSource for Joins {
    async fn payload(&self, request: &CreateRequest) -> Result<Payload, PayloadError> {
        Ok(Payload::new(format!("#!/bin/bash\njoin {}\n", request.machine)))
    }
}

fn group(delivery: Delivery) -> VmGroup {
    let network = VmNetwork {
        vpc: None,
        firewall_group: None,
        public_ipv4: true,
        public_ipv6: false,
        private_ip: true,
    };
    VmGroup {
        places: BTreeMap::from([(DEFAULT_DATACENTER.into(), VmPlace { image: "os-1".to_owned(), network })]),
        project: None,
        ssh_key: None,
        tags: vec!["team-a".to_owned()],
        notes: Some("call 555".to_owned()),
        delivery,
        allow_shared_memory: false,
    }
}

fn backend(simulator: &Simulator, shapes: &Shapes, cluster: &str) -> VmBackend {
    let prefix = match shapes.prefix {
        Prefix::AppsAndApi | Prefix::Apps => "",
        Prefix::Api => "/api/v2",
        Prefix::Bare => "/v2",
    };
    let base = BaseUrl::parse(&format!("https://vpsie.test{prefix}")).unwrap();
    let config = ClientConfig::new(base, Credentials::client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET));
    let clock = Arc::new(TestClock::default());
    let client = Client::new(config, simulator.transport(), clock, Metrics::default());
    let backend = VmBackend::new(client, Arc::new(Joins));
    backend.set_cluster(cluster.into());
    let groups = [("scripted".into(), group(Delivery::Script)), ("direct".into(), group(Delivery::UserData))];
    backend.set_groups(groups.into());
    backend
}

fn request(node_group: &str, number: u32) -> CreateRequest {
    let pool = PoolId {
        node_group: node_group.into(),
        datacenter: DEFAULT_DATACENTER.into(),
        offer: PLAN.into(),
        capacity_type: CapacityType::OnDemand,
    };
    let class = MachineClass {
        datacenter: DatacenterId::from(DEFAULT_DATACENTER),
        size: SizeId::from_plan(PLAN),
        capacity_type: CapacityType::OnDemand,
    };
    let machine = format!("{node_group}-0a1b2c3d");
    let hostname = Some(Hostname::new(&format!("{machine}-{number}")));
    CreateRequest { machine: machine.as_str().into(), pool, class, hostname }
}

fn deletable(node: &ListedNode) -> DeletableVm {
    DeletableVm::assumed(Vm {
        hostname: node.hostname.clone(),
        id: node.id.clone(),
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    })
}

/// Start, two VMs, a restart, a VM of another cluster, the clean-up of scripts, deletions.
async fn live(shapes: Shapes, key: Option<DeletionKey>) -> Result<(), BackendError> {
    let config = SimulatorConfig { shapes, ..SimulatorConfig::default() };
    let simulator = Simulator::new(config, Arc::new(TestClock::default())).unwrap();
    let start = || {
        let backend = backend(&simulator, &shapes, "uid-1");
        match &key {
            Some(key) => backend.with_deletion_key(key.clone()),
            None => backend,
        }
    };
    let first = start();
    let offers = first.catalog().await?.offers;
    assert!(offers.iter().any(|offer| offer.name == PLAN && offer.monthly.is_some()), "{offers:?}");
    first.create(&request("scripted", 1)).await?;
    let second = start();
    second.create(&request("direct", 1)).await?;
    let requested: BTreeSet<String> =
        second.list().await?.nodes.iter().map(|node| node.hostname.to_string()).collect();
    assert_eq!(requested, ["direct-0a1b2c3d-1", "scripted-0a1b2c3d-1"].map(str::to_owned).into());
    backend(&simulator, &shapes, "uid-2").create(&request("direct", 2)).await?;

    tokio::time::sleep(Duration::from_mins(2)).await;
    let listing = second.list().await?;
    assert!(listing.complete);
    let (own, others): (Vec<_>, Vec<_>) =
        listing.nodes.into_iter().partition(|node| node.role == NodeRole::Worker);
    assert_eq!((own.len(), others), (2, Vec::new()), "without the VM of the other cluster");
    for node in &own {
        assert_eq!((node.state, node.id.is_some()), (VmState::Running, true), "{node:?}");
        assert_eq!(node.pool.as_ref().map(|pool| pool.offer.as_str()), Some(PLAN));
        assert_eq!(node.datacenter, Some(DEFAULT_DATACENTER.into()));
    }
    let scripts = second.list_scripts().await?;
    assert_eq!(scripts.len(), 1);
    assert_eq!(scripts[0].hostname, Hostname::new("scripted-0a1b2c3d-1"));
    second.delete_script(&scripts[0]).await?;
    assert_eq!(second.list_scripts().await?, []);

    let third = start();
    for node in &own {
        third.delete(&deletable(node)).await?;
    }
    tokio::time::sleep(Duration::from_mins(1)).await;
    let left = third.list().await?;
    assert!(left.complete && left.nodes.iter().all(|node| node.role == NodeRole::Unknown), "{left:?}");
    // A VM that is gone counts as deleted.
    for node in &own {
        third.delete(&deletable(node)).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn works_with_every_shape() {
    for (name, shapes) in Shapes::each() {
        for key in [None, Some(DeletionKey::new(b"key"))] {
            let with_key = key.is_some();
            if let Err(error) = live(shapes, key).await {
                panic!("{name}, with key {with_key}: {error}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_of_before_the_key_is_deleted_by_its_initial_password() {
    let mut shapes = Shapes::default();
    shapes.set("delete-password=required").unwrap();
    let config = SimulatorConfig { shapes, ..SimulatorConfig::default() };
    let simulator = Simulator::new(config, Arc::new(TestClock::default())).unwrap();
    backend(&simulator, &shapes, "uid-1").create(&request("direct", 1)).await.unwrap();
    tokio::time::sleep(Duration::from_mins(2)).await;
    let keyed = backend(&simulator, &shapes, "uid-1").with_deletion_key(DeletionKey::new(b"key"));
    let nodes = keyed.list().await.unwrap().nodes;
    keyed.delete(&deletable(&nodes[0])).await.unwrap();
}
