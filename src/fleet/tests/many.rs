//! Thousands of machines: the work grows with them, and not with their square.

use std::time::Instant;

use super::*;

/// Microseconds of: increase, ask, answers, first listing, a quiet listing, time, deletion, `unwanted`.
fn life(count: u32) -> Vec<(&'static str, u128)> {
    let mut hand = Hand::new();
    let groups = vec![group("web", 0, count, &[SMALL, LARGE])];
    let mut fleet = Fleet::restore(groups, records(), Reserved::default());
    let mut took = Vec::new();
    let mut start = Instant::now();
    let mut lap = |what| {
        took.push((what, start.elapsed().as_micros()));
        start = Instant::now();
    };
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, SMALL, count as i32).unwrap();
    lap("increase");
    let wanted: Vec<_> = fleet.wanted().into_iter().map(|(id, _)| id).collect();
    fleet.ask(&wanted, hand.now);
    lap("ask");
    for id in &wanted {
        fleet.answered(id, Outcome::Accepted, hand.now, &hand.policy);
    }
    lap("answers");
    let nodes: Vec<_> = (0..count).map(|n| node(n, 2)).collect();
    hand.observe(&mut fleet, &nodes);
    lap("first listing");
    hand.observe(&mut fleet, &nodes);
    lap("quiet listing");
    hand.pass(&mut fleet);
    lap("time");
    let victims: Vec<_> = nodes.iter().map(by_node).collect();
    fleet.delete_nodes(SMALL, &victims, hand.now).unwrap();
    lap("deletion");
    assert_eq!(fleet.unwanted().len(), count as usize);
    lap("unwanted");
    fleet.audit().unwrap();
    took
}

/// Prints what each takes; `cargo test --release many -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn what_thousands_take() {
    for count in [1000, 5000] {
        println!("{count} machines, microseconds: {:?}", life(count));
    }
}
