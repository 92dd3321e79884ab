//! Offers as a table.

use rust_decimal::Decimal;

use crate::cli::table::write_table;
use crate::cost::{By, Cost, Difference, HoursPerMonth, Ranked, Usd, UsdPerHour};

/// Months and days are in cents, rates and prices per GiB of disk are too small for that.
const CENTS: u32 = 2;
const PARTS: u32 = 4;

/// The offers, in their order. With `units` also how many times each has what is required, and how they compare.
pub(super) fn offers(ranked: &[Ranked<'_>], units: bool) -> String {
    if ranked.is_empty() {
        return "no offer has that\n".to_owned();
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

fn row(ranked: &Ranked<'_>, units: bool) -> Vec<String> {
    let (offer, cost) = (ranked.offer, ranked.cost);
    let unknown = || "?".to_owned();
    let rate = |of: Option<UsdPerHour>| of.map_or_else(unknown, |rate| decimal(rate.0, PARTS));
    let sum = |of: fn(Cost) -> Usd| cost.map_or_else(unknown, |cost| decimal(of(cost).0, CENTS));
    let per = |of: fn(Cost) -> Option<Usd>, digits| {
        cost.map_or_else(unknown, |cost| {
            of(cost).map_or_else(|| "-".to_owned(), |usd| decimal(usd.0, digits))
        })
    };
    let mut cells = vec![
        offer.name.clone(),
        offer.datacenter.to_string(),
        number(offer.resources.cpu_millis, 1000),
        number(offer.resources.memory_mib, 1024),
        offer.resources.disk_gib.to_string(),
        rate(cost.map(|cost| cost.hourly)),
        sum(|cost| cost.daily),
        sum(|cost| cost.monthly),
        per(|cost| cost.per_core, CENTS),
        per(|cost| cost.per_gib, CENTS),
        per(|cost| cost.per_disk_gib, PARTS),
    ];
    if units {
        cells.extend([ranked.units.to_string(), rate(ranked.unit_price)]);
    }
    let above = |of: fn(Difference) -> String| ranked.above.map_or_else(|| "-".to_owned(), of);
    cells.extend([
        above(|above| decimal(above.hourly.0, PARTS)),
        above(|above| format!("{} %", decimal(above.percent, 1))),
        if cost.is_none() { "nobody knows its price".to_owned() } else { String::new() },
    ]);
    cells
}

/// What the first, which is the cheaper one, saves over the second.
pub(super) fn saving(first: &Ranked<'_>, second: &Ranked<'_>, by: By, hours: HoursPerMonth) -> String {
    let name = |ranked: &Ranked<'_>| format!("{}/{}", ranked.offer.datacenter, ranked.offer.name);
    let (a, b) = (name(first), name(second));
    let prices = first.price(by).zip(second.price(by));
    let Some(above) = prices.and_then(|(price, other)| Difference::of(price, other, hours)) else {
        return format!("{a} and {b} cannot be compared: nobody knows the prices of both\n");
    };
    let of = if by == By::Unit { " for each unit" } else { "" };
    if above.hourly == UsdPerHour::ZERO {
        return format!("{a} and {b} cost the same{of}\n");
    }
    format!(
        "{a} saves {} USD an hour, {} USD a month, {} %{of} over {b}\n",
        decimal(-above.hourly.0, PARTS),
        decimal(-above.monthly.0, CENTS),
        decimal(-above.percent, 1),
    )
}

/// With so many digits after the point, rounded.
fn decimal(amount: Decimal, digits: u32) -> String {
    let mut amount = amount.round_dp(digits);
    amount.rescale(digits);
    amount.to_string()
}

fn number(amount: u64, per: u64) -> String {
    (Decimal::from(amount) / Decimal::from(per)).round_dp(CENTS).normalize().to_string()
}
