//! The client and the backend against a scripted VPSie and the simulator, on tokio's paused clock.

mod client;
mod credential_check;
mod listings;
mod login;
mod managed;
mod script;
mod simulated;
mod simulated_vms;
mod vm;

use crate::catalog::{CapacityType, MachineClass, SizeId};
use crate::fleet::PoolId;
use crate::vpsie::CreateRequest;

/// A request for a VM of the size. The other parts of a class are the same for all VMs of a managed cluster.
fn request(size: SizeId, node_group: &str) -> CreateRequest {
    let class = MachineClass { datacenter: "dc-1".into(), size, capacity_type: CapacityType::OnDemand };
    let pool = PoolId {
        node_group: node_group.into(),
        datacenter: "dc-1".into(),
        offer: "small".into(),
        capacity_type: CapacityType::OnDemand,
    };
    CreateRequest { machine: "workers-1".into(), class, pool, hostname: None }
}
