//! The price of an offer: VPSie's own, unless the operator says otherwise.

use rust_decimal::Decimal;

use super::money::{HoursPerMonth, Usd, UsdPerHour};
use crate::catalog::{DatacenterId, Offer, OfferRef};

/// What an operator says of prices, and how long a month is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices {
    /// Hours in a month.
    pub hours_per_month: HoursPerMonth,
    /// Prices and discounts of the operator's own.
    pub overrides: Vec<Override>,
}

/// A price or a discount that holds for some offers.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// The offer. None: each.
    pub offer: Option<OfferRef>,
    /// The datacenter. None: each.
    pub datacenter: Option<DatacenterId>,
    /// What holds there.
    pub rule: PriceRule,
}

/// What holds for the price of an offer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PriceRule {
    /// It is that, whatever VPSie says.
    Is(UsdPerHour),
    /// It is less by a share, percent, 0 to 100.
    PercentOff(Decimal),
    /// It is less by an amount.
    Off(UsdPerHour),
}

/// No machine costs more for an hour: such a price is a mistake, and sums of it would not be exact.
const DEAREST: UsdPerHour = UsdPerHour(Decimal::from_parts(1_000_000_000, 0, 0, false, 0));

/// How many times one of the API's two prices may be the other, for an hour. A monthly price in the hourly field
/// is 730 times too high, and cents instead of dollars 100 times; discounts for a whole month are far below this.
const MOST_TIMES: u32 = 5;

impl Override {
    fn covers(&self, offer: &Offer) -> bool {
        self.offer.as_ref().is_none_or(|wanted| offer.answers_to(wanted.as_str()))
            && self.datacenter.as_ref().is_none_or(|datacenter| *datacenter == offer.datacenter)
    }

    /// An offer says more than a datacenter, both say more than one.
    fn precision(&self) -> u8 {
        2 * u8::from(self.offer.is_some()) + u8::from(self.datacenter.is_some())
    }
}

impl Prices {
    /// USD per hour of a machine of the offer: the most precise price of the operator, else the API's own
    /// hourly price, else the monthly one divided (docs/reference/vpsie-api.md#prices); less the most precise
    /// discount. Where the two prices of the API contradict each other the monthly one is used. None when it
    /// is not known, or nothing would be left: no machine is free.
    pub fn of(&self, offer: &Offer) -> Option<UsdPerHour> {
        let price = self.own(offer).or_else(|| self.listed(offer))?;
        let discounted = self.said(offer, |rule| match rule {
            PriceRule::Is(_) => None,
            PriceRule::PercentOff(percent) => Some(price.less_percent(percent)),
            PriceRule::Off(amount) => Some(price - amount),
        });
        Some(discounted.unwrap_or(price).cut()).filter(|price| price.is_positive() && *price <= DEAREST)
    }

    /// The API's hourly price and its monthly one per hour, where both are given, contradict each other, and the
    /// operator does not say what the offer costs.
    pub fn contradiction(&self, offer: &Offer) -> Option<(UsdPerHour, UsdPerHour)> {
        let (hourly, monthly) = Self::hourly(offer).zip(self.of_month(offer))?;
        let contradict = hourly > monthly * MOST_TIMES || monthly > hourly * MOST_TIMES;
        (contradict && self.own(offer).is_none()).then_some((hourly, monthly))
    }

    fn own(&self, offer: &Offer) -> Option<UsdPerHour> {
        self.said(offer, |rule| match rule {
            PriceRule::Is(price) => Some(price),
            PriceRule::PercentOff(_) | PriceRule::Off(_) => None,
        })
    }

    fn listed(&self, offer: &Offer) -> Option<UsdPerHour> {
        let trusted = Self::hourly(offer).filter(|_| self.contradiction(offer).is_none());
        trusted.or_else(|| self.of_month(offer))
    }

    fn hourly(offer: &Offer) -> Option<UsdPerHour> {
        offer.hourly.map(UsdPerHour).filter(|price| price.is_positive())
    }

    fn of_month(&self, offer: &Offer) -> Option<UsdPerHour> {
        let monthly = offer.monthly.filter(|price| *price > Decimal::ZERO)?;
        Some(UsdPerHour::of_month(Usd(monthly), self.hours_per_month))
    }

