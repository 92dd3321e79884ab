//! Objects and behaviour of the simulated VPSie.

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::catalog::CapacityType;

use super::anomalies::AnomaliesConfig;
use super::config_error::ConfigError;
use super::datacenter_faults::DatacenterFaults;
use super::fault::FaultRule;
use super::market::{MarketClass, MarketConfig};
use super::shapes::Shapes;
use super::span::Span;

/// The cluster of the default configuration.
pub const DEFAULT_CLUSTER: &str = "5a1c94be-6f3d-11ef-9b52-bc24115e1e5f";
/// The datacenter of the default configuration.
pub const DEFAULT_DATACENTER: &str = "ams1";
/// `clientId` of the default configuration.
pub const DEFAULT_CLIENT_ID: &str = "simulated-client";
/// `clientSecret` of the default configuration.
pub const DEFAULT_CLIENT_SECRET: &str = "simulated-secret";
/// The static API token of the default configuration.
pub const DEFAULT_TOKEN: &str = "simulated-token";

/// Objects and behaviour of the simulated VPSie.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SimulatorConfig {
    /// Random seed for names, UUIDs, times and faults.
    pub seed: u64,
    /// Credentials and balance of the account.
    pub account: AccountConfig,
    /// Datacenters.
    pub datacenters: Vec<DatacenterConfig>,
    /// Offers of all datacenters.
    pub offers: Vec<OfferConfig>,
    /// The Kubernetes clusters of the account.
    pub clusters: Vec<ClusterConfig>,
    /// Maximum numbers of VMs. No entry: no limit.
    pub capacity: Vec<CapacityConfig>,
    /// Maximum number of workers of the account. None: no limit.
    pub worker_quota: Option<u32>,
    /// Maximum number of VMs outside managed clusters. None: no limit.
    pub vm_quota: Option<u32>,
    /// Maximum requests per minute; further requests get 429. None: no limit. VPSie's own limit is unknown.
    pub rate_limit: Option<u32>,
    /// Durations of operations.
    pub times: TimesConfig,
    /// Probability that a VM never comes up, 0 to 1.
    pub boot_failure: f64,
    /// Reply to a request that exceeds the capacity.
    pub shortage: Shortage,
    /// Message of that reply. VPSie's own wording is unknown.
    pub shortage_message: String,
    /// Divisor of monthly prices, for offers without an hourly price.
    pub hours_per_month: u32,
    /// Shapes of the API.
    pub shapes: Shapes,
    /// Lasting faults.
    pub anomalies: AnomaliesConfig,
    /// Fault rules that are active from the start.
    pub faults: Vec<FaultRule>,
    /// The spot market.
    pub spot_market: MarketConfig,
}

/// Credentials and balance of the account.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AccountConfig {
    /// `clientId` of a login.
    pub client_id: String,
    /// `clientSecret` of a login.
    pub client_secret: SecretString,
    /// Static API token, without expiry.
    pub token: SecretString,
    /// Lifetime of the token of a login.
    pub token_lifetime: SignedDuration,
    /// Prepaid balance, USD. The bill shows it; it limits nothing.
    pub balance: Decimal,
}

/// A datacenter.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DatacenterConfig {
    /// UUID, or a short name such as `ams1`.
    pub identifier: String,
    /// `dc_name`.
    pub name: String,
    /// City or region.
    #[serde(default)]
    pub state: String,
    /// Country.
    #[serde(default)]
    pub country: String,
    /// Names of its offers. None: all.
    #[serde(default)]
    pub offers: Option<Vec<String>>,
    /// Factor of all prices.
    #[serde(default = "one")]
    pub price_factor: Decimal,
    /// Operating systems (`osIdentifier`) that it has. None: any.
    #[serde(default)]
    pub images: Option<Vec<String>>,
    /// Its faults at the start.
    #[serde(default)]
    pub faults: DatacenterFaults,
}

