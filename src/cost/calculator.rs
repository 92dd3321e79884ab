//! Costs of offers by time and by resource, and their comparison.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::money::{HoursPerMonth, Usd, UsdPerHour};
use super::prices::Prices;
use crate::catalog::{Catalog, DatacenterId, Offer, Resources};

/// Offers with their effective prices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PriceList {
    /// Hours that a month is billed as.
    pub hours_per_month: HoursPerMonth,
    /// The offers of every datacenter.
    pub offers: Vec<PricedOffer>,
}

/// An offer with its effective price.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PricedOffer {
    /// The offer, with VPSie's list prices.
    pub offer: Offer,
    /// Price of a machine. None if unknown.
    pub price: Option<UsdPerHour>,
}

/// Cost of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// USD per hour.
    pub hourly: UsdPerHour,
    /// USD per day.
    pub daily: Usd,
    /// USD per month.
    pub monthly: Usd,
    /// USD per month and core. None if the machine has none; likewise below.
    pub per_core: Option<Usd>,
    /// USD per month and GiB of memory.
    pub per_gib: Option<Usd>,
    /// USD per month and GiB of disk.
    pub per_disk_gib: Option<Usd>,
}

/// Minimum nominal resources of a machine, and its datacenter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    /// CPU, millicores.
    pub cpu_millis: u64,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Disk, GiB.
    pub disk_gib: u64,
    /// Datacenter. None: any.
    pub datacenter: Option<DatacenterId>,
}

/// The price by which offers are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PriceBasis {
    /// Price of a machine.
    #[default]
    Machine,
    /// Price of a machine divided by its number of units.
    Unit,
}

/// An offer in a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RankedOffer<'a> {
    /// The offer.
    pub offer: &'a Offer,
    /// Cost of a machine. None if its price is unknown.
    pub cost: Option<Cost>,
    /// Number of units: the number of times that it satisfies the requirement.
    pub units: u64,
    /// Price per unit.
    pub unit_price: Option<UsdPerHour>,
    /// Difference to the price of the first offer.
    pub above: Option<Difference>,
}

/// Difference of a price to another one. Negative values are savings.
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
    /// The offers of the catalog with their effective prices.
    pub fn list(&self, catalog: &Catalog) -> PriceList {
        let priced = |offer: &Offer| PricedOffer { offer: offer.clone(), price: self.price(offer) };
        PriceList {
            hours_per_month: self.hours_per_month,
            offers: catalog.offers.iter().map(priced).collect(),
        }
    }
}

impl Cost {
    /// Cost of a machine of this size at this price.
    pub fn new(price: UsdPerHour, size: Resources, hours: HoursPerMonth) -> Self {
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
    /// Number of times that a machine of the offer satisfies the requirement. 0 if it does not, or is in
    /// another datacenter; 1 if no amount is required.
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
    /// Difference of a price to another one. None unless both are above 0.
    pub fn between(price: UsdPerHour, other: UsdPerHour, hours: HoursPerMonth) -> Option<Self> {
        if !price.is_positive() || !other.is_positive() {
            return None;
        }
        let hourly = price - other;
        let percent = hourly.0.saturating_mul(Decimal::ONE_HUNDRED).checked_div(other.0)?;
        Some(Self { hourly, monthly: hourly.monthly(hours), percent })
    }
}

impl RankedOffer<'_> {
    /// The price on this basis. None if unknown.
    pub fn price(&self, by: PriceBasis) -> Option<UsdPerHour> {
        match by {
            PriceBasis::Machine => self.cost.map(|cost| cost.hourly),
            PriceBasis::Unit => self.unit_price,
        }
    }
}

impl PriceList {
    /// Offers that satisfy the requirement, cheapest first, offers without a price last. Equally cheap ones
    /// are ordered by datacenter and name.
    pub fn rank<'a>(&'a self, requirement: &Requirement, by: PriceBasis) -> Vec<RankedOffer<'a>> {
        let ranked = |priced: &'a PricedOffer| {
            let PricedOffer { offer, price } = priced;
            let units = requirement.units(offer);
            let unit_price = price.and_then(|price| price.0.checked_div(units.into())).map(UsdPerHour);
            let cost = price.map(|price| Cost::new(price, offer.resources, self.hours_per_month));
            (units > 0).then_some(RankedOffer { offer, cost, units, unit_price, above: None })
        };
        let mut ranked: Vec<_> = self.offers.iter().filter_map(ranked).collect();
        ranked.sort_by(|a, b| {
            let key = |ranked: &RankedOffer<'a>| {
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
                .and_then(|(price, lowest)| Difference::between(price, lowest, self.hours_per_month));
        }
        ranked
    }
}

#[cfg(test)]
mod tests;
