//! What one loop of Cluster Autoscaler costs: the calls that it makes for a cluster, one after the other over one
//! connection, against this provider and against a bare tonic server that answers each with a constant of the same
//! size. Only the ratio of the two counts; rounds alternate, so that a busy machine slows both.
//!
//! `cargo bench --bench loop_sweep` (`-- --rounds 40` for more rounds).

// A benchmark that cannot run stops.
#![allow(clippy::unwrap_used, clippy::wildcard_imports)]

mod bare;
mod cluster;

use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use vpsie_autoscaler::control::FleetHandle;
use vpsie_autoscaler::grpc::proto::cloud_provider_client::CloudProviderClient;
use vpsie_autoscaler::grpc::{GrpcConfig, GrpcMetrics, serve};

use cluster::Cluster;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const POOLS: usize = 200;
const WARM_UP: usize = 2;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let rounds = std::env::args().skip_while(|arg| arg != "--rounds").nth(1);
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(15);
    for nodes in [500, 5000] {
        measure(nodes, rounds).await;
    }
}

async fn measure(nodes: usize, rounds: usize) {
    let cluster = Cluster::new(POOLS, nodes);
    let mut ours = client(provider(&cluster).await).await;
    let constants = bare::Constants::of(&mut ours, &cluster).await;
    let mut floor = client(bare::serve(constants).await).await;
    let (mut ours_times, mut floor_times) = (Vec::new(), Vec::new());
    for round in 0..rounds + WARM_UP {
        let (first, second) = if round % 2 == 0 { (&mut ours, &mut floor) } else { (&mut floor, &mut ours) };
        let (first, second) = (sweep(first, &cluster).await, sweep(second, &cluster).await);
        let (of_ours, of_floor) = if round % 2 == 0 { (first, second) } else { (second, first) };
        if round >= WARM_UP {
            ours_times.push(of_ours);
            floor_times.push(of_floor);
        }
    }
    let (ours, floor) = (median(ours_times), median(floor_times));
    println!(
        "{nodes} nodes x {POOLS} pools, {} calls a loop: provider {:.1} ms, bare server {:.1} ms, ratio {:.3}",
        cluster.calls(),
        ours.as_secs_f64() * 1e3,
        floor.as_secs_f64() * 1e3,
        ours.as_secs_f64() / floor.as_secs_f64(),
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

async fn provider(cluster: &Cluster) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = GrpcConfig { tls: None, allow_plaintext: false, hours_per_month: 730 };
    let metrics = GrpcMetrics::register(&mut Registry::default());
    let handle = FleetHandle::fixed(cluster.fleet());
    tokio::spawn(serve(config, handle, metrics, listener, CancellationToken::new()));
    port
}

async fn client(port: u16) -> CloudProviderClient<Channel> {
    let endpoint = Endpoint::try_from(format!("http://127.0.0.1:{port}")).unwrap();
    CloudProviderClient::new(endpoint.connect().await.unwrap())
}

/// The calls of one loop.
async fn sweep(client: &mut CloudProviderClient<Channel>, cluster: &Cluster) -> Duration {
    let started = Instant::now();
    client.refresh(cluster::refresh()).await.unwrap();
    client.node_groups(cluster::node_groups()).await.unwrap();
    for (node, pool) in &cluster.nodes {
        client.node_group_for_node(node.clone()).await.unwrap();
        for _ in 0..2 {
            client.node_group_get_options(cluster::options(pool)).await.unwrap();
        }
    }
    for pool in &cluster.pools {
        client.node_group_target_size(cluster::target_size(pool)).await.unwrap();
        client.node_group_nodes(cluster::nodes(pool)).await.unwrap();
        client.node_group_template_node_info(cluster::template(pool)).await.unwrap();
    }
    started.elapsed()
}
