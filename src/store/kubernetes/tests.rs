mod moves;

use std::time::Duration;

use fake_kube::{FakeKube, FaultEffect, RequestFault, Verb};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;
use tokio::time::Instant;

use super::super::tests::{changes, cluster, expected, machine, unmanaged};
use super::*;
use crate::fleet::{
    DeletionReason, DrainState, Failure, FailureReason, Hostname, Phase, RequestHistory, RequestOutcome,
    UnmanagedNode, Vm, VmId, VmRequest,
};

const NAMESPACE: &str = "vpsie-system";

fn server() -> FakeKube {
    FakeKube::new(|| "2026-11-24T10:00:00Z".parse().unwrap())
}

fn store(kube: &FakeKube) -> KubernetesStore {
    let store = KubernetesStore::new(kube.client("store", NAMESPACE), NAMESPACE);
    store.set_cluster(cluster());
    store
}

async fn loaded(kube: &FakeKube) -> KubernetesStore {
    let store = store(kube);
    store.load().await.unwrap();
    store
}

fn save(machine: &Machine) -> [Change; 1] {
    [Change::SaveMachine(machine.clone())]
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn vm() -> Vm {
    Vm {
        hostname: Hostname::new("ams-slave-1"),
        id: Some(VmId::from("u-1")),
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    }
}

fn create_request(outcome: RequestOutcome) -> VmRequest {
    VmRequest { at: time(1), outcome, hostname: None }
}

fn creating(vm: Option<Vm>) -> Phase {
    Phase::Creating { vm, since: time(1) }
}

fn running() -> Phase {
    Phase::Running { vm: vm(), since: time(2) }
}

fn deleting(vm: Option<Vm>) -> Phase {
    let reason = DeletionReason::NodeGroupDeleted;
    Phase::Deleting { vm, since: time(3), reason, drain: DrainState::Done, accepted_at: None }
}

fn failed() -> Phase {
    Phase::Failed {
        failure: Failure { reason: FailureReason::Stockout, message: "none".to_owned() },
        at: time(2),
    }
}

fn one(phase: Phase, requests: &[RequestOutcome]) -> Machine {
    Machine {
        phase,
        requests: requests.iter().map(|outcome| create_request(*outcome)).collect(),
        ..machine("workers-1")
    }
}

fn writes(kube: &FakeKube) -> Vec<(Verb, String)> {
    let requests = kube.requests().into_iter().filter(|asked| asked.verb.writes());
    requests
        .map(|asked| {
            (asked.verb, asked.path.rsplit_once("/vpsienodes").map_or(String::new(), |p| p.1.to_owned()))
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_record_comes_back() {
    let kube = server();
    let store = loaded(&kube).await;
    store.commit(&changes()).await.unwrap();
    assert_eq!(store.load().await.unwrap(), expected());
    assert_eq!(self::store(&kube).load().await.unwrap(), expected());
    assert_eq!(records_of(&kube.all(), &kube.all()), expected());
    let drops = [
        Change::DropMachine("workers-1".into()),
        Change::DropMachine("workers-2".into()),
        Change::DropUnmanaged(Hostname::new("control-plane")),
    ];
    store.commit(&drops).await.unwrap();
    let left = store.load().await.unwrap();
    assert_eq!((left.machines.len(), left.unmanaged.len(), left.profiles.len()), (0, 0, 1));
    assert!(kube.list("vpsienodes").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_object_is_written_only_where_it_differs() {
    let kube = server();
    let store = loaded(&kube).await;
    let mut steps = vec![one(Phase::Pending, &[])];
    steps.push(one(creating(None), &[RequestOutcome::InFlight]));
    steps.push(one(creating(None), &[RequestOutcome::Accepted]));
    steps.push(one(running(), &[]));
    steps.push(one(deleting(Some(vm())), &[]));
    for step in &steps {
        store.commit(&save(step)).await.unwrap();
        store.commit(&save(step)).await.unwrap();
        assert_eq!(store.load().await.unwrap().machines, std::slice::from_ref(step));
    }
    let object = "/workers-1".to_owned();
    let status = "/workers-1/status".to_owned();
    let patch = |path: &String| (Verb::Patch, path.clone());
    let expected = [
        (Verb::Create, String::new()),
        patch(&object),
        patch(&status),
        patch(&object),
        patch(&status),
        patch(&object),
        patch(&status),
    ];
    assert_eq!(writes(&kube), expected);
    let stored = kube.get("vpsienodes", NAMESPACE, "workers-1").unwrap();
    assert_eq!(stored["metadata"]["finalizers"], json!([machines::FINALIZER]));
    assert_eq!(stored["metadata"]["labels"], json!({"autoscaler.vpsie.com/nodegroup": "workers"}));
    assert_eq!(stored["status"]["conditions"][0]["reason"], "Deleting");
}

#[tokio::test(start_paused = true)]
async fn recovers_from_each_single_fault() {
    for fault in [
        RequestFault::from(FaultEffect::ReplyLost),
        FaultEffect::RequestLost.into(),
        FaultEffect::Hangs.into(),
        FaultEffect::DoneAndHangs.into(),
        RequestFault::throttled(1),
        RequestFault::refused(409),
        RequestFault::refused(500),
        RequestFault::refused(503),
    ] {
        for nth in 0..14 {
            let kube = server();
            let store = loaded(&kube).await;
            store.commit(&save(&one(Phase::Pending, &[]))).await.unwrap();
            let count = std::sync::atomic::AtomicU32::new(0);
            let once = fault.clone();
            kube.on_request(move |asked| {
                let now = if asked.verb.writes() {
                    count.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
                } else {
                    99
                };
                if now == nth { once.clone() } else { RequestFault::default() }
            });
            let all: Vec<_> = changes().into_iter().chain(save(&one(running(), &[]))).collect();
            store.commit(&all).await.unwrap_or_else(|error| panic!("{fault:?} of write {nth}: {error}"));
            let dropped = [
                Change::DropMachine("workers-2".into()),
                Change::DropUnmanaged(Hostname::new("control-plane")),
            ];
            store.commit(&dropped).await.unwrap_or_else(|error| panic!("{fault:?} of write {nth}: {error}"));
            let mut wanted = expected();
            wanted.machines = vec![one(running(), &[])];
            wanted.unmanaged.clear();
            assert_eq!(records_of(&kube.all(), &kube.all()), wanted, "{fault:?} of write {nth}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lasting_faults_fail_a_commit_within_its_timeout() {
    for fault in [
        RequestFault::from(FaultEffect::Hangs),
        FaultEffect::RequestLost.into(),
        RequestFault::throttled(60),
        RequestFault::refused(500),
        RequestFault::refused(403),
    ] {
        let kube = server();
        let store = loaded(&kube).await;
        kube.on_request(move |_| fault.clone());
        let start = Instant::now();
        let all: Vec<_> = (0..100).map(|n| Change::SaveMachine(machine(&format!("workers-{n}")))).collect();
        let error = store.commit(&all).await.unwrap_err();
        assert!(matches!(error, StoreError::Io { action: "write", .. }), "{error}");
        assert!(error.to_string().contains("VPSieNode vpsie-system/workers-"), "{error}");
        assert!(start.elapsed() <= COMMIT_TIMEOUT, "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn only_changes_of_records_by_another_writer_conflict() {
    let kube = server();
    let store = loaded(&kube).await;
    store.commit(&save(&one(running(), &[]))).await.unwrap();
    let patch = |patch| kube.patch("vpsienodes", NAMESPACE, "workers-1", patch).unwrap();
    patch(json!({"metadata": {"labels": {"team": "a"}}, "spec": {"project": "p"}}));
    let next = one(deleting(Some(vm())), &[]);
    store.commit(&save(&next)).await.unwrap();
    let stored = kube.get("vpsienodes", NAMESPACE, "workers-1").unwrap();
    assert_eq!(
        (&stored["metadata"]["labels"]["team"], &stored["spec"]["project"]),
        (&json!("a"), &json!("p"))
    );
    patch(json!({"status": {"hostname": "another"}}));
    let last = one(deleting(None), &[]);
    let error = store.commit(&save(&last)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "VPSieNode vpsie-system/workers-1 was changed by another writer; the records are read again"
    );
    store.load().await.unwrap();
    store.commit(&save(&last)).await.unwrap();
    assert_eq!(store.load().await.unwrap().machines, [last]);
}

#[tokio::test(start_paused = true)]
async fn the_later_of_two_writers_gets_a_conflict() {
    let kube = server();
    let first = loaded(&kube).await;
    let second = loaded(&kube).await;
    first.commit(&changes()).await.unwrap();
    let same =
        second.commit(&save(&Machine { size: crate::catalog::SizeId(99), ..machine("workers-1") })).await;
    assert!(matches!(same, Err(StoreError::Conflict { .. })), "{same:?}");
    second.load().await.unwrap();
    first.commit(&save(&one(running(), &[]))).await.unwrap();
    let late = second.commit(&save(&one(failed(), &[]))).await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    first
        .commit(&[Change::SaveUnmanaged(UnmanagedNode {
            id: Some(VmId::from("u")),
            ..unmanaged("control-plane")
        })])
        .await
        .unwrap();
    let late = second.commit(&[Change::DropUnmanaged(Hostname::new("control-plane"))]).await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    assert_eq!(first.load().await.unwrap().machines[0], one(running(), &[]));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_object_is_created_again() {
    let kube = server();
    let store = loaded(&kube).await;
    for phase in [creating(Some(vm())), running(), deleting(Some(vm())), failed(), creating(None)] {
        let saved = one(phase, &[RequestOutcome::Unclear]);
        store.commit(&save(&saved)).await.unwrap();
        assert!(kube.vanish("vpsienodes", NAMESPACE, "workers-1"));
        let again = Machine { requests: Vec::new(), ..saved };
        store.commit(&save(&again)).await.unwrap();
        assert_eq!(store.load().await.unwrap().machines, [again]);
    }
    let again = one(creating(None), &[]);
    kube.vanish("vpsienodes", NAMESPACE, "workers-1");
    store.commit(&save(&again)).await.unwrap();
    assert_eq!(store.load().await.unwrap().machines, [again]);
    store.commit(&[Change::SaveUnmanaged(unmanaged("a"))]).await.unwrap();
    for map in kube.list("configmaps") {
        kube.vanish("configmaps", NAMESPACE, map["metadata"]["name"].as_str().unwrap());
    }
    let with_id = UnmanagedNode { id: Some(VmId::from("u")), ..unmanaged("a") };
    store.commit(&[Change::SaveUnmanaged(with_id.clone())]).await.unwrap();
    assert_eq!(store.load().await.unwrap().unmanaged, [with_id]);
}

#[tokio::test(start_paused = true)]
async fn finalizers_of_others_stay_and_ours_comes_back() {
    let kube = server();
    let store = loaded(&kube).await;
    store.commit(&save(&one(creating(None), &[]))).await.unwrap();
    let finalizers = |list: &[&str]| {
        kube.patch("vpsienodes", NAMESPACE, "workers-1", json!({"metadata": {"finalizers": list}})).unwrap()
    };
    finalizers(&["other/one"]);
    store.commit(&save(&one(creating(None), &[RequestOutcome::InFlight]))).await.unwrap();
    store.commit(&save(&one(creating(None), &[RequestOutcome::Accepted]))).await.unwrap();
    let stored = kube.get("vpsienodes", NAMESPACE, "workers-1").unwrap();
    assert_eq!(stored["metadata"]["finalizers"], json!(["other/one", machines::FINALIZER]));
    store.commit(&[Change::DropMachine("workers-1".into())]).await.unwrap();
    let stored = kube.get("vpsienodes", NAMESPACE, "workers-1").unwrap();
    assert_eq!(stored["metadata"]["finalizers"], json!(["other/one"]));
    assert!(stored["metadata"]["deletionTimestamp"].is_string());
}

#[tokio::test(start_paused = true)]
async fn objects_without_a_readable_record_stay_unchanged() {
    let kube = server();
    let original = json!({
        "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "VPSieNode",
        "metadata": {"name": "workers-1", "namespace": NAMESPACE},
        "spec": {"nodeGroupName": "workers", "datacenterID": "ams1", "instanceType": "s", "resourceIdentifier": "c-9"},
    });
    kube.put_object(original).unwrap();
    let before = kube.get("vpsienodes", NAMESPACE, "workers-1");
    let store = loaded(&kube).await;
    assert_eq!(store.load().await.unwrap(), Records::default());
    assert!(store.commit(&save(&one(running(), &[]))).await.is_err());
    store.commit(&[Change::DropMachine("workers-1".into())]).await.unwrap();
    assert_eq!(kube.get("vpsienodes", NAMESPACE, "workers-1"), before);

    store.commit(&changes()).await.unwrap_err();
    let vm = json!({"hostname": "AMS-slave-1", "vpsieNodeIdentifier": "u-1"});
    let bad = json!({"spec": {"requests": [{"at": "yesterday", "outcome": "Lost"}]}, "status": vm});
    kube.patch("vpsienodes", NAMESPACE, "workers-1", bad).unwrap();
    let bad = json!({"data": {"profile.12": "{", "price.12": "1"}});
    kube.patch("configmaps", NAMESPACE, "vpsie-autoscaler-catalog", bad).unwrap();
    let before = kube.get("vpsienodes", NAMESPACE, "workers-1");
    let records = store.load().await.unwrap();
    assert_eq!((records.machines.len(), records.unreadable, records.profiles.len()), (0, 3, 1));
    let vm = records.unmanaged.iter().find(|s| s.hostname.as_str() == "ams-slave-1").unwrap();
    assert_eq!((&vm.id, &vm.kind), (&Some(VmId::from("u-1")), &UnmanagedKind::Foreign), "never touched");
    store.commit(&[Change::DropMachine("workers-2".into())]).await.unwrap();
    assert_eq!(kube.get("vpsienodes", NAMESPACE, "workers-1"), before);
}

#[tokio::test(start_paused = true)]
async fn keeps_an_unreadable_history_beside_the_new_one() {
    const MAP: &str = "vpsie-autoscaler-request-history";
    let kube = server();
    let save = Change::SaveRequestHistory(RequestHistory::default());
    loaded(&kube).await.commit(std::slice::from_ref(&save)).await.unwrap();
    kube.patch("configmaps", NAMESPACE, MAP, json!({"data": {"history": "{"}})).unwrap();
    let store = KubernetesStore::new(kube.client("store", NAMESPACE), NAMESPACE);
    assert_eq!(store.load().await.unwrap().unreadable, 1);
    store.commit(&[save]).await.unwrap();
    let data = kube.get("configmaps", NAMESPACE, MAP).unwrap()["data"].clone();
    assert_eq!(data["history.unreadable"], json!("{"));
    assert_eq!(store.load().await.unwrap().unreadable, 0);
}

#[tokio::test(start_paused = true)]
async fn the_cluster_of_records_stays_and_new_ones_need_one() {
    let kube = server();
    loaded(&kube).await.commit(&save(&one(running(), &[]))).await.unwrap();
    let store = KubernetesStore::new(kube.client("store", NAMESPACE), NAMESPACE);
    assert_eq!(store.cluster(), None);
    store.load().await.unwrap();
    assert_eq!(store.cluster(), Some(cluster()));
    store.set_cluster("c2".into());
    store.commit(&save(&one(deleting(None), &[]))).await.unwrap();
    store.commit(&save(&machine("workers-2"))).await.unwrap();
    let of: Vec<_> = kube.all::<VPSieNode>().into_iter().map(|node| node.spec.resource_identifier).collect();
    assert_eq!(of, ["c1", "c2"]);
    let unset = KubernetesStore::new(server().client("store", NAMESPACE), NAMESPACE);
    let error = unset.commit(&save(&machine("workers-1"))).await.unwrap_err().to_string();
    assert!(error.ends_with("no NodeGroup with a cluster has been read yet"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_machines_are_written_at_once_and_read_in_pages() {
    let kube = server();
    let store = loaded(&kube).await;
    kube.set_latency(Duration::from_millis(5));
    let start = Instant::now();
    let hundred = |from: u32| -> Vec<_> {
        (from..from + 100).map(|n| Change::SaveMachine(machine(&format!("workers-{n:04}")))).collect()
    };
    kube.forget_requests();
    store.commit(&hundred(0)).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    assert_eq!(kube.count(|_| true), 100);
    for batch in 1..11 {
        store.commit(&hundred(batch * 100)).await.unwrap();
    }
    kube.forget_requests();
    assert_eq!(store.load().await.unwrap().machines.len(), 1100);
    assert_eq!(kube.count(|asked| asked.is_verb_on(Verb::List, "vpsienodes")), 3);
}

/// A transition of a machine that the fleet can make.
fn transition() -> impl Strategy<Value = (Machine, Machine)> {
    use RequestOutcome::{Accepted, InFlight, Lost, Unclear};
    let outcome = || prop_oneof![Just(InFlight), Just(Accepted), Just(Unclear), Just(Lost)];
    let waits = || prop_oneof![Just(creating(None)), Just(deleting(None)), Just(failed())];
    let with_vm = || prop_oneof![Just(creating(Some(vm()))), Just(running()), Just(deleting(Some(vm())))];
    let without =
        || prop_oneof![Just(deleting(None)), Just(failed()), Just(Phase::Pending), Just(creating(None))];
    let requests = || proptest::collection::vec(outcome(), 0..3);
    prop_oneof![
        // The machine is requested.
        (prop_oneof![Just(Phase::Pending), Just(creating(None))], outcome()).prop_map(|(from, outcome)| {
            let before: &[RequestOutcome] = if from == Phase::Pending { &[] } else { &[Lost] };
            (one(from, before), one(creating(None), &[before, &[outcome]].concat()))
        }),
        // VPSie lists its VM; one request is fulfilled.
        (waits(), with_vm(), outcome(), requests()).prop_map(|(from, to, first, rest)| {
            (one(from, &[&[first], &*rest].concat()), one(to, &rest))
        }),
        // VPSie refused a request, or did nothing.
        (waits(), without(), outcome(), requests()).prop_map(|(from, to, first, rest)| {
            let to = if rest.is_empty() && to == creating(None) { failed() } else { to };
            let to = if !rest.is_empty() && to == Phase::Pending { creating(None) } else { to };
            (one(from, &[&[first], &*rest].concat()), one(to, &rest))
        }),
        // The phase changes, and all requests become lost.
        (prop_oneof![waits(), with_vm()], prop_oneof![waits(), with_vm()], requests()).prop_map(
            |(from, to, requests)| {
                let requests = if requests.is_empty() { vec![Lost] } else { requests };
                let later: Vec<_> = requests.iter().map(|_| Lost).collect();
                (one(from, &requests), one(to, &later))
            }
        ),
        // The machine is new: all requests are recorded with it.
        (prop_oneof![waits(), with_vm(), Just(Phase::Pending)], requests()).prop_map(|(to, requests)| {
            let requests = if to == Phase::Pending { Vec::new() } else { requests };
            let requests = if to == creating(None) && requests.is_empty() { vec![Lost] } else { requests };
            (machine("none"), one(to, &requests))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_partial_write_of_a_machine_loses_nothing(change in transition(), writes in 0..4_u32) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (before, after) = change;
        let (restored, whole) = runtime.block_on(async {
            let kube = server();
            let store = loaded(&kube).await;
            store.commit(&save(&before)).await.unwrap();
            let left = std::sync::atomic::AtomicU32::new(writes);
            kube.on_request(move |asked| {
                use std::sync::atomic::Ordering::Relaxed;
                let spent = asked.verb.writes() && left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_err();
                if spent { FaultEffect::RequestLost.into() } else { RequestFault::default() }
            });
            let whole = store.commit(&save(&after)).await.is_ok();
            kube.clear_faults();
            let machines = self::store(&kube).load().await.unwrap().machines;
            (machines.into_iter().find(|m| m.id == after.id), whole)
        });
        let Some(restored) = restored else {
            prop_assert!(before.id != after.id && writes == 0, "the record is gone");
            return Ok(());
        };
        if whole {
            prop_assert_eq!(&restored, &after);
        }
        let known = |m: &Machine| m.vm().is_some();
        let first = before.id != after.id;
        if known(&after) && (known(&before) || first) {
            prop_assert!(known(&restored), "its VM is forgotten: {restored:?}");
        }
        if known(&after) && !known(&before) {
            let since = before.requests.len() - after.requests.len().min(before.requests.len());
            prop_assert!(known(&restored) || first || since == 0 || restored.requests.len() > after.requests.len(),
                "its VM is not known, and the request for it is gone: {restored:?}");
        }
        prop_assert!(restored.requests.len() >= after.requests.len().min(before.requests.len()), "a request is forgotten: {restored:?}");
        if matches!(restored.phase, Phase::Creating { vm: None, .. }) {
            prop_assert!(!restored.requests.is_empty(), "Creating with nothing asked: {restored:?}");
        }
    }
}