/// An offer: a size of VMs, with its price.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OfferConfig {
    /// `KubeSizeID`.
    pub id: u64,
    /// Name, such as `s-2vcpu-4gb`.
    pub name: String,
    /// Plan category, one letter.
    #[serde(default = "category")]
    pub category: String,
    /// Cores.
    pub cpu: u32,
    /// Memory, MiB.
    pub ram: u64,
    /// Disk, GiB.
    pub disk: u64,
    /// Traffic per month, GiB.
    #[serde(default)]
    pub traffic: u64,
    /// USD per month.
    pub monthly: Decimal,
    /// USD per hour. None: the monthly price divided by `hoursPerMonth`.
    #[serde(default)]
    pub hourly: Option<Decimal>,
    /// Price of a spot VM, USD per month. None: the size has no spot offer.
    #[serde(default)]
    pub spot_monthly: Option<Decimal>,
}

/// A Kubernetes cluster of the account.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterConfig {
    /// UUID.
    pub identifier: String,
    /// Name, which is the prefix of its hostnames, such as `AMS-Kubernetes-49ab`.
    pub name: String,
    /// Identifier of its datacenter.
    pub datacenter: String,
    /// Kubernetes version, without `v`.
    #[serde(default = "kube_version")]
    pub kube_version: String,
    /// Number of control-plane nodes.
    #[serde(default = "one_u32")]
    pub control_plane: u32,
    /// Number of initial workers that no autoscaler created.
    #[serde(default)]
    pub foreign_workers: u32,
    /// Offer of these workers and of the control plane, by name. None: the first offer.
    #[serde(default)]
    pub offer: Option<String>,
}

/// Maximum number of VMs of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapacityConfig {
    /// Identifier of the datacenter. None: each datacenter.
    #[serde(default)]
    pub datacenter: Option<String>,
    /// Name of the offer.
    pub offer: String,
    /// Capacity type. None: both together.
    #[serde(default)]
    pub capacity_type: Option<CapacityType>,
    /// Maximum number of VMs, including existing ones.
    pub limit: u32,
}

/// Reply to a request that exceeds the capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Shortage {
    /// The request is refused.
    #[default]
    Refused,
    /// The request is accepted, but no VM is created.
    Silent,
}

/// Durations of operations.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TimesConfig {
    /// Time from the request until the VM is listed.
    pub listed: Span,
    /// Time from the request until the VM is up and joins its cluster.
    pub boot: Span,
    /// Time from the deletion until the VM is no longer listed.
    pub deletion: Span,
    /// Time before the first listing in which a VM is not pending any more.
    pub gap: Span,
    /// Time from the attachment of a VPC or firewall group until it is done.
    pub attachment: Span,
}

impl Default for TimesConfig {
    fn default() -> Self {
        Self {
            listed: Span::seconds(1, 3),
            boot: Span::seconds(20, 60),
            deletion: Span::seconds(2, 8),
            gap: Span::ZERO,
            attachment: Span::seconds(1, 5),
        }
    }
}

impl Default for AccountConfig {
    fn default() -> Self {
        Self {
            client_id: DEFAULT_CLIENT_ID.to_owned(),
            client_secret: DEFAULT_CLIENT_SECRET.into(),
            token: DEFAULT_TOKEN.into(),
            token_lifetime: SignedDuration::from_hours(1),
            balance: Decimal::new(100_000, 2),
        }
    }
}

impl AccountConfig {
    /// Returns true iff the token is the public default.
    pub(super) fn token_is_default(&self) -> bool {
        self.token.expose_secret() == DEFAULT_TOKEN
    }
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            account: AccountConfig::default(),
            datacenters: vec![DatacenterConfig {
                identifier: DEFAULT_DATACENTER.to_owned(),
                name: "AMS".to_owned(),
                state: "Amsterdam".to_owned(),
                country: "Netherlands".to_owned(),
                offers: None,
                price_factor: Decimal::ONE,
                images: None,
                faults: DatacenterFaults::default(),
            }],
            offers: default_offers(),
            clusters: vec![ClusterConfig {
                identifier: DEFAULT_CLUSTER.to_owned(),
                name: "AMS-Kubernetes-49ab".to_owned(),
                datacenter: DEFAULT_DATACENTER.to_owned(),
                kube_version: kube_version(),
                control_plane: 1,
                foreign_workers: 0,
                offer: Some("s-2vcpu-4gb".to_owned()),
            }],
            capacity: Vec::new(),
            worker_quota: None,
            vm_quota: None,
            rate_limit: None,
            times: TimesConfig::default(),
            boot_failure: 0.0,
            shortage: Shortage::Refused,
            shortage_message: "The selected size is out of stock in this datacenter".to_owned(),
            hours_per_month: 720,
            shapes: Shapes::default(),
            anomalies: AnomaliesConfig::default(),
            faults: Vec::new(),
            spot_market: MarketConfig::default(),
        }
    }
}

