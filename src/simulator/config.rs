//! What the simulated VPSie has and how it behaves.

use jiff::SignedDuration;
use rust_decimal::Decimal;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::anomalies::AnomaliesConfig;
use super::config_error::ConfigError;
use super::fault::FaultRule;
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

/// The simulated VPSie.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SimulatorConfig {
    /// Where chance starts: names, UUIDs, boot times, faults.
    pub seed: u64,
    /// Who may log in.
    pub account: AccountConfig,
    /// Where VMs can run.
    pub datacenters: Vec<DatacenterConfig>,
    /// What can be rented.
    pub offers: Vec<OfferConfig>,
    /// The Kubernetes clusters of the account.
    pub clusters: Vec<ClusterConfig>,
    /// How many VMs there is room for. No entry: no limit.
    pub capacity: Vec<CapacityConfig>,
    /// Workers that the account may have in all. None: no limit.
    pub worker_quota: Option<u32>,
    /// Requests a minute; more get 429. None: no limit (none is evidenced).
    pub rate_limit: Option<u32>,
    /// How long things take.
    pub times: TimesConfig,
    /// How likely a VM never comes up, 0 to 1.
    pub boot_failure: f64,
    /// What happens when there is no room.
    pub shortage: Shortage,
    /// Message of a shortage. VPSie's own wording is unknown.
    pub shortage_message: String,
    /// What hourly prices follow from when an offer has none.
    pub hours_per_month: u32,
    /// Which shapes are spoken.
    pub shapes: Shapes,
    /// What goes wrong for as long as it lasts.
    pub anomalies: AnomaliesConfig,
    /// Faults that are in force from the start.
    pub faults: Vec<FaultRule>,
}

/// Who may log in.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AccountConfig {
    /// `clientId` of a login.
    pub client_id: String,
    /// `clientSecret` of a login.
    pub client_secret: SecretString,
    /// A token that never ends.
    pub token: SecretString,
    /// How long a login's token lasts.
    pub token_lifetime: SignedDuration,
    /// Prepaid balance, USD. Shown, never enforced.
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
    /// The offers that it has, by name. None: all.
    #[serde(default)]
    pub offers: Option<Vec<String>>,
    /// What prices are multiplied with here.
    #[serde(default = "one")]
    pub price_factor: Decimal,
}

/// Something that can be rented.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OfferConfig {
    /// `KubeSizeID`.
    pub id: u64,
    /// Such as `s-2vcpu-4gb`.
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
    /// Traffic a month, GiB.
    #[serde(default)]
    pub traffic: u64,
    /// USD a month.
    pub monthly: Decimal,
    /// USD an hour. None: the monthly price, divided.
    #[serde(default)]
    pub hourly: Option<Decimal>,
}

/// A Kubernetes cluster of the account.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterConfig {
    /// UUID.
    pub identifier: String,
    /// What hostnames start with, such as `AMS-Kubernetes-49ab`.
    pub name: String,
    /// Where it runs.
    pub datacenter: String,
    /// Version, without `v`.
    #[serde(default = "kube_version")]
    pub kube_version: String,
    /// Control-plane nodes that it starts with.
    #[serde(default = "one_u32")]
    pub control_plane: u32,
    /// Number of initial workers that no autoscaler created.
    #[serde(default)]
    pub foreign_workers: u32,
    /// Their size, by name, and that of the control plane. None: the first offer.
    #[serde(default)]
    pub offer: Option<String>,
}

/// Room for VMs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapacityConfig {
    /// The datacenter. None: each.
    #[serde(default)]
    pub datacenter: Option<String>,
    /// The offer, by name.
    pub offer: String,
    /// VMs that there is room for, those that run included.
    pub limit: u32,
}

/// What happens when there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Shortage {
    /// The request is refused.
    #[default]
    Refused,
    /// The request is accepted, and no VM ever appears.
    Silent,
}

/// How long things take.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TimesConfig {
    /// From the request until the VM is listed.
    pub listed: Span,
    /// From the request until the VM is up and joins its cluster.
    pub boot: Span,
    /// From the deletion until the VM is listed no more.
    pub deletion: Span,
}

impl Default for TimesConfig {
    fn default() -> Self {
        Self { listed: Span::seconds(1, 3), boot: Span::seconds(20, 60), deletion: Span::seconds(2, 8) }
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
    /// Whether the token is the one that everyone knows.
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
            rate_limit: None,
            times: TimesConfig::default(),
            boot_failure: 0.0,
            shortage: Shortage::Refused,
            shortage_message: "The selected size is out of stock in this datacenter".to_owned(),
            hours_per_month: 720,
            shapes: Shapes::default(),
            anomalies: AnomaliesConfig::default(),
            faults: Vec::new(),
        }
    }
}

/// Names and prices that VPSie's developers use in tests, and more in their manner. VPSie publishes no price
/// list: none of these is a real price.
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

    /// The cluster and its number, counted from 1.
    pub(super) fn cluster(&self, identifier: &str) -> Option<(u64, &ClusterConfig)> {
        (1..).zip(&self.clusters).find(|(_, cluster)| cluster.identifier == identifier)
    }

    /// Checks what the types leave open.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let error = |field: &str, problem: String| Err(ConfigError { field: field.to_owned(), problem });
        for (i, offer) in self.offers.iter().enumerate() {
            if self.offers[..i].iter().any(|o| o.id == offer.id || o.name == offer.name) {
                return error("offers", format!("id {} or name {:?} is there twice", offer.id, offer.name));
            }
        }
        if self.offers.is_empty() {
            return error("offers", "empty; want at least one".to_owned());
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
        }
        for cluster in &self.clusters {
            known_datacenter("clusters.datacenter", &cluster.datacenter)?;
            if let Some(name) = &cluster.offer {
                known_offer("clusters.offer", name)?;
            }
        }
        for room in &self.capacity {
            known_offer("capacity.offer", &room.offer)?;
            if let Some(identifier) = &room.datacenter {
                known_datacenter("capacity.datacenter", identifier)?;
            }
        }
        if !(0.0..=1.0).contains(&self.boot_failure) {
            return error("bootFailure", format!("{}: want 0 to 1", self.boot_failure));
        }
        if self.hours_per_month == 0 {
            return error("hoursPerMonth", "0: want 1 or more".to_owned());
        }
        if self.rate_limit == Some(0) {
            return error("rateLimit", "0: want 1 or more a minute".to_owned());
        }
        self.anomalies.validate()
    }

    fn offer_names(&self) -> String {
        self.offers.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn datacenter_names(&self) -> String {
        self.datacenters.iter().map(|d| d.identifier.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// USD a month, here.
    pub(super) fn monthly(datacenter: &DatacenterConfig, offer: &OfferConfig) -> Decimal {
        (offer.monthly * datacenter.price_factor).round_dp(2)
    }

    /// USD an hour, here.
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
    fn unknown_names_are_refused_with_what_there_is() {
        let config = SimulatorConfig {
            capacity: vec![CapacityConfig { datacenter: None, offer: "huge".into(), limit: 1 }],
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
