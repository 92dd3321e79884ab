//! `offers`: what can be rented, what it costs, and what is the cheapest.

mod table;

use std::io::Write;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use serde::Serialize;

use super::ask::{AskArgs, Output};
use crate::catalog::quantity;
use crate::cost::{By, HoursPerMonth, PriceList, PricedOffer, Ranked, Requirement};

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("amounts").multiple(true))]
pub(super) struct OffersArgs {
    /// CPU that a machine is to have at least, nominally: a Kubernetes quantity
    #[arg(long, value_name = "CORES", value_parser = millicores, group = "amounts")]
    cpu: Option<u64>,
    /// Memory that a machine is to have at least, nominally: a Kubernetes quantity
    #[arg(long, value_name = "BYTES", value_parser = mebibytes, group = "amounts")]
    memory: Option<u64>,
    /// Disk that a machine is to have at least: a Kubernetes quantity
    #[arg(long, value_name = "BYTES", value_parser = gibibytes, group = "amounts")]
    disk: Option<u64>,
    /// Where it is to be
    #[arg(long, value_name = "DATACENTER")]
    datacenter: Option<String>,
    /// Orders and compares by the price of a machine divided by how many times it has --cpu, --memory and --disk
    #[arg(long, requires = "amounts")]
    per_unit: bool,
    /// Two offers, as `s-2vcpu-4gb` or, where several datacenters have it, `ams1/s-2vcpu-4gb`: what the cheaper one saves
    #[arg(long, value_names = ["OFFER", "OFFER"], num_args = 2)]
    compare: Vec<String>,
    #[command(flatten)]
    ask: AskArgs,
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

/// A quantity in units, rounded up. Less than one is most likely a number whose unit was forgotten.
fn amount(text: &str, unit: f64, least: &str) -> Result<u64, String> {
    let units = quantity::parse(text).map(|amount| amount / unit);
    // Not rounded up for the error of a binary fraction.
    let units = units.filter(|units| *units >= 1.0).map(|units| (units - 1e-6).ceil() as u64);
    units.ok_or_else(|| format!("is {text:?}, must be a Kubernetes quantity of at least {least}"))
}

/// What is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    hours_per_month: HoursPerMonth,
    offers: Vec<Ranked<'a>>,
}

pub(super) async fn run(args: OffersArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let text = args.ask.ask("/debug/offers").await?;
    let list: PriceList = serde_json::from_str(&text).context("/debug/offers does not answer with offers")?;
    write!(out, "{}", args.answer(list)?)?;
    Ok(())
}

impl OffersArgs {
    fn answer(&self, mut list: PriceList) -> anyhow::Result<String> {
        let requirement = Requirement {
            cpu_millis: self.cpu.unwrap_or(0),
            memory_mib: self.memory.unwrap_or(0),
            disk_gib: self.disk.unwrap_or(0),
            datacenter: self.datacenter.as_deref().map(Into::into),
        };
        if let Some(wanted) = &requirement.datacenter
            && !list.offers.iter().any(|priced| priced.offer.datacenter == *wanted)
        {
            bail!("--datacenter: there are no offers in {wanted}, but in {}", datacenters(&list.offers));
        }
        if let [first, second] = self.compare.as_slice() {
            let named = |name: &String| self.named(&list.offers, name, &requirement);
            list.offers = vec![named(first)?, named(second)?];
        }
        let by = if self.per_unit { By::Unit } else { By::Machine };
        let offers = list.rank(&requirement, by);
        let hours_per_month = list.hours_per_month;
        Ok(match self.ask.output {
            Output::Json => serde_json::to_string(&Answer { hours_per_month, offers })? + "\n",
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

    /// The one offer that is meant by `[datacenter/]offer`.
    fn named(
        &self,
        offers: &[PricedOffer],
        name: &str,
        requirement: &Requirement,
    ) -> anyhow::Result<PricedOffer> {
        let (datacenter, offer) = match name.split_once('/') {
            Some((datacenter, offer)) => (Some(datacenter), offer),
            None => (self.datacenter.as_deref(), name),
        };
        let here = |priced: &&PricedOffer| datacenter.is_none_or(|id| priced.offer.datacenter.as_str() == id);
        let meant: Vec<_> =
            offers.iter().filter(here).filter(|priced| priced.offer.answers_to(offer)).cloned().collect();
        match meant.as_slice() {
            [] => bail!("--compare: there is no offer {name}"),
            [one] if requirement.units(&one.offer) == 0 => {
                bail!("--compare: {name} does not have what --cpu, --memory, --disk and --datacenter say")
            }
            [one] => Ok(one.clone()),
            several => bail!("--compare: {name} is in {}: say <datacenter>/{offer}", datacenters(several)),
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
