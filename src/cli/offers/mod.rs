//! `offers`: shows offers with their prices.

mod table;

use std::io::Write;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use serde::Serialize;

use super::http_query::{HttpQueryArgs, Output};
use crate::catalog::{CapacityType, quantity};
use crate::cost::{HoursPerMonth, PriceBasis, PriceList, PricedOffer, RankedOffer, Requirement};

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("amounts").multiple(true))]
pub(super) struct OffersArgs {
    /// Minimum nominal CPU of a machine: a Kubernetes quantity
    #[arg(long, value_name = "CORES", value_parser = millicores, group = "amounts")]
    cpu: Option<u64>,
    /// Minimum nominal memory of a machine: a Kubernetes quantity
    #[arg(long, value_name = "BYTES", value_parser = mebibytes, group = "amounts")]
    memory: Option<u64>,
    /// Minimum disk of a machine: a Kubernetes quantity
    #[arg(long, value_name = "BYTES", value_parser = gibibytes, group = "amounts")]
    disk: Option<u64>,
    /// Datacenter of the machine
    #[arg(long, value_name = "DATACENTER")]
    datacenter: Option<String>,
    /// Order and compare by price per unit. A unit has the resources of --cpu, --memory and --disk; a machine
    /// is divided into whole units
    #[arg(long, requires = "amounts")]
    per_unit: bool,
    /// Compare two offers, such as `s-2vcpu-4gb` or, if several datacenters have it, `ams1/s-2vcpu-4gb`
    #[arg(long, value_names = ["OFFER", "OFFER"], num_args = 2)]
    compare: Vec<String>,
    #[command(flatten)]
    query: HttpQueryArgs,
}

fn millicores(text: &str) -> Result<u64, String> {
    amount(text, 1e-3, "1m such as 4 or 500m")
}

fn mebibytes(text: &str) -> Result<u64, String> {
    amount(text, f64::from(1 << 20), "1Mi such as 8Gi")
}

fn gibibytes(text: &str) -> Result<u64, String> {
    amount(text, f64::from(1 << 30), "1Gi such as 40Gi")
}

/// A quantity in units, rounded up. Less than one unit is refused: most likely its suffix was forgotten.
fn amount(text: &str, unit: f64, minimum: &str) -> Result<u64, String> {
    let units = quantity::parse(text).map(|amount| amount / unit);
    // Not rounded up for the error of a binary fraction.
    let units = units.filter(|units| *units >= 1.0).map(|units| (units - 1e-6).ceil() as u64);
    units.ok_or_else(|| format!("is {text:?}, must be a Kubernetes quantity of at least {minimum}"))
}

/// The JSON output.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OffersOutput<'a> {
    hours_per_month: HoursPerMonth,
    offers: Vec<RankedOffer<'a>>,
}

pub(super) async fn run(args: OffersArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let text = args.query.fetch("/debug/offers").await?;
    let list: PriceList =
        serde_json::from_str(&text).context("the reply of /debug/offers is not a list of offers")?;
    write!(out, "{}", args.format_offers(list)?)?;
    Ok(())
}

impl OffersArgs {
    fn format_offers(&self, mut list: PriceList) -> anyhow::Result<String> {
        let requirement = Requirement {
            cpu_millis: self.cpu.unwrap_or(0),
            memory_mib: self.memory.unwrap_or(0),
            disk_gib: self.disk.unwrap_or(0),
            datacenter: self.datacenter.as_deref().map(Into::into),
        };
        if let Some(wanted) = &requirement.datacenter
            && !list.offers.iter().any(|priced| priced.offer.datacenter == *wanted)
        {
            bail!("--datacenter: no offers in {wanted}; offers exist in {}", datacenters(&list.offers));
        }
        if let [first, second] = self.compare.as_slice() {
            let find = |name: &String| self.find_offer(&list.offers, name, &requirement);
            list.offers = vec![find(first)?, find(second)?];
        }
        let by = if self.per_unit { PriceBasis::Unit } else { PriceBasis::Machine };
        let offers = list.rank(&requirement, by);
        let hours_per_month = list.hours_per_month;
        Ok(match self.query.output {
            Output::Json => serde_json::to_string(&OffersOutput { hours_per_month, offers })? + "\n",
            Output::Table => {
                let mut text = table::offers(&offers, requirement.has_amounts());
                if let [cheaper, dearer] = offers.as_slice()
                    && !self.compare.is_empty()
                {
                    text += &table::saving(cheaper, dearer, by, hours_per_month);
                }
                text
            }
        })
    }

    /// The offer that `[datacenter/]offer[/spot]` identifies.
    fn find_offer(
        &self,
        offers: &[PricedOffer],
        name: &str,
        requirement: &Requirement,
    ) -> anyhow::Result<PricedOffer> {
        let (wanted, capacity_type) = match name.strip_suffix("/spot") {
            Some(wanted) => (wanted, CapacityType::Spot),
            None => (name, CapacityType::OnDemand),
        };
        let (datacenter, offer) = match wanted.split_once('/') {
            Some((datacenter, offer)) => (Some(datacenter), offer),
            None => (self.datacenter.as_deref(), wanted),
        };
        let here = |priced: &&PricedOffer| {
            priced.offer.capacity_type == capacity_type
                && datacenter.is_none_or(|id| priced.offer.datacenter.as_str() == id)
        };
        let matching: Vec<_> =
            offers.iter().filter(here).filter(|priced| priced.offer.is_named(offer)).cloned().collect();
        match matching.as_slice() {
            [] => bail!("--compare: unknown offer {name}"),
            [only] if requirement.units(&only.offer) == 0 => {
                bail!("--compare: {name} does not meet --cpu, --memory, --disk and --datacenter")
            }
            [only] => Ok(only.clone()),
            several => bail!("--compare: {name} is in {}; write <datacenter>/{offer}", datacenters(several)),
        }
    }
}

fn datacenters(offers: &[PricedOffer]) -> String {
    let mut ids: Vec<&str> = offers.iter().map(|priced| priced.offer.datacenter.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.join(", ")
}

#[cfg(test)]
mod tests;
