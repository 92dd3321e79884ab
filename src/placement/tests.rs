use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;

fn pod(cpu_millis: u64, mib: u64) -> PodRequest {
    PodRequest { cpu_millis, memory_bytes: mib << 20 }
}

fn option(pool: &str, nodes: u32, pods: &[u32], cores: u64, gib: u64, milli_usd: i64) -> ExpansionOption {
    ExpansionOption {
        pool: pool.into(),
        node_group: Some("web".into()),
        nodes,
        pods: pods.to_vec(),
        allocatable: Resources { cpu_millis: cores * 1000, memory_mib: gib * 1024, disk_gib: 0, pods: 110 },
        price: Some(UsdPerHour(Decimal::new(milli_usd, 3))),
        interruptions: UsdPerHour::ZERO,
        concentration: 0.0,
        placement: 0.0,
        replacements: 0,
        blocked: None,
        preferred: false,
        position: 0,
    }
}

/// The pools, the best first; a star marks the best.
fn order(input: &DecisionInput) -> Vec<String> {
    let name = |ranked: &RankedOption| {
        let star = if ranked.best { "*" } else { "" };
        format!("{star}{}", input.options[ranked.option].pool)
    };
    rank_options(input).options.iter().map(name).collect()
}

fn blocked() -> Blocked {
    Blocked { reason: "STOCKOUT".into(), message: String::new() }
}

#[test]
fn remaining_pods_cost_the_price_of_other_options() {
    let pods = vec![pod(500, 512), pod(500, 512), pod(7000, 512)];
    let small = option("small", 1, &[0, 1], 2, 4, 20);
    let large = option("large", 2, &[0, 1, 2], 8, 16, 100);
    // One small and one large, or two large.
    let apart = DecisionInput { pods: pods.clone(), options: vec![large.clone(), small.clone()] };
    assert_eq!(order(&apart), ["*small", "large"]);
    // One large node takes all of them: it is cheaper than one with a small node beside it.
    let together = DecisionInput { pods, options: vec![ExpansionOption { nodes: 1, ..large }, small] };
    assert_eq!(order(&together), ["*large", "small"]);
}

#[test]
fn remaining_pods_may_need_several_options() {
    let pods = vec![pod(1000, 512), pod(7000, 512), pod(500, 60 << 10)];
    let input = DecisionInput {
        pods,
        options: vec![
            option("small", 1, &[0], 2, 4, 20),
            option("cores", 1, &[0, 1], 9, 16, 100),
            option("memory", 1, &[0, 2], 4, 64, 130),
            option("all", 2, &[0, 1, 2], 16, 64, 300),
        ],
    };
    let decision = rank_options(&input);
    let estimate = |pool: &str| {
        let ranked = decision.options.iter().find(|r| &*input.options[r.option].pool == pool).unwrap();
        let Rating::Priced(estimate) = &ranked.rating else { panic!("{ranked:?}") };
        ((estimate.nodes + estimate.remaining).0 * Decimal::from(1000)).normalize().to_string()
    };
    assert_eq!(["small", "cores", "memory", "all"].map(estimate), ["250", "230", "230", "600"]);
    assert_eq!(order(&input)[..2], ["*cores", "memory"], "within a NodeGroup one is the best");
}

#[test]
fn ties_go_by_preference_size_and_position() {
    let pods = vec![pod(500, 512)];
    let with = |options| DecisionInput { pods: pods.clone(), options };
    let a = || option("a", 2, &[0], 2, 4, 20);
    let b = || option("b", 1, &[0], 4, 8, 40);
    assert_eq!(order(&with(vec![a(), b()])), ["*b", "a"], "fewer nodes");
    assert_eq!(order(&with(vec![ExpansionOption { preferred: true, ..a() }, b()])), ["*a", "b"]);
    let second = ExpansionOption { position: 1, pool: "first by name".into(), ..b() };
    assert_eq!(order(&with(vec![second.clone(), b()])), ["*b", "first by name"]);
    let elsewhere = ExpansionOption { node_group: Some("other".into()), ..second };
    assert_eq!(order(&with(vec![elsewhere, b()])), ["*first by name", "*b"]);
}

#[test]
fn blocked_and_unpriced_options_come_last() {
    let pods = vec![pod(500, 512)];
    let with = |options| DecisionInput { pods: pods.clone(), options };
    let dear = || option("dear", 1, &[0], 2, 4, 900);
    let unpriced = || ExpansionOption { price: None, ..option("unpriced", 1, &[0], 2, 4, 1) };
    let short = || ExpansionOption { blocked: Some(blocked()), ..option("short", 1, &[0], 2, 4, 1) };
    assert_eq!(order(&with(vec![short(), unpriced(), dear()])), ["*dear", "unpriced", "short"]);
    assert_eq!(order(&with(vec![short(), unpriced()])), ["*unpriced", "short"]);
    let other = ExpansionOption { pool: "other".into(), ..short() };
    assert_eq!(order(&with(vec![short(), other])), ["*other", "*short"], "all are left to the chain");
    assert_eq!(order(&with(vec![])), Vec::<String>::new());
    // Pods that only a blocked option takes cost the other options nothing.
    let input = DecisionInput {
        pods: vec![pod(500, 512), pod(7000, 512)],
        options: vec![dear(), ExpansionOption { pods: vec![0, 1], ..short() }],
    };
    assert_eq!(order(&input), ["*dear", "short"]);
}

