//! Notices of interruptions: replacement and drain.

use proptest::prelude::*;

use super::*;

pub(super) const SPOT: &str = "web/ams1/small/spot";
pub(super) const LARGE_SPOT: &str = "web/ams1/large/spot";
pub(super) const SMALL_POD: Resources = Resources { cpu_millis: 100, memory_mib: 100, disk_gib: 0, pods: 1 };
pub(super) const NOTICE: Duration = Duration::from_mins(2);

fn spot_offer(size: u64, name: &str) -> Offer {
    Offer { capacity_type: CapacityType::Spot, monthly: Some((size * 3).into()), ..offer(size, name) }
}

pub(super) fn fleet_with(max: u32, pools: &[&str]) -> Fleet {
    let spot = SpotPolicy {
        max_share: MaxSpotShare::new(100),
        on_demand_fallback: true,
        grace_period: NOTICE,
        allowed_interruption_rate: None,
        taint: None,
    };
    let offers = vec![offer(2, "small"), offer(4, "large"), spot_offer(2, "small"), spot_offer(4, "large")];
    let records = Records { catalog: Some(Arc::new(Catalog { offers })), ..Records::default() };
    let web = NodeGroup { spot: Some(spot), ..group("web", 0, max, pools) };
    Fleet::restore(vec![web], records, Reserved::default())
}

/// Adds machines to the spot pool and makes them Running.
pub(super) fn run(hand: &mut Hand, fleet: &mut Fleet, pool: &str, count: i32) -> Vec<MachineId> {
    hand.observe(fleet, &[]);
    hand.increase(fleet, pool, count).unwrap();
    hand.ask_all(fleet, &CreationOutcome::Accepted);
    list(hand, fleet);
    fleet.machines().map(|machine| machine.id.clone()).collect()
}

/// Applies a listing of the VMs of all machines.
pub(super) fn list(hand: &Hand, fleet: &mut Fleet) {
    let listed = |machine: &Machine| {
        let number = machine.id.as_str().rsplit('-').next().and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let capacity_type = Some(machine.pool.capacity_type);
        ListedNode { capacity_type, ..node(number.unwrap(), machine.size.0) }
    };
    let nodes: Vec<_> = fleet.machines().map(listed).collect();
    hand.observe(fleet, &nodes);
}

pub(super) fn replace(
    hand: &mut Hand,
    fleet: &mut Fleet,
    id: &MachineId,
    needed: Resources,
) -> Option<String> {
    let drawn = &mut hand.drawn;
    fleet.replace_machine(id, needed, hand.now, &mut |group| {
        *drawn += 1;
        MachineId::new(format!("{group}-{drawn:08x}"))
    });
    fleet.replacements_of(id).last().map(|machine| machine.pool.to_string())
}

pub(super) fn give(hand: &Hand, fleet: &mut Fleet, id: &MachineId) {
    assert!(!fleet.record_notice(id, NoticeSource::Node, hand.now + NOTICE, hand.now).is_empty());
}

#[test]
fn a_notice_is_recorded_once_and_may_move() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    give(&hand, &mut fleet, &id);
    assert!(
        fleet.record_notice(&id, NoticeSource::Node, hand.now + NOTICE, hand.now).is_empty(),
        "the same notice again"
    );
    let received_at = hand.now;
    hand.wait(Duration::from_secs(10));
    fleet.record_notice(&id, NoticeSource::Node, hand.now + NOTICE, hand.now);
    let notice = fleet.machine(&id).unwrap().notice.clone().unwrap();
    assert_eq!((notice.received_at, notice.deadline()), (received_at, hand.now + NOTICE));
    let restored = fleet_with(9, &[SMALL, SPOT]).reloaded(fleet.records());
    assert_eq!(restored.machine(&id), fleet.machine(&id));
    assert_eq!(target(&fleet, SPOT), 1, "it stays in the target size");
}

#[test]
fn a_notice_ends_with_its_last_source() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    give(&hand, &mut fleet, &id);
    let earlier = hand.now + NOTICE / 2;
    assert!(!fleet.record_notice(&id, NoticeSource::Webhook, earlier, hand.now).is_empty());
    let deadline = |fleet: &Fleet| fleet.machine(&id).unwrap().notice.as_ref().map(Notice::deadline);
    assert_eq!(deadline(&fleet), Some(earlier), "the earliest");
    fleet.withdraw_notice(&id, NoticeSource::Webhook);
    assert_eq!(deadline(&fleet), Some(hand.now + NOTICE));
    assert!(fleet.withdraw_notice(&id, NoticeSource::Webhook).is_empty(), "again");
    fleet.withdraw_notice(&id, NoticeSource::Node);
    assert_eq!(deadline(&fleet), None);
}

