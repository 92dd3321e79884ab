//! Cost limits and shortages.

use super::*;
use crate::cost::{CostLimit, HoursPerMonth, Usd, UsdPerHour};

fn monthly(usd: i64) -> CostLimit {
    CostLimit { monthly: Some(Usd(usd.into())), hourly: None }
}

fn limited(own: CostLimit, all: CostLimit) -> Fleet {
    let mut groups = groups();
    groups[0].cost_limit = own;
    let declared = Declaration { groups, cost_limit: all, ..Declaration::default() };
    Fleet::restore(declared, records(), Reserved::default())
}

fn shortage(reason: FailureReason) -> CreationOutcome {
    CreationOutcome::Refused(Failure { reason, message: "none left".to_owned() })
}

#[test]
fn a_node_group_grows_up_to_its_cost_limit() {
    // Small machines cost 20 USD a month, large ones 40.
    let mut hand = Hand::new();
    let mut fleet = limited(monthly(70), CostLimit::default());
    assert_eq!((limits(&fleet, SMALL).2, limits(&fleet, LARGE).2), (3, 1));
    hand.increase(&mut fleet, LARGE, 1).unwrap();
    assert_eq!((limits(&fleet, SMALL).2, limits(&fleet, LARGE).2), (1, 1));
    let refused = hand.increase(&mut fleet, SMALL, 2).unwrap_err().to_string();
    assert!(
        refused.starts_with(
            "pool web/ams1/small/on-demand cannot grow by 2: NodeGroup web costs 0.054795 USD/h of at most \
             0.09589 USD/h, and one machine of the pool costs 0.027397 USD/h"
        ),
        "{refused}"
    );
    assert_eq!(fleet.growth_block(LARGE, 1, hand.now).unwrap().reason, "COST_LIMIT_REACHED");
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    assert_eq!(limits(&fleet, SMALL).2, 1);
    assert_eq!(limits(&fleet, OTHER).2, 4, "another NodeGroup has no limit");
    assert_eq!(fleet.group_cost(&"web".into()).monthly(HoursPerMonth::default()).0.round_dp(6), 60.into());
    fleet.check_consistency().unwrap();
}

#[test]
fn all_together_grow_as_far_as_the_cluster_may_cost() {
    let limit = CostLimit { hourly: Some(UsdPerHour(Decimal::new(6, 2))), monthly: Some(Usd(1000.into())) };
    let mut hand = Hand::new();
    let mut fleet = limited(CostLimit::default(), limit);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    let refused = hand.increase(&mut fleet, SMALL, 1).unwrap_err().to_string();
    assert!(refused.contains("the cluster costs"), "{refused}");
    assert_eq!((limits(&fleet, SMALL).2, limits(&fleet, OTHER).2, limits(&fleet, LARGE).2), (1, 1, 0));
}

#[test]
fn an_exceeded_limit_deletes_nothing_and_stops_growth() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.increase(&mut fleet, LARGE, 3).unwrap();
    let mut tight = groups();
    tight[0].cost_limit = monthly(10);
    fleet.declare(tight);
    assert_eq!(limits(&fleet, LARGE), (1, 3, 3));
    assert!(hand.increase(&mut fleet, LARGE, 1).is_err());
    assert_eq!(target(&fleet, LARGE), 3);
}

#[test]
fn an_offer_without_a_price_cannot_grow_under_a_limit() {
    let free = Offer { monthly: None, ..offer(2, "small") };
    let catalog = Some(Arc::new(Catalog { offers: vec![free, offer(4, "large")] }));
    let records = || Records { catalog: catalog.clone(), ..Records::default() };
    let mut hand = Hand::new();
    let mut unlimited = Fleet::restore(groups(), records(), Reserved::default());
    hand.increase(&mut unlimited, SMALL, 1).unwrap();
    let mut groups = groups();
    groups[0].cost_limit = monthly(1000);
    let mut fleet = Fleet::restore(groups, records(), Reserved::default());
    let refused = hand.increase(&mut fleet, SMALL, 1).unwrap_err().to_string();
    assert!(refused.contains("the price of small is unknown; set its price in --price-file"), "{refused}");
    assert_eq!(limits(&fleet, SMALL).2, 0);
}

#[test]
fn a_shortage_blocks_growth_until_a_vm_appears_or_it_expires() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.ask_all(&mut fleet, &shortage(FailureReason::Stockout));
    let block = fleet.growth_block(SMALL, 1, hand.now).unwrap();
    assert_eq!(block.reason, "STOCKOUT");
    assert!(block.message.contains("none left (2026-01-01T00:00:00Z)"), "{}", block.message);
    assert_eq!(
        fleet.growth_block(OTHER, 1, hand.now).unwrap().reason,
        "STOCKOUT",
        "the same size, there, too"
    );
    assert_eq!(fleet.growth_block(LARGE, 1, hand.now), None);
    let restarted = Fleet::restore(groups(), fleet.records(), Reserved::default());
    assert!(restarted.growth_block(SMALL, 1, hand.now).is_some(), "a failed machine restores it");
    hand.wait(Duration::from_mins(5));
    assert_eq!(fleet.growth_block(SMALL, 1, hand.now), None);

    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.ask_all(&mut fleet, &shortage(FailureReason::QuotaExceeded));
    assert_eq!(
        fleet.growth_block(LARGE, 1, hand.now).unwrap().reason,
        "QUOTA_EXCEEDED",
        "it is the account's"
    );
    hand.wait(Duration::from_secs(30));
    hand.increase(&mut fleet, LARGE, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[node(1, 4)]);
    assert_eq!(
        fleet.growth_block(LARGE, 1, hand.now),
        None,
        "a new VM proves that the account is below its quota"
    );
}

#[test]
fn the_newest_shortage_counts_whichever_record_is_read_last() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    for _ in 0..2 {
        hand.increase(&mut fleet, SMALL, 1).unwrap();
        hand.ask_all(&mut fleet, &shortage(FailureReason::Stockout));
        hand.wait(Duration::from_mins(4));
    }
    // The first is 8 minutes old, the second 4.
    let mut records = fleet.records();
    for _ in 0..2 {
        let restarted = Fleet::restore(groups(), records.clone(), Reserved::default());
        assert!(restarted.growth_block(SMALL, 1, hand.now).is_some());
        records.machines.reverse();
    }
}

#[test]
fn an_earlier_shortage_fails_no_machine_that_waits_now() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    let asked = fleet.machines_to_request().remove(0).0;
    fleet.record_requests(std::slice::from_ref(&asked), hand.now);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    fleet.record_delayed_outcome(&asked, shortage(FailureReason::Stockout), hand.now, &hand.policy);
    assert!(matches!(fleet.machine(&asked).unwrap().phase, Phase::Failed { .. }));
    assert_eq!(fleet.machines_to_request().len(), 1);
}
