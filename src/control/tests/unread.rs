//! Declared limits that cannot be read: nothing grows beyond possible limits.

use fake_kube::RequestFault;
use serde_json::{Value, json};

use super::objects::{Cluster, NAMESPACE, running};
use super::*;

fn config(settings: &Value) -> Value {
    json!({
        "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "AutoscalerConfig",
        "metadata": {"name": "default", "generation": 1}, "spec": {"globalSettings": settings},
    })
}

fn status_of_config(cluster: &Cluster) -> Value {
    cluster.kube.get("autoscalerconfigs", "", "default").unwrap_or_default()["status"].take()
}

/// The sizes that Cluster Autoscaler gets while `time` passes, each once.
async fn sizes_shown(cluster: &Cluster, time: Duration) -> Vec<Option<u32>> {
    let mut sizes_shown = Vec::new();
    let end = Instant::now() + time;
    while Instant::now() < end {
        let max = cluster.max(SMALL);
        if sizes_shown.last() != Some(&max) {
            sizes_shown.push(max);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sizes_shown
}

#[tokio::test(start_paused = true)]
async fn nothing_grows_before_the_config_is_read() {
    for code in [403, 500, 503] {
        let mut cluster = Cluster::new(Vec::new()).await;
        cluster.kube.put_object(config(&json!({"maxClusterWorkers": 0}))).unwrap();
        cluster.save_node_group("web", &json!({}));
        cluster.kube.fail(
            3,
            |request| request.path.contains("autoscalerconfigs") && !request.verb.writes(),
            RequestFault::refused(code),
        );
        cluster.until("the pool is there", |c| c.max(SMALL).is_some()).await;
        let refused = Command::IncreaseSize { pool: SMALL.to_owned(), delta: 1 };
        let refused = cluster.handle.execute(refused).await.unwrap_err().to_string();
        assert!(refused.contains("AutoscalerConfig"), "{refused}");
        assert_eq!(sizes_shown(&cluster, Duration::from_mins(2)).await, [Some(0)], "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_that_the_config_was_not_read() {
    let mut cluster = Cluster::new(Vec::new()).await;
    cluster.save_node_group("web", &json!({}));
    cluster.kube.fail(
        u32::MAX,
        |request| request.path.contains("autoscalerconfigs") && !request.verb.writes(),
        RequestFault::refused(403),
    );
    cluster
        .until("the condition is written", |c| {
            c.condition("web", "AtMaxCapacity")["reason"] == "LimitsUnknown"
        })
        .await;
    let message = cluster.condition("web", "AtMaxCapacity")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("AutoscalerConfig") && message.contains("refused by a test"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_config_kind_that_does_not_exist_limits_nothing() {
    let mut cluster = Cluster::new(Vec::new()).await;
    cluster.save_node_group("web", &json!({}));
    cluster.kube.fail(
        u32::MAX,
        |request| request.path.contains("autoscalerconfigs"),
        RequestFault::refused(404),
    );
    cluster.until("the pool may grow", |c| c.max(SMALL) == Some(4)).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_grows_while_the_config_is_unreadable() {
    let mut cluster = Cluster::new(Vec::new()).await;
    cluster.kube.put_object(config(&json!({"maxClusterWorkers": "a few"}))).unwrap();
    cluster.save_node_group("web", &json!({}));
    cluster.until("the pool is there", |c| c.max(SMALL).is_some()).await;
    assert_eq!(sizes_shown(&cluster, Duration::from_mins(1)).await, [Some(0)]);
    let status = status_of_config(&cluster);
    assert_eq!(status["active"], false);
    assert!(
        status["message"].as_str().unwrap().contains("this version cannot read the AutoscalerConfig"),
        "{status}"
    );
    cluster.kube.put_object(config(&json!({"maxClusterWorkers": 3}))).unwrap();
    cluster.until("it holds once it is readable", |c| c.max(SMALL) == Some(3)).await;
    cluster.until("the status is written", |c| status_of_config(c)["active"] == true).await;
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_config_stays_in_force_in_its_last_version() {
    let mut cluster = Cluster::new(Vec::new()).await;
    cluster.kube.put_object(config(&json!({"maxClusterWorkers": 2}))).unwrap();
    cluster.save_node_group("web", &json!({}));
    cluster.until("it holds", |c| c.max(SMALL) == Some(2)).await;
    let limits = |limits: Value| json!({"spec": {"globalSettings": limits}});
    let unreadable = limits(json!({"maxClusterWorkers": "a few"}));
    cluster.kube.patch("autoscalerconfigs", "", "default", unreadable).unwrap();
    assert_eq!(sizes_shown(&cluster, Duration::from_mins(1)).await, [Some(2)]);
    assert_eq!(status_of_config(&cluster)["active"], false);
    cluster.kube.compact();
    assert_eq!(sizes_shown(&cluster, Duration::from_mins(10)).await, [Some(2)], "listed again");
    let readable = limits(json!({"maxClusterWorkers": 3}));
    cluster.kube.patch("autoscalerconfigs", "", "default", readable).unwrap();
    cluster.until("it is readable again", |c| c.max(SMALL) == Some(3)).await;
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_node_group_stays_in_force_in_its_last_version() {
    let mut cluster = Cluster::new(vec![running(1)]).await;
    cluster.save_node_group("web", &json!({"minNodes": 1}));
    cluster.until("it holds", |c| c.max(SMALL) == Some(4)).await;
    cluster.edit("web", &json!({"deletionPolicy": "Snapshot", "maxNodes": 9}));
    cluster
        .until("the condition is written", |c| c.condition("web", "Ready")["reason"] == "Unreadable")
        .await;
    cluster.kube.compact();
    assert_eq!(sizes_shown(&cluster, Duration::from_mins(10)).await, [Some(4)]);
    let min = cluster.handle.read(|fleet| fleet.limits(fleet.pool(SMALL).unwrap()).min);
    assert_eq!(min, 1);
    cluster.kube.delete("nodegroups", NAMESPACE, "web").unwrap();
    cluster.until("it grows no more", |c| c.max(SMALL) == Some(1)).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let counts = cluster.handle.read(|fleet| fleet.machines().all(crate::fleet::Machine::counts));
    assert!(counts, "a deletion policy that cannot be read deletes nothing");
}

#[tokio::test(start_paused = true)]
async fn machines_stay_while_their_node_group_is_unreadable() {
    for (more, reason) in [
        (json!({"deletionPolicy": "Snapshot", "minNodes": 1}), "Unreadable"),
        (json!({"minNodes": 9}), "Invalid"),
    ] {
        let mut cluster = Cluster::new(vec![running(1), running(2)]).await;
        cluster.save_node_group("web", &more);
        cluster.until("the condition is written", |c| c.condition("web", "Ready")["reason"] == reason).await;
        let limits = cluster.handle.read(|fleet| fleet.limits(fleet.pool(SMALL).unwrap()));
        assert_eq!((limits.min, limits.max, limits.target), (2, 2, 2), "{reason}");
        let victim = NodeRef {
            provider_id: "vpsie://00000000-0000-4000-8000-000000000001".to_owned(),
            name: "slave-1".to_owned(),
            fake: false,
        };
        let command = Command::DeleteNodes { pool: SMALL.to_owned(), nodes: vec![victim] };
        assert!(cluster.handle.execute(command).await.is_err(), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_unreadable_node_group_ends_once_it_is_empty() {
    let mut cluster = Cluster::new(Vec::new()).await;
    cluster.save_node_group("web", &json!({}));
    cluster.until("it is held", |c| c.object("web")["metadata"]["finalizers"].is_array()).await;
    cluster.edit("web", &json!({"deletionPolicy": "Snapshot"}));
    cluster
        .until("the condition is written", |c| c.condition("web", "Ready")["reason"] == "Unreadable")
        .await;
    cluster.kube.delete("nodegroups", NAMESPACE, "web").unwrap();
    cluster.until("it goes", |c| c.object("web").is_null()).await;
}