#[test]
fn a_listing_gives_and_withdraws_notices() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    let capacity_type = Some(CapacityType::Spot);
    let row = ListedNode { capacity_type, ..node(1, 2) };
    let deadline = |fleet: &Fleet| fleet.machine(&id).unwrap().notice.as_ref().map(Notice::deadline);
    let announced = |deadline| Some(ReportedInterruption { deadline });
    let in_a_minute = hand.now + Duration::from_mins(1);
    let in_two_days = hand.now + 2 * MAX_NOTICE;
    for (interruption, want) in [
        (None, None),
        (announced(Some(in_two_days)), None),
        (announced(Some(in_a_minute)), Some(in_a_minute)),
        (announced(None), Some(in_a_minute)),
        (announced(Some(in_a_minute + NOTICE)), Some(in_a_minute + NOTICE)),
        (None, None),
        (announced(None), Some(hand.now + NOTICE)),
        (None, None),
        (announced(Some(hand.now - 2 * NOTICE)), None),
        (announced(Some(hand.now - NOTICE / 2)), Some(hand.now + NOTICE)),
    ] {
        for _ in 0..2 {
            hand.observe(&mut fleet, &[ListedNode { interruption, ..row.clone() }]);
        }
        assert_eq!(deadline(&fleet), want, "{interruption:?}");
    }
    hand.observe_cut(&mut fleet, &[]);
    assert_eq!(deadline(&fleet), Some(hand.now + NOTICE), "a cut listing withdraws nothing");
    give(&hand, &mut fleet, &id);
    hand.observe(&mut fleet, &[row]);
    assert!(deadline(&fleet).is_some(), "the Node has its notice still");
}

#[test]
fn one_listing_without_a_notice_withdraws_nothing() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    let row = ListedNode { capacity_type: Some(CapacityType::Spot), ..node(1, 2) };
    let announced = Some(ReportedInterruption { deadline: None });
    let first = hand.now + NOTICE;
    for interruption in [announced, None, announced, None, announced] {
        hand.observe(&mut fleet, &[ListedNode { interruption, ..row.clone() }]);
        hand.wait(Duration::from_secs(20));
        let notice = fleet.machine(&id).unwrap().notice.clone();
        assert_eq!(notice.map(|notice| notice.deadline()), Some(first), "{interruption:?}");
    }
}

#[test]
fn a_past_deadline_keeps_the_assumed_one() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    let past = ReportedInterruption { deadline: Some(hand.now - 2 * NOTICE) };
    let new = |fleet: &Fleet| {
        fleet.reported_deadline(fleet.machine(&id).unwrap(), NoticeSource::Node, past, hand.now)
    };
    assert_eq!(new(&fleet), Some(hand.now + NOTICE));
    give(&hand, &mut fleet, &id);
    assert_eq!(new(&fleet), None, "the same report again");
}

#[test]
fn a_withdrawal_after_the_drain_began_is_ignored() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    give(&hand, &mut fleet, &id);
    replace(&mut hand, &mut fleet, &id, SMALL_POD);
    fleet.retire_interrupted(&id, hand.now);
    assert!(fleet.withdraw_notice(&id, NoticeSource::Node).is_empty());
    assert!(fleet.machine(&id).unwrap().notice.is_some(), "the drain needs its deadline");
    assert_eq!(fleet.replacements_of(&id).count(), 1);
}

