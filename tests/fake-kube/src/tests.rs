use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchParams};
use kube::core::WatchEvent;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::{FakeKube, FaultEffect, RequestFault, Verb};

fn server() -> FakeKube {
    FakeKube::new(|| "2026-01-01T00:00:00.5Z".parse().unwrap())
}

fn maps(kube: &FakeKube) -> Api<ConfigMap> {
    Api::namespaced(kube.client("a", "ns"), "ns")
}

fn machines(kube: &FakeKube) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("autoscaler.vpsie.com", "v1alpha1", "VPSieNode");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "vpsienodes");
    Api::namespaced_with(kube.client("a", "ns"), "ns", &resource)
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn map(name: &str, data: &Value) -> ConfigMap {
    object(json!({"metadata": {"name": name}, "data": data}))
}

fn code<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason),
        other => panic!("{other:?}"),
    }
}

fn merge(value: Value) -> Patch<Value> {
    Patch::Merge(value)
}

#[tokio::test(start_paused = true)]
async fn writes_with_a_version_are_conditional() {
    let kube = server();
    let maps = maps(&kube);
    let first = maps.create(&PostParams::default(), &map("m", &json!({"a": "1"}))).await.unwrap();
    assert_eq!(first.creation_timestamp().unwrap().0.to_string(), "2026-01-01T00:00:00Z");
    let again = maps.create(&PostParams::default(), &first_without_version(&first)).await;
    assert_eq!(code(again), (409, "AlreadyExists".to_owned()));
    let patch = json!({"data": {"b": "2"}});
    let second = maps.patch("m", &PatchParams::default(), &merge(patch.clone())).await.unwrap();
    assert_ne!(first.resource_version(), second.resource_version());
    let same = maps.patch("m", &PatchParams::default(), &merge(patch)).await.unwrap();
    assert_eq!(same.resource_version(), second.resource_version(), "nothing changed");
    assert_eq!(code(maps.replace("m", &PostParams::default(), &first).await), (409, "Conflict".to_owned()));
    let stale = json!({"metadata": {"resourceVersion": first.resource_version()}, "data": {"a": null}});
    let stale = maps.patch("m", &PatchParams::default(), &merge(stale)).await;
    assert_eq!(code(stale), (409, "Conflict".to_owned()));
    let other = Preconditions { uid: Some("other".to_owned()), resource_version: None };
    let refused = maps.delete("m", &DeleteParams::default().preconditions(other)).await;
    assert_eq!(code(refused).0, 409);
    maps.delete("m", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(maps.get("m").await), (404, "NotFound".to_owned()));
}

fn first_without_version(map: &ConfigMap) -> ConfigMap {
    let mut map = map.clone();
    map.metadata.resource_version = None;
    map
}

#[tokio::test(start_paused = true)]
async fn only_changes_of_the_spec_raise_the_generation() {
    let kube = server();
    let machines = machines(&kube);
    let new = json!({
        "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "VPSieNode", "metadata": {"name": "m"},
        "spec": {"a": 1}, "status": {"phase": "Running"},
    });
    let made = machines.create(&PostParams::default(), &object(new)).await.unwrap();
    assert!(made.data.get("status").is_none());
    let status = merge(json!({"spec": {"a": 2}, "status": {"phase": "Creating"}}));
    let seen = machines.patch_status("m", &PatchParams::default(), &status).await.unwrap();
    assert_eq!((&seen.data["spec"]["a"], &seen.data["status"]["phase"]), (&json!(1), &json!("Creating")));
    let spec = merge(json!({"spec": {"a": 3}, "status": null}));
    let edited = machines.patch("m", &PatchParams::default(), &spec).await.unwrap();
    assert_eq!((&edited.data["spec"]["a"], &edited.data["status"]["phase"]), (&json!(3), &json!("Creating")));
    assert_eq!((seen.metadata.generation, edited.metadata.generation), (Some(1), Some(2)));
}

