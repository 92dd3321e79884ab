use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;

fn pod(cpu_millis: u64, mib: u64) -> PodRequest {
    PodRequest { cpu_millis, memory_bytes: mib << 20 }
}

fn option(pool: &str, nodes: u32, pods: &[u32], cores: u64, gib: u64, milli_usd: i64) -> Candidate {
    Candidate {
        pool: pool.into(),
        node_group: Some("web".into()),
        nodes,
        pods: pods.to_vec(),
        allocatable: Resources { cpu_millis: cores * 1000, memory_mib: gib * 1024, disk_gib: 0, pods: 110 },
        price: Some(UsdPerHour(Decimal::new(milli_usd, 3))),
        blocked: None,
        preferred: false,
        place: 0,
    }
}

/// The pools, the best first; the best ones with a star.
fn order(question: &Question) -> Vec<String> {
    let name = |ranked: &Ranked| {
        let star = if ranked.best { "*" } else { "" };
        format!("{star}{}", question.candidates[ranked.candidate].pool)
    };
    decide(question).options.iter().map(name).collect()
}

fn blocked() -> Blocked {
    Blocked { reason: "STOCKOUT".into(), message: String::new() }
}

#[test]
fn what_is_left_waiting_counts_at_the_price_of_the_others() {
    let pods = vec![pod(500, 512), pod(500, 512), pod(7000, 512)];
    let small = option("small", 1, &[0, 1], 2, 4, 20);
    let large = option("large", 2, &[0, 1, 2], 8, 16, 100);
    // 20 and one large for the rest, or two large.
    let apart = Question { pods: pods.clone(), candidates: vec![large.clone(), small.clone()] };
    assert_eq!(order(&apart), ["*small", "large"]);
    // One large takes them all: cheaper than a small one beside it.
    let together = Question { pods, candidates: vec![Candidate { nodes: 1, ..large }, small] };
    assert_eq!(order(&together), ["*large", "small"]);
}

#[test]
fn the_rest_may_need_several_options() {
    let pods = vec![pod(1000, 512), pod(7000, 512), pod(500, 60 << 10)];
    let question = Question {
        pods,
        candidates: vec![
            option("small", 1, &[0], 2, 4, 20),
            option("cores", 1, &[0, 1], 9, 16, 100),
            option("memory", 1, &[0, 2], 4, 64, 130),
            option("all", 2, &[0, 1, 2], 16, 64, 300),
        ],
    };
    let decision = decide(&question);
    let terms = |pool: &str| {
        let ranked =
            decision.options.iter().find(|r| &*question.candidates[r.candidate].pool == pool).unwrap();
        let Verdict::Priced(terms) = &ranked.verdict else { panic!("{ranked:?}") };
        ((terms.nodes + terms.rest).0 * Decimal::from(1000)).normalize().to_string()
    };
    assert_eq!(["small", "cores", "memory", "all"].map(terms), ["250", "230", "230", "600"]);
    assert_eq!(order(&question)[..2], ["*cores", "memory"], "within a NodeGroup one is the best");
}

#[test]
fn ties_are_preferred_then_small_then_in_order_and_else_left_to_the_chain() {
    let pods = vec![pod(500, 512)];
    let with = |candidates| Question { pods: pods.clone(), candidates };
    let a = || option("a", 2, &[0], 2, 4, 20);
    let b = || option("b", 1, &[0], 4, 8, 40);
    assert_eq!(order(&with(vec![a(), b()])), ["*b", "a"], "fewer nodes");
    assert_eq!(order(&with(vec![Candidate { preferred: true, ..a() }, b()])), ["*a", "b"]);
    let second = Candidate { place: 1, pool: "first by name".into(), ..b() };
    assert_eq!(order(&with(vec![second.clone(), b()])), ["*b", "first by name"]);
    let elsewhere = Candidate { node_group: Some("other".into()), ..second };
    assert_eq!(order(&with(vec![elsewhere, b()])), ["*first by name", "*b"]);
}

