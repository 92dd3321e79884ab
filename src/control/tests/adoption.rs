//! Adoption of existing workers, against an API server in the process.

use fake_kube::FakeKube;
use serde_json::json;

use super::*;
use crate::clock::{Clock as _, SystemClock};

fn register(kube: &FakeKube, ready: &str) {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "slave-999"}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    });
    kube.put_object(node).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_becomes_a_machine_only_once_its_node_is_ready() {
    let disk = Disk::default();
    disk.memory.write(&[Change::SaveCatalog(Arc::new(catalog()))]);
    let adopting = NodeGroup { adopt: true, ..group() };
    let declared = FleetConfig { declaration: vec![adopting].into(), settings: FleetSettings::default() };
    let mut process = Process::with_disk(disk, declared).await;
    process.vpsie.state().nodes.push(node(999, SizeId(2)));
    let kube = FakeKube::new(|| SystemClock.now());
    register(&kube, "False");
    let nodes = Nodes::new(process.handle.clone(), kube.client("provider", "vpsie-system"), Arc::default());
    let view = nodes.view();
    let backend: Arc<dyn Backend> = process.vpsie.clone();
    let handle = process.handle.clone();
    let idle = Duration::from_secs(30);
    let policy = Policy::default();
    let provision = Provision::new(handle, backend, policy, idle, Arc::default()).with_nodes(Some(view));
    process.tasks.spawn(nodes.run(process.shutdown.clone()));
    process.tasks.spawn(provision.run(process.shutdown.clone()));

    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(process.handle.read(|fleet| fleet.machines().count()), 0);
    register(&kube, "True");
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(process.handle.read(|fleet| fleet.machines().count()), 1);
    let node = kube.get("nodes", "", "slave-999").unwrap();
    assert_eq!(
        node["spec"]["providerID"], "vpsie://00000000-0000-4000-8000-000000000999",
        "without a heartbeat"
    );
    process.stop().await;
}
