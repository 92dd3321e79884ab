//! **Pure.** What things cost: money, prices, sums of them, and how offers compare.

mod calculator;
mod limit;
mod money;
mod prices;
mod rates;

pub use calculator::{By, Cost, Difference, PriceList, PricedOffer, Ranked, Requirement};
pub use limit::CostLimit;
pub use money::{HoursPerMonth, Usd, UsdPerHour};
pub use prices::{Override, PriceRule, Prices};
pub use rates::Rates;