#[test]
fn what_fails_or_has_no_price_comes_last_and_never_leaves_nothing() {
    let pods = vec![pod(500, 512)];
    let with = |candidates| Question { pods: pods.clone(), candidates };
    let dear = || option("dear", 1, &[0], 2, 4, 900);
    let unpriced = || Candidate { price: None, ..option("unpriced", 1, &[0], 2, 4, 1) };
    let short = || Candidate { blocked: Some(blocked()), ..option("short", 1, &[0], 2, 4, 1) };
    assert_eq!(order(&with(vec![short(), unpriced(), dear()])), ["*dear", "unpriced", "short"]);
    assert_eq!(order(&with(vec![short(), unpriced()])), ["*unpriced", "short"]);
    let other = Candidate { pool: "other".into(), ..short() };
    assert_eq!(order(&with(vec![short(), other])), ["*other", "*short"], "all are left to the chain");
    assert_eq!(order(&with(vec![])), Vec::<String>::new());
    // What only a blocked option would take costs the others nothing.
    let question = Question {
        pods: vec![pod(500, 512), pod(7000, 512)],
        candidates: vec![dear(), Candidate { pods: vec![0, 1], ..short() }],
    };
    assert_eq!(order(&question), ["*dear", "short"]);
}

#[test]
fn odd_questions_are_answered() {
    let nothing = Resources { cpu_millis: 0, memory_mib: 0, disk_gib: 0, pods: 0 };
    let question = Question {
        pods: vec![pod(0, 0), pod(u64::MAX, u64::MAX >> 20), pod(100, 100)],
        candidates: vec![
            Candidate { allocatable: nothing, ..option("no node", 1, &[0, 1, 2, 77], 1, 1, 10) },
            option("no pods", u32::MAX, &[], 2, 4, 20),
            option("huge", 3, &[1], 2, 4, 30),
        ],
    };
    assert_eq!(decide(&question).options.len(), 3);
    assert_eq!(order(&question)[0], "*no node");
}

fn question() -> impl Strategy<Value = Question> {
    let pods = proptest::collection::vec((1..8u64, 1..32u64), 1..24);
    let options =
        proptest::collection::vec((1..5u32, any::<u32>(), 1..16u64, 1..64u64, 1..500i64, 0..6u8), 1..8);
    (pods, options).prop_map(|(pods, options)| {
        let pods: Vec<_> = pods.into_iter().map(|(cpu, memory)| pod(cpu * 250, memory * 256)).collect();
        let candidates =
            options.into_iter().enumerate().map(|(n, (nodes, bits, cores, gib, price, kind))| {
                let taken: Vec<u32> = (0..pods.len() as u32).filter(|pod| bits >> pod & 1 == 1).collect();
                let option = option(&format!("pool-{n}"), nodes, &taken, cores, gib, price);
                match kind {
                    0 => Candidate { blocked: Some(blocked()), ..option },
                    1 => Candidate { price: None, ..option },
                    2 => Candidate { preferred: true, ..option },
                    _ => option,
                }
            });
        let candidates = candidates.collect();
        Question { pods, candidates }
    })
}

proptest! {
    #[test]
    fn an_order_is_whole_and_does_not_hang_on_the_order_of_the_question(question in question()) {
        let first = order(&question);
        prop_assert_eq!(first.len(), question.candidates.len());
        prop_assert!(first[0].starts_with('*'));
        let mut turned = question.clone();
        turned.candidates.reverse();
        turned.pods.reverse();
        let last = turned.pods.len() as u32 - 1;
        for candidate in &mut turned.candidates {
            for pod in &mut candidate.pods {
                *pod = last - *pod;
            }
        }
        prop_assert_eq!(first, order(&turned));
    }

    #[test]
    fn the_best_is_blocked_only_if_all_are_and_unpriced_only_if_none_has_a_price(question in question()) {
        let best = decide(&question).options.into_iter().find(|ranked| ranked.best).unwrap();
        let usable = |option: &&Candidate| option.blocked.is_none();
        match best.verdict {
            Verdict::Priced(_) => {}
            Verdict::Unpriced => {
                prop_assert!(question.candidates.iter().filter(usable).all(|option| option.price.is_none()));
            }
            Verdict::Blocked(_) => prop_assert!(question.candidates.iter().all(|o| o.blocked.is_some())),
        }
    }
}
