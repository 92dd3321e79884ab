//! The backend for plain VMs.

mod attachments;
mod catalog;
mod creation;
mod deletion;
mod listing;
mod secrets;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::script::{Script, ScriptedReply, ok};
use crate::catalog::{CapacityType, MachineClass, SizeId};
use crate::fleet::{DeletableVm, Hostname, PoolId, Vm};
use crate::vpsie::{
    CreateRequest, Delivery, Payload, PayloadError, PayloadSource, VmBackend, VmGroup, VmNetwork, VmPlace,
};

const LIST: &str = "GET vm";
const PENDING: &str = "GET vm/pending";
const CREATE: &str = "POST vm";
const DELETE: &str = "DELETE vm";
const CATEGORIES: &str = "GET plans/category";
const PLANS: &str = "POST resources";
const ADD_SCRIPT: &str = "POST script/add";
const SCRIPTS: &str = "GET scripts";
const DELETE_SCRIPT: &str = "DELETE script";

/// UID of the cluster.
const CLUSTER: &str = "0e0e-uid";
const HOSTNAME: &str = "workers-0a1b2c3d-1";
/// Name of its script, with the random part that [`Script`] replaces.
const SCRIPT: &str = "workers-0a1b2c3d-1.41ca27bd-random";
const PAYLOAD: &str = "#!/bin/bash\nkubeadm join --token abcdef.0123456789abcdef";

/// Returns the same payload for each request.
struct FixedPayload(Result<&'static str, PayloadError>);

#[async_trait]
impl PayloadSource for FixedPayload {
    async fn payload(&self, _: &CreateRequest) -> Result<Payload, PayloadError> {
        self.0.clone().map(Payload::new)
    }
}

fn group() -> VmGroup {
    let network = VmNetwork {
        vpc: None,
        firewall_group: None,
        public_ipv4: true,
        public_ipv6: false,
        private_ip: true,
    };
    VmGroup {
        places: BTreeMap::from([("dc-1".into(), VmPlace { image: "os-1".to_owned(), network })]),
        project: None,
        ssh_key: None,
        tags: Vec::new(),
        notes: None,
        delivery: Delivery::Script,
        allow_shared_memory: false,
    }
}

fn backend_with(script: &Script, payload: Result<&'static str, PayloadError>, group: VmGroup) -> VmBackend {
    let backend = VmBackend::new(script.client(), Arc::new(FixedPayload(payload)));
    backend.set_cluster(CLUSTER.into());
    backend.set_groups(BTreeMap::from([("workers".into(), group)]));
    backend
}

fn backend(script: &Script) -> VmBackend {
    backend_with(script, Ok(PAYLOAD), group())
}

fn pool() -> PoolId {
    "workers/dc-1/small/on-demand".parse().unwrap()
}

/// A request for a VM of the plan.
fn request(plan: &str) -> CreateRequest {
    let class = MachineClass {
        datacenter: "dc-1".into(),
        size: SizeId::from_plan(plan),
        capacity_type: CapacityType::OnDemand,
    };
    CreateRequest {
        machine: "workers-0a1b2c3d".into(),
        pool: PoolId { offer: plan.into(), ..pool() },
        class,
        hostname: Some(Hostname::new(HOSTNAME)),
    }
}

fn marker() -> String {
    format!("vpsie-autoscaler {CLUSTER} {}", pool())
}

/// A row of a VM with our marker, and these fields.
fn row(id: &str, hostname: &str, fields: &Value) -> Value {
    let mut row = json!({
        "identifier": id, "hostname": hostname, "notes": marker(), "is_active": 1, "power": 1,
        "dcIdentifier": "dc-1",
    });
    row.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    row
}

fn rows(rows: &[Value]) -> ScriptedReply {
    ok(&json!(rows))
}

fn none() -> ScriptedReply {
    rows(&[])
}

fn accepted() -> ScriptedReply {
    ok(&json!(true))
}

fn categories() -> ScriptedReply {
    rows(&[json!({"identifier": "cat-a", "name": "A"}), json!({"identifier": "cat-c", "name": "C"})])
}

fn plan(id: &str, name: &str) -> Value {
    json!({"identifier": id, "nickname": name, "cpu": 2, "ram": 4096, "ssd": 80, "price": "24.00"})
}

/// Replies that make the plan `small` known.
fn plans() -> [(&'static str, ScriptedReply); 2] {
    [(CATEGORIES, categories()), (PLANS, rows(&[plan("map-1", "small")]))]
}

fn vm(hostname: &str, id: Option<&str>) -> DeletableVm {
    DeletableVm::assumed(Vm {
        hostname: Hostname::new(hostname),
        id: id.map(Into::into),
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    })
}