#[test]
fn a_spot_vm_that_vpsie_deletes_has_a_notice() {
    let mut hand = Hand::new();
    for (pool, capacity_type, want) in
        [(SPOT, CapacityType::Spot, true), (SMALL, CapacityType::OnDemand, false)]
    {
        let mut fleet = fleet_with(9, &[SMALL, SPOT]);
        let id = run(&mut hand, &mut fleet, pool, 1).remove(0);
        let number = u32::from_str_radix(id.as_str().rsplit('-').next().unwrap(), 16).unwrap();
        let capacity_type = Some(capacity_type);
        let row = ListedNode { capacity_type, state: VmState::Terminating, ..node(number, 2) };
        hand.observe(&mut fleet, std::slice::from_ref(&row));
        assert_eq!(fleet.machine(&id).unwrap().notice.is_some(), want, "{pool}");
        fleet.retire(&id, DeletionReason::NodeGroupDeleted, hand.now);
        fleet.withdraw_notice(&id, NoticeSource::VPSie);
        hand.observe(&mut fleet, &[row]);
        assert_eq!(fleet.machine(&id).unwrap().notice, None, "{pool}: its deletion was requested");
    }
}

#[test]
fn a_replacement_is_of_another_class() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, LARGE, SPOT, LARGE_SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    assert_eq!(replace(&mut hand, &mut fleet, &id, SMALL_POD), None, "without a notice");
    give(&hand, &mut fleet, &id);
    assert_eq!(replace(&mut hand, &mut fleet, &id, SMALL_POD).as_deref(), Some(LARGE_SPOT), "the cheapest");
    assert_eq!(replace(&mut hand, &mut fleet, &id, SMALL_POD).as_deref(), Some(LARGE_SPOT));
    assert_eq!(fleet.replacements_of(&id).count(), 1, "once per notice");
    assert_eq!(fleet.replacement_state(&id), Some(ReplacementState::Coming));
    fleet.check_consistency().unwrap();
}

#[test]
fn a_storm_uses_other_pools_only_if_they_cost_little_more() {
    const OTHER: &str = "web/ams1/other/on-demand";
    let small = offer(2, "small").monthly.unwrap();
    for (percent, want) in [(110_u32, 3), (200, 0)] {
        let mut hand = Hand::new();
        let monthly = Some(small * rust_decimal::Decimal::from(percent) / rust_decimal::Decimal::from(100));
        let offers = vec![offer(2, "small"), spot_offer(2, "small"), Offer { monthly, ..offer(6, "other") }];
        let group = fleet_with(20, &[SMALL, OTHER, SPOT]).groups.into_values().next().unwrap();
        let records = Records { catalog: Some(Arc::new(Catalog { offers })), ..Records::default() };
        let mut fleet = Fleet::restore(vec![group], records, Reserved::default());
        let ids = run(&mut hand, &mut fleet, SPOT, 6);
        for id in &ids {
            give(&hand, &mut fleet, id);
        }
        let pools: Vec<_> =
            ids.iter().filter_map(|id| replace(&mut hand, &mut fleet, id, SMALL_POD)).collect();
        assert_eq!(pools.iter().filter(|pool| *pool == OTHER).count(), want, "{percent} percent: {pools:?}");
        assert_eq!(
            pools.iter().filter(|pool| *pool == SMALL).count(),
            6 - want,
            "{percent} percent: {pools:?}"
        );
    }
}

#[test]
fn a_replacement_has_room_for_the_pods() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, LARGE, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    give(&hand, &mut fleet, &id);
    let needed = Resources { cpu_millis: 3000, ..SMALL_POD };
    assert_eq!(replace(&mut hand, &mut fleet, &id, needed).as_deref(), Some(LARGE));
}

#[test]
fn the_machine_that_goes_makes_room_at_the_maximum() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(2, &[SMALL, SPOT]);
    let ids = run(&mut hand, &mut fleet, SPOT, 2);
    for id in &ids {
        give(&hand, &mut fleet, id);
        assert_eq!(replace(&mut hand, &mut fleet, id, SMALL_POD).as_deref(), Some(SMALL));
    }
    assert_eq!(limits(&fleet, SMALL), (0, 2, 2), "Cluster Autoscaler adds no further machine");
    assert_eq!(limits(&fleet, SPOT).1, 2);
}

#[test]
fn another_pool_is_tried_if_the_replacement_fails() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, LARGE, SPOT, LARGE_SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    give(&hand, &mut fleet, &id);
    let failure = Failure { reason: FailureReason::Stockout, message: "none left".to_owned() };
    let mut pools = Vec::new();
    while let Some(pool) = replace(&mut hand, &mut fleet, &id, SMALL_POD) {
        pools.push(pool);
        let refused = CreationOutcome::Refused(failure.clone());
        hand.ask_all(&mut fleet, &refused);
        if fleet.replacement_state(&id) != Some(ReplacementState::Missing) || pools.len() > 9 {
            break;
        }
        assert_eq!(fleet.replacements_of(&id).count(), 0, "Cluster Autoscaler does not see the failure");
    }
    assert_eq!(pools, [LARGE_SPOT, SMALL, LARGE], "each once, the cheapest first");
}

