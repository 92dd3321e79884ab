//! A fleet as test subject, and the invariants of every fleet.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use vpsie_autoscaler::catalog::{CapacityType, Catalog, Offer, Resources, SizeId};
use vpsie_autoscaler::clock::Clock;
use vpsie_autoscaler::cost::{CostLimit, UsdPerHour};
use vpsie_autoscaler::fleet::{
    AutoscalingOptions, Fleet, MachineId, NodeGroup, NodeGroupName, NodeListing, PoolId, Records,
};

pub(crate) const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0);
pub(crate) const SMALL: &str = "web/ams1/small/on-demand";
pub(crate) const LARGE: &str = "web/ams1/large/on-demand";

pub(crate) struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        NOW
    }
}

/// Runs a future to its end with paused time, which skips all waits.
pub(crate) fn block_on<R>(work: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        tokio::time::timeout(Duration::from_hours(24), work)
            .await
            .expect("the work does not end within a day")
    })
}

pub(crate) fn catalog() -> Catalog {
    let offer = |size: u64, name: &str| Offer {
        size: SizeId(size),
        name: name.to_owned(),
        identifier: None,
        datacenter: "ams1".into(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources {
            cpu_millis: size * 1000,
            memory_mib: size * 2048,
            disk_gib: size * 40,
            pods: 110,
        },
        monthly: Some((size * 12).into()),
        hourly: None,
    };
    Catalog { offers: vec![offer(2, "small"), offer(4, "large")] }
}

pub(crate) fn group() -> NodeGroup {
    let pool = |text: &str| text.parse::<PoolId>().unwrap();
    NodeGroup {
        name: "web".into(),
        min: 0,
        max: 20,
        pools: vec![pool(SMALL), pool(LARGE)],
        size: None,
        labels: [("team".to_owned(), "batch".to_owned())].into(),
        taints: Vec::new(),
        preferred: None,
        options: AutoscalingOptions::default(),
        adopt: true,
        cost_limit: CostLimit { hourly: Some(UsdPerHour(100.into())), monthly: None },
        deletion: None,
        node: vpsie_autoscaler::fleet::DeclaredNode::default(),
        spot: None,
        has_cloud_controller: false,
        distribution: None,
    }
}

pub(crate) fn records() -> Records {
    Records { catalog: Some(Arc::new(catalog())), ..Records::default() }
}

pub(crate) fn namer() -> impl FnMut(&NodeGroupName) -> MachineId {
    let mut count = 0;
    move |group| {
        count += 1;
        format!("{group}-{count:08x}").as_str().into()
    }
}

/// Runs a fleet for two hours with these listings, and checks it after each step.
pub(crate) fn run_fleet(mut fleet: Fleet, listings: &[NodeListing]) {
    let policy = vpsie_autoscaler::fleet::Policy::default();
    let mut names = namer();
    // Contradictory records make an inconsistent fleet. A consistent fleet must stay consistent.
    let check: fn(&Fleet) = if fleet.check_consistency().is_ok() { check } else { check_values };
    check(&fleet);
    for minute in 0..12 {
        let now = NOW + Duration::from_mins(10 * minute);
        let empty = NodeListing::of_nodes(Vec::new(), true);
        let listing = listings.get(minute as usize % listings.len().max(1)).unwrap_or(&empty);
        fleet.observe(listing, now, &policy);
        fleet.adopt_workers(&listing.nodes, now, &mut names);
        let _ = fleet.increase(SMALL, 1, now, &mut names);
        let wanted: Vec<_> = fleet.machines().map(|machine| machine.id.clone()).take(3).collect();
        fleet.record_requests(&wanted, now);
        fleet.apply_deadlines(now, &policy, &mut names);
        check(&fleet);
    }
}

/// Checks the invariants of every fleet.
pub(crate) fn check(fleet: &Fleet) {
    fleet.check_consistency().unwrap();
    check_values(fleet);
}

/// Checks the invariants of the values that are read from a fleet.
fn check_values(fleet: &Fleet) {
    for pool in fleet.pools() {
        let limits = fleet.limits(pool);
        assert!(limits.min <= limits.max && limits.target <= limits.max, "{limits:?}");
        assert!(pool.price.is_none_or(UsdPerHour::is_positive), "{:?}", pool.price);
    }
    let rates = fleet.rates();
    assert!(rates.core >= 0.0 && rates.gib >= 0.0, "{rates:?}");
}
