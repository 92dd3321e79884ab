//! The label by which a Service selects the leader's pod.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Its value is [`LEADER`] on the leader's pod; other pods do not have it.
pub const ROLE_LABEL: &str = "autoscaler.vpsie.com/role";

/// The value of [`ROLE_LABEL`].
pub const LEADER: &str = "leader";

/// Wait between attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Sets the label on the pods of the replicas.
#[derive(Clone)]
pub struct Role {
    pods: Api<Pod>,
    own: String,
}

impl Role {
    /// `own` is the name of the pod that this process runs in.
    pub fn new(client: kube::Client, namespace: &str, own: &str) -> Self {
        Self { pods: Api::namespaced(client, namespace), own: own.to_owned() }
    }

    /// Labels the own pod once it `serves`, and removes the label from the others. The client must be fenced.
    ///
    /// The label stays at shutdown: until another replica leads, the Service needs a target, and this replica
    /// forwards connections.
    pub async fn run<S>(
        self,
        mut stage: watch::Receiver<S>,
        serves: impl Fn(&S) -> bool,
        shutdown: CancellationToken,
    ) {
        let labelled = async {
            if stage.wait_for(&serves).await.is_err() {
                return;
            }
            while let Err(error) = self.label_leader().await {
                tracing::warn!(
                    %error,
                    pod = self.own,
                    "cannot label the leader's pod, so a Service may select no pod; retrying"
                );
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        };
        if shutdown.run_until_cancelled(labelled).await.is_some() {
            shutdown.cancelled().await;
        }
    }

    /// Removes the label from the own pod, where an earlier container may have left it. Failures are only
    /// logged: the leader removes the label as well.
    pub async fn remove_own_label(&self) {
        if let Err(error) = self.label(&self.own, None).await {
            tracing::warn!(%error, pod = self.own, "cannot remove the leader's label from the pod");
        }
    }

    /// Labels the own pod first, so that a Service always selects a pod.
    async fn label_leader(&self) -> Result<(), kube::Error> {
        self.label(&self.own, Some(LEADER)).await?;
        let others = self.pods.list(&ListParams::default().labels(&format!("{ROLE_LABEL}={LEADER}"))).await?;
        for pod in others.items.iter().map(ResourceExt::name_any).filter(|name| *name != self.own) {
            match self.label(&pod, None).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                done => done?,
            }
        }
        Ok(())
    }

    async fn label(&self, pod: &str, value: Option<&str>) -> Result<(), kube::Error> {
        let patch = json!({"metadata": {"labels": {ROLE_LABEL: value}}});
        self.pods.patch_metadata(pod, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use fake_kube::{FakeKube, RequestFault, Verb};
    use serde_json::Value;

    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    fn kube() -> FakeKube {
        let kube = FakeKube::new(|| SystemClock.now());
        for (name, labels) in [("a", json!({"app": "x"})), ("b", json!({"app": "x", ROLE_LABEL: LEADER}))] {
            let metadata = json!({"name": name, "namespace": "ns", "labels": labels});
            kube.put_object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})).unwrap();
        }
        kube
    }

    fn roles(kube: &FakeKube) -> Vec<Value> {
        ["a", "b"]
            .map(|pod| kube.get("pods", "ns", pod).unwrap()["metadata"]["labels"][ROLE_LABEL].clone())
            .to_vec()
    }

    async fn until(kube: &FakeKube, wanted: [Value; 2]) {
        let mut rounds = 0;
        while roles(kube) != wanted {
            rounds += 1;
            assert!(rounds < 100, "{:?}", roles(kube));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_pod_that_serves_has_the_label() {
        let kube = kube();
        kube.fail(2, |asked| asked.verb == Verb::Patch, RequestFault::refused(500));
        let (serving, served) = watch::channel(false);
        let role = Role::new(kube.client("a", "ns"), "ns", "a");
        let running = tokio::spawn(role.run(served, |serves| *serves, CancellationToken::new()));
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(roles(&kube), [Value::Null, json!(LEADER)], "it is on standby");
        serving.send_replace(true);
        until(&kube, [json!(LEADER), Value::Null]).await;
        running.abort();
        assert_eq!(kube.get("pods", "ns", "a").unwrap()["metadata"]["labels"]["app"], "x");
    }

    #[tokio::test(start_paused = true)]
    async fn a_restarted_container_removes_its_label() {
        let kube = kube();
        Role::new(kube.client("b", "ns"), "ns", "b").remove_own_label().await;
        assert_eq!(roles(&kube), [Value::Null, Value::Null]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_label_stays_until_the_next_leader_serves() {
        let kube = kube();
        let start = |pod: &str| {
            let (serving, served) = watch::channel(true);
            let shutdown = CancellationToken::new();
            let role = Role::new(kube.client(pod, "ns"), "ns", pod);
            (tokio::spawn(role.run(served, |serves| *serves, shutdown.clone())), shutdown, serving)
        };
        let (first, shutdown, _serving) = start("a");
        until(&kube, [json!(LEADER), Value::Null]).await;
        shutdown.cancel();
        first.await.unwrap();
        assert_eq!(roles(&kube), [json!(LEADER), Value::Null]);
        let _second = start("b");
        until(&kube, [Value::Null, json!(LEADER)]).await;
    }
}
