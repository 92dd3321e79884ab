//! Tests of the simulator, called in process on paused time.

mod account;
mod anomalies;
mod api;
mod boot;
mod client;
mod control;
mod datacenters;
mod docs;
mod faults;
mod join;
mod market;
mod payload;
mod process;
mod shapes;
mod vms;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::clock::Clock;

/// Wall time that advances with tokio's time.
struct TestClock(tokio::time::Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let start: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        start + self.0.elapsed()
    }
}

pub(super) fn simulator(config: SimulatorConfig) -> Simulator {
    Simulator::new(config, Arc::new(TestClock(tokio::time::Instant::now()))).unwrap()
}

/// The default configuration with constant times.
pub(super) fn steady() -> SimulatorConfig {
    let times = TimesConfig {
        listed: "2s".parse().unwrap(),
        boot: "30s".parse().unwrap(),
        deletion: "5s".parse().unwrap(),
        gap: Span::ZERO,
        attachment: "3s".parse().unwrap(),
    };
    SimulatorConfig { times, ..SimulatorConfig::default() }
}

fn shaped(shape: &str) -> SimulatorConfig {
    let mut config = steady();
    config.shapes.set(shape).unwrap();
    config
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

struct Reply {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Value,
}

fn request(method: &str, path: &str, body: Option<&Value>) -> Request<Bytes> {
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    Request::builder()
        .method(method.parse::<Method>().unwrap())
        .uri(format!("http://vpsie.test/apps/v2{path}"))
        .header("Vpsie-Auth", DEFAULT_TOKEN)
        .header("Content-Type", "application/json")
        .body(body)
        .unwrap()
}

async fn try_send(sim: &Simulator, request: Request<Bytes>) -> Result<Reply, CallError> {
    let (parts, body) = sim.call(request).await?.into_parts();
    let body =
        serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8(body.into()).unwrap()));
    Ok(Reply { status: parts.status, headers: parts.headers, body })
}

async fn send(sim: &Simulator, method: &str, path: &str, body: Option<Value>) -> Reply {
    try_send(sim, request(method, path, body.as_ref())).await.unwrap()
}

async fn get(sim: &Simulator, path: &str) -> Value {
    send(sim, "GET", path, None).await.body
}

fn cluster_path(rest: &str) -> String {
    format!("/k8s/cluster/byId/{DEFAULT_CLUSTER}{rest}")
}

async fn add_group(sim: &Simulator, name: &str, size: u64) -> u64 {
    let body = json!({ "clusterIdentifier": DEFAULT_CLUSTER, "groupName": name, "KubeSizeID": size });
    let reply = send(sim, "POST", "/k8s/cluster/add/group", Some(body)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    sim.groups().iter().find(|group| group.name == name).unwrap().id
}

async fn add_worker(sim: &Simulator, group: u64) -> Reply {
    send(sim, "POST", &cluster_path(&format!("/add/slave/group/{group}")), None).await
}

/// The `resourceIdentifier` of an offer in the datacenter of that number.
fn plan(sim: &Simulator, datacenter: u64, offer: &str) -> String {
    let offer = sim.world(|world| world.config.offer_named(offer).cloned()).unwrap();
    super::routes::mapping_identifier(datacenter, &offer)
}

/// A request for a VM of the smallest offer, with further fields.
fn vm_request(sim: &Simulator, hostname: &str, fields: &Value) -> Value {
    let mut request = json!({
        "resourceIdentifier": plan(sim, 1, "s-1vcpu-2gb"),
        "osIdentifier": "ubuntu",
        "dcIdentifier": DEFAULT_DATACENTER,
        "hostname": hostname,
    });
    request.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap_or_default());
    request
}

async fn create_vm(sim: &Simulator, hostname: &str, fields: Value) -> Reply {
    send(sim, "POST", "/vm", Some(vm_request(sim, hostname, &fields))).await
}

/// Creates a VM and returns its UUID once it runs.
async fn running_vm(sim: &Simulator, hostname: &str, fields: Value) -> String {
    let reply = create_vm(sim, hostname, fields).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    pass(60).await;
    sim.vms().into_iter().find(|vm| vm.vm.hostname == hostname).unwrap().vm.uuid
}

/// A configuration with the datacenters `ams1` and `hel1`.
fn two_datacenters() -> SimulatorConfig {
    let mut config = steady();
    let second = DatacenterConfig {
        identifier: "hel1".to_owned(),
        name: "HEL".to_owned(),
        ..config.datacenters[0].clone()
    };
    config.datacenters.push(second);
    config
}

fn workers(sim: &Simulator) -> Vec<VmView> {
    sim.vms().into_iter().filter(|vm| vm.vm.kind == VmKind::Worker).collect()
}
