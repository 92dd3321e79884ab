//! Fixtures of all worlds: the base URL of VPSie's API, the flags of Cluster Autoscaler, and NodeGroups.

use std::time::Duration;

use ca_model::{Autoscaler, Config, Link, Minor, Provider};
use vpsie_autoscaler::fleet::{AutoscalingOptions, NodeGroup};
use vpsie_autoscaler::simulator::{Prefix, Shapes};

use super::checks;
use super::network::CaChannel;

/// Base URL of VPSie's API. The path depends on the variant of the API.
pub(crate) fn base_url(shapes: Shapes) -> &'static str {
    match shapes.prefix {
        Prefix::AppsAndApi | Prefix::Apps => "https://vpsie.example/apps/v2",
        Prefix::Api => "https://vpsie.example/api/v2",
        Prefix::Bare => "https://vpsie.example/v2",
    }
}

/// Creates a Cluster Autoscaler with short timeouts. Each call to the provider has a deadline of five
/// seconds.
pub(crate) fn new_autoscaler(minor: Minor, channel: &CaChannel, seed: u64) -> Autoscaler {
    new_autoscaler_with(minor, channel, autoscaler_config(seed))
}

/// The same with other flags.
pub(crate) fn new_autoscaler_with(minor: Minor, channel: &CaChannel, config: Config) -> Autoscaler {
    Autoscaler::new(config, Provider::new(minor, Link::new(Duration::from_secs(5), channel.clone())))
}

/// Flags of Cluster Autoscaler, with short timeouts.
pub(crate) fn autoscaler_config(seed: u64) -> Config {
    Config {
        max_node_provision_time: Duration::from_mins(6),
        scale_down_unneeded_time: Duration::from_mins(1),
        scale_down_unready_time: Duration::from_mins(3),
        scale_down_delay_after_add: Duration::from_mins(1),
        unremovable_recheck: Duration::from_secs(30),
        initial_backoff: Duration::from_mins(1),
        max_backoff: Duration::from_mins(4),
        seed,
        ..Config::default()
    }
}

pub(crate) fn node_groups() -> Vec<NodeGroup> {
    let pool = |group: &str, offer: &str| format!("{group}/ams1/{offer}/on-demand").parse().unwrap();
    let group = |name: &str, pools: &[&str], max: u32| NodeGroup {
        name: name.into(),
        min: 0,
        max,
        pools: pools.iter().map(|offer| pool(name, offer)).collect(),
        size: None,
        labels: [("for".to_owned(), name.to_owned())].into(),
        taints: Vec::new(),
        preferred: None,
        options: AutoscalingOptions::default(),
        adopt: false,
        cost_limit: vpsie_autoscaler::cost::CostLimit::default(),
        deletion: None,
        node: vpsie_autoscaler::fleet::DeclaredNode::default(),
        spot: None,
        has_cloud_controller: false,
        distribution: None,
    };
    vec![
        group(checks::POOLS[0].0, checks::POOLS[0].1, checks::MAXIMA[0].1),
        group(checks::POOLS[1].0, checks::POOLS[1].1, checks::MAXIMA[1].1),
    ]
}
