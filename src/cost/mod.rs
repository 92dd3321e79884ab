//! **Pure.** What things cost: money, prices, and sums of them.

mod limit;
mod money;
mod prices;
mod rates;

pub use limit::CostLimit;
pub use money::{HoursPerMonth, Usd, UsdPerHour};
pub use prices::{Override, PriceRule, Prices};
pub use rates::Rates;
