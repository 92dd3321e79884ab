//! Effective prices of offers: those of VPSie, unless the operator overrides them.

use rust_decimal::Decimal;

use super::interruption_rate::InterruptionRate;
use super::money::{HoursPerMonth, Usd, UsdPerHour};
use crate::catalog::{CapacityType, Catalog, DatacenterId, Offer, OfferRef};

/// Overrides of the operator, and the hours per month.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices {
    /// Hours per month.
    pub hours_per_month: HoursPerMonth,
    /// Prices and discounts of the operator.
    pub overrides: Vec<Override>,
}

/// A price or discount for some offers.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// Offer. None: all.
    pub offer: Option<OfferRef>,
    /// Datacenter. None: all.
    pub datacenter: Option<DatacenterId>,
    /// Capacity type. A price for `Spot` also adds the spot offer, if the catalog lacks it.
    pub capacity_type: CapacityType,
    /// The price or discount.
    pub rule: PriceRule,
    /// Published interruption rate of a spot offer.
    pub interruption_rate: Option<InterruptionRate>,
}

/// A price or discount of the operator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PriceRule {
    /// Replaces VPSie's price.
    Price(UsdPerHour),
    /// Discount in percent, 0 to 100.
    PercentDiscount(Decimal),
    /// Discount as an amount.
    Discount(UsdPerHour),
}

/// Maximum price. A higher one is an error, and sums of it would not be exact.
const MAX_PRICE: UsdPerHour = UsdPerHour(Decimal::from_parts(1_000_000_000, 0, 0, false, 0));

/// Maximum ratio of the hourly and the monthly price of the API. A monthly price in the hourly field would be
/// 730 times too high, and cents in place of dollars 100 times. Monthly discounts are far below this.
const MAX_RATIO: u32 = 5;

impl Override {
    fn covers(&self, offer: &Offer) -> bool {
        self.capacity_type == offer.capacity_type
            && self.offer.as_ref().is_none_or(|wanted| offer.is_named(wanted.as_str()))
            && self.datacenter.as_ref().is_none_or(|datacenter| *datacenter == offer.datacenter)
    }

    /// Specificity of the override: offer and datacenter before offer before datacenter.
    fn specificity(&self) -> u8 {
        2 * u8::from(self.offer.is_some()) + u8::from(self.datacenter.is_some())
    }
}

impl Prices {
    /// Price of a machine of the offer: the most specific price of the operator, or else the hourly price of
    /// the API, or else its monthly price (docs/reference/vpsie-api.md#prices); less the most specific
    /// discount. If the prices of the API contradict each other, the monthly one applies. None if the price
    /// is unknown, or not above 0.
    pub fn price(&self, offer: &Offer) -> Option<UsdPerHour> {
        let price = self.override_price(offer).or_else(|| self.api_price(offer))?;
        let discounted = self.most_specific(offer, |rule| match rule {
            PriceRule::Price(_) => None,
            PriceRule::PercentDiscount(percent) => Some(price.less_percent(percent)),
            PriceRule::Discount(amount) => Some(price - amount),
        });
        Some(discounted.unwrap_or(price).truncate())
            .filter(|price| price.is_positive() && *price <= MAX_PRICE)
    }

    /// The hourly price of the API, and its monthly price per hour, if they contradict each other and the
    /// operator does not override them.
    pub fn contradiction(&self, offer: &Offer) -> Option<(UsdPerHour, UsdPerHour)> {
        let (hourly, monthly) = Self::hourly_price(offer).zip(self.monthly_price(offer))?;
        let contradict = hourly > monthly * MAX_RATIO || monthly > hourly * MAX_RATIO;
        (contradict && self.override_price(offer).is_none()).then_some((hourly, monthly))
    }

    /// Spot offers that prices of the operator add: one for each priced on-demand offer without a listed spot
    /// offer.
    pub fn added_spot_offers(&self, catalog: &Catalog) -> Vec<Offer> {
        let spot = |on_demand: &Offer| {
            let spot =
                Offer { capacity_type: CapacityType::Spot, monthly: None, hourly: None, ..on_demand.clone() };
            let is_listed = catalog.offers.iter().any(|listed| listed.class() == spot.class());
            (!is_listed && self.override_price(&spot).is_some()).then_some(spot)
        };
        let has_spot = self.overrides.iter().any(|entry| entry.capacity_type == CapacityType::Spot);
        let on_demand = catalog.offers.iter().filter(|offer| offer.capacity_type == CapacityType::OnDemand);
        if has_spot { on_demand.filter_map(spot).collect() } else { Vec::new() }
    }

