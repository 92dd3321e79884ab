//! **Pure.** What things cost: money, prices, and sums of them.

mod money;
mod prices;

pub use money::{HoursPerMonth, Usd, UsdPerHour};
pub use prices::{Override, Prices};
