//! One replica: waits, leads, serves until it leads no more, and is started again.

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

use super::network::{Led, Witness, client, frozen_client, frozen_transport};
use super::{NAMESPACE, PlantedState, config};
use crate::clock::VirtualClock;
use crate::freezer::Freezer;
use crate::network::{CaChannel, Violations};
use crate::process::{Process, ProcessConfig};
use crate::setting::groups;

/// A host, on which processes of a replica follow each other.
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
    pub(super) serving: Serving,
    pub(super) led: Led,
    pub(super) violations: Violations,
    pub(super) planted: Option<PlantedState>,
}

/// Who is behind the channel: what a Service shows of readiness.
#[derive(Clone, Default)]
pub(super) struct Serving(Arc<Mutex<Option<Serves>>>);

#[derive(Clone)]
pub(super) struct Serves {
    pub(super) identity: String,
    pub(super) handle: FleetHandle,
    pub(super) freezer: Freezer,
}

impl Serving {
    pub(super) fn now(&self) -> Option<Serves> {
        self.0.lock().unwrap().clone()
    }
}

impl Replica {
    /// Its lives, until this is dropped. Terms end by themselves after `longest` at most.
    pub(super) async fn live(self, seed: u64, longest: Duration) {
        let mut rng = StdRng::seed_from_u64(seed);
        let freezer = self.freezer.clone();
        let lives = async {
            loop {
                let identity = format!("{}_{:04x}", self.name, rng.random::<u16>());
                Box::pin(self.once(identity, &mut rng, longest)).await;
                tokio::time::sleep(Duration::from_millis(rng.random_range(500..8000))).await;
            }
        };
        freezer.run(Box::pin(lives)).await;
    }

    async fn once(&self, identity: String, rng: &mut StdRng, longest: Duration) {
        let never = CancellationToken::new();
        let raw = client(&self.kube, self.name, &self.clock, self.planted);
        let clock = Arc::new(self.clock.clone());
        let own = frozen_client(&raw, &self.freezer);
        let mut elector = Elector::new(own, config(&identity, self.planted), clock, rng.random());
        let Some(mut leadership) = elector.acquire(&never).await else { return };
        self.led.lock().unwrap().insert(identity.clone());
        if self.planted == Some(PlantedState::NoFence) {
            leadership = Leadership::always();
        }
        let term = longest.mul_f64(rng.random::<f64>());
        let seed = rng.random();
        let mut process = None;
        let lost = tokio::select! {
            biased; // By chance, a seed would not do the same again.
            lost = elector.renew_until(&never) => lost.is_err(),
            () = async {
                let started = process.insert(self.start(&raw, &identity, &leadership, seed).await);
                self.open(&identity, started.handle.clone()).await;
                tokio::time::sleep(term).await;
            } => false,
        };
        self.close(&identity);
        if let Some(process) = process {
            process.kill().await;
        }
        if !lost {
            elector.release().await;
        }
    }

    /// The process, once its records can be read.
    async fn start(&self, raw: &kube::Client, identity: &str, leadership: &Leadership, seed: u64) -> Process {
        let witness = Witness {
            kube: self.kube.clone(),
            identity: identity.to_owned(),
            led: Arc::clone(&self.led),
            violations: self.violations.clone(),
        };
        let fenced = fence_client(&with_request_timeout(&witness.client(raw)), leadership.clone());
        let transport = fence_transport(witness.transport(self.transport.clone()), leadership.clone());
        loop {
            let store = KubernetesStore::new(frozen_client(&fenced, &self.freezer), NAMESPACE);
            store.set_cluster(DEFAULT_CLUSTER.into());
            let around = ProcessConfig {
                store: Arc::new(store),
                transport: frozen_transport(transport.clone(), self.freezer.clone()),
                clock: Arc::new(self.clock.clone()),
                declared: FleetConfig { declaration: groups().into(), settings: FleetSettings::default() },
                policy: self.policy,
                base: self.base,
            };
            match Process::start(around, seed).await {
                Ok(process) => return process,
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// Serves once there is something to tell.
    async fn open(&self, identity: &str, handle: FleetHandle) {
        while handle.read(|fleet| fleet.catalog().is_none()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let service = CloudProviderService::new(handle.clone());
        *self.channel.server.lock().unwrap() = Some(CloudProviderServer::new(service));
        *self.channel.freezer.lock().unwrap() = self.freezer.clone();
        let identity = identity.to_owned();
        let freezer = self.freezer.clone();
        *self.serving.0.lock().unwrap() = Some(Serves { identity, handle, freezer });
    }

    fn close(&self, identity: &str) {
        let mut serving = self.serving.0.lock().unwrap();
        if serving.as_ref().is_some_and(|serves| serves.identity == identity) {
            *serving = None;
            *self.channel.server.lock().unwrap() = None;
            *self.channel.freezer.lock().unwrap() = Freezer::default();
        }
    }

    /// Its process is gone, from one moment to the next.
    pub(super) fn crashed(&self) {
        let serves = self.serving.now().filter(|serves| serves.identity.starts_with(self.name));
        if let Some(Serves { identity, .. }) = serves {
            self.close(&identity);
        }
        self.freezer.thaw();
    }
}
