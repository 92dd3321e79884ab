use super::money::{HoursPerMonth, Usd, UsdPerHour};

/// Maximum cost of machines together. If both limits are set, both apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CostLimit {
    /// USD per hour.
    pub hourly: Option<UsdPerHour>,
    /// USD per month.
    pub monthly: Option<Usd>,
}

impl CostLimit {
    /// The lower of both limits, as a rate. None if there is no limit.
    pub fn rate(self, hours: HoursPerMonth) -> Option<UsdPerHour> {
        let monthly = self.monthly.map(|monthly| UsdPerHour::of_month(monthly, hours));
        self.hourly.into_iter().chain(monthly).min()
    }

    /// The lower value of each limit.
    pub fn strictest(self, other: Self) -> Self {
        Self {
            hourly: self.hourly.into_iter().chain(other.hourly).min(),
            monthly: self.monthly.into_iter().chain(other.monthly).min(),
        }
    }
}
