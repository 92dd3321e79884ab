//! **Pure.** Money, prices, costs, and the comparison of offers.

mod calculator;
mod interruption_rate;
mod limit;
mod money;
mod prices;
mod rates;

pub use calculator::{Cost, Difference, PriceBasis, PriceList, PricedOffer, RankedOffer, Requirement};
pub use interruption_rate::InterruptionRate;
pub use limit::CostLimit;
pub use money::{HoursPerMonth, Usd, UsdPerHour};
pub use prices::{Override, PriceRule, Prices};
pub use rates::Rates;