/// Names and prices of VPSie's own test code, and others of the same pattern. VPSie publishes no price list:
/// none of these is a real price.
fn default_offers() -> Vec<OfferConfig> {
    [
        (1, "s-1vcpu-2gb", "A", 1, 2, 50, 12),
        (2, "s-2vcpu-4gb", "A", 2, 4, 80, 24),
        (3, "s-4vcpu-8gb", "A", 4, 8, 160, 48),
        (4, "s-8vcpu-16gb", "A", 8, 16, 320, 96),
        (5, "s-16vcpu-32gb", "A", 16, 32, 640, 192),
        (6, "c-2vcpu-4gb", "C", 2, 4, 80, 32),
        (7, "c-4vcpu-8gb", "C", 4, 8, 160, 64),
        (8, "c-8vcpu-16gb", "C", 8, 16, 320, 128),
        (9, "m-2vcpu-16gb", "M", 2, 16, 100, 66),
        (10, "m-4vcpu-32gb", "M", 4, 32, 200, 132),
    ]
    .into_iter()
    .map(|(id, name, category, cpu, gib, disk, monthly)| OfferConfig {
        id,
        name: name.to_owned(),
        category: category.to_owned(),
        cpu,
        ram: gib * 1024,
        disk,
        traffic: 1000 * u64::from(cpu),
        monthly: Decimal::from(monthly),
        hourly: None,
        spot_monthly: None,
    })
    .collect()
}

fn one() -> Decimal {
    Decimal::ONE
}

fn one_u32() -> u32 {
    1
}

fn category() -> String {
    "A".to_owned()
}

fn kube_version() -> String {
    "1.33.4".to_owned()
}

impl SimulatorConfig {
    /// The offer of that name.
    pub fn offer_named(&self, name: &str) -> Option<&OfferConfig> {
        self.offers.iter().find(|offer| offer.name == name)
    }

    /// The offer of that `KubeSizeID`.
    pub fn offer(&self, id: u64) -> Option<&OfferConfig> {
        self.offers.iter().find(|offer| offer.id == id)
    }

    /// The datacenter and its number, counted from 1.
    pub(super) fn datacenter(&self, identifier: &str) -> Option<(u64, &DatacenterConfig)> {
        (1..).zip(&self.datacenters).find(|(_, datacenter)| datacenter.identifier == identifier)
    }

    /// The faults of a datacenter.
    pub(super) fn faults_at(&self, identifier: &str) -> DatacenterFaults {
        self.datacenter(identifier).map(|(_, datacenter)| datacenter.faults).unwrap_or_default()
    }

    /// The cluster and its number, counted from 1.
    pub(super) fn cluster(&self, identifier: &str) -> Option<(u64, &ClusterConfig)> {
        (1..).zip(&self.clusters).find(|(_, cluster)| cluster.identifier == identifier)
    }

