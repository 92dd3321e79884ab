//! Many interruptions at once, against a slow API server in the process.

use fake_kube::{ApiRequest, RequestFault, Verb};
use serde_json::json;

use super::drain::{Cluster, id, is_eviction};
use super::*;
use crate::fleet::Cause;

const NODES: u32 = 40;
const NOTICE: Duration = Duration::from_mins(3);

/// A cluster whose API server takes this time for requests about pods; each Node has a pod.
async fn slow(delay: Duration) -> Cluster {
    let cluster = Cluster::new(NODES).await;
    (1..=NODES).for_each(|n| cluster.pod(&format!("web-{n}"), n, &json!({})));
    let slow = move |request: &ApiRequest| match request.plural.as_str() {
        "pods" => RequestFault { delay, ..RequestFault::default() },
        _ => RequestFault::default(),
    };
    cluster.kube.on_request(slow);
    cluster
}

#[tokio::test(start_paused = true)]
async fn drains_all_nodes_of_a_storm_in_time() {
    let mut cluster = slow(Duration::from_millis(450)).await;
    let begun = Instant::now();
    let deadline = cluster.clock.now() + NOTICE;
    (1..=NODES).for_each(|n| cluster.annotate(n, &json!(deadline.to_string())));
    cluster.until("all are drained", |c| (1..=NODES).all(|n| c.drained(n))).await;
    assert!(begun.elapsed() < NOTICE, "{:?}", begun.elapsed());
    assert!(cluster.kube.list("pods").is_empty());
}

#[tokio::test(start_paused = true)]
async fn drains_the_most_urgent_nodes_first() {
    let mut cluster = slow(Duration::from_secs(3)).await;
    // The last Node is the most urgent.
    for n in 1..=NODES {
        let deadline = cluster.clock.now() + Duration::from_secs(u64::from(1000 - n));
        cluster.annotate(n, &json!(deadline.to_string()));
    }
    let is_cordoned =
        |c: &Cluster, n: u32| c.has_notice(n) && c.node_object(n)["spec"]["unschedulable"] == json!(true);
    cluster.until("all are cordoned", |c| (1..=NODES).all(|n| is_cordoned(c, n))).await;
    let retired = cluster.handle.update(Cause::InterruptionNotice, |fleet, now, _| {
        (1..=NODES).flat_map(|n| fleet.retire_interrupted(&id(n), now)).collect()
    });
    retired.await.unwrap();
    cluster.until("all are drained", |c| (1..=NODES).all(|n| c.drained(n))).await;
    let evictions: Vec<u32> = cluster
        .kube
        .requests()
        .iter()
        .filter(|request| is_eviction(request))
        .map(|request| request.name.strip_prefix("web-").unwrap().parse().unwrap())
        .collect();
    let mut first: Vec<u32> = evictions[..16].to_vec();
    first.sort_unstable();
    assert_eq!(first, (25..=NODES).collect::<Vec<_>>(), "{evictions:?}");
}

#[tokio::test(start_paused = true)]
async fn other_drains_delay_no_urgent_ones() {
    let mut cluster = slow(Duration::from_secs(2)).await;
    for pod in 0..100 {
        cluster.pod(&format!("more-{pod}"), 1, &json!({}));
    }
    let retired = cluster.handle.update(Cause::VPSieNodeDeleted, |fleet, now, _| {
        fleet.retire(&id(1), crate::fleet::DeletionReason::VPSieNodeDeleted, now)
    });
    retired.await.unwrap();
    cluster.until("its drain is under way", |c| c.evictions() > 0).await;
    let begun = Instant::now();
    cluster.annotate(2, &json!((cluster.clock.now() + Duration::from_secs(20)).to_string()));
    cluster.until("the urgent Node is drained", |c| c.drained(2)).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(!cluster.drained(1), "the other drain is slow");
}

#[tokio::test(start_paused = true)]
async fn cordons_many_nodes_despite_a_slow_api_server() {
    let mut cluster = slow(Duration::ZERO).await;
    let slow_patch = |request: &ApiRequest| match (request.plural.as_str(), request.verb) {
        ("nodes", Verb::Patch) => RequestFault { delay: Duration::from_secs(2), ..RequestFault::default() },
        _ => RequestFault::default(),
    };
    cluster.kube.on_request(slow_patch);
    let begun = Instant::now();
    let deadline = cluster.clock.now() + NOTICE;
    (1..=NODES).for_each(|n| cluster.annotate(n, &json!(deadline.to_string())));
    let is_cordoned = |c: &Cluster, n: u32| c.node_object(n)["spec"]["unschedulable"] == json!(true);
    cluster.until("all are cordoned", |c| (1..=NODES).all(|n| is_cordoned(c, n))).await;
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "one after the other takes 80 s: {:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn slow_lists_of_pods_do_not_shorten_the_grace_period() {
    let mut cluster = slow(Duration::from_secs(2)).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "long", "namespace": "default"},
        "spec": {"nodeName": "slave-1", "terminationGracePeriodSeconds": 90}, "status": {"phase": "Running"},
    });
    cluster.kube.put_object(pod).unwrap();
    let begun = Instant::now();
    cluster.annotate(1, &json!((cluster.clock.now() + NOTICE).to_string()));
    cluster.until("an eviction is tried", |c| c.evictions() > 0).await;
    let left = NOTICE.saturating_sub(begun.elapsed());
    assert!(left > Duration::from_secs(90), "{left:?} are left for a grace period of 90 s");
}
