use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text;
use crate::cost::{self, Usd, UsdPerHour};

/// The most that machines may cost together. Both hold where both are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CostLimit {
    /// USD per hour, such as `"0.50"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Money>")]
    pub hourly: Option<String>,
    /// USD per month, such as `"300"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Money>")]
    pub monthly: Option<String>,
}

impl From<&CostLimit> for cost::CostLimit {
    /// What is no amount was refused before, and is no limit of 0 or none at all: nothing may be spent.
    fn from(limit: &CostLimit) -> Self {
        let amount = |text: &String| text.parse::<Decimal>().unwrap_or_default();
        Self {
            hourly: limit.hourly.as_ref().map(amount).map(UsdPerHour),
            monthly: limit.monthly.as_ref().map(amount).map(Usd),
        }
    }
}
