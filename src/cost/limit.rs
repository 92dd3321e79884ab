use super::money::{HoursPerMonth, Usd, UsdPerHour};

/// The most that machines may cost together. Both hold where both are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CostLimit {
    /// USD per hour.
    pub hourly: Option<UsdPerHour>,
    /// USD per month.
    pub monthly: Option<Usd>,
}

impl CostLimit {
    /// The rate that may not be passed. None: there is no limit.
    pub fn rate(self, hours: HoursPerMonth) -> Option<UsdPerHour> {
        let monthly = self.monthly.map(|monthly| UsdPerHour::of_month(monthly, hours));
        self.hourly.into_iter().chain(monthly).min()
    }

    /// The stricter of both in each.
    pub fn strictest(self, other: Self) -> Self {
        Self {
            hourly: self.hourly.into_iter().chain(other.hourly).min(),
            monthly: self.monthly.into_iter().chain(other.monthly).min(),
        }
    }
}
