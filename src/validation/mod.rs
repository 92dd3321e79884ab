//! Validation of NodeGroups in manifests and from the API server. Reports every problem with its location.

mod duration;
mod manifests;
mod node_group;
mod problem;
mod regions;
#[cfg(test)]
mod rule_tests;
mod schema;
mod self_managed;
mod syntax;
#[cfg(test)]
pub(crate) mod tests;

pub use duration::parse_duration;
pub use manifests::{CheckedNodeGroup, Manifests, Source, check_node_group, parse_manifests};
pub use node_group::Product;
pub use problem::{Problem, Problems};
pub use self_managed::SelfManagedGroup;
pub(crate) use syntax::{dns_label, dns_subdomain, money};
