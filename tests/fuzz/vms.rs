//! Replies of VPSie to calls of the backend for plain VMs. Inputs have the form of `replies`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use vpsie_autoscaler::catalog::{CapacityType, MachineClass, SizeId};
use vpsie_autoscaler::fleet::{
    Binding, Fleet, FleetSettings, Hostname, Machine, NodeListing, NodeRole, PoolId,
};
use vpsie_autoscaler::vpsie::{
    Backend as _, BaseUrl, Client, ClientConfig, CreateRequest, Credentials, DeletionKey, Delivery, Metrics,
    Payload, PayloadError, PayloadSource, Scripts, VmBackend, VmGroup, VmNetwork, VmPlace,
};

use crate::fleets::{Fixed, block_on, group, records, run_fleet};
use crate::mutate::PART;
use crate::replies::{check_retry_after, parts, transport};

const HOSTNAME: &str = "web-0a1b2c3d-1";
const PAYLOAD: &str = "#!/bin/bash\nkubeadm join --token abcdef.0123456789abcdef";

const VMS: &str = r#"{"error":false,"data":[
{"id":1,"identifier":"u-1","hostname":"Web-0a1b2c3d-1","notes":"vpsie-autoscaler c-1 web/ams1/small/on-demand\nteam a","default_ip":"198.18.0.1","private_ip":"10.0.0.1","is_active":1,"power":1,"is_deleted":0,"dropped_on":null,"dcIdentifier":"ams1","initial_password":"hunter2","created_on":"2026-01-01 00:00:00"},
{"id":2,"identifier":"u-2","hostname":"web-0a1b2c3d-1","notes":"vpsie-autoscaler c-1 web/ams1/small/on-demand","is_active":"0","created_on":"2026-01-01T00:00:00Z"},
{"id":3,"identifier":"u-3","hostname":"web-0a1b2c3d-3","notes":"vpsie-autoscaler c-2 web/ams1/small/on-demand","is_suspended":1},
{"id":4,"identifier":"u-4","hostname":null,"notes":"vpsie-autoscaler c-1 web/ams1/small/on-demand"},
{"id":5,"identifier":"u-5","hostname":"db-1","notes":null,"vmType":"k8s"}],"total":5}"#;
const PENDING: &str = r#"{"error":false,"data":[{"id":"9","data":{"hostname":"web-0a1b2c3d-2","resourceIdentifier":"map-1","dcIdentifier":"ams1","vmPassword":"hunter2"},"running":1}]}"#;
const CATEGORIES: &str =
    r#"{"error":false,"data":[{"identifier":"cat-a","name":"A"},{"identifier":"cat-c","name":"C"}]}"#;
