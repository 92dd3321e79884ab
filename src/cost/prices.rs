//! The price of an offer: VPSie's own, unless settings say otherwise.

use rust_decimal::Decimal;

use super::money::{HoursPerMonth, Usd, UsdPerHour};
use crate::catalog::Offer;

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
pub struct Override {}

impl Prices {
    /// USD per hour of a machine of the offer: the API's own hourly price, else the monthly one divided (API §16,
    /// row 20). None when nobody knows its price.
    pub fn of(&self, offer: &Offer) -> Option<UsdPerHour> {
        let listed = offer.hourly.filter(|price| *price > Decimal::ZERO).map(UsdPerHour).or_else(|| {
            let monthly = offer.monthly.filter(|price| *price > Decimal::ZERO)?;
            Some(UsdPerHour::of_month(Usd(monthly), self.hours_per_month))
        });
        listed.filter(|price| price.is_positive())
    }
}
