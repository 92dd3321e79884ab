//! Refused records and interrupted writes while a VM moves from one record to another.

use std::sync::Arc;

use super::super::config_maps::ConfigMapKey;
use super::*;
use crate::catalog::Catalog;
use crate::fleet::{RequestHistory, RequestRef};

/// A node whose record is too long for a ConfigMap.
fn too_long(hostname: &str) -> UnmanagedNode {
    UnmanagedNode { id: Some(VmId::new("u".repeat(1 << 20))), ..unmanaged(hostname) }
}

fn orphan(unmanaged: UnmanagedNode) -> UnmanagedNode {
    let kind = UnmanagedKind::Orphan { pool: machine("workers-1").pool, size: None };
    let at = machine("workers-1").created_at;
    let request = Some(RequestRef { machine: "workers-1".into(), at });
    UnmanagedNode { kind, request, ..unmanaged }
}

/// A failed machine with this many requests that may still make a VM.
fn failed(requests: usize) -> Machine {
    let at = machine("workers-1").created_at;
    let failure = Failure { reason: FailureReason::CreateTimeout, message: String::new() };
    let requests = vec![VmRequest { at, outcome: RequestOutcome::Lost, hostname: None }; requests];
    Machine { phase: Phase::Failed { failure, at }, requests, ..machine("workers-1") }
}

fn with_vm(id: &str, hostname: &str) -> Machine {
    let vm = Vm {
        hostname: Hostname::new(hostname),
        id: None,
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    };
    let since = machine(id).created_at;
    Machine { phase: Phase::Creating { vm: Some(vm), since }, ..machine(id) }
}