    /// The interruption rate of the spot offer before any observation: that of the operator's most specific price,
    /// or else [`InterruptionRate::ASSUMED`].
    pub fn interruption_prior(&self, offer: &Offer) -> InterruptionRate {
        let covering = self.overrides.iter().filter(|entry| entry.covers(offer));
        let rated = covering.filter_map(|entry| Some((entry.specificity(), entry.interruption_rate?)));
        rated.max_by_key(|(specificity, _)| *specificity).map_or(InterruptionRate::ASSUMED, |(_, rate)| rate)
    }

    fn override_price(&self, offer: &Offer) -> Option<UsdPerHour> {
        self.most_specific(offer, |rule| match rule {
            PriceRule::Price(price) => Some(price),
            PriceRule::PercentDiscount(_) | PriceRule::Discount(_) => None,
        })
    }

    fn api_price(&self, offer: &Offer) -> Option<UsdPerHour> {
        let trusted = Self::hourly_price(offer).filter(|_| self.contradiction(offer).is_none());
        trusted.or_else(|| self.monthly_price(offer))
    }

    fn hourly_price(offer: &Offer) -> Option<UsdPerHour> {
        offer.hourly.map(UsdPerHour).filter(|price| price.is_positive())
    }

    fn monthly_price(&self, offer: &Offer) -> Option<UsdPerHour> {
        let monthly = offer.monthly.filter(|price| *price > Decimal::ZERO)?;
        Some(UsdPerHour::of_month(Usd(monthly), self.hours_per_month))
    }

    fn most_specific(
        &self,
        offer: &Offer,
        apply: impl Fn(PriceRule) -> Option<UsdPerHour>,
    ) -> Option<UsdPerHour> {
        let covering = self.overrides.iter().filter(|entry| entry.covers(offer));
        let prices = covering.filter_map(|entry| Some((entry.specificity(), apply(entry.rule)?)));
        prices.max_by_key(|(specificity, _)| *specificity).map(|(_, price)| price)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Resources, SizeId};