#[tokio::test(start_paused = true)]
async fn finalizers_delay_the_deletion_of_an_object() {
    let kube = server();
    let maps = maps(&kube);
    let held = object(json!({"metadata": {"name": "m", "finalizers": ["x/y"]}}));
    maps.create(&PostParams::default(), &held).await.unwrap();
    let left = maps.delete("m", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(left.metadata.deletion_timestamp.is_some());
    let more = merge(json!({"metadata": {"finalizers": ["x/y", "x/z"]}}));
    assert_eq!(code(maps.patch("m", &PatchParams::default(), &more).await).0, 422);
    assert!(kube.get("configmaps", "ns", "m").is_some());
    maps.patch("m", &PatchParams::default(), &merge(json!({"metadata": {"finalizers": []}}))).await.unwrap();
    assert!(kube.get("configmaps", "ns", "m").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_config_map_has_at_most_a_mebibyte() {
    let kube = server();
    let maps = maps(&kube);
    let full = "x".repeat(1 << 20);
    let map = object(json!({"metadata": {"name": "m"}, "data": {"a": full}}));
    maps.create(&PostParams::default(), &map).await.unwrap();
    let more = merge(json!({"data": {"b": "x"}}));
    assert_eq!(code(maps.patch("m", &PatchParams::default(), &more).await).0, 422);
    let other = merge(json!({"data": {"a": null, "b": "x"}}));
    maps.patch("m", &PatchParams::default(), &other).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn lists_have_consistent_pages_and_label_selectors() {
    let kube = server();
    let maps = maps(&kube);
    for n in 0..5 {
        let labels = json!({"even": (n % 2 == 0).to_string()});
        let map = object(json!({"metadata": {"name": format!("m{n}"), "labels": labels}}));
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let even = ListParams::default().labels("even=true");
    let names: Vec<_> = maps.list(&even).await.unwrap().iter().map(kube::ResourceExt::name_any).collect();
    assert_eq!(names, ["m0", "m2", "m4"]);
    let first = maps.list(&ListParams::default().limit(3)).await.unwrap();
    maps.delete("m4", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let rest = maps.list(&ListParams::default().limit(3).continue_token(&token)).await.unwrap();
    assert_eq!((first.items.len(), rest.items.len()), (3, 2));
    assert_eq!(first.metadata.resource_version, rest.metadata.resource_version);
    kube.compact();
    let late = maps.list(&ListParams::default().limit(3).continue_token(&token)).await;
    assert_eq!(code(late), (410, "Expired".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_watch_sends_the_changes_after_a_version() {
    let kube = server();
    let maps = maps(&kube);
    let start = kube.version().to_string();
    let watch = maps.watch(&WatchParams::default().labels("mine=yes"), &start).await.unwrap();
    let mut watch = std::pin::pin!(watch);
    let put = |mine: &str| {
        let meta = json!({"name": "m", "namespace": "ns", "labels": {"mine": mine}});
        kube.put_object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})).unwrap();
    };
    put("no");
    put("yes");
    put("no");
    let words: Vec<_> = watch.by_ref().take(2).map(|event| format!("{:?}", event.unwrap())).collect().await;
    assert_eq!(words, ["Added event", "Deleted event"]);
    kube.hold_watches(true);
    put("yes");
    let held = tokio::time::timeout(Duration::from_hours(1), watch.next()).await;
    assert!(held.is_err(), "{held:?}");
    kube.hold_watches(false);
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Added(_)))));
    kube.cut_watches();
    assert!(watch.next().await.is_none());
    kube.compact();
    let late = maps.watch(&WatchParams::default(), "1").await.unwrap();
    let late = std::pin::pin!(late).next().await;
    assert!(matches!(late, Some(Ok(WatchEvent::Error(status))) if status.code == 410));
}

#[tokio::test(start_paused = true)]
async fn the_watcher_recovers_from_cuts_and_compaction() {
    let kube = server();
    let put = |n: usize| {
        let meta = json!({"name": format!("n{n}")});
        kube.put_object(json!({"apiVersion": "v1", "kind": "Node", "metadata": meta})).unwrap();
    };
    put(0);
    let nodes: Api<Node> = Api::all(kube.client("a", "ns"));
    let seen = watcher(nodes, watcher::Config::default()).default_backoff().applied_objects();
    let mut seen = std::pin::pin!(seen.filter_map(async |node| Some(node.ok()?.name_any())));
    assert_eq!(seen.next().await.unwrap(), "n0");
    for n in 1..4 {
        kube.cut_watches();
        if n == 2 {
            kube.compact();
        }
        put(n);
        let name = format!("n{n}");
        let follows = async { while seen.next().await.unwrap() != name {} };
        tokio::time::timeout(Duration::from_hours(1), follows).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn each_fault_has_its_effect() {
    let kube = server();
    let maps = maps(&kube);
    let create = async |name: &str| maps.create(&PostParams::default(), &map(name, &json!({}))).await;
    let exists = |name: &str| kube.get("configmaps", "ns", name).is_some();
    kube.fail(1, |request| request.is_verb_on(Verb::Create, "configmaps"), FaultEffect::ReplyLost);
    kube.fail(1, |request| request.is_verb_on(Verb::Create, "configmaps"), FaultEffect::RequestLost);
    kube.fail(1, |request| request.is_verb_on(Verb::Create, "configmaps"), RequestFault::throttled(7));
    assert!(matches!(create("done").await, Err(kube::Error::Service(_))));
    assert!(matches!(create("lost").await, Err(kube::Error::Service(_))));
    let Err(kube::Error::Api(status)) = create("throttled").await else { panic!() };
    assert_eq!((status.code, status.details.unwrap().retry_after_seconds), (429, 7));
    assert_eq!((exists("done"), exists("lost"), exists("throttled")), (true, false, false));
    kube.partition("a", true);
    assert!(tokio::time::timeout(Duration::from_hours(1), create("cut off")).await.is_err());
    kube.partition("a", false);
    kube.set_latency(Duration::from_secs(5));
    let start = tokio::time::Instant::now();
    create("slow").await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert!(exists("slow") && !exists("cut off"));
    assert_eq!(kube.count(|request| request.client == "a" && request.verb == Verb::Create), 5);
}

#[tokio::test(start_paused = true)]
async fn kinds_have_their_own_rules() {
    let kube = server();
    let lease: Lease = object(json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}}));
    let leases: Api<Lease> = Api::namespaced(kube.client("a", "ns"), "ns");
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let unconditional = leases.replace("l", &PostParams::default(), &lease).await;
    assert_eq!(code(unconditional).0, 422);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"nodeName": "n1"}});
    kube.put_object(pod).unwrap();
    let pods: Api<Pod> = Api::all(kube.client("a", "ns"));
    let on = async |node: &str| {
        let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
        pods.list(&params).await.unwrap().items.len()
    };
    assert_eq!((on("n1").await, on("n2").await), (1, 0));
    let unknown: Api<k8s_openapi::api::core::v1::Service> = Api::all(kube.client("a", "ns"));
    assert_eq!(code(unknown.list(&ListParams::default()).await).0, 404);
}