    /// Checks references between objects and the ranges of values.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let error = |field: &str, problem: String| Err(ConfigError { field: field.to_owned(), problem });
        for (i, offer) in self.offers.iter().enumerate() {
            if self.offers[..i].iter().any(|o| o.id == offer.id || o.name == offer.name) {
                return error("offers", format!("id {} or name {:?} occurs twice", offer.id, offer.name));
            }
        }
        if self.offers.is_empty() {
            return error("offers", "must not be empty".to_owned());
        }
        let known_offer = |field: &str, name: &str| match self.offer_named(name) {
            Some(_) => Ok(()),
            None => error(field, format!("offer {name:?} is unknown; offers are {}", self.offer_names())),
        };
        let known_datacenter = |field: &str, identifier: &str| match self.datacenter(identifier) {
            Some(_) => Ok(()),
            None => error(
                field,
                format!("datacenter {identifier:?} is unknown; datacenters are {}", self.datacenter_names()),
            ),
        };
        for datacenter in &self.datacenters {
            for name in datacenter.offers.iter().flatten() {
                known_offer("datacenters.offers", name)?;
            }
            datacenter.faults.validate()?;
        }
        for cluster in &self.clusters {
            known_datacenter("clusters.datacenter", &cluster.datacenter)?;
            if let Some(name) = &cluster.offer {
                known_offer("clusters.offer", name)?;
            }
        }
        for capacity in &self.capacity {
            known_offer("capacity.offer", &capacity.offer)?;
            if let Some(identifier) = &capacity.datacenter {
                known_datacenter("capacity.datacenter", identifier)?;
            }
        }
        if !(0.0..=1.0).contains(&self.boot_failure) {
            return error("bootFailure", format!("must be 0 to 1, is {}", self.boot_failure));
        }
        if self.hours_per_month == 0 {
            return error("hoursPerMonth", "must be 1 or more, is 0".to_owned());
        }
        if self.rate_limit == Some(0) {
            return error("rateLimit", "must be 1 or more per minute, is 0".to_owned());
        }
        self.spot_market.validate(|offer, datacenter| {
            offer.is_none_or(|name| self.offer_named(name).is_some())
                && datacenter.is_none_or(|identifier| self.datacenter(identifier).is_some())
        })?;
        self.anomalies.validate()
    }

    fn offer_names(&self) -> String {
        self.offers.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn datacenter_names(&self) -> String {
        self.datacenters.iter().map(|d| d.identifier.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Monthly price of an offer in a datacenter, USD.
    pub(super) fn monthly(datacenter: &DatacenterConfig, offer: &OfferConfig) -> Decimal {
        (offer.monthly * datacenter.price_factor).round_dp(2)
    }

    /// Whether any size has a spot offer.
    pub(super) fn has_spot_offers(&self) -> bool {
        self.offers.iter().any(|offer| offer.spot_monthly.is_some())
    }

    /// Monthly price of a spot VM of an offer in a datacenter at a time, USD. None: the size has no spot offer.
    pub(super) fn spot_monthly(
        &self,
        datacenter: &DatacenterConfig,
        offer: &OfferConfig,
        now: Timestamp,
    ) -> Option<Decimal> {
        let factor = self.spot_market.price_factor(self.market_class(offer, &datacenter.identifier), now);
        offer.spot_monthly.map(|monthly| (monthly * datacenter.price_factor * factor).round_dp(2))
    }

    /// The class of the spot VMs of an offer in a datacenter.
    pub(super) fn market_class<'a>(&self, offer: &'a OfferConfig, datacenter: &'a str) -> MarketClass<'a> {
        MarketClass { seed: self.seed, size: offer.id, offer: &offer.name, datacenter }
    }

    /// Hourly price of an offer in a datacenter, USD.
    pub(super) fn hourly(&self, datacenter: &DatacenterConfig, offer: &OfferConfig) -> Decimal {
        let hourly = offer.hourly.unwrap_or_else(|| offer.monthly / Decimal::from(self.hours_per_month));
        (hourly * datacenter.price_factor).round_dp(5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_configuration_is_valid() {
        SimulatorConfig::default().validate().unwrap();
    }

    #[test]
    fn rejects_unknown_names_and_lists_known_ones() {
        let config = SimulatorConfig {
            capacity: vec![CapacityConfig {
                datacenter: None,
                offer: "huge".into(),
                capacity_type: None,
                limit: 1,
            }],
            ..SimulatorConfig::default()
        };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with("capacity.offer: offer \"huge\" is unknown; offers are s-1vcpu-2gb, "));
    }

    #[test]
    fn secrets_stay_out_of_debug() {
        let text = format!("{:?}", SimulatorConfig::default());
        assert!(!text.contains(DEFAULT_TOKEN) && !text.contains(DEFAULT_CLIENT_SECRET));
    }
}
