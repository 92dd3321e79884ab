//! Rates of interruptions of spot machines.

use std::fmt;

/// Hours of a month in rates.
const HOURS_PER_MONTH: f64 = 730.0;

/// Rate of interruptions, per machine-hour. Always above 0. It is shown in percent of machines a month.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct InterruptionRate(f64);

impl InterruptionRate {
    /// The assumed rate of offers without a configured one: 5 percent of machines a month, the average that AWS
    /// publishes for its spot instances.
    pub const ASSUMED: Self = Self(0.05 / HOURS_PER_MONTH);

    /// A rate per machine-hour. The minimum is one interruption in a million machine-years.
    pub fn per_hour(rate: f64) -> Self {
        Self(rate.max(1e-10))
    }

    /// A rate in percent of machines a month.
    pub fn percent_a_month(percent: f64) -> Self {
        Self::per_hour(percent / 100.0 / HOURS_PER_MONTH)
    }

    /// Interruptions per machine-hour.
    pub fn to_per_hour(self) -> f64 {
        self.0
    }

    /// Percent of machines a month.
    pub fn to_percent_a_month(self) -> f64 {
        self.0 * HOURS_PER_MONTH * 100.0
    }
}

impl fmt::Display for InterruptionRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} percent a month", self.to_percent_a_month())
    }
}
