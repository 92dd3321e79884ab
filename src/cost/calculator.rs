//! What offers cost by time and by what they have, and how they compare.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::money::{HoursPerMonth, Usd, UsdPerHour};
use super::prices::Prices;
use crate::catalog::{Catalog, DatacenterId, Offer, Resources};

/// Offers with the prices that hold for them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PriceList {
    /// Hours that a month is billed as.
    pub hours_per_month: HoursPerMonth,
    /// The offers of every datacenter.
    pub offers: Vec<PricedOffer>,
}

/// An offer with the price that holds for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PricedOffer {
    /// The offer, with VPSie's list prices.
    pub offer: Offer,
    /// What a machine of it costs. None when nobody knows.
    pub price: Option<UsdPerHour>,
}

/// What a machine comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// USD per hour.
    pub hourly: UsdPerHour,
    /// USD per day.
    pub daily: Usd,
    /// USD per month.
    pub monthly: Usd,
    /// USD per month and core. None where it has none, as in the next two.
    pub per_core: Option<Usd>,
    /// USD per month and GiB of memory.
    pub per_gib: Option<Usd>,
    /// USD per month and GiB of disk.
    pub per_disk_gib: Option<Usd>,
}

/// What a machine is to have, nominally.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    /// CPU, millicores.
    pub cpu_millis: u64,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Disk, GiB.
    pub disk_gib: u64,
    /// Where it is to be. None: anywhere.
    pub datacenter: Option<DatacenterId>,
}

/// Which price is the lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// That of one machine.
    #[default]
    Machine,
    /// That of a machine divided by how many times it has what is required.
    Unit,
}

/// An offer beside others.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ranked<'a> {
    /// The offer.
    pub offer: &'a Offer,
    /// What a machine of it costs. None when nobody knows.
    pub cost: Option<Cost>,
    /// How many times it has what is required, at least once.
    pub units: u64,
    /// Its price for each of them.
    pub unit_price: Option<UsdPerHour>,
    /// What it costs more than the first, by the price that they are ordered by.
    pub above: Option<Difference>,
}

/// What one price is above another. Below 0 where it is lower: a saving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// USD per hour.
    pub hourly: UsdPerHour,
    /// USD per month.
    pub monthly: Usd,
    /// Percent of the other price.
    pub percent: Decimal,
}

impl Prices {
    /// The offers with the prices that hold for them.
    pub fn list(&self, catalog: &Catalog) -> PriceList {
        let priced = |offer: &Offer| PricedOffer { offer: offer.clone(), price: self.of(offer) };
        PriceList {
            hours_per_month: self.hours_per_month,
            offers: catalog.offers.iter().map(priced).collect(),
        }
    }
}

impl Cost {
    /// Of a machine of that size at that price.
    pub fn of(price: UsdPerHour, size: Resources, hours: HoursPerMonth) -> Self {
        let monthly = price.monthly(hours);
        let per = |amount: Decimal| monthly.0.checked_div(amount).map(Usd);
        Self {
            hourly: price,
            daily: price.daily(),
            monthly,
            per_core: per(Decimal::from(size.cpu_millis) / Decimal::ONE_THOUSAND),
            per_gib: per(Decimal::from(size.memory_mib) / Decimal::from(1024)),
            per_disk_gib: per(Decimal::from(size.disk_gib)),
        }
    }
}

impl Requirement {
    /// How many times a machine of the offer has it. 0 if it does not, or is elsewhere; 1 where no amount is required.
    pub fn units(&self, offer: &Offer) -> u64 {
        if self.datacenter.as_ref().is_some_and(|wanted| *wanted != offer.datacenter) {
            return 0;
        }
        let size = offer.resources;
        let amounts = [
            (size.cpu_millis, self.cpu_millis),
            (size.memory_mib, self.memory_mib),
            (size.disk_gib, self.disk_gib),
        ];
        amounts.into_iter().filter_map(|(has, wanted)| has.checked_div(wanted)).min().unwrap_or(1)
    }

    /// Whether an amount is required.
    pub fn has_amounts(&self) -> bool {
        self.cpu_millis > 0 || self.memory_mib > 0 || self.disk_gib > 0
    }
}

impl Difference {
    /// What a price is above another. None unless both are prices, which are above 0.
    pub fn of(price: UsdPerHour, other: UsdPerHour, hours: HoursPerMonth) -> Option<Self> {
        if !price.is_positive() || !other.is_positive() {
            return None;
        }
        let hourly = price - other;
        let percent = hourly.0.saturating_mul(Decimal::ONE_HUNDRED).checked_div(other.0)?;
        Some(Self { hourly, monthly: hourly.monthly(hours), percent })
    }
}

impl Ranked<'_> {
    /// The price that it is ordered by. None when nobody knows.
    pub fn price(&self, by: By) -> Option<UsdPerHour> {
        match by {
            By::Machine => self.cost.map(|cost| cost.hourly),
            By::Unit => self.unit_price,
        }
    }
}

impl PriceList {
    /// The offers that have what is required, the cheapest first, those without a price last. What is as cheap is in the
    /// order of datacenters and names.
    pub fn rank<'a>(&'a self, requirement: &Requirement, by: By) -> Vec<Ranked<'a>> {
        let ranked = |priced: &'a PricedOffer| {
            let PricedOffer { offer, price } = priced;
            let units = requirement.units(offer);
            let unit_price = price.and_then(|price| price.0.checked_div(units.into())).map(UsdPerHour);
            let cost = price.map(|price| Cost::of(price, offer.resources, self.hours_per_month));
            (units > 0).then_some(Ranked { offer, cost, units, unit_price, above: None })
        };
        let mut ranked: Vec<_> = self.offers.iter().filter_map(ranked).collect();
        ranked.sort_by(|a, b| {
            let key = |ranked: &Ranked<'a>| {
                let price = ranked.price(by);
                (price.is_none(), price, &ranked.offer.datacenter, &ranked.offer.name)
            };
            key(a).cmp(&key(b))
        });
        let lowest = ranked.first().and_then(|first| first.price(by));
        for each in &mut ranked {
            each.above = each
                .price(by)
                .zip(lowest)
                .and_then(|(price, lowest)| Difference::of(price, lowest, self.hours_per_month));
        }
        ranked
    }
}

#[cfg(test)]
mod tests;