    fn offer(name: &str, datacenter: &str, monthly: Option<i64>, hourly: Option<&str>) -> Offer {
        Offer {
            size: SizeId(7),
            name: name.to_owned(),
            identifier: None,
            datacenter: datacenter.into(),
            capacity_type: CapacityType::OnDemand,
            resources: Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 80, pods: 110 },
            monthly: monthly.map(Decimal::from),
            hourly: hourly.map(|hourly| hourly.parse().unwrap()),
        }
    }

    fn entry(offer: Option<&str>, datacenter: Option<&str>, rule: PriceRule) -> Override {
        let capacity_type = CapacityType::OnDemand;
        let interruption_rate = None;
        let offer = offer.map(Into::into);
        let datacenter = datacenter.map(Into::into);
        Override { offer, datacenter, capacity_type, rule, interruption_rate }
    }

    #[test]
    fn a_spot_price_adds_the_offer_that_the_catalog_lacks() {
        let spot = |offer, datacenter, rule| Override {
            capacity_type: CapacityType::Spot,
            ..entry(offer, datacenter, rule)
        };
        let overrides = vec![
            entry(None, None, PriceRule::PercentDiscount(Decimal::from(10))),
            spot(Some("a"), Some("ams1"), PriceRule::Price(rate("0.03"))),
            spot(None, None, PriceRule::PercentDiscount(Decimal::from(50))),
        ];
        let prices = Prices { overrides, ..Prices::default() };
        let [a, b, elsewhere] = [("a", "ams1"), ("b", "ams1"), ("a", "fra1")]
            .map(|(name, datacenter)| offer(name, datacenter, None, Some("0.1")));
        let listed = Offer { capacity_type: CapacityType::Spot, ..b.clone() };
        let [b, listed] = [b, listed].map(|offer| Offer { size: SizeId(8), ..offer });
        let catalog = Catalog { offers: vec![a.clone(), b, listed.clone(), elsewhere] };
        let added = prices.added_spot_offers(&catalog);
        let expected = Offer { capacity_type: CapacityType::Spot, hourly: None, ..a.clone() };
        assert_eq!(added, [expected]);
        assert_eq!(prices.price(&added[0]), Some(rate("0.015")), "with the discount on spot offers");
        assert_eq!(prices.price(&listed), Some(rate("0.05")));
        assert_eq!(prices.price(&a), Some(rate("0.09")), "spot entries do not apply to on-demand offers");
    }

    fn rate(text: &str) -> UsdPerHour {
        UsdPerHour(text.parse().unwrap())
    }

    #[test]
    fn prefers_hourly_prices_and_refuses_prices_of_zero() {
        let prices = Prices::default();
        assert_eq!(prices.price(&offer("a", "ams1", Some(73), Some("0.2"))), Some(rate("0.2")));
        assert_eq!(prices.price(&offer("a", "ams1", Some(73), None)), Some(rate("0.1")));
        assert_eq!(prices.price(&offer("a", "ams1", Some(73), Some("0"))), Some(rate("0.1")));
        assert_eq!(prices.price(&offer("a", "ams1", Some(0), None)), None);
        assert_eq!(prices.price(&offer("a", "ams1", None, Some("-1"))), None);
        assert_eq!(prices.price(&offer("a", "ams1", None, None)), None);
    }

    #[test]
    fn prefers_the_monthly_price_if_the_hourly_one_contradicts_it() {
        let prices = Prices::default();
        for (hourly, want, contradicts) in [
            ("0.5", "0.5", false),
            ("0.02", "0.02", false),
            ("73", "0.1", true),
            ("10", "0.1", true),
            ("0.51", "0.1", true),
            ("0.001", "0.1", true),
            ("79228162514264337593543950335", "0.1", true),
        ] {
            let offer = offer("a", "ams1", Some(73), Some(hourly));
            assert_eq!(prices.price(&offer), Some(rate(want)), "{hourly}");
            assert_eq!(prices.contradiction(&offer).is_some(), contradicts, "{hourly}");
        }
        let own = vec![entry(Some("a"), None, PriceRule::Price(rate("2")))];
        let prices = Prices { overrides: own, ..Prices::default() };
        assert_eq!(prices.contradiction(&offer("a", "ams1", Some(73), Some("73"))), None);
    }

    #[test]
    fn ignores_prices_above_the_maximum() {
        let overrides = vec![entry(None, None, PriceRule::PercentDiscount(Decimal::from(50)))];
        for prices in [Prices::default(), Prices { overrides, ..Prices::default() }] {
            for hourly in ["79228162514264337593543950335", "3000000000", "0.0000000000001"] {
                assert_eq!(prices.price(&offer("a", "ams1", None, Some(hourly))), None, "{hourly}");
            }
        }
    }

    /// The total cost of machines is updated by addition and subtraction, and must stay equal to the sum.
    #[test]
    fn sums_of_prices_are_exact() {
        for (monthly, hourly) in [(Some(24), None), (None, Some("0.0333333333333333333333333333"))] {
            let price = Prices::default().price(&offer("a", "ams1", monthly, hourly)).unwrap();
            let many = (0..1000).fold(UsdPerHour::ZERO, |sum, _| sum + price);
            let one = (0..999).fold(many, |sum, _| sum - price);
            assert_eq!((many, one), (price * 1000, price));
        }
    }

    #[test]
    fn machines_priced_by_the_month_fit_a_monthly_limit() {
        for monthly in [7, 11, 20, 24, 33] {
            let price = Prices::default().price(&offer("a", "ams1", Some(monthly), None)).unwrap();
            for count in [1, 4, 99] {
                let monthly = Some(Usd((monthly * i64::from(count)).into()));
                let limit = crate::cost::CostLimit { hourly: None, monthly }
                    .rate(Prices::default().hours_per_month)
                    .unwrap();
                assert!(price * count <= limit, "{count} at {price} for {limit}");
            }
        }
    }

    #[test]
    fn the_most_specific_override_applies() {
        let overrides = vec![
            entry(None, None, PriceRule::PercentDiscount(Decimal::from(10))),
            entry(None, Some("nyc1"), PriceRule::Discount(rate("0.01"))),
            entry(Some("a"), None, PriceRule::Price(rate("0.5"))),
            entry(Some("A"), Some("nyc1"), PriceRule::Price(rate("0.4"))),
            entry(Some("7"), Some("fra1"), PriceRule::PercentDiscount(Decimal::from(50))),
            entry(Some("free"), None, PriceRule::Discount(rate("1"))),
        ];
        let prices = Prices { overrides, ..Prices::default() };
        for (name, datacenter, want) in [
            ("b", "ams1", Some("0.09")),
            ("b", "nyc1", Some("0.09")),
            ("a", "ams1", Some("0.45")),
            ("a", "nyc1", Some("0.39")),
            ("a", "fra1", Some("0.25")),
            ("free", "ams1", None),
        ] {
            let price = prices.price(&offer(name, datacenter, None, Some("0.1")));
            assert_eq!(price, want.map(rate), "{name} in {datacenter}");
        }
        assert_eq!(
            prices.price(&offer("a", "ams1", None, None)),
            Some(rate("0.45")),
            "a price where VPSie has none"
        );
    }
}
