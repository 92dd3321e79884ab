//! Many interruptions at once, against a slow API server in the process.

use fake_kube::{ApiRequest, FaultEffect, RequestFault, Verb};
use serde_json::json;

use super::drain::{Cluster, id, is_eviction, lists_pods_on, refused};
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

#[tokio::test(start_paused = true)]
async fn a_slow_node_delays_no_other_urgent_node() {
    let mut cluster = Cluster::new(3).await;
    (1..=3).for_each(|n| cluster.pod(&format!("web-{n}"), n, &json!({})));
    let slow = |request: &ApiRequest| {
        let delay = if lists_pods_on(request, 1) { Duration::from_secs(100) } else { Duration::ZERO };
        RequestFault { delay, ..RequestFault::default() }
    };
    cluster.kube.on_request(slow);
    // The budget allows the eviction of the second pod in the third attempt.
    let is_second = |request: &ApiRequest| is_eviction(request) && request.name == "web-2";
    cluster.kube.fail(2, is_second, refused(429, "DisruptionBudget"));
    let deadline = cluster.clock.now() + Duration::from_mins(10);
    (1..=3).for_each(|n| cluster.annotate(n, &json!(deadline.to_string())));
    cluster.until("all have notices", |c| (1..=3).all(|n| c.has_notice(n))).await;
    let retired = cluster.handle.update(Cause::InterruptionNotice, |fleet, now, _| {
        (1..=3).flat_map(|n| fleet.retire_interrupted(&id(n), now)).collect()
    });
    retired.await.unwrap();
    let begun = Instant::now();
    cluster.until("the others are drained", |c| c.drained(2) && c.drained(3)).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(!cluster.drained(1));
    cluster.until("the slow one, too", |c| c.drained(1)).await;
}

#[tokio::test(start_paused = true)]
async fn throttled_evictions_are_retried_in_the_same_drain() {
    let mut cluster = Cluster::new(1).await;
    (0..4).for_each(|pod| cluster.pod(&format!("web-{pod}"), 1, &json!({})));
    cluster.kube.fail(4, is_eviction, FaultEffect::Refused(throttled(5)));
    cluster.annotate(1, &json!((cluster.clock.now() + Duration::from_mins(2)).to_string()));
    cluster.until("evictions are requested", |c| c.evictions() == 4).await;
    let begun = Instant::now();
    cluster.until("it is drained", |c| c.drained(1)).await;
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    assert_eq!((cluster.evictions(), deletions(&cluster)), (8, 0));
}

#[tokio::test(start_paused = true)]
async fn throttled_pods_are_deleted_in_time() {
    let mut cluster = Cluster::new(2).await;
    (1..=2).for_each(|n| cluster.pod(&format!("web-{n}"), n, &json!({})));
    cluster.kube.fail(u32::MAX, is_eviction, FaultEffect::Refused(throttled(60)));
    let begun = Instant::now();
    let deadline = cluster.clock.now() + NOTICE;
    (1..=2).for_each(|n| cluster.annotate(n, &json!(deadline.to_string())));
    cluster.until("an eviction is requested", |c| c.evictions() > 0).await;
    assert_eq!(deletions(&cluster), 0, "not before it is late");
    cluster.until("they are drained", |c| c.drained(1) && c.drained(2)).await;
    assert!(begun.elapsed() < NOTICE, "{:?}", begun.elapsed());
    assert_eq!(deletions(&cluster), 2);
}

/// A reply by which the API server requests a pause.
fn throttled(seconds: u32) -> fake_kube::StatusError {
    fake_kube::StatusError { retry_after: Some(seconds), ..fake_kube::StatusError::new(429, "slow down") }
}

/// Number of deletions of pods.
fn deletions(cluster: &Cluster) -> usize {
    cluster.kube.count(|request| request.is_verb_on(Verb::Delete, "pods"))
}
