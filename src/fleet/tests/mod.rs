//! The fleet against a toy VPSie.

mod classes;
mod commands;
mod costs;
mod datacenters;
mod declarations;
mod drains;
mod extra_vms;
mod guard;
mod hostnames;
mod leaving;
mod listings;
mod notices;
mod properties;
mod requests;
mod runaway;
mod size_profiles;
mod spot;
mod take_over;
mod unexpected;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rust_decimal::Decimal;

use super::*;
use crate::catalog::{CapacityType, Catalog, DEFAULT_MAX_PODS, Offer, Resources, SizeId};

pub(super) const SMALL: &str = "web/ams1/small/on-demand";
pub(super) const LARGE: &str = "web/ams1/large/on-demand";
pub(crate) const OTHER: &str = "batch/ams1/small/on-demand";

pub(crate) fn offer(size: u64, name: &str) -> Offer {
    Offer {
        size: SizeId(size),
        name: name.to_owned(),
        identifier: None,
        datacenter: "ams1".into(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources {
            cpu_millis: size * 1000,
            memory_mib: size * 2048,
            disk_gib: 40,
            pods: DEFAULT_MAX_PODS,
        },
        monthly: Some(Decimal::from(size * 10)),
        hourly: None,
    }
}

pub(crate) fn group(name: &str, min: u32, max: u32, pools: &[&str]) -> NodeGroup {
    NodeGroup {
        name: name.into(),
        min,
        max,
        pools: pools.iter().map(|pool| pool.parse().unwrap()).collect(),
        size: None,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        preferred: None,
        options: AutoscalingOptions::default(),
        adopt: false,
        cost_limit: crate::cost::CostLimit::default(),
        deletion: None,
        node: crate::fleet::DeclaredNode::default(),
        spot: None,
        has_cloud_controller: false,
        distribution: None,
    }
}

pub(crate) fn groups() -> Vec<NodeGroup> {
    vec![group("web", 1, 6, &[SMALL, LARGE]), group("batch", 0, 4, &[OTHER])]
}

pub(super) fn records() -> Records {
    let catalog = Catalog { offers: vec![offer(2, "small"), offer(4, "large")] };
    Records { catalog: Some(Arc::new(catalog)), ..Records::default() }
}

pub(crate) fn fleet() -> Fleet {
    Fleet::restore(groups(), records(), Reserved::default())
}

/// A clock and a generator of names that tests control.
pub(crate) struct Hand {
    pub(super) now: Timestamp,
    pub(super) drawn: u32,
    pub(super) policy: Policy,
}

impl Hand {
    pub(crate) fn new() -> Self {
        Self { now: "2026-01-01T00:00:00Z".parse().unwrap(), drawn: 0, policy: Policy::default() }
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    pub(crate) fn increase(
        &mut self,
        fleet: &mut Fleet,
        pool: &str,
        delta: i32,
    ) -> Result<Vec<Change>, Refusal> {
        let drawn = &mut self.drawn;
        fleet.increase(pool, delta, self.now, &mut |group| {
            *drawn += 1;
            MachineId::new(format!("{group}-{drawn:08x}"))
        })
    }

    pub(super) fn pass(&mut self, fleet: &mut Fleet) -> Vec<Change> {
        let drawn = &mut self.drawn;
        fleet.apply_deadlines(self.now, &self.policy, &mut |group| {
            *drawn += 1;
            MachineId::new(format!("{group}-{drawn:08x}"))
        })
    }

    pub(crate) fn observe(&self, fleet: &mut Fleet, nodes: &[ListedNode]) -> Vec<Change> {
        fleet.observe(&complete(nodes), self.now, &self.policy)
    }

    /// Applies a listing that lacks nodes.
    pub(super) fn observe_cut(&self, fleet: &mut Fleet, nodes: &[ListedNode]) -> Vec<Change> {
        let listing = NodeListing { complete: false, ..complete(nodes) };
        fleet.observe(&listing, self.now, &self.policy)
    }

    /// Sends all due requests, with the same outcome for all.
    pub(crate) fn ask_all(&self, fleet: &mut Fleet, outcome: &CreationOutcome) {
        let wanted: Vec<_> = fleet.machines_to_request().into_iter().map(|(id, _)| id).collect();
        fleet.record_requests(&wanted, self.now);
        for id in wanted {
            fleet.record_outcome(&id, outcome.clone(), self.now, &self.policy);
        }
    }
}

/// A complete listing.
pub(super) fn complete(nodes: &[ListedNode]) -> NodeListing {
    NodeListing::of_nodes(nodes.to_vec(), true)
}

pub(crate) fn node(n: u32, size: u64) -> ListedNode {
    ListedNode {
        addresses: Vec::new(),
        hostname: Hostname::new(&format!("k8s-slave-{n}")),
        id: Some(VmId::new(format!("00000000-0000-4000-8000-{n:012}"))),
        size: Some(SizeId(size)),
        excluded: std::collections::BTreeSet::new(),
        datacenter: Some("ams1".into()),
        capacity_type: Some(CapacityType::OnDemand),
        role: NodeRole::Worker,
        state: VmState::Running,
        created_at: None,
        interruption: None,
        attachment: None,
        pool: None,
    }
}

pub(super) fn target(fleet: &Fleet, pool: &str) -> u32 {
    fleet.pool(pool).map_or(0, |pool| fleet.limits(pool).target)
}

pub(super) fn limits(fleet: &Fleet, pool: &str) -> (u32, u32, u32) {
    let limits = fleet.limits(fleet.pool(pool).unwrap());
    (limits.min, limits.target, limits.max)
}

pub(super) fn only(fleet: &Fleet) -> &Machine {
    let all: Vec<_> = fleet.machines().collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

pub(super) fn by_node(node: &ListedNode) -> NodeRef {
    NodeRef {
        provider_id: node.id.as_ref().unwrap().provider_id(),
        name: node.hostname.to_string(),
        fake: false,
    }
}
