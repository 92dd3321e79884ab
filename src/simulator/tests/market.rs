//! The spot market.

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;

use super::control::control;
use super::*;
use crate::simulator::span::later;

async fn pass_to(sim: &Simulator, at: Timestamp) {
    let left = sim.now().duration_until(at);
    tokio::time::advance(left.unsigned_abs() + Duration::from_millis(1)).await;
}

fn market() -> MarketConfig {
    // Ten interruptions a month and VM: about one in three days.
    MarketConfig { interruption_rate: 1000.0, ..MarketConfig::default() }
}

fn config(market: MarketConfig) -> SimulatorConfig {
    let mut config = SimulatorConfig { spot_market: market, ..steady() };
    for offer in &mut config.offers {
        offer.spot_monthly = Some(offer.monthly / Decimal::from(4));
    }
    config
}

/// A simulator with spot workers, and a worker on demand.
async fn with_spot_workers(config: SimulatorConfig, count: usize) -> Simulator {
    let sim = simulator(config);
    let group = add_group(&sim, "workers", 2).await;
    for _ in 0..count {
        add_spot_worker(&sim, group).await;
    }
    add_worker(&sim, group).await;
    pass(60).await;
    sim
}

async fn add_spot_worker(sim: &Simulator, group: u64) -> Reply {
    let path = cluster_path(&format!("/add/slave/group/{group}"));
    send(sim, "POST", &path, Some(json!({ "is_spot": true }))).await
}

fn spot_workers(sim: &Simulator) -> Vec<VmView> {
    workers(sim).into_iter().filter(|worker| worker.vm.spot).collect()
}

fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

/// The deadlines in the rows of the cluster's nodes.
async fn rows_with_notice(sim: &Simulator) -> usize {
    let reply = send(sim, "GET", &cluster_path(""), None).await;
    reply.body.to_string().matches("interruption_at").count()
}

#[tokio::test(start_paused = true)]
async fn a_spot_vm_ends_after_its_notice() {
    let sim = with_spot_workers(config(market()), 20).await;
    let planned = spot_workers(&sim).into_iter().find_map(|worker| worker.vm.interruptions.first().copied());
    let planned = planned.unwrap();
    let uuid = spot_workers(&sim)
        .into_iter()
        .find(|w| w.vm.interruptions.first() == Some(&planned))
        .unwrap()
        .vm
        .uuid;
    assert_eq!(planned.until, later(planned.announced_at, seconds(120)));
    let shows = |sim: &Simulator| {
        let vm = sim.vms().into_iter().find(|view| view.vm.uuid == uuid)?;
        Some((vm.phase, vm.vm.interruption_at(sim.now())))
    };
    pass_to(&sim, planned.announced_at).await;
    assert_eq!(shows(&sim), Some((Phase::Running, Some(planned.until))));
    assert!(rows_with_notice(&sim).await > 0);
    pass_to(&sim, planned.until).await;
    assert_eq!(shows(&sim).map(|(phase, _)| phase), Some(Phase::Deleting));
    pass(10).await;
    assert_eq!(shows(&sim), None);
    let gone = sim.gone().into_iter().find(|view| view.vm.uuid == uuid).unwrap();
    assert_eq!(gone.vm.end.unwrap().by, EndedBy::Interruption);
}

#[tokio::test(start_paused = true)]
async fn only_spot_vms_are_interrupted_at_their_rate() {
    let sim = with_spot_workers(config(market()), 200).await;
    let on_demand = workers(&sim).len() - spot_workers(&sim).len();
    // A tenth of the mean life time.
    pass(730 * 3600 / 100).await;
    let left = spot_workers(&sim).len();
    assert!((170..195).contains(&left), "{left} of 200 after a tenth of the mean time: e^-0.1 are 181");
    assert_eq!(workers(&sim).len() - left, on_demand);
    let quiet = with_spot_workers(config(MarketConfig::default()), 20).await;
    pass(30 * 24 * 3600).await;
    assert_eq!(spot_workers(&quiet).len(), 20);
}

