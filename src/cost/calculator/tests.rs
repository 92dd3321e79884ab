use proptest::prelude::*;

use super::*;
use crate::catalog::{CapacityType, SizeId};

fn priced(
    name: &str,
    datacenter: &str,
    (cores, gib, disk): (u64, u64, u64),
    price: Option<&str>,
) -> PricedOffer {
    let offer = Offer {
        size: SizeId(1),
        name: name.to_owned(),
        identifier: None,
        datacenter: datacenter.into(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources { cpu_millis: cores * 1000, memory_mib: gib * 1024, disk_gib: disk, pods: 110 },
        monthly: None,
        hourly: None,
    };
    PricedOffer { offer, price: price.map(rate) }
}

fn rate(text: &str) -> UsdPerHour {
    UsdPerHour(text.parse().unwrap())
}

fn usd(text: &str) -> Usd {
    Usd(text.parse().unwrap())
}

fn list(offers: Vec<PricedOffer>) -> PriceList {
    PriceList { hours_per_month: HoursPerMonth::default(), offers }
}

fn names<'a>(ranked: &[RankedOffer<'a>]) -> Vec<&'a str> {
    ranked.iter().map(|ranked| ranked.offer.name.as_str()).collect()
}

#[test]
fn converts_a_price_to_days_months_and_resources() {
    let size = priced("a", "ams1", (2, 4, 80), None).offer.resources;
    let cost = Cost::new(rate("0.1"), size, HoursPerMonth::default());
    let want = Cost {
        hourly: rate("0.1"),
        daily: usd("2.4"),
        monthly: usd("73"),
        per_core: Some(usd("36.5")),
        per_gib: Some(usd("18.25")),
        per_disk_gib: Some(usd("0.9125")),
    };
    assert_eq!(cost, want);
    let diskless = Resources { disk_gib: 0, ..size };
    assert_eq!(Cost::new(rate("0.1"), diskless, HoursPerMonth::default()).per_disk_gib, None);
}

#[test]
fn ranks_fitting_offers_by_price_and_unpriced_ones_last() {
    let list = list(vec![
        priced("free", "ams1", (8, 16, 80), None),
        priced("small", "ams1", (2, 4, 80), Some("0.02")),
        priced("large", "ams1", (8, 16, 80), Some("0.08")),
        priced("middle", "ams1", (4, 8, 80), Some("0.05")),
        priced("middle", "nyc1", (4, 8, 40), Some("0.04")),
    ]);
    let required = Requirement { cpu_millis: 3000, memory_mib: 8192, ..Requirement::default() };
    let ranked = list.rank(&required, PriceBasis::Machine);
    assert_eq!(names(&ranked), ["middle", "middle", "large", "free"]);
    assert_eq!(ranked[0].offer.datacenter.as_str(), "nyc1");
    let above: Vec<_> = ranked.iter().map(|ranked| ranked.above.map(|above| above.percent)).collect();
    assert_eq!(above, [Some(0.into()), Some(25.into()), Some(100.into()), None]);

    let here = Requirement { datacenter: Some("ams1".into()), disk_gib: 80, ..required };
    let ranked = list.rank(&here, PriceBasis::Machine);
    assert_eq!(names(&ranked), ["middle", "large", "free"]);
    let more = ranked[1].above.unwrap();
    assert_eq!((more.hourly, more.monthly, more.percent), (rate("0.03"), usd("21.9"), 60.into()));
    assert_eq!(list.rank(&Requirement { cpu_millis: 8001, ..here }, PriceBasis::Machine), []);
}

#[test]
fn ranks_large_machines_by_their_price_per_unit() {
    let list = list(vec![
        priced("small", "ams1", (2, 4, 80), Some("0.03")),
        priced("large", "ams1", (8, 16, 80), Some("0.08")),
        priced("uneven", "ams1", (8, 4, 80), Some("0.06")),
    ]);
    let required = Requirement { cpu_millis: 2000, memory_mib: 4096, ..Requirement::default() };
    let ranked = list.rank(&required, PriceBasis::Unit);
    assert_eq!(names(&ranked), ["large", "small", "uneven"]);
    assert_eq!(ranked.iter().map(|ranked| ranked.units).collect::<Vec<_>>(), [4, 1, 1]);
    assert_eq!(ranked[0].unit_price, Some(rate("0.02")));
    assert_eq!(ranked[1].above.unwrap().percent, 50.into());
    assert_eq!(names(&list.rank(&required, PriceBasis::Machine)), ["small", "uneven", "large"]);
}

#[test]
fn compares_no_price_with_zero() {
    assert_eq!(Difference::between(rate("0.1"), UsdPerHour::ZERO, HoursPerMonth::default()), None);
    assert_eq!(Difference::between(UsdPerHour::ZERO, rate("0.1"), HoursPerMonth::default()), None);
}

proptest! {
    #[test]
    fn a_saving_is_below_0_and_a_dearer_offer_never_saves(a in 1..10_000_000_i64, b in 1..10_000_000_i64) {
        let hours = HoursPerMonth::default();
        let price = |micros| UsdPerHour(Decimal::new(micros, 6));
        let above = Difference::between(price(a), price(b), hours).unwrap();
        let back = Difference::between(price(b), price(a), hours).unwrap();
        for amount in [above.hourly.0, above.monthly.0, above.percent] {
            prop_assert_eq!(amount.cmp(&Decimal::ZERO), a.cmp(&b));
        }
        prop_assert_eq!(above.hourly + back.hourly, UsdPerHour::ZERO);
        prop_assert_eq!(price(b) + above.hourly, price(a));
        prop_assert!(above.percent > -Decimal::ONE_HUNDRED);
    }
}
