//! Records of a store: JSON of machines, unmanaged nodes, the catalog and size profiles. Each part of an
//! input is one record, with its kind in the line before it.

use std::sync::Arc;

use jiff::Timestamp;
use vpsie_autoscaler::catalog::{CapacityType, Catalog, SizeId};
use vpsie_autoscaler::fleet::{
    Fleet, FleetSettings, Hostname, ListedNode, Machine, NodeListing, NodeRole, Records, SizeProfile,
    UnmanagedNode, Vm, VmState,
};

use crate::fleets::{catalog, group, run_fleet};
use crate::replies::parts;

/// Valid records in the current formats, which later releases must read.
const VALID: &str = include_str!("records.txt");

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    vec![VALID.trim_end().as_bytes().to_vec()]
}

pub(crate) fn machines() -> Vec<Machine> {
    let machines = read(VALID.as_bytes()).machines;
    assert_eq!(machines.len(), 5);
    machines
}

/// Parses the records of the input. Malformed records are skipped.
pub(crate) fn read(input: &[u8]) -> Records {
    let mut records = Records { catalog: Some(Arc::new(catalog())), ..Records::default() };
    for part in parts(input) {
        let text = String::from_utf8_lossy(part);
        let Some((kind, json)) = text.split_once('\n') else { continue };
        match kind {
            "machine" => records.machines.extend(serde_json::from_str::<Machine>(json).ok()),
            "unmanaged" => records.unmanaged.extend(serde_json::from_str::<UnmanagedNode>(json).ok()),
            "catalog" => {
                if let Ok(catalog) = serde_json::from_str::<Catalog>(json) {
                    records.catalog = Some(Arc::new(catalog));
                }
            }
            _ => records
                .profiles
                .extend(serde_json::from_str::<SizeProfile>(json).ok().map(|profile| (SizeId(2), profile))),
        }
    }
    records
}

/// A listing with the VMs of the records and one unknown VM.
pub(crate) fn listing(records: &Records) -> Vec<ListedNode> {
    let listed = |vm: &Vm| ListedNode {
        hostname: vm.hostname.clone(),
        id: vm.id.clone(),
        size: Some(SizeId(2)),
        excluded: std::collections::BTreeSet::new(),
        datacenter: Some("ams1".into()),
        capacity_type: Some(CapacityType::OnDemand),
        role: NodeRole::Worker,
        state: VmState::Running,
        addresses: vm.addresses.clone(),
        created_at: Timestamp::from_second(1).ok(),
        interruption: None,
        attachment: None,
        pool: None,
    };
    let mut nodes: Vec<ListedNode> = records.machines.iter().filter_map(Machine::vm).map(listed).collect();
    if let Some(new) = nodes.first().cloned() {
        nodes.push(ListedNode { hostname: Hostname::new("hel-slave-77"), id: Some("u-77".into()), ..new });
    }
    nodes
}

pub(crate) fn run(input: &[u8]) {
    let records = read(input);
    let whole = NodeListing::of_nodes(listing(&records), true);
    let without_last = whole.nodes.iter().rev().skip(1).cloned().collect();
    let listings = [whole, NodeListing::of_nodes(without_last, false)];
    run_fleet(Fleet::restore(vec![group()], records, FleetSettings::default()), &listings);
}