    fn said(&self, offer: &Offer, of: impl Fn(PriceRule) -> Option<UsdPerHour>) -> Option<UsdPerHour> {
        let covering = self.overrides.iter().filter(|said| said.covers(offer));
        let said = covering.filter_map(|said| Some((said.precision(), of(said.rule)?)));
        said.max_by_key(|(precision, _)| *precision).map(|(_, price)| price)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CapacityType;
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

    fn said(offer: Option<&str>, datacenter: Option<&str>, rule: PriceRule) -> Override {
        Override { offer: offer.map(Into::into), datacenter: datacenter.map(Into::into), rule }
    }

    fn rate(text: &str) -> UsdPerHour {
        UsdPerHour(text.parse().unwrap())
    }

    #[test]
    fn a_listed_price_is_hourly_or_a_part_of_the_month_and_never_nothing() {
        let prices = Prices::default();
        assert_eq!(prices.of(&offer("a", "ams1", Some(73), Some("0.2"))), Some(rate("0.2")));
        assert_eq!(prices.of(&offer("a", "ams1", Some(73), None)), Some(rate("0.1")));
        assert_eq!(prices.of(&offer("a", "ams1", Some(73), Some("0"))), Some(rate("0.1")));
        assert_eq!(prices.of(&offer("a", "ams1", Some(0), None)), None);
        assert_eq!(prices.of(&offer("a", "ams1", None, Some("-1"))), None);
        assert_eq!(prices.of(&offer("a", "ams1", None, None)), None);
    }

    #[test]
    fn the_monthly_price_holds_where_the_hourly_one_contradicts_it() {
        let prices = Prices::default();
        for (hourly, want, told) in [
            ("0.5", "0.5", false),
            ("0.02", "0.02", false),
            ("73", "0.1", true),
            ("10", "0.1", true),
            ("0.51", "0.1", true),
            ("0.001", "0.1", true),
            ("79228162514264337593543950335", "0.1", true),
        ] {
            let offer = offer("a", "ams1", Some(73), Some(hourly));
            assert_eq!(prices.of(&offer), Some(rate(want)), "{hourly}");
            assert_eq!(prices.contradiction(&offer).is_some(), told, "{hourly}");
        }
        let own = vec![said(Some("a"), None, PriceRule::Is(rate("2")))];
        let prices = Prices { overrides: own, ..Prices::default() };
        assert_eq!(prices.contradiction(&offer("a", "ams1", Some(73), Some("73"))), None);
    }

    #[test]
    fn a_price_that_no_machine_has_is_none() {
        let overrides = vec![said(None, None, PriceRule::PercentOff(Decimal::from(50)))];
        for prices in [Prices::default(), Prices { overrides, ..Prices::default() }] {
            for hourly in ["79228162514264337593543950335", "3000000000", "0.0000000000001"] {
                assert_eq!(prices.of(&offer("a", "ams1", None, Some(hourly))), None, "{hourly}");
            }
        }
    }

    /// What machines cost together is kept up to date by adding and subtracting, and must stay the sum.
    #[test]
    fn sums_of_prices_are_exact() {
        for (monthly, hourly) in [(Some(24), None), (None, Some("0.0333333333333333333333333333"))] {
            let price = Prices::default().of(&offer("a", "ams1", monthly, hourly)).unwrap();
            let many = (0..1000).fold(UsdPerHour::ZERO, |sum, _| sum + price);
            let one = (0..999).fold(many, |sum, _| sum - price);
            assert_eq!((many, one), (price * 1000, price));
        }
    }

    #[test]
    fn machines_priced_by_the_month_fit_a_monthly_limit() {
        for monthly in [7, 11, 20, 24, 33] {
            let price = Prices::default().of(&offer("a", "ams1", Some(monthly), None)).unwrap();
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
    fn the_most_precise_word_of_the_operator_holds() {
        let overrides = vec![
            said(None, None, PriceRule::PercentOff(Decimal::from(10))),
            said(None, Some("nyc1"), PriceRule::Off(rate("0.01"))),
            said(Some("a"), None, PriceRule::Is(rate("0.5"))),
            said(Some("A"), Some("nyc1"), PriceRule::Is(rate("0.4"))),
            said(Some("7"), Some("fra1"), PriceRule::PercentOff(Decimal::from(50))),
            said(Some("free"), None, PriceRule::Off(rate("1"))),
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
            let price = prices.of(&offer(name, datacenter, None, Some("0.1")));
            assert_eq!(price, want.map(rate), "{name} in {datacenter}");
        }
        assert_eq!(
            prices.of(&offer("a", "ams1", None, None)),
            Some(rate("0.45")),
            "a price where VPSie has none"
        );
    }
}
