//! Time of one loop of Cluster Autoscaler: its calls for a cluster, sequentially over one connection, to this
//! provider and to a bare tonic server that replies with constants of the same size. Only the ratio of both
//! is relevant. Each call goes to both servers in turn, and all run in one thread, so that load on the host
//! affects both equally. The calls of Cluster Autoscaler's `price` expander, for nodes and pods, are measured
//! in the same way.
//!
//! `cargo bench --bench loop_sweep` (`-- --rounds 40` for more rounds).

// A benchmark that cannot run panics.
#![allow(clippy::unwrap_used, clippy::wildcard_imports)]

mod bare;
mod cluster;
#[path = "../common/pods.rs"]
mod pods;
mod prices;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use vpsie_autoscaler::clock::SystemClock;
use vpsie_autoscaler::control::FleetHandle;
use vpsie_autoscaler::grpc::proto::cloud_provider_client::CloudProviderClient;
use vpsie_autoscaler::grpc::{
    CloudProviderService, ExpanderService, GrpcConfig, GrpcMetrics, Services, serve,
};
use vpsie_autoscaler::telemetry::Registry;

use cluster::Cluster;

const POOLS: usize = 200;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let rounds = std::env::args().skip_while(|arg| arg != "--rounds").nth(1);
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(9);
    for nodes in [500, 5000] {
        measure(nodes, rounds).await;
    }
}

async fn measure(nodes: usize, rounds: usize) {
    let cluster = Cluster::new(POOLS, nodes);
    let prices = (prices::nodes(&cluster, &cluster.fleet()), prices::pods());
    let mut provider = client(provider(&cluster).await).await;
    let constants = bare::Constants::read(&mut provider, &cluster, &prices).await;
    let mut pair = Pair {
        provider,
        bare: client(bare::serve(constants).await).await,
        calls: 0,
        spent: [Duration::ZERO; 2],
    };
    let (node_prices, pod_prices) = &prices;
    let size = format!("{nodes} nodes x {POOLS} pools");
    pair.measure(&format!("{size}, a loop"), rounds, async |pair| pair.sweep(&cluster).await).await;
    pair.measure(&format!("{size}, prices of nodes"), rounds, async |pair| {
        for node in node_prices {
            pair.call(async |client| drop(client.pricing_node_price(node.clone()).await.unwrap())).await;
        }
    })
    .await;
    pair.measure(&format!("{size}, prices of pods"), rounds, async |pair| {
        for pod in pod_prices {
            pair.call(async |client| drop(client.pricing_pod_price(pod.clone()).await.unwrap())).await;
        }
    })
    .await;
}

async fn provider(cluster: &Cluster) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = GrpcConfig { tls: None, allow_plaintext: false };
    let metrics = GrpcMetrics::register(&mut Registry::default());
    let handle = FleetHandle::fixed(cluster.fleet());
    let expander = ExpanderService::new(handle.clone(), Arc::new(SystemClock), Arc::default());
    let services = Services { provider: Some(CloudProviderService::new(handle)), expander };
    tokio::spawn(serve(config, services, metrics, Arc::new(listener), CancellationToken::new()));
    port
}

async fn client(port: u16) -> CloudProviderClient<Channel> {
    let endpoint = Endpoint::try_from(format!("http://127.0.0.1:{port}")).unwrap();
    CloudProviderClient::new(endpoint.connect().await.unwrap())
}

/// Clients of both servers, with the time of their calls.
struct Pair {
    provider: CloudProviderClient<Channel>,
    bare: CloudProviderClient<Channel>,
    calls: usize,
    spent: [Duration; 2],
}

impl Pair {
    /// Makes the calls once without measurement, then `rounds` times. Prints the round with the median ratio.
    async fn measure(&mut self, name: &str, rounds: usize, calls: impl AsyncFn(&mut Self)) {
        self.calls = 0;
        calls(self).await;
        let count = self.calls;
        let mut results = Vec::new();
        for _ in 0..rounds {
            self.spent = [Duration::ZERO; 2];
            calls(self).await;
            let [provider, bare] = self.spent.map(|spent| spent.as_secs_f64());
            results.push((provider / bare, provider, bare));
        }
        results.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, provider, bare) = results[rounds / 2];
        println!(
            "{name}, {count} calls: provider {:.1} ms, bare server {:.1} ms, ratio {ratio:.3} (median of {rounds} rounds, \
             {:.3} to {:.3})",
            provider * 1e3,
            bare * 1e3,
            results[0].0,
            results[rounds - 1].0,
        );
    }

    /// The calls of one loop. Each goes to both servers; the first of the two alternates.
    async fn sweep(&mut self, cluster: &Cluster) {
        self.call(async |client| drop(client.refresh(cluster::refresh()).await.unwrap())).await;
        self.call(async |client| drop(client.node_groups(cluster::node_groups()).await.unwrap())).await;
        for (node, pool) in &cluster.nodes {
            self.call(async |client| drop(client.node_group_for_node(node.clone()).await.unwrap())).await;
            for _ in 0..2 {
                let options = cluster::options(pool);
                self.call(async |client| drop(client.node_group_get_options(options.clone()).await.unwrap()))
                    .await;
            }
        }
        for pool in &cluster.pools {
            let target_size = cluster::target_size(pool);
            self.call(async |client| drop(client.node_group_target_size(target_size.clone()).await.unwrap()))
                .await;
            let nodes = cluster::nodes(pool);
            self.call(async |client| drop(client.node_group_nodes(nodes.clone()).await.unwrap())).await;
            let template = cluster::template(pool);
            self.call(async |client| {
                drop(client.node_group_template_node_info(template.clone()).await.unwrap());
            })
            .await;
        }
    }

    async fn call(&mut self, call: impl AsyncFn(&mut CloudProviderClient<Channel>)) {
        self.calls += 1;
        for at in [self.calls % 2, (self.calls + 1) % 2] {
            let client = if at == 0 { &mut self.provider } else { &mut self.bare };
            let started = Instant::now();
            call(client).await;
            self.spent[at] += started.elapsed();
        }
    }
}
