//! Time of a request to the expander: 200 options and 1,000 pods, as protobuf over loopback, compared with a
//! bare tonic server that receives the same message and replies with one id. Requests alternate between both,
//! so that load on the host affects both equally. Relevant are only the ratio, and a time well below Cluster
//! Autoscaler's timeout of 5 s.
//!
//! `cargo bench --bench best_options` (`-- --rounds 100` for more rounds).

// A benchmark that cannot run panics.
#![allow(clippy::unwrap_used)]

#[path = "../common/pods.rs"]
mod pods;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use rust_decimal::Decimal;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, async_trait};
use vpsie_autoscaler::catalog::{CapacityType, Catalog, Offer, Resources, SizeId};
use vpsie_autoscaler::clock::SystemClock;
use vpsie_autoscaler::control::FleetHandle;
use vpsie_autoscaler::fleet::{AutoscalingOptions, Fleet, NodeGroup, Records, Reserved};
use vpsie_autoscaler::grpc::proto::grpcplugin::expander_client::ExpanderClient;
use vpsie_autoscaler::grpc::proto::grpcplugin::expander_server::{Expander, ExpanderServer};
use vpsie_autoscaler::grpc::proto::grpcplugin::{
    BestOptionsRequest, BestOptionsResponse, Option as WireOption,
};
use vpsie_autoscaler::grpc::{ExpanderService, GrpcConfig, GrpcMetrics, Services, serve};
use vpsie_autoscaler::telemetry::Registry;

const OPTIONS: usize = 200;
const PODS: usize = 1000;
const MAX_MESSAGE_BYTES: usize = 256 << 20;

struct Bare;

#[async_trait]
impl Expander for Bare {
    async fn best_options(
        &self,
        request: Request<BestOptionsRequest>,
    ) -> Result<Response<BestOptionsResponse>, Status> {
        let first = request.into_inner().options.swap_remove(0);
        let options = vec![WireOption { node_group_id: first.node_group_id, ..WireOption::default() }];
        Ok(Response::new(BestOptionsResponse { options }))
    }
}

#[tokio::main]
async fn main() {
    let rounds = std::env::args().skip_while(|arg| arg != "--rounds").nth(1);
    let rounds: usize = rounds.and_then(|text| text.parse().ok()).unwrap_or(40);
    let (ours, bare) = (client(ours().await).await, client(serve_bare().await).await);
    for (name, each) in [("each option takes 5 pods", 5), ("each option takes all pods", PODS)] {
        let request = question(each);
        let bytes = request.encoded_len();
        let (mut times, before) = ([Vec::new(), Vec::new()], resident());
        for _ in 0..rounds {
            for (client, times) in [&ours, &bare].into_iter().zip(&mut times) {
                let (mut client, question) = (client.clone(), request.clone());
                let began = Instant::now();
                let reply = client.best_options(question).await.unwrap().into_inner();
                times.push(began.elapsed());
                assert_eq!(reply.options.len(), 1);
            }
        }
        let [ours, bare] = times.map(quantiles);
        println!(
            "{OPTIONS} options, {PODS} pods, {name} ({:.1} MB): p50 {:.1} ms, p99 {:.1} ms; bare p50 {:.1} ms, p99 \
             {:.1} ms; ratio of p50 {:.2}; {rounds} rounds, resident {} -> {} MiB",
            bytes as f64 / 1e6,
            ms(ours.0),
            ms(ours.1),
            ms(bare.0),
            ms(bare.1),
            ms(ours.0) / ms(bare.0),
            before,
            resident(),
        );
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[(times.len() * 99 / 100).min(times.len() - 1)])
}

/// Resident memory of the process, MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}

async fn client(port: u16) -> ExpanderClient<Channel> {
    let channel = Endpoint::try_from(format!("http://127.0.0.1:{port}")).unwrap().connect().await.unwrap();
    ExpanderClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

async fn serve_bare() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = ExpanderServer::new(Bare).max_decoding_message_size(MAX_MESSAGE_BYTES);
    tokio::spawn(
        Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    port
}

async fn ours() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = FleetHandle::fixed(fleet());
    let expander = ExpanderService::new(handle, Arc::new(SystemClock), Arc::default());
    let metrics = GrpcMetrics::register(&mut Registry::default());
    let config = GrpcConfig { tls: None, allow_plaintext: false };
    let services = Services { provider: None, expander };
    tokio::spawn(serve(config, services, metrics, Arc::new(listener), CancellationToken::new()));
    port
}

fn offer(n: usize) -> String {
    format!("offer-{n}")
}

fn fleet() -> Fleet {
    let offers = (0..OPTIONS).map(|n| Offer {
        size: SizeId(n as u64),
        name: offer(n),
        identifier: None,
        datacenter: "ams1".into(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources {
            cpu_millis: 2000 * (1 + n as u64 % 16),
            memory_mib: 4096 * (1 + n as u64 % 13),
            disk_gib: 100,
            pods: 110,
        },
        monthly: Some(Decimal::from(10 * (1 + n % 16) + 5 * (1 + n % 13))),
        hourly: None,
    });
    let catalog = Catalog { offers: offers.collect() };
    let group = NodeGroup {
        name: "web".into(),
        min: 0,
        max: 1000,
        pools: (0..OPTIONS).map(|n| pool(n).parse().unwrap()).collect(),
        size: None,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        preferred: None,
        options: AutoscalingOptions::default(),
        adopt: false,
        cost_limit: vpsie_autoscaler::cost::CostLimit::default(),
        deletion: None,
        node: vpsie_autoscaler::fleet::DeclaredNode::default(),
        spot: None,
        has_cloud_controller: false,
        distribution: None,
    };
    let records = Records { catalog: Some(Arc::new(catalog)), ..Records::default() };
    Fleet::restore(vec![group], records, Reserved { cpu_millis: 100, memory_mib: 512, disk_gib: 10 })
}

fn pool(n: usize) -> String {
    format!("web/ams1/{}/on-demand", offer(n))
}

fn question(each: usize) -> BestOptionsRequest {
    let pods = pods::pods(PODS);
    let options = (0..OPTIONS).map(|n| WireOption {
        node_group_id: pool(n),
        node_count: 1 + (each / 10) as i32,
        debug: String::new(),
        pod: Vec::new(),
        pod_bytes: (0..each).map(|k| pods[(n * each + k) % PODS].clone()).collect(),
    });
    BestOptionsRequest { options: options.collect(), ..BestOptionsRequest::default() }
}
