//! Validation of NodeGroups, of manifests and of the API server alike. Reports every problem with its place.

mod duration;
mod manifests;
mod node_group;
mod problem;
mod regions;
mod schema;
mod syntax;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod verdicts;

pub use duration::parse_duration;
pub use manifests::{CheckedNodeGroup, Manifests, Source, check_node_group, parse_manifests};
pub use problem::{Problem, Problems};
pub(crate) use syntax::{dns_label, dns_subdomain, money};
