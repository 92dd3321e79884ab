//! Money, exact. VPSie's prices are in USD, so the currency is in the type.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Mul, Sub};
use std::str::FromStr;

use rust_decimal::prelude::ToPrimitive as _;
use rust_decimal::{Decimal, RoundingStrategy};
use serde::{Deserialize, Serialize};

/// An amount, USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Usd(pub Decimal);

/// A rate, USD per hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UsdPerHour(pub Decimal);

/// Hours that a month is billed as, 1 to 744. The same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HoursPerMonth(u32);

impl HoursPerMonth {
    /// None unless it is 1 to 744: no month has more hours.
    pub fn new(hours: u32) -> Option<Self> {
        (1..=744).contains(&hours).then_some(Self(hours))
    }

    /// How many.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for HoursPerMonth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| format!("{text} is not in 1..=744"))
    }
}

impl Default for HoursPerMonth {
    /// 730: a year divided by twelve.
    fn default() -> Self {
        Self(730)
    }
}

impl UsdPerHour {
    /// Nothing.
    pub const ZERO: Self = Self(Decimal::ZERO);

    /// The rate of a price per month.
    pub fn of_month(monthly: Usd, hours: HoursPerMonth) -> Self {
        Self(monthly.0 / Decimal::from(hours.0))
    }

    /// A day of it: 24 hours.
    pub fn daily(self) -> Usd {
        Usd(self.0.saturating_mul(Decimal::from(24)))
    }

    /// A month of it.
    pub fn monthly(self, hours: HoursPerMonth) -> Usd {
        Usd(self.0.saturating_mul(Decimal::from(hours.0)))
    }

    /// Less a share of it, percent, 0 to 100.
    pub fn less_percent(self, percent: Decimal) -> Self {
        let rest = Decimal::ONE_HUNDRED.saturating_sub(percent);
        let whole = self.0.checked_mul(rest).map(|amount| amount / Decimal::ONE_HUNDRED);
        Self(whole.unwrap_or_else(|| (self.0 / Decimal::ONE_HUNDRED).saturating_mul(rest)))
    }

    /// Cuts it to twelve decimals, so that sums are exact: a part of a month has no end. Never upwards: as many machines
    /// as a limit allows by the month must be within it by the hour.
    pub fn cut(self) -> Self {
        Self(self.0.round_dp_with_strategy(12, RoundingStrategy::ToZero))
    }

    /// Whether it is above 0: no other price is one.
    pub fn is_positive(self) -> bool {
        self.0 > Decimal::ZERO
    }

    /// As a number to compute scores with, never to add money up.
    pub fn to_f64(self) -> f64 {
        self.0.to_f64().unwrap_or(0.0)
    }
}

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(Decimal::ZERO);

    /// As a number to show, never to add money up.
    pub fn to_f64(self) -> f64 {
        self.0.to_f64().unwrap_or(0.0)
    }
}

macro_rules! arithmetic {
    ($money:ident, $unit:literal) => {
        impl Add for $money {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl Sub for $money {
            type Output = Self;

            fn sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl Mul<u32> for $money {
            type Output = Self;

            fn mul(self, times: u32) -> Self {
                Self(self.0.saturating_mul(Decimal::from(times)))
            }
        }

        impl Sum for $money {
            fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
                items.fold(Self::ZERO, Add::add)
            }
        }

        impl fmt::Display for $money {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}", $unit), self.0.round_dp(6).normalize())
            }
        }
    };
}

arithmetic!(Usd, " USD");
arithmetic!(UsdPerHour, " USD/h");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_of_an_hour_and_an_hour_of_a_month_agree() {
        let hours = HoursPerMonth::new(720).unwrap();
        let rate = UsdPerHour::of_month(Usd(Decimal::from(36)), hours);
        assert_eq!(rate, UsdPerHour(Decimal::new(5, 2)));
        assert_eq!(rate.monthly(hours), Usd(Decimal::from(36)));
        assert_eq!(rate.daily(), Usd(Decimal::new(12, 1)));
        assert_eq!((rate * 3).to_string(), "0.15 USD/h");
        assert_eq!([rate, rate].into_iter().sum::<UsdPerHour>().to_string(), "0.1 USD/h");
    }

    #[test]
    fn a_share_of_the_largest_does_not_overflow() {
        let half = UsdPerHour(Decimal::MAX).less_percent(Decimal::from(50));
        assert!(half > UsdPerHour(Decimal::MAX / Decimal::from(3)), "{half}");
        assert_eq!(
            UsdPerHour(Decimal::from(2)).less_percent(Decimal::from(25)),
            UsdPerHour(Decimal::new(15, 1))
        );
    }

    #[test]
    fn what_is_too_large_stays_the_largest() {
        let huge = UsdPerHour(Decimal::MAX);
        assert_eq!(huge + huge, huge);
        assert_eq!(huge * 7, huge);
        assert_eq!(huge.monthly(HoursPerMonth::default()), Usd(Decimal::MAX));
    }

    #[test]
    fn no_month_has_0_or_745_hours() {
        assert_eq!(HoursPerMonth::new(0), None);
        assert_eq!(HoursPerMonth::new(745), None);
        assert_eq!(HoursPerMonth::new(744).map(HoursPerMonth::get), Some(744));
        for text in ["0", "745", "-1", "", "730h"] {
            assert_eq!(text.parse::<HoursPerMonth>(), Err(format!("{text} is not in 1..=744")));
        }
    }
}
