//! Exact amounts of money. VPSie's prices are in USD, so the types name the currency.

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

/// Hours per month for conversion of prices, 1 to 744.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HoursPerMonth(u32);

impl HoursPerMonth {
    /// None unless the value is 1 to 744, the hours of the longest month.
    pub fn new(hours: u32) -> Option<Self> {
        (1..=744).contains(&hours).then_some(Self(hours))
    }

    /// The number of hours.
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
    /// Zero.
    pub const ZERO: Self = Self(Decimal::ZERO);

    /// Converts a monthly price.
    pub fn of_month(monthly: Usd, hours: HoursPerMonth) -> Self {
        Self(monthly.0 / Decimal::from(hours.0))
    }

    /// The amount for 24 hours.
    pub fn daily(self) -> Usd {
        Usd(self.0.saturating_mul(Decimal::from(24)))
    }

    /// The amount for a month.
    pub fn monthly(self, hours: HoursPerMonth) -> Usd {
        Usd(self.0.saturating_mul(Decimal::from(hours.0)))
    }

    /// Subtracts a percentage, 0 to 100.
    pub fn less_percent(self, percent: Decimal) -> Self {
        let rest = Decimal::ONE_HUNDRED.saturating_sub(percent);
        let whole = self.0.checked_mul(rest).map(|amount| amount / Decimal::ONE_HUNDRED);
        Self(whole.unwrap_or_else(|| (self.0 / Decimal::ONE_HUNDRED).saturating_mul(rest)))
    }

    /// The rate times a factor that is not money, to twelve decimals. 0 if the factor is not a number.
    pub fn scaled(self, factor: f64) -> Self {
        let factor = Decimal::try_from(factor).unwrap_or_default();
        Self(self.0.saturating_mul(factor)).truncate()
    }

    /// Truncates the rate to twelve decimals, so that sums are exact. It must not round up: machines within a
    /// monthly limit must also be within it as an hourly one.
    pub fn truncate(self) -> Self {
        Self(self.0.round_dp_with_strategy(12, RoundingStrategy::ToZero))
    }

    /// Whether the rate is 0.
    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }

    /// Whether the rate is above 0, as every price must be.
    pub fn is_positive(self) -> bool {
        self.0 > Decimal::ZERO
    }

    /// Converts to a float for scores. Not for sums of money.
    pub fn to_f64(self) -> f64 {
        self.0.to_f64().unwrap_or(0.0)
    }
}

impl Usd {
    /// Zero.
    pub const ZERO: Self = Self(Decimal::ZERO);

    /// Converts to a float for output. Not for sums of money.
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
    fn saturates_at_the_largest_amount() {
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
