//! Objects of the API server. They are parsed as records, and the loops that watch Nodes and NodeGroups
//! handle them. Each part of an input is one object, with its kind in the line before it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as Reply;
use http::{Method, Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::BoxError;
use vpsie_autoscaler::api::{NodeGroup, VPSieNode};
use vpsie_autoscaler::control::{
    AuditLog, FleetConfig, FleetWriter, ListingTrigger, NodeGroups, Nodes, NodesView,
};
use vpsie_autoscaler::fleet::{Change, Fleet, FleetSettings, NodeListing, SpotDefaults};
use vpsie_autoscaler::store::{MemoryStore, records_of};
use vpsie_autoscaler::validation::check_node_group;

use crate::fleets::{Fixed, block_on, catalog, check, group, run_fleet};
use crate::mutate::PART;
use crate::records::{listing, machines};
use crate::replies::parts;

const NAMESPACE: &str = "vpsie-system";

fn object(kind: &str, value: &Value) -> String {
    format!("{kind}\n{value}")
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let machine = |machine: &vpsie_autoscaler::fleet::Machine| {
        let object = VPSieNode::from_machine(machine, &"c-1".into());
        self::object("VPSieNode", &serde_json::to_value(object).unwrap())
    };
    let join = |parts: Vec<String>| parts.join(std::str::from_utf8(PART).unwrap()).into_bytes();
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "vpsie-autoscaler-catalog"},
        "data": {"catalog": serde_json::to_string(&catalog()).unwrap(),
            "profile.2": "{\"capacity\":{\"cpuMillis\":2000,\"memoryMib\":4000,\"diskGib\":80,\"pods\":110},\"allocatable\":{\"cpuMillis\":1900,\"memoryMib\":3500,\"diskGib\":70,\"pods\":110}}"},
    });
    let group = json!({
        "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup",
        "metadata": {"name": "api", "namespace": NAMESPACE, "uid": "1", "resourceVersion": "1",
            "labels": {"autoscaler.vpsie.com/managed": "true"},
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"minNodes": 0, "maxNodes": 5, "datacenterID": "ams1", "offeringIDs": ["small", "large"],
            "resourceIdentifier": "c-1", "kubernetesVersion": "v1.33.4", "osImageID": "x",
            "costLimit": {"hourly": "0.50", "monthly": "300"}, "labels": {"team": "batch"},
            "taints": [{"key": "dedicated", "value": "batch", "effect": "NoSchedule"}],
            "autoscalingOptions": {"scaleDownUnneededTime": "10m", "scaleDownUtilizationThreshold": 0.5}},
    });
    let config = json!({
        "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "AutoscalerConfig",
        "metadata": {"name": "default", "namespace": NAMESPACE, "resourceVersion": "1"},
        "spec": {"globalSettings": {"maxClusterWorkers": 9, "createTimeout": "10m",
            "costLimit": {"hourly": "5", "monthly": "3000"}}},
    });
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "hel-slave-2", "uid": "9", "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:01:00Z", "labels": {"kubernetes.io/hostname": "hel-slave-2"}},
        "spec": {"providerID": "", "taints": [{"key": "a", "effect": "NoSchedule"}], "unschedulable": false},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "10.0.0.2"}],
            "capacity": {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "80Gi", "pods": "110"},
            "allocatable": {"cpu": "1900m", "memory": "3500Mi", "ephemeral-storage": "70Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:02:00Z",
                "lastTransitionTime": "2026-01-01T00:02:00Z"}],
            "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "bootID": "", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "v1.33.4", "machineID": "", "osImage": "",
                "systemUUID": ""},
        },
    });
    let map = object("ConfigMap", &map);
    let group = object("NodeGroup", &group);
    let config = object("AutoscalerConfig", &config);
    let node = object("Node", &node);
    let mut records: Vec<String> = machines().iter().map(machine).collect();
    records.push(map);
    vec![join(records), join(vec![group.clone()]), join(vec![group, config]), join(vec![node.clone(), node])]
}