#[test]
fn a_withdrawn_notice_leaves_two_machines() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    give(&hand, &mut fleet, &id);
    replace(&mut hand, &mut fleet, &id, SMALL_POD);
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    for _ in 0..3 {
        fleet.withdraw_notice(&id, NoticeSource::Node);
        give(&hand, &mut fleet, &id);
        replace(&mut hand, &mut fleet, &id, SMALL_POD);
        assert_eq!(fleet.machines().count(), 2, "a notice that comes and goes adds one machine");
    }
    fleet.withdraw_notice(&id, NoticeSource::Node);
    hand.wait(Duration::from_hours(1));
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.pass(&mut fleet);
    assert!(fleet.machines().all(|machine| machine.notice.is_none() && machine.replaces.is_none()));
    assert_eq!((target(&fleet, SPOT), fleet.machine(&id).unwrap().counts()), (1, true));
}

#[test]
fn a_withdrawn_notice_removes_an_unrequested_replacement() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    give(&hand, &mut fleet, &id);
    replace(&mut hand, &mut fleet, &id, SMALL_POD);
    fleet.withdraw_notice(&id, NoticeSource::Node);
    assert_eq!(only(&fleet).id, id);
}

#[test]
fn a_notice_is_counted_once_as_an_interruption() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    for _ in 0..5 {
        give(&hand, &mut fleet, &id);
        fleet.withdraw_notice(&id, NoticeSource::Node);
    }
    let pool = fleet.pool(SPOT).unwrap();
    assert_eq!(fleet.breaker_state(pool), Some(BreakerState::Closed), "one machine is no storm");
    assert!(fleet.interruption_rate(pool).unwrap().to_percent_a_month() < 10.1);
}

#[test]
fn cluster_autoscaler_cannot_decrease_a_replacement() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    give(&hand, &mut fleet, &id);
    replace(&mut hand, &mut fleet, &id, SMALL_POD);
    fleet.decrease(SMALL, -1).unwrap();
    assert_eq!(fleet.replacements_of(&id).count(), 1);
}

#[test]
fn a_notice_during_a_drain_sets_its_deadline() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    fleet.retire(&id, DeletionReason::NodeGroupDeleted, hand.now);
    give(&hand, &mut fleet, &id);
    assert_eq!(replace(&mut hand, &mut fleet, &id, SMALL_POD), None);
    fleet.withdraw_notice(&id, NoticeSource::Node);
    assert_eq!(fleet.machine(&id).unwrap().notice, None);
}

#[test]
fn the_share_holds_without_the_machines_that_go() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, LARGE_SPOT]);
    let spot = SpotPolicy {
        max_share: MaxSpotShare::new(50),
        ..fleet.groups.values().next().unwrap().spot.unwrap()
    };
    fleet.declare(vec![NodeGroup { spot: Some(spot), ..group("web", 0, 9, &[SMALL, LARGE_SPOT]) }]);
    hand.observe(&mut fleet, &[]);
    let ids = run(&mut hand, &mut fleet, SMALL, 2);
    give(&hand, &mut fleet, &ids[0]);
    assert_eq!(replace(&mut hand, &mut fleet, &ids[0], SMALL_POD).as_deref(), Some(LARGE_SPOT), "1 of 2");
    give(&hand, &mut fleet, &ids[1]);
    let second = replace(&mut hand, &mut fleet, &ids[1], SMALL_POD);
    assert_eq!(second.as_deref(), Some(SMALL), "2 of 2 would be spot");
}

