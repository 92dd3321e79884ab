use clap::Parser;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;
use crate::vpsie::{Timeouts, TransportError, https};

async fn served(config: SimulatorConfig) -> (Simulator, std::net::SocketAddr, CancellationToken) {
    let sim = simulator(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(listen(sim.clone(), listener, shutdown.clone()));
    (sim, address, shutdown)
}

async fn fetch(
    address: std::net::SocketAddr,
    method: &str,
    path: &str,
) -> Result<http::Response<Bytes>, TransportError> {
    let mut request = request(method, path, None);
    *request.uri_mut() = format!("http://{address}/apps/v2{path}").parse().unwrap();
    https(&Timeouts::default()).oneshot(request).await
}

#[tokio::test]
async fn over_tcp_a_lost_reply_closes_the_connection() {
    let (sim, address, _shutdown) = served(steady()).await;
    let group = add_group(&sim, "workers", 2).await;
    sim.add_fault("POST ** lost count=1".parse().unwrap());
    let path = cluster_path(&format!("/add/slave/group/{group}"));
    assert!(matches!(fetch(address, "POST", &path).await, Err(TransportError::Lost(_))));
    assert_eq!(sim.worker_count(), 1);
    assert_eq!(fetch(address, "POST", &path).await.unwrap().status(), 200);
}

#[tokio::test]
async fn over_tcp_a_slow_body_arrives_whole() {
    let (sim, address, _shutdown) = served(steady()).await;
    sim.add_fault("GET ** slow=20ms".parse().unwrap());
    let reply = fetch(address, "GET", "/k8s/cluster/all").await.unwrap();
    let body: Value = serde_json::from_slice(reply.body()).unwrap();
    assert_eq!(body["data"][0]["identifier"], DEFAULT_CLUSTER);
}

#[tokio::test]
async fn it_stops_at_shutdown() {
    let (_, address, shutdown) = served(steady()).await;
    fetch(address, "GET", "/vm").await.unwrap();
    shutdown.cancel();
    while fetch(address, "GET", "/vm").await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_transport_replaces_the_network() {
    let sim = simulator(SimulatorConfig { faults: vec!["GET ** lost".parse().unwrap()], ..steady() });
    let lost = sim.transport().oneshot(request("GET", "/vm", None)).await.unwrap_err();
    assert!(matches!(lost, TransportError::Lost(_)));
    sim.set_outage(true);
    let unsent = sim.transport().oneshot(request("GET", "/vm", None)).await.unwrap_err();
    assert!(matches!(unsent, TransportError::NotSent(_)));
}

#[derive(Parser, Debug)]
struct Cli {
    #[command(flatten)]
    simulator: SimulatorArgs,
}

fn parse(args: &[&str]) -> Result<SimulatorArgs, String> {
    let args = ["simulator"].iter().chain(args);
    Cli::try_parse_from(args).map(|cli| cli.simulator).map_err(|error| error.to_string())
}

#[test]
fn flags_change_the_configuration() {
    let args = parse(&[
        "--seed=7",
        "--shape=nodes=rich",
        "--fault=POST **/add/slave/** lost p=0.1",
        "--boot-time=5s",
        "--capacity=ams1/s-4vcpu-8gb=3",
        "--shortage=silent",
        "--worker-quota=9",
        "--rate-limit=100",
        "--foreign-workers=2",
    ]);
    let config = args.unwrap().simulator_config().unwrap();
    assert_eq!((config.seed, config.worker_quota, config.rate_limit), (7, Some(9), Some(100)));
    assert_eq!(config.shapes.nodes, Nodes::Rich);
    assert_eq!(config.faults[0].to_string(), "POST **/add/slave/** lost p=0.1");
    assert_eq!(config.times.boot, "5s".parse().unwrap());
    assert_eq!((config.shortage, config.clusters[0].foreign_workers), (Shortage::Silent, 2));
    let capacity = CapacityConfig {
        datacenter: Some("ams1".into()),
        offer: "s-4vcpu-8gb".into(),
        capacity_type: None,
        limit: 3,
    };
    assert_eq!(config.capacity, [capacity]);
}

#[test]
fn invalid_flags_list_allowed_values() {
    for (flag, words) in [
        ("--shape=nodes=poor", "shape nodes must be one of plain, rich, masters-slaves, flags"),
        ("--fault=GET **", "the effect is missing; a rule must be <METHOD|*> <path glob> <effect>"),
        ("--boot-time=soon", "must be a time such as 40s, or two bounds such as 20s..60s"),
        ("--capacity=s-4vcpu-8gb", "must be [DATACENTER/]OFFER=N, such as s-4vcpu-8gb=3"),
        ("--join-label=a=b", "--kubeconfig <FILE>"),
    ] {
        let error = parse(&[flag]).unwrap_err();
        assert!(error.contains(words), "{flag}: {error}");
    }
    let unknown = parse(&["--capacity=huge=1"]).unwrap().simulator_config().unwrap_err().to_string();
    assert!(unknown.contains("offer \"huge\" is unknown; offers are s-1vcpu-2gb"), "{unknown}");
}

#[test]
fn flags_override_the_configuration_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("simulator.yaml");
    let text = "
seed: 3
datacenters:
- {identifier: ams1, name: AMS}
- {identifier: hel1, name: HEL, priceFactor: 1.2, offers: [s-2vcpu-4gb]}
clusters:
- {identifier: 5a1c94be-6f3d-11ef-9b52-bc24115e1e5f, name: HEL-Kubernetes-1, datacenter: hel1, offer: s-2vcpu-4gb}
times: {boot: 10s..20s}
shapes: {nodes: rich, money: text}
faults: ['GET ** status=500 p=0.01']
rateLimit: 50
";
    std::fs::write(&path, text).unwrap();
    let config = parse(&[&format!("--config={}", path.display()), "--seed=4"]).unwrap();
    let config = config.simulator_config().unwrap();
    assert_eq!((config.seed, config.rate_limit, config.shapes.money), (4, Some(50), Money::Text));
    assert_eq!(config.times.listed, TimesConfig::default().listed);
    assert_eq!(config.datacenters[1].price_factor.to_string(), "1.2");

    std::fs::write(&path, "sede: 3").unwrap();
    let args = parse(&[&format!("--config={}", path.display())]).unwrap();
    let error = format!("{:#}", args.simulator_config().unwrap_err());
    assert!(error.contains("simulator.yaml") && error.contains("sede"), "{error}");
}

#[test]
fn secrets_stay_out_of_the_flags_debug() {
    let args = parse(&["--token=hush-hush", "--client-secret=hush-hush"]).unwrap();
    assert!(!format!("{args:?}").contains("hush"));
}
