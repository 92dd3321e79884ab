//! Reads a request of Cluster Autoscaler and adds the state of the fleet.

use jiff::Timestamp;
use prost::Message as _;

use super::pods::Pods;
use crate::catalog::{DEFAULT_MAX_PODS, Resources, quantity};
use crate::control::FleetHandle;
use crate::cost::UsdPerHour;
use crate::fleet::{Fleet, Pool};
use crate::grpc::proto::grpcplugin::{BestOptionsRequest, Option as WireOption};
use crate::grpc::proto::kubernetes::Node;
use crate::placement::{Blocked, DecisionInput, ExpansionOption};

/// Reads a request of any release (docs/reference/cluster-autoscaler.md#grpc-expander). Pods are read before
/// the fleet is locked.
pub(super) fn read_input(handle: &FleetHandle, request: BestOptionsRequest, now: Timestamp) -> DecisionInput {
    let BestOptionsRequest { options, node_map, node_bytes_map } = request;
    let mut pods = Pods::default();
    let mut options: Vec<ExpansionOption> = options
        .into_iter()
        .map(|WireOption { node_group_id, node_count, debug: _, pod, pod_bytes }| ExpansionOption {
            nodes: u32::try_from(node_count).unwrap_or_default().max(1),
            pods: pods.numbers(if pod_bytes.is_empty() { pod } else { pod_bytes }),
            allocatable: NOTHING,
            price: None,
            interruptions: UsdPerHour::ZERO,
            concentration: 0.0,
            placement: 0.0,
            replacements: 0,
            blocked: None,
            preferred: false,
            position: u32::MAX,
            node_group: None,
            pool: node_group_id.into(),
        })
        .collect();
    handle.read(|fleet| {
        for option in &mut options {
            if let Some(pool) = fleet.pool(&option.pool) {
                option.allocatable = fleet.template(pool).allocatable;
                option.price = fleet.expected_price(pool);
                option.interruptions = fleet.interruption_cost(pool);
                option.concentration = fleet.spot_concentration(pool);
                option.placement = fleet.placement_charge(pool);
                option.blocked = find_block(fleet, pool, option.nodes, now);
                option.replacements = fleet.expected_take_overs(pool);
                option.preferred = is_preferred(fleet, pool);
                option.position = pool.position.unwrap_or(u32::MAX);
                option.node_group = Some(pool.id.node_group.clone());
            }
        }
    });
    for option in options.iter_mut().filter(|option| option.allocatable == NOTHING) {
        let sent = node_bytes_map.get(&*option.pool).or_else(|| node_map.get(&*option.pool));
        option.allocatable = sent.and_then(|node| read_allocatable(node)).unwrap_or(NOTHING);
    }
    DecisionInput { pods: pods.into_requests(), options }
}

const NOTHING: Resources = Resources { cpu_millis: 0, memory_mib: 0, disk_gib: 0, pods: 0 };

fn find_block(fleet: &Fleet, pool: &Pool, nodes: u32, now: Timestamp) -> Option<Blocked> {
    let block = fleet.option_block(pool, nodes, now)?;
    Some(Blocked { reason: block.reason.into(), message: block.message })
}

fn is_preferred(fleet: &Fleet, pool: &Pool) -> bool {
    fleet.group(pool).is_some_and(|group| group.preferred.as_ref() == Some(&pool.id.offer))
}

/// The allocatable resources of a foreign Node.
fn read_allocatable(node: &[u8]) -> Option<Resources> {
    let status = Node::decode(node).ok()?.status?;
    let amount = |name: &str| {
        let text = status.allocatable.get(name)?.string.as_deref()?;
        quantity::parse(text)
    };
    Some(Resources {
        cpu_millis: (amount("cpu")? * 1000.0) as u64,
        memory_mib: (amount("memory")? / f64::from(1 << 20)) as u64,
        disk_gib: (amount("ephemeral-storage").unwrap_or(0.0) / f64::from(1 << 30)) as u64,
        pods: amount("pods").map_or(DEFAULT_MAX_PODS, |pods| pods as u32),
    })
}