#[tokio::test(start_paused = true)]
async fn rates_differ_by_offer_and_datacenter() {
    let rate = |offer: &str, interruption_rate| RateConfig {
        offer: Some(offer.to_owned()),
        datacenter: None,
        interruption_rate,
    };
    let rates = vec![rate("s-2vcpu-4gb", 0.0)];
    let sim = with_spot_workers(config(MarketConfig { rates, ..market() }), 50).await;
    assert!(spot_workers(&sim).iter().all(|worker| worker.vm.interruptions.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn notices_are_missing_withdrawn_or_early() {
    for (change, is_announced, ends, after) in [
        (MarketConfig { unannounced: 1.0, ..market() }, false, true, 0),
        (MarketConfig { late: 1.0, late_by: Span::exactly(seconds(60)), ..market() }, true, true, 180),
    ] {
        let sim = with_spot_workers(config(change), 5).await;
        for worker in spot_workers(&sim) {
            let planned = worker.vm.interruptions[0];
            assert_eq!(planned.deadline.is_some(), is_announced);
            assert_eq!(
                (planned.until, !planned.withdrawn),
                (later(planned.announced_at, seconds(after)), ends)
            );
        }
    }
    let withdrawn = MarketConfig { withdrawn: 1.0, interruption_rate: 10_000.0, ..market() };
    let sim = with_spot_workers(config(withdrawn), 5).await;
    let planned = spot_workers(&sim)[0].vm.interruptions.clone();
    assert!(planned.len() > 5 && planned.iter().all(|planned| planned.withdrawn), "{planned:?}");
    pass_to(&sim, planned[0].announced_at).await;
    let shown = |sim: &Simulator| spot_workers(sim)[0].vm.interruption_at(sim.now());
    assert_eq!(shown(&sim), planned[0].deadline);
    pass_to(&sim, planned[0].until).await;
    assert_eq!(shown(&sim), None);
    pass(24 * 3600).await;
    assert_eq!(spot_workers(&sim).len(), 5);
}

#[tokio::test(start_paused = true)]
async fn capacity_comes_and_goes() {
    let hours = |hours| SignedDuration::from_hours(hours);
    let scarce = MarketConfig { available: hours(3), sold_out: hours(1), ..MarketConfig::default() };
    let sim = simulator(config(scarce));
    let group = add_group(&sim, "workers", 2).await;
    let mut refused = 0;
    let mut changes = 0;
    let mut last = 200;
    for _ in 0..400 {
        let status = add_spot_worker(&sim, group).await.status.as_u16();
        assert!(status == 200 || status == 400);
        refused += u32::from(status == 400);
        changes += u32::from(status != last);
        last = status;
        pass(900).await;
    }
    // 100 hours.
    assert!((60..140).contains(&refused), "{refused} of 400 requests, a quarter is expected");
    assert!((30..=52).contains(&changes), "{changes} changes in 25 periods");
    assert_eq!(add_worker(&sim, group).await.status, 200, "on demand");
}

#[tokio::test(start_paused = true)]
async fn vms_are_reclaimed_when_their_offer_is_sold_out() {
    let hours = |hours| SignedDuration::from_hours(hours);
    let scarce =
        MarketConfig { available: hours(3), sold_out: hours(1), reclaimed: 1.0, ..MarketConfig::default() };
    let sim = with_spot_workers(config(scarce), 5).await;
    let at: Vec<Timestamp> =
        spot_workers(&sim).iter().map(|worker| worker.vm.interruptions[0].announced_at).collect();
    assert!(at.iter().all(|time| *time == at[0]), "a storm: {at:?}");
    assert!(at[0] < later(sim.now(), hours(8)), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn prices_move_within_their_range() {
    let moving = MarketConfig { price_range: 0.5, ..MarketConfig::default() };
    let config = config(moving);
    let sim = simulator(config.clone());
    let datacenter = &config.datacenters[0];
    let offer = &config.offers[1];
    let price = |hour: i64| {
        let at = later(sim.now(), SignedDuration::from_mins(20 * hour));
        config.spot_monthly(datacenter, offer, at).unwrap()
    };
    let prices: Vec<Decimal> = (0..500).map(price).collect();
    let base = offer.spot_monthly.unwrap();
    let half = base / Decimal::from(2);
    assert!(prices.iter().all(|price| (*price - base).abs() <= half));
    let distinct: std::collections::BTreeSet<_> = prices.iter().collect();
    assert!(distinct.len() > 100, "{}", distinct.len());
    assert!(prices.iter().any(|price| *price < base) && prices.iter().any(|price| *price > base));
    assert_eq!(prices, (0..500).map(price).collect::<Vec<_>>(), "a function of time");
    let other: Vec<_> = (0..500)
        .map(|hour| {
            config.spot_monthly(datacenter, &config.offers[2], later(sim.now(), seconds(hour * 1200)))
        })
        .collect();
    assert!(other.windows(2).any(|pair| pair[0] != pair[1]));
}

#[tokio::test(start_paused = true)]
async fn a_storm_interrupts_a_share() {
    let sim = with_spot_workers(config(MarketConfig::default()), 10).await;
    let storm = json!({ "offer": "s-2vcpu-4gb", "share": 0.25, "notice": "2m" });
    let reply = control(&sim, "POST", "/storm", storm).await;
    assert_eq!(reply.body["vms"].as_array().unwrap().len(), 3, "{}", reply.body);
    assert_eq!(rows_with_notice(&sim).await, 3);
    let uuid = reply.body["vms"][0].as_str().unwrap().to_owned();
    control(&sim, "DELETE", &format!("/vms/{uuid}/interrupt"), Value::Null).await;
    assert_eq!(rows_with_notice(&sim).await, 2);
    pass(130).await;
    assert_eq!(spot_workers(&sim).len(), 8);
    let none = control(&sim, "POST", "/storm", json!({ "offer": "s-4vcpu-8gb", "notice": "2m" })).await;
    assert_eq!(none.body["vms"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn events_happen_once_at_their_time() {
    let storm = Storm { offer: None, datacenter: None, share: 0.5, notice: seconds(120) };
    let capacity = CapacityEvent { offer: "s-2vcpu-4gb".to_owned(), datacenter: None, limit: Some(0) };
    let event = |at, storm, capacity| MarketEvent { at: seconds(at), storm, capacity };
    let events = vec![event(600, Some(storm), None), event(300, None, Some(capacity))];
    let config = config(MarketConfig { events, ..MarketConfig::default() });
    let sim = with_spot_workers(config.clone(), 4).await;
    let group = spot_workers(&sim)[0].vm.group.unwrap();
    pass(245).await;
    assert_eq!(add_spot_worker(&sim, group).await.status, 400, "sold out after 300 s");
    pass(300).await;
    assert_eq!(rows_with_notice(&sim).await, 2);
    let text = serde_json::to_string(&sim.snapshot()).unwrap();
    let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
    let restored =
        Simulator::restore(config, Arc::new(TestClock(tokio::time::Instant::now())), snapshot).unwrap();
    assert_eq!(restored.snapshot(), sim.snapshot());
}

#[tokio::test(start_paused = true)]
async fn equal_seeds_give_equal_markets() {
    let of = async |seed| {
        let config = SimulatorConfig { seed, ..config(market()) };
        let sim = with_spot_workers(config, 10).await;
        let begin = sim.now();
        let relative = |at: Timestamp| at.duration_since(begin);
        let first =
            |worker: VmView| worker.vm.interruptions.first().map(|planned| relative(planned.announced_at));
        spot_workers(&sim).into_iter().map(first).collect::<Vec<_>>()
    };
    let (first, again, other) = (of(1).await, of(1).await, of(2).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[test]
fn a_market_outside_its_ranges_is_refused() {
    let storm = |share| Storm { offer: None, datacenter: None, share, notice: seconds(120) };
    let event = |storm| MarketEvent { at: seconds(1), storm: Some(storm), capacity: None };
    let events = |event| MarketConfig { events: vec![event], ..MarketConfig::default() };
    for (market, field) in [
        (MarketConfig { price_range: 1.0, ..market() }, "priceRange"),
        (MarketConfig { late: 1.5, ..market() }, "late"),
        (MarketConfig { interruption_rate: -1.0, ..market() }, "interruptionRate"),
        (MarketConfig { interruption_rate: f64::NAN, ..market() }, "interruptionRate"),
        (MarketConfig { available: SignedDuration::ZERO, ..market() }, "available"),
        (MarketConfig { sold_out: SignedDuration::from_hours(7), ..market() }, "soldOut"),
        (events(event(storm(0.0))), "events.storm.share"),
        (events(event(Storm { offer: Some("huge".to_owned()), ..storm(1.0) })), "events.storm"),
        (events(MarketEvent { at: seconds(1), storm: None, capacity: None }), "events"),
    ] {
        let error = config(market).validate().unwrap_err().to_string();
        assert!(error.starts_with(&format!("spotMarket.{field}: ")), "{error}");
    }
}
