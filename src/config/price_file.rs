//! Prices and discounts of the operator, from a YAML file.

use std::collections::BTreeSet;
use std::path::Path;

use rust_decimal::Decimal;
use serde::Deserialize;

use crate::catalog::CapacityType;
use crate::cost::{HoursPerMonth, InterruptionRate, Override, PriceRule, Usd, UsdPerHour};
use crate::validation::Problem;

const FLAG: &str = "--price-file";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    overrides: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    offer: Option<String>,
    datacenter: Option<String>,
    #[serde(default)]
    capacity_type: CapacityType,
    hourly: Option<Decimal>,
    monthly: Option<Decimal>,
    discount_percent: Option<Decimal>,
    discount_hourly: Option<Decimal>,
    interruption_rate: Option<f64>,
}

/// Reads the file. Problems name the entry and the field.
pub(super) fn load(path: &Path, hours: HoursPerMonth, problems: &mut Vec<Problem>) -> Vec<Override> {
    let name = path.display();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, hours, problems),
        Err(error) => {
            problems.push(Problem::new(FLAG, "", format!("{name} cannot be read: {error}")));
            Vec::new()
        }
    }
}

fn parse(text: &str, hours: HoursPerMonth, problems: &mut Vec<Problem>) -> Vec<Override> {
    let file: PriceFile = match serde_saphyr::from_str(text) {
        Ok(file) => file,
        Err(error) => {
            let line = error.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default();
            problems.push(Problem::new(FLAG, "", format!("{line}{}", error.without_snippet())));
            return Vec::new();
        }
    };
    let mut seen = BTreeSet::new();
    let mut overrides = Vec::new();
    for (n, entry) in file.overrides.into_iter().enumerate() {
        let path = format!("overrides[{n}]");
        if entry.capacity_type == CapacityType::Spot && entry.offer.is_none() && entry.has_price() {
            let message = "must name an offer: a price with capacityType: spot adds a spot offer";
            problems.push(Problem::new(FLAG, &path, message));
        }
        let interruption_rate = entry.interruption_rate.map(InterruptionRate::percent_a_month);
        if let Some(message) = entry.interruption_problem() {
            problems.push(Problem::new(FLAG, format!("{path}.interruptionRate"), message));
        }
        match entry.rule(hours) {
            Ok(rule) => {
                let kind = matches!(rule, PriceRule::Price(_));
                let offer = entry.offer.as_deref().map(str::to_ascii_lowercase);
                if !seen.insert((kind, entry.capacity_type, offer, entry.datacenter.clone())) {
                    let message = "has the same offer, datacenter and capacityType as an earlier entry: keep one of \
                                   them";
                    problems.push(Problem::new(FLAG, &path, message));
                }
                overrides.push(Override {
                    offer: entry.offer.as_deref().map(Into::into),
                    datacenter: entry.datacenter.as_deref().map(Into::into),
                    capacity_type: entry.capacity_type,
                    rule,
                    interruption_rate,
                });
            }
            Err((field, message)) => {
                let field = if field.is_empty() { path } else { format!("{path}.{field}") };
                problems.push(Problem::new(FLAG, field, message));
            }
        }
    }
    overrides
}

impl Entry {
    fn has_price(&self) -> bool {
        self.hourly.is_some() || self.monthly.is_some()
    }

    fn interruption_problem(&self) -> Option<String> {
        let rate = self.interruption_rate?;
        if self.capacity_type != CapacityType::Spot || !self.has_price() {
            return Some("is only for a price with capacityType: spot".to_owned());
        }
        let is_allowed = rate > 0.0 && rate <= 100.0;
        (!is_allowed)
            .then(|| format!("is {rate}, must be above 0 and at most 100 percent of machines a month"))
    }

    fn rule(&self, hours: HoursPerMonth) -> Result<PriceRule, (&'static str, String)> {
        let positive = |field, amount: Decimal| {
            if amount > Decimal::ZERO {
                return Ok(amount);
            }
            Err((field, format!("is {amount}, must be above 0: no machine is free")))
        };
        match (self.hourly, self.monthly, self.discount_percent, self.discount_hourly) {
            (Some(price), None, None, None) => {
                positive("hourly", price).map(UsdPerHour).map(PriceRule::Price)
            }
            (None, Some(price), None, None) => {
                let price = Usd(positive("monthly", price)?);
                Ok(PriceRule::Price(UsdPerHour::of_month(price, hours)))
            }
            (None, None, Some(percent), None) if percent < Decimal::ONE_HUNDRED => {
                positive("discountPercent", percent).map(PriceRule::PercentDiscount)
            }
            (None, None, Some(percent), None) => {
                Err(("discountPercent", format!("is {percent}, must be below 100: no machine is free")))
            }
            (None, None, None, Some(amount)) => {
                positive("discountHourly", amount).map(UsdPerHour).map(PriceRule::Discount)
            }
            _ => {
                let message = "must have one of hourly, monthly, discountPercent and discountHourly";
                Err(("", message.to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Override>, Vec<String>) {
        let mut problems = Vec::new();
        let overrides = parse(text, HoursPerMonth::new(720).unwrap(), &mut problems);
        (overrides, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn entries_are_prices_and_discounts() {
        let text = "
            overrides:
            - {offer: small, hourly: 0.05}
            - {datacenter: nyc1, monthly: '36'}
            - {discountPercent: 12.5}
            - {offer: small, datacenter: nyc1, discountHourly: '0.001'}
            - {offer: small, capacityType: spot, hourly: 0.02}
        ";
        let (overrides, problems) = read(text);
        assert_eq!(problems, Vec::<String>::new());
        let spot: Vec<_> = overrides.iter().map(|entry| entry.capacity_type == CapacityType::Spot).collect();
        assert_eq!(spot, [false, false, false, false, true]);
        let rules: Vec<_> = overrides.iter().map(|entry| entry.rule).collect();
        let amount = |text: &str| text.parse::<Decimal>().unwrap();
        assert_eq!(
            rules,
            [
                PriceRule::Price(UsdPerHour(amount("0.05"))),
                PriceRule::Price(UsdPerHour(amount("0.05"))),
                PriceRule::PercentDiscount(amount("12.5")),
                PriceRule::Discount(UsdPerHour(amount("0.001"))),
                PriceRule::Price(UsdPerHour(amount("0.02"))),
            ]
        );
    }

    #[test]
    fn names_each_problem() {
        for (text, want) in [
            ("overrides: [{hourly: 0}]", "overrides[0].hourly: is 0, must be above 0"),
            ("overrides: [{monthly: -1}]", "overrides[0].monthly: is -1, must be above 0"),
            (
                "overrides: [{discountPercent: 100}]",
                "overrides[0].discountPercent: is 100, must be below 100",
            ),
            ("overrides: [{offer: a}]", "overrides[0]: must have one of hourly"),
            ("overrides: [{hourly: 1, monthly: 2}]", "overrides[0]: must have one of hourly"),
            ("overrides: [{hourly: 1}, {monthly: 2}]", "overrides[1]: has the same offer"),
            ("overrides: [{price: 1}]", "line 1: "),
            ("overrides: [{hourly: 1, capacityType: reserved}]", "line 1: "),
            ("overrides: [{hourly: 1, capacityType: spot}]", "overrides[0]: must name an offer"),
            ("prices: []", "line 1: "),
            ("overrides: [{hourly: dear}]", "line 1: "),
        ] {
            let (_, problems) = read(text);
            assert!(problems.len() == 1 && problems[0].contains(want), "{text}: {problems:?}");
        }
    }
}