#[test]
fn malformed_input_has_a_decision() {
    let nothing = Resources { cpu_millis: 0, memory_mib: 0, disk_gib: 0, pods: 0 };
    let input = DecisionInput {
        pods: vec![pod(0, 0), pod(u64::MAX, u64::MAX >> 20), pod(100, 100)],
        options: vec![
            ExpansionOption { allocatable: nothing, ..option("no node", 1, &[0, 1, 2, 77], 1, 1, 10) },
            option("no pods", u32::MAX, &[], 2, 4, 20),
            option("huge", 3, &[1], 2, 4, 30),
        ],
    };
    assert_eq!(rank_options(&input).options.len(), 3);
    assert_eq!(order(&input)[0], "*no node");
}

fn input() -> impl Strategy<Value = DecisionInput> {
    let pods = proptest::collection::vec((1..8u64, 1..32u64), 1..24);
    let options =
        proptest::collection::vec((1..5u32, any::<u32>(), 1..16u64, 1..64u64, 1..500i64, 0..6u8), 1..8);
    (pods, options).prop_map(|(pods, options)| {
        let pods: Vec<_> = pods.into_iter().map(|(cpu, memory)| pod(cpu * 250, memory * 256)).collect();
        let options = options.into_iter().enumerate().map(|(n, (nodes, bits, cores, gib, price, kind))| {
            let taken: Vec<u32> = (0..pods.len() as u32).filter(|pod| bits >> pod & 1 == 1).collect();
            let option = option(&format!("pool-{n}"), nodes, &taken, cores, gib, price);
            match kind {
                0 => ExpansionOption { blocked: Some(blocked()), ..option },
                1 => ExpansionOption { price: None, ..option },
                2 => ExpansionOption { preferred: true, ..option },
                _ => option,
            }
        });
        let options = options.collect();
        DecisionInput { pods, options }
    })
}

proptest! {
    #[test]
    fn the_order_is_complete_and_independent_of_the_input_order(input in input()) {
        let first = order(&input);
        prop_assert_eq!(first.len(), input.options.len());
        prop_assert!(first[0].starts_with('*'));
        let mut turned = input.clone();
        turned.options.reverse();
        turned.pods.reverse();
        let last = turned.pods.len() as u32 - 1;
        for option in &mut turned.options {
            for pod in &mut option.pods {
                *pod = last - *pod;
            }
        }
        prop_assert_eq!(first, order(&turned));
    }

    #[test]
    fn the_best_is_priced_unless_no_usable_option_is(input in input()) {
        let best = rank_options(&input).options.into_iter().find(|ranked| ranked.best).unwrap();
        let usable = |option: &&ExpansionOption| option.blocked.is_none();
        match best.rating {
            Rating::Priced(_) => {}
            Rating::Unpriced => {
                prop_assert!(input.options.iter().filter(usable).all(|option| option.price.is_none()));
            }
            Rating::Blocked(_) => prop_assert!(input.options.iter().all(|o| o.blocked.is_some())),
        }
    }
}

#[test]
fn replacements_on_their_way_cost_nothing_more() {
    let coming =
        |replacements, nodes| ExpansionOption { replacements, ..option("coming", nodes, &[0, 1], 2, 4, 100) };
    let other = || option("other", 2, &[0, 1], 2, 4, 90);
    let pods = vec![PodRequest { cpu_millis: 1500, memory_bytes: 3 << 30 }; 2];
    let order = |first| order(&DecisionInput { pods: pods.clone(), options: vec![first, other()] });
    assert_eq!(order(coming(0, 2)), ["*other", "coming"]);
    assert_eq!(order(coming(1, 2)), ["*coming", "other"], "one of two is paid for");
    assert_eq!(order(coming(9, 2)), ["*coming", "other"]);
    let blocked = ExpansionOption { blocked: Some(blocked()), ..coming(1, 2) };
    assert_eq!(order(blocked), ["*other", "coming"]);
}

#[test]
fn spare_capacity_of_replacements_is_no_reason_to_add_nodes() {
    let pods = vec![PodRequest { cpu_millis: 1500, memory_bytes: 3 << 30 }; 2];
    let large = ExpansionOption { replacements: 1, ..option("large", 2, &[0, 1], 8, 16, 400) };
    let input = DecisionInput { pods, options: vec![large, option("small", 1, &[0, 1], 4, 8, 150)] };
    assert_eq!(order(&input), ["*small", "large"], "150 for a small node, or 400 for a second large one");
}

#[test]
fn a_datacenter_in_excess_must_outweigh_the_charge() {
    let pods = vec![pod(1000, 1024)];
    let first = |milli_usd: i64, preferred: bool| {
        let right = option("right", 1, &[0], 2, 4, 100);
        let other = option("other", 1, &[0], 2, 4, milli_usd);
        let other = ExpansionOption { placement: 0.1, preferred, ..other };
        order(&DecisionInput { pods: pods.clone(), options: vec![other, right] }).remove(0)
    };
    assert_eq!(first(100, false), "*right");
    assert_eq!(first(95, false), "*right", "dearer with the charge");
    assert_eq!(first(80, false), "*other");
    assert_eq!(first(100, true), "*right", "preferredInstanceType does not outweigh the charge");
}
