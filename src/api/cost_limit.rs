use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text;
use crate::cost::{self, Usd, UsdPerHour};

/// Maximum cost of machines together. If both fields are set, both apply.
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
    /// Validation has refused invalid amounts. If one gets here, it is a limit of 0, because no limit could
    /// cost money.
    fn from(limit: &CostLimit) -> Self {
        let amount = |text: &String| text.parse::<Decimal>().unwrap_or_default();
        Self {
            hourly: limit.hourly.as_ref().map(amount).map(UsdPerHour),
            monthly: limit.monthly.as_ref().map(amount).map(Usd),
        }
    }
}
