//! The table of offers.

use rust_decimal::Decimal;

use crate::catalog::{CapacityType, Offer};
use crate::cli::table::write_table;
use crate::cost::{Cost, Difference, HoursPerMonth, PriceBasis, RankedOffer, Usd, UsdPerHour};

/// Decimals of amounts per month and day. Rates and prices per GiB of disk need more.
const CENT_DECIMALS: u32 = 2;
const RATE_DECIMALS: u32 = 4;

/// The offers in their order. With `units`, also the number of units and the price per unit.
pub(super) fn offers(ranked: &[RankedOffer<'_>], units: bool) -> String {
    if ranked.is_empty() {
        return "no offer meets the requirements\n".to_owned();
    }
    let mut headings = vec![
        "OFFER",
        "DATACENTER",
        "CORES",
        "GIB",
        "DISK GIB",
        "USD/H",
        "USD/DAY",
        "USD/MONTH",
        "PER CORE",
        "PER GIB",
        "PER DISK GIB",
    ];
    if units {
        headings.extend(["UNITS", "UNIT/H"]);
    }
    headings.extend(["ABOVE/H", "ABOVE", ""]);
    let rows: Vec<_> = ranked.iter().map(|ranked| row(ranked, units)).collect();
    let mut text = String::new();
    write_table(&mut text, 2, &headings, &rows);
    text
}

fn row(ranked: &RankedOffer<'_>, units: bool) -> Vec<String> {
    let offer = ranked.offer;
    let cost = ranked.cost;
    let unknown = || "?".to_owned();
    let rate = |of: Option<UsdPerHour>| of.map_or_else(unknown, |rate| decimal(rate.0, RATE_DECIMALS));
    let sum = |of: fn(Cost) -> Usd| cost.map_or_else(unknown, |cost| decimal(of(cost).0, CENT_DECIMALS));
    let per = |of: fn(Cost) -> Option<Usd>, digits| {
        cost.map_or_else(unknown, |cost| {
            of(cost).map_or_else(|| "-".to_owned(), |usd| decimal(usd.0, digits))
        })
    };
    let mut cells = vec![
        offer_name(offer),
        offer.datacenter.to_string(),
        number(offer.resources.cpu_millis, 1000),
        number(offer.resources.memory_mib, 1024),
        offer.resources.disk_gib.to_string(),
        rate(cost.map(|cost| cost.hourly)),
        sum(|cost| cost.daily),
        sum(|cost| cost.monthly),
        per(|cost| cost.per_core, CENT_DECIMALS),
        per(|cost| cost.per_gib, CENT_DECIMALS),
        per(|cost| cost.per_disk_gib, RATE_DECIMALS),
    ];
    if units {
        cells.extend([ranked.units.to_string(), rate(ranked.unit_price)]);
    }
    let above = |of: fn(Difference) -> String| ranked.above.map_or_else(|| "-".to_owned(), of);
    cells.extend([
        above(|above| decimal(above.hourly.0, RATE_DECIMALS)),
        above(|above| format!("{} %", decimal(above.percent, 1))),
        if cost.is_none() { "price unknown".to_owned() } else { String::new() },
    ]);
    cells
}

/// The name of the offer as `--compare` reads it: that of a spot offer ends in `/spot`.
fn offer_name(offer: &Offer) -> String {
    match offer.capacity_type {
        CapacityType::OnDemand => offer.name.clone(),
        CapacityType::Spot => format!("{}/{}", offer.name, CapacityType::Spot),
    }
}

/// The saving of the first offer, which is cheaper, over the second.
pub(super) fn saving(
    first: &RankedOffer<'_>,
    second: &RankedOffer<'_>,
    by: PriceBasis,
    hours: HoursPerMonth,
) -> String {
    let name = |ranked: &RankedOffer<'_>| format!("{}/{}", ranked.offer.datacenter, offer_name(ranked.offer));
    let cheaper = name(first);
    let dearer = name(second);
    let prices = first.price(by).zip(second.price(by));
    let Some(above) = prices.and_then(|(price, other)| Difference::between(price, other, hours)) else {
        return format!("cannot compare {cheaper} and {dearer}: a price is unknown\n");
    };
    let of = if by == PriceBasis::Unit { " per unit" } else { "" };
    if above.hourly == UsdPerHour::ZERO {
        return format!("{cheaper} and {dearer} cost the same{of}\n");
    }
    format!(
        "{cheaper} saves {} USD per hour, {} USD per month, {} %{of} over {dearer}\n",
        decimal(-above.hourly.0, RATE_DECIMALS),
        decimal(-above.monthly.0, CENT_DECIMALS),
        decimal(-above.percent, 1),
    )
}

/// Rounded to the given number of decimals.
fn decimal(amount: Decimal, digits: u32) -> String {
    let mut amount = amount.round_dp(digits);
    amount.rescale(digits);
    amount.to_string()
}

fn number(amount: u64, per: u64) -> String {
    (Decimal::from(amount) / Decimal::from(per)).round_dp(CENT_DECIMALS).normalize().to_string()
}
