//! The label by which a Service finds the pod that leads.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// On the pod that leads, and on no other: [`LEADER`].
pub const ROLE_LABEL: &str = "autoscaler.vpsie.com/role";

/// The value of [`ROLE_LABEL`].
pub const LEADER: &str = "leader";

/// Between two attempts.
const AGAIN: Duration = Duration::from_secs(2);

/// The pods of the replicas, of which one is this process's.
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

    /// Gives the own pod the label once it `serves`, and takes it from the others. The client must be one that only a
    /// leader can write with.
    ///
    /// A stop takes nothing away: until another replica leads, a Service must lead somewhere, and this one passes on who
    /// comes.
    pub async fn run<S>(
        self,
        mut stage: watch::Receiver<S>,
        serves: impl Fn(&S) -> bool,
        shutdown: CancellationToken,
    ) {
        let told = async {
            if stage.wait_for(&serves).await.is_err() {
                return;
            }
            while let Err(error) = self.lead().await {
                tracing::warn!(%error, pod = self.own, "cannot label the pods, so a Service may not lead here; trying again");
                tokio::time::sleep(AGAIN).await;
            }
        };
        if shutdown.run_until_cancelled(told).await.is_some() {
            shutdown.cancelled().await;
        }
    }

    /// Takes the label from the own pod, where a container that led may have left it. Failures are logged: whoever
    /// leads takes it away as well.
    pub async fn stand_by(&self) {
        if let Err(error) = self.label(&self.own, None).await {
            tracing::warn!(%error, pod = self.own, "cannot take the leader's label from the pod");
        }
    }

    /// The own pod first, so that a Service leads somewhere all the time.
    async fn lead(&self) -> Result<(), kube::Error> {
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
    use fake_kube::{FakeKube, Fate, Verb};
    use serde_json::Value;

    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    fn kube() -> FakeKube {
        let kube = FakeKube::new(|| SystemClock.now());
        for (name, labels) in [("a", json!({"app": "x"})), ("b", json!({"app": "x", ROLE_LABEL: LEADER}))] {
            let metadata = json!({"name": name, "namespace": "ns", "labels": labels});
            kube.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})).unwrap();
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
    async fn the_label_is_on_the_pod_that_serves_and_on_no_other() {
        let kube = kube();
        kube.fail(2, |asked| asked.verb == Verb::Patch, Fate::refused(500));
        let (serving, served) = watch::channel(false);
        let role = Role::new(kube.client("a", "ns"), "ns", "a");
        let running = tokio::spawn(role.run(served, |serves| *serves, CancellationToken::new()));
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(roles(&kube), [Value::Null, json!(LEADER)], "it stands by");
        serving.send_replace(true);
        until(&kube, [json!(LEADER), Value::Null]).await;
        running.abort();
        assert_eq!(kube.get("pods", "ns", "a").unwrap()["metadata"]["labels"]["app"], "x");
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_that_starts_again_in_its_pod_stands_by() {
        let kube = kube();
        Role::new(kube.client("b", "ns"), "ns", "b").stand_by().await;
        assert_eq!(roles(&kube), [Value::Null, Value::Null]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_leaves_the_label_to_the_next_one() {
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
