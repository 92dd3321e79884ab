//! What a Node shows of its size, for the templates of Nodes that do not exist yet. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeStatus;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::catalog::{Resources, quantity};
use crate::fleet::{Fleet, Learned, Machine};

/// What the Node of a machine shows that is not known of its size yet. `status` is that of a ready Node.
pub(super) fn news(fleet: &Fleet, machine: &Machine, status: Option<&NodeStatus>) -> Option<Learned> {
    match (fleet.learned(machine.size), status.and_then(shows)) {
        (Some(known), Some(shows)) if known.smallest(shows) == known => None,
        (_, shows) => shows,
    }
}

fn shows(status: &NodeStatus) -> Option<Learned> {
    Some(Learned {
        capacity: resources(status.capacity.as_ref()?)?,
        allocatable: resources(status.allocatable.as_ref()?)?,
    })
}

fn resources(of: &BTreeMap<String, Quantity>) -> Option<Resources> {
    let read = |name: &str| quantity::parse(&of.get(name)?.0);
    Some(Resources {
        cpu_millis: (read("cpu")? * 1000.0) as u64,
        memory_mib: (read("memory")? / f64::from(1 << 20)) as u64,
        disk_gib: read("ephemeral-storage").map_or(0, |bytes| (bytes / f64::from(1 << 30)) as u64),
        pods: read("pods")? as u32,
    })
}
