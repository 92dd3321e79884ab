//! Spot machines in the status of a NodeGroup. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::condition_fact::ConditionFact;
use crate::api::{BreakerStatus, NodeGroupSpot, SpotPool};
use crate::catalog::CapacityType;
use crate::cost::InterruptionRate;
use crate::fleet::{BreakerState, Fleet, NodeGroupName, Pool};

/// The spot pools of a NodeGroup. None if it has none. Rates and shares change with each machine-hour: they are rounded,
/// so that the status is written only for a change that matters.
pub(super) fn spot_status(fleet: &Fleet, name: &str, pools: &[&Pool]) -> Option<NodeGroupSpot> {
    let pools: Vec<SpotPool> = pools.iter().filter_map(|pool| spot_pool(fleet, pool)).collect();
    let share = fleet.spot_share(&NodeGroupName::from(name)) * 100.0;
    (!pools.is_empty()).then(|| NodeGroupSpot { share_percent: share.round() as i32, pools })
}

/// None for an on-demand pool.
fn spot_pool(fleet: &Fleet, pool: &Pool) -> Option<SpotPool> {
    let (breaker, next_attempt) = match fleet.breaker_state(pool)? {
        BreakerState::Closed => (BreakerStatus::Closed, None),
        BreakerState::HalfOpen { .. } => (BreakerStatus::HalfOpen, None),
        BreakerState::Open { until } => (BreakerStatus::Open, Some(Time(next_whole_second(until)))),
    };
    let rate = fleet.interruption_rate(pool).map_or(0.0, InterruptionRate::to_percent_a_month);
    let interruption_rate_percent = rate.round() as i32;
    Some(SpotPool { id: pool.text.to_string(), breaker, next_attempt, interruption_rate_percent })
}

/// `metav1.Time` has no fractions.
pub(super) fn next_whole_second(time: Timestamp) -> Timestamp {
    let second = time.as_second() + i64::from(time.subsec_nanosecond() > 0);
    Timestamp::from_second(second).unwrap_or(time)
}

/// The condition `SpotAvailable`: whether spot pools can grow. None if spot is not enabled.
pub(super) fn spot_available(fleet: &Fleet, name: &str, pools: &[&Pool]) -> Option<ConditionFact> {
    let fact = |holds, reason, message: String| ConditionFact::new("SpotAvailable", holds, reason, message);
    let policy = fleet.node_group(&NodeGroupName::from(name))?.spot?;
    let is_spot = |pool: &&&Pool| pool.growable && pool.id.capacity_type == CapacityType::Spot;
    let pools: Vec<&Pool> = pools.iter().filter(is_spot).copied().collect();
    if pools.is_empty() {
        let message = "no spot offer is known for the offers of the NodeGroup, so new machines are on demand; if \
                       VPSie sells spot machines to you, add a price with capacityType: spot to --price-file";
        return Some(fact(false, "NoSpotOffer", message.to_owned()));
    }
    let block = |pool: &&Pool| Some(format!("{}: {}", pool.id.offer, fleet.spot_block(pool)?));
    let blocked: Vec<String> = pools.iter().filter_map(block).collect();
    let closed = blocked.join("; ");
    Some(match blocked.len() {
        0 => {
            let offers: Vec<&str> = pools.iter().map(|pool| pool.id.offer.as_str()).collect();
            fact(true, "SpotOffers", format!("spot offers: {}", offers.join(", ")))
        }
        some if some < pools.len() => fact(true, "SomeSpotPoolsBlocked", closed),
        _ if policy.on_demand_fallback => {
            fact(false, "OnDemandFallback", format!("new machines are on demand. {closed}"))
        }
        _ => {
            let advice = "pods wait for spot machines, because fallbackToOnDemand is false";
            fact(false, "PodsWaitForSpot", format!("{advice}. {closed}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::control::priced_fleet;
    use crate::fleet::{Change, SpotHistory};

    const SPOT: &str = "web/ams1/small/spot";

    fn time() -> Timestamp {
        "2026-01-01T00:00:00.5Z".parse().unwrap()
    }

    /// The status with this record of the spot class.
    fn status(breaker: &Value, millionths: u64, machine_seconds: u64) -> Option<NodeGroupSpot> {
        let class = json!({
            "datacenter": "ams1", "size": 1, "breaker": {"state": breaker, "failures": 1},
            "interruptions": {"millionths": millionths, "machineSeconds": machine_seconds, "until": time()},
        });
        let history: SpotHistory = serde_json::from_value(json!([class])).unwrap();
        let mut fleet = priced_fleet();
        fleet.apply(&Change::SaveSpotHistory(history));
        let pools: Vec<&Pool> = fleet.pools().collect();
        spot_status(&fleet, "web", &pools)
    }

    #[test]
    fn shows_rate_and_breaker_of_each_spot_pool() {
        let status_of = |breaker: &Value| status(breaker, 0, 0).unwrap().pools.remove(0);
        let closed = status_of(&json!({"state": "closed"}));
        assert_eq!((closed.id.as_str(), closed.interruption_rate_percent), (SPOT, 5), "the assumed rate");
        assert_eq!((closed.breaker, closed.next_attempt), (BreakerStatus::Closed, None));
        let open = status_of(&json!({"state": "open", "until": time()}));
        let written = json!({
            "id": SPOT, "breaker": "open", "nextAttempt": "2026-01-01T00:00:01Z", "interruptionRatePercent": 5,
        });
        assert_eq!(serde_json::to_value(open).unwrap(), written);
        let half_open = status_of(&json!({"state": "halfOpen", "since": time()}));
        assert_eq!((half_open.breaker, half_open.next_attempt), (BreakerStatus::HalfOpen, None));
    }

    #[test]
    fn an_interruption_changes_the_rate() {
        let rate = |millionths| {
            status(&json!({"state": "closed"}), millionths, 0).unwrap().pools[0].interruption_rate_percent
        };
        assert_eq!((rate(1_000_000), rate(2_000_000)), (10, 15));
    }

    #[test]
    fn a_rate_that_changes_slowly_rarely_changes_the_status() {
        let week = Duration::from_hours(7 * 24).as_secs();
        let running = (0..week).step_by(600).map(|seconds| 10 * seconds);
        let statuses: Vec<_> =
            running.map(|seconds| status(&json!({"state": "closed"}), 1_000_000, seconds)).collect();
        let rates: BTreeSet<i32> =
            statuses.iter().flatten().map(|status| status.pools[0].interruption_rate_percent).collect();
        let changes = statuses.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!((statuses.len(), rates, changes), (1008, BTreeSet::from([9, 10]), 1));
    }

    #[test]
    fn a_node_group_without_spot_pools_has_no_spot_status() {
        let fleet = priced_fleet();
        let on_demand: Vec<&Pool> =
            fleet.pools().filter(|pool| pool.id.capacity_type == CapacityType::OnDemand).collect();
        assert_eq!(spot_status(&fleet, "web", &on_demand), None);
        let all: Vec<&Pool> = fleet.pools().collect();
        assert_eq!(spot_status(&fleet, "web", &all).unwrap().share_percent, 0);
    }
}
