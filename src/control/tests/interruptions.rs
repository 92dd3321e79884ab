//! Notices of interruptions, against an API server in the process.

use fake_kube::Verb;
use serde_json::{Value, json};

use super::drain::{Cluster, id, is_eviction, refused};
use super::objects::running;
use super::*;
use crate::fleet::{Cause, CreationOutcome, DeletionReason, Machine, MachineId, names};

const NOTICE: Duration = Duration::from_mins(3);

impl Cluster {
    /// Sets the annotation of the Node, or removes it.
    pub(super) fn annotate(&self, n: u32, value: &Value) {
        let patch = json!({"metadata": {"annotations": {names::INTERRUPTION: value}}});
        self.kube.patch("nodes", "", &format!("slave-{n}"), patch).unwrap();
    }

    fn record_notice(&self, n: u32) {
        let deadline = self.clock.now() + NOTICE;
        self.annotate(n, &json!(deadline.to_string()));
    }

    fn replacements(&self, n: u32) -> Vec<MachineId> {
        self.handle.read(|fleet| fleet.replacements_of(&id(n)).map(|machine| machine.id.clone()).collect())
    }

    pub(super) fn has_notice(&self, n: u32) -> bool {
        self.handle.read(|fleet| fleet.machine(&id(n)).is_some_and(|machine| machine.notice.is_some()))
    }

    /// Creates the VM of the replacement and its Node.
    async fn start_replacement(&self, replacement: &MachineId, n: u32) {
        let machine = replacement.clone();
        let vm = running(n).vm().cloned().unwrap();
        let created = self.handle.update(Cause::VPSieReply, move |fleet, now, _| {
            let listing = NodeListing::of_nodes(Vec::new(), true);
            let mut changes = fleet.observe(&listing, now, &Policy::default());
            changes.extend(fleet.record_requests(std::slice::from_ref(&machine), now));
            changes.extend(fleet.record_outcome(
                &machine,
                CreationOutcome::Created(vm),
                now,
                &Policy::default(),
            ));
            changes
        });
        created.await.unwrap();
        self.node(n);
    }

    pub(super) fn node_object(&self, n: u32) -> Value {
        self.kube.get("nodes", "", &format!("slave-{n}")).unwrap()
    }

    fn deletion_reason(&self, n: u32) -> Option<DeletionReason> {
        self.handle.read(|fleet| match fleet.machine(&id(n)).map(|machine| &machine.phase) {
            Some(Phase::Deleting { reason, .. }) => Some(*reason),
            _ => None,
        })
    }
}

#[tokio::test(start_paused = true)]
async fn the_replacement_is_ready_before_the_first_pod_moves() {
    let mut cluster = Cluster::new(1).await;
    cluster.pod("web", 1, &json!({}));
    let begun = Instant::now();
    cluster.record_notice(1);
    cluster.until("a replacement is recorded", |c| c.replacements(1).len() == 1).await;
    assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
    cluster
        .until("no pod is scheduled on it", |c| c.node_object(1)["spec"]["unschedulable"] == json!(true))
        .await;
    let labels = cluster.node_object(1)["metadata"]["labels"].clone();
    assert_eq!(labels["node.kubernetes.io/exclude-from-external-load-balancers"], "");
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!((cluster.evictions(), cluster.replacements(1).len()), (0, 1));
    let replacement = cluster.replacements(1).remove(0);
    cluster.start_replacement(&replacement, 2).await;
    cluster.until("it is drained", |c| c.drained(1)).await;
    assert_eq!(cluster.deletion_reason(1), Some(DeletionReason::InterruptionNotice));
    assert!(begun.elapsed() < NOTICE);
    let annotations = cluster.node_object(2)["metadata"]["annotations"].clone();
    assert_eq!(annotations["cluster-autoscaler.kubernetes.io/scale-down-disabled"], "true");
    assert!(cluster.kube.list("pods").is_empty());
}

#[tokio::test(start_paused = true)]
async fn drains_in_time_without_a_replacement() {
    let mut cluster = Cluster::new(1).await;
    cluster.pod("web", 1, &json!({}));
    let begun = Instant::now();
    cluster.record_notice(1);
    cluster.until("it is drained", |c| c.drained(1)).await;
    let took = begun.elapsed();
    assert!(took > Duration::from_mins(2) && took < NOTICE, "after {took:?}");
}