const PLANS: &str = r#"{"error":false,"data":[{"identifier":"map-1","nickname":"small","cpu":2,"ram":4096,"ssd":80,"traffic":4,"price":"24.00","net_speed":1000}]}"#;
const SCRIPTS: &str = r##"{"error":false,"data":[{"id":7,"identifier":"s-7","script_name":"web-0a1b2c3d-1.sh","script":"#!/bin/bash","type":"bash"}]}"##;
const DONE: &str = r#"{"error":false,"data":true}"#;
const CREATED: &str = r#"{"error":false,"data":{"identifier":"u-1","hostname":"web-0a1b2c3d-1"}}"#;
const WRONG_PASSWORD: &str = r#"{"error":true,"message":"Incorrect password"}"#;
const ECHO: &str = r##"{"error":true,"message":"bad {\"userData\":\"#!/bin/bash\\nkubeadm join --token abcdef.0123456789abcdef\"}"}"##;

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let ok = |body: &str| format!("200 content-type: application/json\n{}", body.replace('\n', ""));
    let missing = || "404 a: b\n{\"error\":true}".to_owned();
    let script = |call: &str, replies: Vec<String>| {
        let mut parts = vec![call.to_owned()];
        parts.extend(replies);
        parts.join(std::str::from_utf8(PART).unwrap()).into_bytes()
    };
    vec![
        script("list", vec![ok(PENDING), ok(VMS), ok(PENDING), ok(DONE), ok(VMS), ok(PENDING), ok(VMS)]),
        script("list", vec![missing(), ok(VMS), ok(r#"{"data":null}"#)]),
        script("catalog", vec![ok(CATEGORIES), ok(PLANS), ok(PLANS)]),
        script("catalog", vec![missing(), ok(PLANS)]),
        script("create", vec![ok(CATEGORIES), ok(PLANS), ok(PLANS), ok(DONE), ok(SCRIPTS), ok(CREATED)]),
        script("create", vec![ok(CATEGORIES), ok(PLANS), ok(PLANS), ok(DONE), ok(SCRIPTS), ok(ECHO)]),
        script("create", vec![ok(CATEGORIES), ok(PLANS), ok(PLANS), ok(ECHO)]),
        script("delete", vec![ok(PENDING), ok(VMS), ok(WRONG_PASSWORD), ok(VMS), ok(DONE)]),
        script("delete", vec![ok(PENDING), ok(VMS), missing(), ok(r#"{"data":[]}"#)]),
        script("scripts", vec![ok(SCRIPTS), missing()]),
    ]
}

struct FixedPayload;

#[async_trait]
impl PayloadSource for FixedPayload {
    async fn payload(&self, _: &CreateRequest) -> Result<Payload, PayloadError> {
        Ok(Payload::new(PAYLOAD))
    }
}

fn backend(client: Client) -> VmBackend {
    let network = VmNetwork {
        vpc: Some("12".to_owned()),
        firewall_group: Some("fw-1".to_owned()),
        public_ipv4: true,
        public_ipv6: false,
        private_ip: true,
    };
    let group = VmGroup {
        places: BTreeMap::from([("ams1".into(), VmPlace { image: "os-1".to_owned(), network })]),
        project: None,
        ssh_key: None,
        tags: Vec::new(),
        notes: None,
        delivery: Delivery::Script,
        allow_shared_memory: true,
    };
    let backend = VmBackend::new(client, Arc::new(FixedPayload)).with_deletion_key(DeletionKey::new(b"key"));
    backend.set_cluster("c-1".into());
    backend.set_groups(BTreeMap::from([("web".into(), group)]));
    backend
}

fn request() -> CreateRequest {
    let pool: PoolId = "web/ams1/small/on-demand".parse().unwrap();
    let class = MachineClass {
        datacenter: "ams1".into(),
        size: SizeId::from_plan("small"),
        capacity_type: CapacityType::OnDemand,
    };
    CreateRequest { machine: "web-0a1b2c3d".into(), pool, class, hostname: Some(Hostname::new(HOSTNAME)) }
}

fn check_listing(listing: &NodeListing) {
    let hostnames: BTreeSet<&Hostname> = listing.nodes.iter().map(|node| &node.hostname).collect();
    assert_eq!(hostnames.len(), listing.nodes.len(), "two nodes have one hostname: {listing:?}");
    for node in &listing.nodes {
        assert!(!node.hostname.as_str().is_empty());
        assert!(node.pool.is_none() || node.role == NodeRole::Worker, "{node:?}");
    }
}

pub(crate) fn run(input: &[u8]) {
    let parts = parts(input);
    let call = String::from_utf8_lossy(parts[0]).into_owned();
    let deletions: Arc<Mutex<Vec<String>>> = Arc::default();
    let base = BaseUrl::parse("https://vpsie.test").unwrap();
    let config = ClientConfig::new(base, Credentials::token("t0ken"));
    let client = Client::new(config, transport(&parts[1..], &deletions), Arc::new(Fixed), Metrics::default());
    let backend = backend(client);
    block_on(async {
        match call.as_str() {
            "catalog" => {
                for offer in backend.catalog().await.iter().flat_map(|catalog| &catalog.offers) {
                    assert!(offer.resources.cpu_millis > 0 && offer.resources.memory_mib > 0, "{offer:?}");
                    assert!(offer.identifier.is_some() && offer.size == SizeId::from_plan(&offer.name));
                }
            }
            "create" => {
                for _ in 0..3 {
                    check_retry_after(&backend.create(&request()).await);
                }
            }
            "delete" => {
                for id in [serde_json::Value::Null, "u-7".into()] {
                    let time = "2026-01-01T00:00:00Z";
                    let drained = serde_json::json!({
                        "id": "web-0a1b2c3d", "pool": "web/ams1/small/on-demand", "size": 2, "createdAt": time,
                        "phase": {
                            "phase": "deleting", "vm": {"hostname": HOSTNAME, "id": id}, "since": time,
                            "drain": false, "acceptedAt": null,
                        },
                    });
                    let drained: Machine = serde_json::from_value(drained).unwrap();
                    check_retry_after(&backend.delete(&drained.deletable().unwrap()).await);
                }
            }
            "scripts" => {
                let scripts = backend.list_scripts().await;
                for script in scripts.into_iter().flatten().take(3) {
                    check_retry_after(&backend.delete_script(&script).await);
                }
            }
            _ => {
                let mut listings = Vec::new();
                for _ in 0..3 {
                    listings.extend(backend.list().await.ok());
                    tokio::task::yield_now().await;
                }
                listings.iter().for_each(check_listing);
                let settings = FleetSettings { binding: Binding::ByName, ..FleetSettings::default() };
                run_fleet(Fleet::restore(vec![group()], records(), settings), &listings);
            }
        }
    });
    // Deleted VMs were named by the input or by a reply.
    for body in deletions.lock().unwrap().iter() {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let Some(id) = body["vmIdentifier"].as_str() else {
            assert!(body["scriptIdentifier"].is_string(), "{body}");
            continue;
        };
        let is_named = String::from_utf8_lossy(input).contains(id);
        let is_escaped = !id.is_ascii() || input.contains(&b'\\');
        assert!(id == "u-7" || is_named || is_escaped, "{id} was deleted");
    }
}
