//! The format of scenarios.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Deserialize;
use vpsie_autoscaler::catalog::{CapacityType, Catalog, Offer, OfferRef, Resources, SizeId};
use vpsie_autoscaler::cost::{CostLimit, Usd};
use vpsie_autoscaler::fleet::{
    AutoscalingOptions, Failure, FailureReason, Fleet, Machine, NodeGroup, Phase, PoolId, Records, Reserved,
};

/// The time of every request.
pub(crate) const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// The datacenter of pools.
const DATACENTER: &str = "ams1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// Up to 1.33: messages.
    V1_26,
    /// Both.
    V1_34,
    /// From 1.35: bytes.
    V1_36,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Its subject.
    #[allow(dead_code, reason = "for readers of the file")]
    about: String,
    /// NodeGroups.
    #[serde(default)]
    groups: Vec<Group>,
    /// VPSie's offers.
    #[serde(default)]
    offers: BTreeMap<String, OfferSpec>,
    /// Kinds of pods.
    #[serde(default)]
    pub(crate) pods: BTreeMap<String, PodSpec>,
    /// The options of Cluster Autoscaler.
    #[serde(default)]
    pub(crate) options: Vec<OptionSpec>,
    /// Failed machines by pool.
    #[serde(default)]
    failed: BTreeMap<String, FailedSpec>,
    /// Number of replacements on their way by pool. The interrupted machines are gone.
    #[serde(default)]
    replacements: BTreeMap<String, u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Group {
    name: String,
    max: u32,
    offers: Vec<String>,
    #[serde(default)]
    preferred: Option<String>,
    #[serde(default)]
    cost_limit_monthly: Option<Decimal>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OfferSpec {
    cpu: u64,
    gib: u64,
    /// Monthly price, USD. None: VPSie returns no price.
    #[serde(default)]
    monthly: Option<Decimal>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PodSpec {
    pub(crate) count: usize,
    #[serde(default)]
    pub(crate) cpu: Option<String>,
    #[serde(default)]
    pub(crate) memory: Option<String>,
    /// Sent as bytes that cannot be decoded as a Pod.
    #[serde(default)]
    pub(crate) garbage: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OptionSpec {
    pub(crate) pool: String,
    pub(crate) nodes: i32,
    /// Number of pods of each kind for its nodes.
    #[serde(default)]
    pub(crate) pods: BTreeMap<String, usize>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FailedSpec {
    minutes_ago: i64,
    #[serde(default)]
    quota: bool,
}

impl Scenario {
    pub(crate) fn fleet(&self) -> Fleet {
        let offers = self.offers.iter().zip(1..).map(|((name, spec), size)| Offer {
            size: SizeId(size),
            name: name.clone(),
            identifier: None,
            datacenter: DATACENTER.into(),
            capacity_type: CapacityType::OnDemand,
            resources: Resources {
                cpu_millis: spec.cpu * 1000,
                memory_mib: spec.gib * 1024,
                disk_gib: 100,
                pods: 110,
            },
            monthly: spec.monthly,
            hourly: None,
        });
        let catalog = Catalog { offers: offers.collect() };
        let machine = |pool: &String, name: &str, created_at, phase| {
            let pool: PoolId = pool.parse().unwrap();
            let size = catalog.resolve(&pool.datacenter, &pool.offer, pool.capacity_type).unwrap().size;
            let id = format!("{}-{}-{name}", pool.node_group, pool.offer);
            Machine::new(id.as_str().into(), pool, size, created_at, phase)
        };
        let failed = self.failed.iter().map(|(pool, failed)| {
            let reason = if failed.quota { FailureReason::QuotaExceeded } else { FailureReason::Stockout };
            let at = NOW - jiff::SignedDuration::from_mins(failed.minutes_ago);
            let failure = Failure { reason, message: "message of VPSie".to_owned() };
            machine(pool, "failed", at, Phase::Failed { failure, at })
        });
        let replacement = |pool: &String, n: u32| Machine {
            replaces: Some("gone".into()),
            ..machine(pool, &format!("replacement-{n}"), NOW, Phase::Pending)
        };
        let replacements =
            self.replacements.iter().flat_map(|(pool, count)| (0..*count).map(move |n| (pool, n)));
        let replacements = replacements.map(|(pool, n)| replacement(pool, n));
        let machines = failed.chain(replacements).collect();
        let groups: Vec<_> = self.groups.iter().map(Group::to_node_group).collect();
        let records = Records { machines, catalog: Some(Arc::new(catalog)), ..Records::default() };
        Fleet::restore(groups, records, Reserved { cpu_millis: 100, memory_mib: 512, disk_gib: 10 })
    }
}

impl Group {
    fn to_node_group(&self) -> NodeGroup {
        let pool = |offer: &String| format!("{}/{DATACENTER}/{offer}/on-demand", self.name).parse().unwrap();
        NodeGroup {
            name: self.name.as_str().into(),
            min: 0,
            max: self.max,
            pools: self.offers.iter().map(pool).collect(),
            size: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            preferred: self.preferred.as_deref().map(OfferRef::from),
            options: AutoscalingOptions::default(),
            adopt: false,
            cost_limit: CostLimit { monthly: self.cost_limit_monthly.map(Usd), hourly: None },
            deletion: None,
            node: vpsie_autoscaler::fleet::DeclaredNode::default(),
            spot: None,
            has_cloud_controller: false,
            distribution: None,
        }
    }
}
