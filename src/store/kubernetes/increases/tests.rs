use std::sync::atomic::{AtomicU32, Ordering};

use fake_kube::{FakeKube, RequestFault, Verb};

use super::super::super::tests::{cluster, machine};
use super::super::super::{RefusedRecord, Store};
use super::*;
use crate::fleet::{
    Change, Hostname, RecordKey, RequestOutcome, UnmanagedKind, UnmanagedNode, Vm, VmRequest,
};

const NAMESPACE: &str = "vpsie-system";

fn server() -> FakeKube {
    FakeKube::new(|| "2026-11-24T10:00:00Z".parse().unwrap())
}

async fn loaded(kube: &FakeKube) -> KubernetesStore {
    let store = KubernetesStore::new(kube.client("store", NAMESPACE), NAMESPACE);
    store.set_cluster(cluster());
    store.load().await.unwrap();
    store
}

fn five() -> Vec<Change> {
    (1..=5).map(|n| Change::SaveMachine(machine(&format!("workers-{n}")))).collect()
}

async fn machines(kube: &FakeKube) -> usize {
    loaded(kube).await.load().await.unwrap().machines.len()
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_increase_leaves_no_records() {
    let kube = server();
    let store = loaded(&kube).await;
    let made = AtomicU32::new(0);
    kube.on_request(move |asked| {
        let refused =
            asked.is_verb_on(Verb::Create, "vpsienodes") && made.fetch_add(1, Ordering::Relaxed) >= 2;
        if refused { RequestFault::refused(500) } else { RequestFault::default() }
    });
    store.commit(&five()).await.unwrap_err();
    kube.clear_faults();
    assert_eq!((kube.list("vpsienodes").len(), store.load().await.unwrap().machines.len()), (2, 0));
    // A restart recognizes the increase as well, and the next commit removes its other machines.
    let restarted = loaded(&kube).await;
    restarted.commit(&[Change::SaveMachine(machine("workers-9"))]).await.unwrap();
    assert_eq!((kube.list("vpsienodes").len(), machines(&kube).await), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn machines_of_a_whole_increase_stay_when_others_go() {
    let kube = server();
    let store = loaded(&kube).await;
    store.commit(&five()).await.unwrap();
    assert_eq!(machines(&kube).await, 5);
    store
        .commit(&[Change::DropMachine("workers-1".into()), Change::DropMachine("workers-2".into())])
        .await
        .unwrap();
    assert_eq!(machines(&kube).await, 3);
}

#[tokio::test(start_paused = true)]
async fn an_increase_with_a_requested_machine_stays() {
    let kube = server();
    let store = loaded(&kube).await;
    store.commit(&five()).await.unwrap();
    let at = machine("workers-1").created_at;
    let asked = Machine {
        phase: Phase::Creating { vm: None, since: at },
        requests: vec![VmRequest { at, outcome: RequestOutcome::InFlight, hostname: None }],
        ..machine("workers-1")
    };
    store.commit(&[Change::SaveMachine(asked)]).await.unwrap();
    kube.vanish("vpsienodes", NAMESPACE, "workers-2");
    assert_eq!(machines(&kube).await, 4);
}

#[tokio::test(start_paused = true)]
async fn one_refused_record_does_not_hold_up_the_others() {
    let kube = server();
    let store = loaded(&kube).await;
    let vm = Vm {
        hostname: Hostname::new("slave-1"),
        id: None,
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    };
    let at = machine("workers-1").created_at;
    let orphan = UnmanagedNode {
        hostname: vm.hostname.clone(),
        id: None,
        first_seen: at,
        awaited_by: None,
        request: None,
        abandoned_request: None,
        kind: UnmanagedKind::Orphan { pool: machine("workers-1").pool, size: None },
    };
    for old in [Change::SaveUnmanaged(orphan.clone()), five().remove(0), five().remove(2)] {
        store.commit(&[old]).await.unwrap();
    }
    kube.on_request(|asked| {
        let poisoned = asked.verb == Verb::Patch && asked.path.contains("/vpsienodes/workers-1");
        if poisoned { RequestFault::refused(422) } else { RequestFault::default() }
    });
    let bound = Machine { phase: Phase::Creating { vm: Some(vm), since: at }, ..machine("workers-1") };
    let changes = [
        Change::SaveMachine(bound),
        Change::SaveMachine(machine("workers-2")),
        Change::DropUnmanaged(orphan.hostname.clone()),
        Change::DropMachine("workers-3".into()),
    ];
    let refused = match store.commit(&changes).await {
        Err(StoreError::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    };
    let records: Vec<RecordKey> = refused.into_iter().map(|RefusedRecord { record, .. }| record).collect();
    assert_eq!(records, [RecordKey::Machine("workers-1".into())]);
    let left = store.load().await.unwrap();
    let names: Vec<_> = left.machines.iter().map(|m| m.id.as_str()).collect();
    assert_eq!((names, left.unmanaged), (vec!["workers-1", "workers-2"], vec![orphan]));
}