#[test]
fn pods_of_an_on_demand_node_do_not_move_to_tainted_spot_nodes() {
    let replacement = |taint, interrupted: &str| {
        let mut hand = Hand::new();
        let mut fleet = fleet_with(9, &[SMALL, LARGE, SPOT, LARGE_SPOT]);
        let mut web = fleet.groups.values().next().unwrap().clone();
        web.spot = web.spot.map(|spot| SpotPolicy { taint: Some(taint), ..spot });
        fleet.declare(vec![web]);
        let id = run(&mut hand, &mut fleet, interrupted, 1).remove(0);
        give(&hand, &mut fleet, &id);
        replace(&mut hand, &mut fleet, &id, SMALL_POD).unwrap()
    };
    assert_eq!(replacement(TaintEffect::PreferNoSchedule, SMALL), SPOT);
    assert_eq!(replacement(TaintEffect::NoSchedule, SMALL), SMALL);
    assert_eq!(replacement(TaintEffect::NoSchedule, SPOT), LARGE_SPOT, "its pods tolerate the taint");
}

#[test]
fn an_interrupted_machine_leaves_the_target_size_with_its_drain() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    assert!(fleet.retire_interrupted(&id, hand.now).is_empty(), "without a notice");
    give(&hand, &mut fleet, &id);
    replace(&mut hand, &mut fleet, &id, SMALL_POD);
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    list(&hand, &mut fleet);
    assert_eq!(fleet.replacement_state(&id), Some(ReplacementState::Registered));
    fleet.retire_interrupted(&id, hand.now);
    let reason = |fleet: &Fleet| match fleet.machine(&id).map(|machine| machine.phase.clone()) {
        Some(Phase::Deleting { reason, .. }) => Some(reason),
        _ => None,
    };
    assert_eq!((target(&fleet, SPOT), reason(&fleet)), (0, Some(DeletionReason::InterruptionNotice)));
}

#[test]
fn a_vm_that_outlives_its_notice_is_deleted() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    give(&hand, &mut fleet, &id);
    hand.wait(NOTICE);
    hand.pass(&mut fleet);
    assert!(fleet.machine(&id).unwrap().counts());
    hand.wait(NOTICE);
    hand.pass(&mut fleet);
    assert!(!fleet.machine(&id).unwrap().counts());
}

#[test]
fn a_replacement_forgets_a_machine_that_is_gone() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    give(&hand, &mut fleet, &id);
    replace(&mut hand, &mut fleet, &id, SMALL_POD);
    fleet.apply(&Change::DropMachine(id));
    hand.pass(&mut fleet);
    assert!(only(&fleet).replaces.is_some(), "Cluster Autoscaler can take it over");
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    list(&hand, &mut fleet);
    hand.pass(&mut fleet);
    assert_eq!(only(&fleet).replaces, None);
}

proptest! {
    /// Each machine with a notice has at most one live replacement, and the accounting stays consistent.
    #[test]
    fn a_notice_adds_at_most_one_live_replacement(
        steps in prop::collection::vec((0_u8..7, 0_usize..6, 0_u64..60), 1..60),
    ) {
        let mut hand = Hand::new();
        let mut fleet = fleet_with(6, &[SMALL, LARGE, SPOT, LARGE_SPOT]);
        run(&mut hand, &mut fleet, SPOT, 3);
        for (step, which, seconds) in steps {
            let ids: Vec<_> = fleet.machines().map(|machine| machine.id.clone()).collect();
            let Some(id) = ids.get(which % ids.len().max(1)) else { break };
            match step {
                // A replacement that gets a notice is replaced itself: then there may be two.
                0 if fleet.machine(id).is_some_and(|machine| machine.replaces.is_some()) => {}
                0 => drop(fleet.record_notice(id, NoticeSource::Node, hand.now + NOTICE, hand.now)),
                1 => drop(replace(&mut hand, &mut fleet, id, SMALL_POD)),
                2 => drop(fleet.withdraw_notice(id, NoticeSource::Node)),
                3 => drop(fleet.retire_interrupted(id, hand.now)),
                4 => hand.ask_all(&mut fleet, &CreationOutcome::Accepted),
                5 => list(&hand, &mut fleet),
                _ => {
                    let failure = Failure { reason: FailureReason::Stockout, message: String::new() };
                    hand.ask_all(&mut fleet, &CreationOutcome::Refused(failure));
                }
            }
            hand.wait(Duration::from_secs(seconds));
            hand.pass(&mut fleet);
            for machine in fleet.machines() {
                let live = fleet.replacements_of(&machine.id).filter(|m| !matches!(m.phase, Phase::Failed { .. }));
                prop_assert!(live.count() <= 1, "{}", machine.id);
            }
            prop_assert_eq!(fleet.check_consistency(), Ok(()));
        }
    }
}
