//! One replica: it stands by, leads, serves until its term ends, and is started again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_kube::FakeKube;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;
use vpsie_autoscaler::control::{FleetConfig, FleetHandle, fence_transport};
use vpsie_autoscaler::fleet::{FleetSettings, Policy};
use vpsie_autoscaler::grpc::CloudProviderService;
use vpsie_autoscaler::grpc::proto::cloud_provider_server::CloudProviderServer;
use vpsie_autoscaler::kubernetes::{Elector, Leadership, fence_client, with_request_timeout};
use vpsie_autoscaler::simulator::DEFAULT_CLUSTER;
use vpsie_autoscaler::store::KubernetesStore;
use vpsie_autoscaler::vpsie::Transport;

use super::network::{FenceObserver, PastLeaders, client, freezable_client, freezable_transport};
use super::{NAMESPACE, PlantedReplicaBug, election_config};
use crate::clock::VirtualClock;
use crate::fixtures::node_groups;
use crate::freezer::Freezer;
use crate::network::{CaChannel, Violations};
use crate::process::{Process, ProcessConfig};

/// A host on which one process of a replica runs after another.
#[derive(Clone)]
pub(super) struct Replica {
    pub(super) name: &'static str,
    pub(super) clock: VirtualClock,
    pub(super) freezer: Freezer,
    pub(super) kube: FakeKube,
    pub(super) transport: Transport,
    pub(super) base: &'static str,
    pub(super) policy: Policy,
    pub(super) channel: CaChannel,
    pub(super) endpoint: Endpoint,
    pub(super) past_leaders: PastLeaders,
    pub(super) violations: Violations,
    pub(super) bug: Option<PlantedReplicaBug>,
}

/// The endpoint of the Service: the replica that Cluster Autoscaler's channel reaches.
#[derive(Clone, Default)]
pub(super) struct Endpoint(Arc<Mutex<Option<ServingReplica>>>);

/// A replica that serves gRPC.
#[derive(Clone)]
pub(super) struct ServingReplica {
    pub(super) identity: String,
    pub(super) handle: FleetHandle,
    pub(super) freezer: Freezer,
}

impl Endpoint {
    /// The replica that serves now.
    pub(super) fn replica(&self) -> Option<ServingReplica> {
        self.0.lock().unwrap().clone()
    }
}

impl Replica {
    /// Runs one process after another, until this future is dropped. A term ends after at most `max_term`.
    pub(super) async fn run(self, seed: u64, max_term: Duration) {
        let mut rng = StdRng::seed_from_u64(seed);
        let freezer = self.freezer.clone();
        let processes = async {
            loop {
                let identity = format!("{}_{:04x}", self.name, rng.random::<u16>());
                Box::pin(self.run_process(identity, &mut rng, max_term)).await;
                tokio::time::sleep(Duration::from_millis(rng.random_range(500..8000))).await;
            }
        };
        freezer.run(Box::pin(processes)).await;
    }

    /// Runs a process until its term as leader ends.
    async fn run_process(&self, identity: String, rng: &mut StdRng, max_term: Duration) {
        let never = CancellationToken::new();
        let client = client(&self.kube, self.name, &self.clock, self.bug);
        let clock = Arc::new(self.clock.clone());
        let election_client = freezable_client(&client, &self.freezer);
        let mut elector =
            Elector::new(election_client, election_config(&identity, self.bug), clock, rng.random());
        let Some(mut leadership) = elector.acquire(&never).await else { return };
        self.past_leaders.lock().unwrap().insert(identity.clone());
        if self.bug == Some(PlantedReplicaBug::NoFence) {
            leadership = Leadership::always();
        }
        let term = max_term.mul_f64(rng.random::<f64>());
        let seed = rng.random();
        let mut process = None;
        let lost = tokio::select! {
            biased; // A random order would make runs of one seed differ.
            lost = elector.renew_until(&never) => lost.is_err(),
            () = async {
                let started = process.insert(self.start(&client, &identity, &leadership, seed).await);
                self.serve(&identity, started.handle.clone()).await;
                tokio::time::sleep(term).await;
            } => false,
        };
        self.stop_serving(&identity);
        if let Some(process) = process {
            process.kill().await;
        }
        if !lost {
            elector.release().await;
        }
    }

    /// Starts the tasks of the process. Repeats until the records can be read.
    async fn start(
        &self,
        client: &kube::Client,
        identity: &str,
        leadership: &Leadership,
        seed: u64,
    ) -> Process {
        let observer = FenceObserver {
            kube: self.kube.clone(),
            identity: identity.to_owned(),
            past_leaders: Arc::clone(&self.past_leaders),
            violations: self.violations.clone(),
        };
        let fenced = fence_client(&with_request_timeout(&observer.client(client)), leadership.clone());
        let transport = fence_transport(observer.transport(self.transport.clone()), leadership.clone());
        loop {
            let store = KubernetesStore::new(freezable_client(&fenced, &self.freezer), NAMESPACE);
            store.set_cluster(DEFAULT_CLUSTER.into());
            let config = ProcessConfig {
                store: Arc::new(store),
                transport: freezable_transport(transport.clone(), self.freezer.clone()),
                clock: Arc::new(self.clock.clone()),
                declared: FleetConfig {
                    declaration: node_groups().into(),
                    settings: FleetSettings::default(),
                },
                policy: self.policy,
                base: self.base,
            };
            match Process::start(config, seed).await {
                Ok(process) => return process,
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// Serves gRPC once the catalog is known.
    async fn serve(&self, identity: &str, handle: FleetHandle) {
        while handle.read(|fleet| fleet.catalog().is_none()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let service = CloudProviderService::new(handle.clone());
        *self.channel.server.lock().unwrap() = Some(CloudProviderServer::new(service));
        *self.channel.freezer.lock().unwrap() = self.freezer.clone();
        let identity = identity.to_owned();
        let freezer = self.freezer.clone();
        *self.endpoint.0.lock().unwrap() = Some(ServingReplica { identity, handle, freezer });
    }

    fn stop_serving(&self, identity: &str) {
        let mut endpoint = self.endpoint.0.lock().unwrap();
        if endpoint.as_ref().is_some_and(|replica| replica.identity == identity) {
            *endpoint = None;
            *self.channel.server.lock().unwrap() = None;
            *self.channel.freezer.lock().unwrap() = Freezer::default();
        }
    }

    /// Notes that the process crashed: it no longer serves, and its pause ends.
    pub(super) fn note_crash(&self) {
        let serving = self.endpoint.replica().filter(|replica| replica.identity.starts_with(self.name));
        if let Some(ServingReplica { identity, .. }) = serving {
            self.stop_serving(&identity);
        }
        self.freezer.thaw();
    }
}
