//! Time and memory of the limits of a NodeGroup with many pools in several datacenters: of all pools, as in a reply to
//! `NodeGroups`, and of one pool, as in a reply to `NodeGroupForNode`. With a shortfall, one pool of each datacenter carries a
//! part of it; the search for that pool must not be repeated for each pool. Only the ratio of 200 to 40 pools in one run is
//! relevant: per pool, it is about 1 if the work is linear.
//!
//! `cargo bench --bench pool_limits` (`-- --rounds 400` for more rounds).

// A benchmark that cannot run panics.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;

use jiff::Timestamp;
use rust_decimal::Decimal;
use tokio::time::Instant;
use vpsie_autoscaler::catalog::{CapacityType, Catalog, DatacenterId, Offer, Resources, SizeId};
use vpsie_autoscaler::cost::{CostLimit, Usd};
use vpsie_autoscaler::fleet::{
    AutoscalingOptions, DatacenterStrategy, DeclaredNode, Distribution, Fleet, NodeGroup, PoolId, Records,
    Reserved,
};

const DATACENTERS: usize = 5;
const POOLS: [usize; 2] = [40, 200];
/// Fleets in memory at once.
const FLEETS: usize = 50;

fn main() {
    let rounds = std::env::args().skip_while(|arg| arg != "--rounds").nth(1);
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(100);
    for (name, minimum, only_last) in [
        ("no shortfall", 0, false),
        ("a shortfall", 100, false),
        ("a shortfall that only the last pools can carry", 100, true),
    ] {
        let fleets = POOLS.map(|pools| fleet(pools, minimum, only_last));
        compare(&format!("all pools, {name}"), &fleets, rounds, |fleet| {
            let mut limits = fleet.pool_limits();
            for pool in fleet.pools() {
                black_box(limits.of(pool));
            }
        });
        // The number of nodes does not matter: each has the limits of one pool.
        compare(&format!("each pool alone, {name}"), &fleets, rounds, |fleet| {
            for pool in fleet.pools() {
                black_box(fleet.limits(pool));
            }
        });
    }
    let before = resident();
    let fleets: Vec<Fleet> = (0..FLEETS).map(|_| fleet(POOLS[1], 0, false)).collect();
    let bytes = (resident() - before) / (FLEETS * POOLS[1]) as u64;
    println!("memory: {bytes} bytes a pool ({} fleets with {} pools each)", fleets.len(), POOLS[1]);
}

/// Measures the work for both fleets in turn, and prints the round with the median ratio.
fn compare(name: &str, fleets: &[Fleet; 2], rounds: usize, work: impl Fn(&Fleet)) {
    let mut results = Vec::new();
    for _ in 0..=rounds {
        let [few, many] = [0, 1].map(|at| {
            let started = Instant::now();
            work(&fleets[at]);
            started.elapsed().as_secs_f64() * 1e6 / POOLS[at] as f64
        });
        results.push((many / few, few, many));
    }
    results.remove(0);
    results.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, few, many) = results[rounds / 2];
    let [fewer, more] = POOLS;
    println!(
        "{name}: {few:.2} us a pool with {fewer} pools, {many:.2} us with {more}, ratio {ratio:.2} (median of {rounds} rounds)"
    );
}

/// A fleet with one NodeGroup. `only_last`: only the last pools of each datacenter are affordable.
fn fleet(pools: usize, minimum: u32, only_last: bool) -> Fleet {
    let datacenters: Vec<DatacenterId> =
        (0..DATACENTERS).map(|at| format!("dc{at}").as_str().into()).collect();
    let offers: Vec<Offer> = datacenters
        .iter()
        .flat_map(|datacenter| (0..pools / DATACENTERS).map(move |at| (datacenter, at)))
        .map(|(datacenter, at)| offer(datacenter, at, only_last && at + 2 < pools / DATACENTERS))
        .collect();
    let id = |offer: &Offer| -> PoolId {
        format!("workers/{}/{}/on-demand", offer.datacenter, offer.name).parse().unwrap()
    };
    let group = NodeGroup {
        name: "workers".into(),
        min: minimum,
        max: 1000,
        pools: offers.iter().map(id).collect(),
        labels: [("team".to_owned(), "batch".to_owned())].into(),
        taints: Vec::new(),
        preferred: None,
        size: None,
        options: AutoscalingOptions::default(),
        adopt: false,
        cost_limit: CostLimit { hourly: None, monthly: Some(Usd(Decimal::from(1_000_000))) },
        deletion: None,
        node: DeclaredNode::default(),
        spot: None,
        has_cloud_controller: false,
        distribution: Some(Distribution {
            datacenters: datacenters.clone(),
            strategy: DatacenterStrategy::Balanced,
            min_per_datacenter: u32::from(minimum > 0),
            max_skew: 2,
            max_price_difference: 10,
        }),
    };
    let records = Records { catalog: Some(Arc::new(Catalog { offers })), ..Records::default() };
    let mut fleet = Fleet::restore(vec![group], records, Reserved::default());
    fleet.note_inactive_datacenters(BTreeSet::new(), Timestamp::UNIX_EPOCH);
    assert_eq!(fleet.pools().count(), pools);
    fleet
}

fn offer(datacenter: &DatacenterId, at: usize, is_dear: bool) -> Offer {
    let cores = at as u64 + 1;
    Offer {
        size: SizeId(cores),
        name: format!("s-{cores}vcpu"),
        identifier: None,
        datacenter: datacenter.clone(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources { cpu_millis: cores * 1000, memory_mib: cores * 2048, disk_gib: 80, pods: 110 },
        monthly: Some(Decimal::from(if is_dear { 10_000_000 } else { cores })),
        hourly: None,
    }
}

/// Memory of the process in use, bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