async fn refused(store: &KubernetesStore, changes: &[Change]) -> BTreeSet<RecordKey> {
    match store.commit(changes).await {
        Err(StoreError::Refused(refused)) => {
            refused.into_iter().map(|RefusedRecord { record, .. }| record).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The VM of a failed machine is listed, and a waiting machine adopts it at once.
fn adoption(vm: &str) -> [Change; 4] {
    [
        Change::SaveUnmanaged(orphan(unmanaged(vm))),
        Change::SaveMachine(failed(0)),
        Change::SaveMachine(with_vm("workers-2", vm)),
        Change::DropUnmanaged(Hostname::new(vm)),
    ]
}

#[tokio::test(start_paused = true)]
async fn an_orphan_that_is_adopted_at_once_survives_a_broken_write() {
    for (fault, whole) in [
        (RequestFault::refused(500), false),
        (RequestFault::refused(422), false),
        (RequestFault::default(), true),
    ] {
        let kube = server();
        let store = loaded(&kube).await;
        let before = [Change::SaveMachine(failed(1)), Change::SaveMachine(machine("workers-2"))];
        store.commit(&before).await.unwrap();
        kube.on_request(move |asked| {
            let broken = asked.verb == Verb::Patch && asked.path.contains("/vpsienodes/workers-2");
            if broken { fault.clone() } else { RequestFault::default() }
        });
        assert_eq!(store.commit(&adoption("slave-1")).await.is_ok(), whole);
        kube.clear_faults();
        let left = loaded(&kube).await.load().await.unwrap();
        assert_eq!(left.machines.iter().any(|m| m.vm().is_some()), whole);
        let requested = left.machines.iter().any(|m| !m.requests.is_empty());
        assert_eq!(!left.unmanaged.is_empty() || requested, !whole, "the VM is forgotten: {left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_value_does_not_hold_up_its_config_map() {
    let kube = server();
    let store = loaded(&kube).await;
    let map = ConfigMapKey::unmanaged(&Hostname::new("bad")).map;
    let names = (0..).map(|n| format!("good-{n}"));
    let names = names.filter(|name| ConfigMapKey::unmanaged(&Hostname::new(name)).map == map).take(20);
    let good: Vec<UnmanagedNode> = names.map(|name| unmanaged(&name)).collect();
    let mut changes: Vec<Change> = good.iter().cloned().map(Change::SaveUnmanaged).collect();
    changes.insert(7, Change::SaveUnmanaged(too_long("bad")));
    changes.push(Change::SaveMachine(machine("workers-1")));
    let bad = RecordKey::Unmanaged(Hostname::new("bad"));
    assert_eq!(refused(&store, &changes).await, [bad].into());
    let left = loaded(&kube).await.load().await.unwrap();
    assert_eq!((left.machines.len(), left.unmanaged.len()), (1, good.len()));
    assert!(left.unmanaged.iter().all(|unmanaged| good.contains(unmanaged)));
}

#[tokio::test(start_paused = true)]
async fn each_refused_config_map_holds_up_no_other_record() {
    for (map, record) in [("catalog", RecordKey::Catalog), ("request-history", RecordKey::RequestHistory)] {
        let kube = server();
        let store = loaded(&kube).await;
        store.commit(&changes()).await.unwrap();
        let name = format!("vpsie-autoscaler-{map}");
        kube.on_request(move |asked| {
            if asked.name == name { RequestFault::refused(422) } else { RequestFault::default() }
        });
        let catalog = Arc::new(Catalog { offers: Vec::new() });
        let next = [
            Change::SaveRequestHistory(RequestHistory::default()),
            Change::SaveCatalog(Arc::clone(&catalog)),
            Change::SaveUnmanaged(unmanaged("worker")),
            Change::SaveMachine(machine("workers-9")),
        ];
        assert_eq!(refused(&store, &next).await, [record].into());
        let left = loaded(&kube).await.load().await.unwrap();
        assert_eq!((left.machines.len(), left.unmanaged.len()), (3, 2), "{map}");
        assert_eq!(left.catalog == Some(catalog), map == "request-history");
        assert_eq!(left.request_history == RequestHistory::default(), map == "catalog");
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_keeps_what_a_refused_record_would_take_over() {
    let kube = server();
    let store = loaded(&kube).await;
    let kept = [Change::SaveMachine(failed(1)), Change::SaveMachine(with_vm("workers-2", "slave-2"))];
    store.commit(&kept).await.unwrap();
    let was = machine("workers-2");
    let gone = UnmanagedKind::Gone {
        machine: was.id.clone(),
        pool: was.pool,
        size: was.size,
        deleted: true,
        deletion_accepted: true,
    };
    let changes = [
        Change::SaveUnmanaged(orphan(too_long("slave-1"))),
        Change::SaveMachine(failed(0)),
        Change::SaveUnmanaged(UnmanagedNode { kind: gone, ..too_long("slave-2") }),
        Change::DropMachine(was.id),
        Change::SaveMachine(machine("workers-3")),
    ];
    let unmanaged = ["slave-1", "slave-2"].map(|name| RecordKey::Unmanaged(Hostname::new(name)));
    assert_eq!(refused(&store, &changes).await, unmanaged.into());
    let left = loaded(&kube).await.load().await.unwrap();
    assert_eq!(left.machines, [failed(1), with_vm("workers-2", "slave-2"), machine("workers-3")]);
}

/// VPSie lists the VM of a waiting machine; then a user adds a worker.
#[tokio::test(start_paused = true)]
async fn a_bound_vm_uses_its_request_although_its_write_broke() {
    use crate::fleet::tests::{Hand, OTHER, fleet, node};
    use crate::fleet::{CreationOutcome, Fleet, Reserved};
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    let mut changes = hand.increase(&mut fleet, OTHER, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    let requested = fleet.machines().next().unwrap().clone();
    changes.push(Change::SaveMachine(requested.clone()));
    let kube = server();
    let store = loaded(&kube).await;
    store.commit(&changes).await.unwrap();
    let bound = hand.observe(&mut fleet, &[node(1, 2)]);
    kube.on_request(move |asked| {
        // The status has its own endpoint.
        let is_spec = asked.verb == Verb::Patch && asked.path.ends_with(requested.id.as_str());
        if is_spec { RequestFault::refused(500) } else { RequestFault::default() }
    });
    store.commit(&bound).await.unwrap_err();
    kube.clear_faults();
    let left = loaded(&kube).await.load().await.unwrap();
    assert!(left.machines[0].vm().is_some() && !left.machines[0].requests.is_empty(), "{left:?}");
    let mut fleet = Fleet::restore(crate::fleet::tests::groups(), left, Reserved::default());
    hand.observe(&mut fleet, &[node(1, 2), node(7, 2)]);
    let kind = fleet.unmanaged_node(&node(7, 2).hostname).map(|unmanaged| unmanaged.kind.clone());
    assert_eq!(kind, Some(UnmanagedKind::Foreign));
}