#[tokio::test(start_paused = true)]
async fn deletes_pods_in_time_if_a_budget_allows_nothing() {
    let mut cluster = Cluster::new(1).await;
    cluster.pod("web", 1, &json!({}));
    cluster.kube.fail(u32::MAX, is_eviction, refused(429, "DisruptionBudget"));
    let begun = Instant::now();
    cluster.record_notice(1);
    cluster.until("an eviction is tried", |c| c.evictions() > 0).await;
    assert_eq!(cluster.kube.list("pods").len(), 1, "the budget holds at first");
    cluster.until("it is drained", |c| c.drained(1)).await;
    assert!(begun.elapsed() < NOTICE, "{:?}", begun.elapsed());
    assert!(cluster.kube.list("pods").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_notice_uncordons_the_node() {
    let mut cluster = Cluster::new(1).await;
    cluster.pod("web", 1, &json!({}));
    cluster.record_notice(1);
    let is_cordoned = |c: &Cluster| c.node_object(1)["spec"]["unschedulable"] == json!(true);
    cluster.until("it is cordoned", is_cordoned).await;
    cluster.annotate(1, &Value::Null);
    cluster.until("the notice is gone", |c| !c.has_notice(1)).await;
    cluster.until("it is uncordoned", |c| !is_cordoned(c)).await;
    let labels = cluster.node_object(1)["metadata"]["labels"].clone();
    assert_eq!(labels.get("node.kubernetes.io/exclude-from-external-load-balancers"), None);
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(cluster.handle.read(|fleet| fleet.machine(&id(1)).is_some_and(Machine::counts)));
    assert_eq!(cluster.evictions(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_uncordoned_node_with_a_notice_is_cordoned_again() {
    let mut cluster = Cluster::new(1).await;
    cluster.pod("web", 1, &json!({}));
    cluster.record_notice(1);
    let is_cordoned = |c: &Cluster| c.node_object(1)["spec"]["unschedulable"] == json!(true);
    cluster.until("it is cordoned", is_cordoned).await;
    for _ in 0..2 {
        cluster.kube.patch("nodes", "", "slave-1", json!({"spec": {"unschedulable": null}})).unwrap();
        assert!(!is_cordoned(&cluster));
        cluster.until("it is cordoned again", is_cordoned).await;
    }
    cluster.annotate(1, &Value::Null);
    cluster.until("it is uncordoned after the withdrawal", |c| !is_cordoned(c)).await;
}

#[tokio::test(start_paused = true)]
async fn a_user_who_withdraws_a_notice_can_uncordon_the_node() {
    let mut cluster = Cluster::new(1).await;
    cluster.pod("web", 1, &json!({}));
    cluster.record_notice(1);
    let is_cordoned = |c: &Cluster| c.node_object(1)["spec"]["unschedulable"] == json!(true);
    cluster.until("it is cordoned", is_cordoned).await;
    let patches = |c: &Cluster| c.kube.count(|request| request.is_verb_on(Verb::Patch, "nodes"));
    let before = patches(&cluster);
    let withdrawn = json!({
        "metadata": {"annotations": {names::INTERRUPTION: null}}, "spec": {"unschedulable": null},
    });
    cluster.kube.patch("nodes", "", "slave-1", withdrawn).unwrap();
    let mark =
        |c: &Cluster| c.node_object(1)["metadata"]["annotations"].get(names::INTERRUPTION_CORDON).cloned();
    cluster.until("the mark is removed", |c| mark(c).is_none()).await;
    assert_eq!(
        (is_cordoned(&cluster), patches(&cluster)),
        (false, before + 1),
        "one patch, without a cordon"
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_after_a_notice_adds_no_second_replacement() {
    let mut cluster = Cluster::new(1).await;
    cluster.pod("web", 1, &json!({}));
    cluster.record_notice(1);
    cluster.until("a replacement is recorded", |c| c.replacements(1).len() == 1).await;
    cluster.start().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((cluster.has_notice(1), cluster.replacements(1).len()), (true, 1));
    cluster.until("it is drained", |c| c.drained(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_without_pods_needs_no_replacement() {
    let mut cluster = Cluster::new(1).await;
    cluster.record_notice(1);
    cluster.until("it is drained", |c| c.drained(1)).await;
    assert!(cluster.replacements(1).is_empty());
}

#[tokio::test(start_paused = true)]
async fn many_notices_drain_more_than_three_nodes_at_a_time() {
    let mut cluster = Cluster::new(8).await;
    (1..=8).for_each(|n| cluster.pod(&format!("web-{n}"), n, &json!({})));
    let begun = Instant::now();
    (1..=8).for_each(|n| cluster.record_notice(n));
    cluster.until("all are drained", |c| (1..=8).all(|n| c.drained(n))).await;
    assert!(begun.elapsed() < NOTICE, "{:?}", begun.elapsed());
}