/// An API server with these objects. Its watches send no events, and it accepts every change.
fn server(objects: Vec<(String, Value)>) -> Client {
    let objects = Arc::new(objects);
    let service = tower::service_fn(move |request: Request<Body>| {
        let plural = |kind: &str| format!("{}s", kind.to_lowercase());
        let path = request.uri().path().to_owned();
        let of_path = objects.iter().filter(|(kind, _)| path.contains(&format!("/{}", plural(kind))));
        let items: Vec<Value> = of_path.map(|(_, object)| object.clone()).collect();
        let watch = request.uri().query().unwrap_or_default().contains("watch=");
        let reply = if watch {
            let silent = futures::stream::pending::<Result<bytes::Bytes, BoxError>>();
            Response::new(Reply::from_stream(silent))
        } else if request.method() == Method::GET {
            let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
            Response::new(Reply::from(list.to_string()))
        } else {
            let object = items.first().cloned().unwrap_or_else(|| json!({}));
            Response::new(Reply::from(object.to_string()))
        };
        async move { Ok::<_, BoxError>(reply) }
    });
    Client::new(service, NAMESPACE)
}

pub(crate) fn run(input: &[u8]) {
    let objects: Vec<(String, Value)> = parts(input)
        .into_iter()
        .filter_map(|part| {
            let text = String::from_utf8_lossy(part);
            let (kind, json) = text.split_once('\n')?;
            Some((kind.to_owned(), serde_json::from_str(json).ok()?))
        })
        .collect();
    check_records(&objects);
    for (_, object) in objects.iter().filter(|(kind, _)| kind == "NodeGroup") {
        if let Ok(object) = serde_json::from_value::<NodeGroup>(object.clone())
            && let Ok(checked) = check_node_group(&object, SpotDefaults::default())
        {
            let records = crate::fleets::records();
            run_fleet(Fleet::restore(vec![checked.group], records, FleetSettings::default()), &[]);
        }
    }
    if objects.iter().any(|(kind, _)| matches!(kind.as_str(), "Node" | "NodeGroup" | "AutoscalerConfig")) {
        block_on(run_loops(objects));
    }
}

fn check_records(objects: &[(String, Value)]) {
    fn of_kind<T: serde::de::DeserializeOwned>(objects: &[(String, Value)], wanted: &str) -> Vec<T> {
        let values = objects.iter().filter(|(kind, _)| kind == wanted).map(|(_, object)| object.clone());
        values.filter_map(|object| serde_json::from_value(object).ok()).collect()
    }
    let (nodes, maps): (Vec<VPSieNode>, Vec<ConfigMap>) =
        (of_kind(objects, "VPSieNode"), of_kind(objects, "ConfigMap"));
    if nodes.is_empty() && maps.is_empty() {
        return;
    }
    let records = records_of(&nodes, &maps);
    let listing = NodeListing::of_nodes(listing(&records), true);
    run_fleet(Fleet::restore(vec![group()], records, FleetSettings::default()), &[listing]);
}

/// Runs the loops that watch Nodes, NodeGroups and the AutoscalerConfig for two minutes.
async fn run_loops(objects: Vec<(String, Value)>) {
    let store = MemoryStore::default();
    let changes: Vec<Change> = machines().into_iter().map(Change::SaveMachine).collect();
    store.write(&changes);
    store.write(&[Change::SaveCatalog(Arc::new(catalog()))]);
    let declared = FleetConfig { declaration: vec![group()].into(), settings: FleetSettings::default() };
    let (writer, handle) =
        FleetWriter::load(Arc::new(store), Arc::new(Fixed), declared, 1, AuditLog::default()).await.unwrap();
    let client = server(objects);
    let shutdown = CancellationToken::new();
    let nodes = Nodes::new(handle.clone(), client.clone(), Arc::new(ListingTrigger::default()));
    let view = NodesView::default();
    let groups = NodeGroups::new(handle.clone(), Arc::new(Fixed), view, client, NAMESPACE, None, |_| ());
    let writer = tokio::spawn(writer.run());
    let loops = [tokio::spawn(nodes.run(shutdown.clone())), tokio::spawn(groups.run(shutdown.clone()))];
    tokio::time::sleep(Duration::from_mins(2)).await;
    handle.read(check);
    shutdown.cancel();
    for ended in loops {
        ended.await.expect("a loop panicked");
    }
    writer.abort();
}
