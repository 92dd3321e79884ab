//! The writer of the fleet, and the control loops: provision, removal, catalog, nodes, drain, NodeGroups,
//! records, credentials, joins.

mod attachments;
mod audit;
mod backoff;
mod catalog;
mod control_plane;
mod cost_metrics;
mod credentials;
mod drain;
mod fence;
mod guard;
mod handle;
mod interruption_preview;
mod interruptions;
mod join;
mod listing_trigger;
mod metrics;
mod node_groups;
mod nodes;
mod notice_webhook;
mod offers;
mod provision;
mod records;
mod removal;
#[cfg(test)]
mod tests;
mod writer;

pub use audit::{AUDIT, AuditLog};
pub use catalog::{CatalogMetrics, CatalogRefresh};
pub use cost_metrics::CostCollector;
#[cfg(test)]
pub(crate) use cost_metrics::tests::fleet as priced_fleet;
pub use credentials::{
    CandidateCredentials, CredentialMetrics, Rotation, credentials_in_file, credentials_in_secret,
};
pub use drain::{Drain, DrainMetrics};
pub use fence::fence_transport;
pub use guard::GuardedBackend;
pub use handle::{Command, CommandError, FleetHandle};
pub use interruption_preview::{PreviewQuery, preview_routes};
pub use interruptions::{InterruptionMetrics, Interruptions, NodePods, drain_time};
pub use join::{JoinCleanup, JoinPayloads, StoppedPayloads};
pub use listing_trigger::ListingTrigger;
pub use metrics::FleetCollector;
pub use node_groups::{NODE_GROUP_FINALIZER, NodeGroups, ServedCluster};
pub use nodes::{NodeFacts, Nodes, NodesView};
pub use notice_webhook::{KeyError, NoticeWebhook};
pub use offers::offer_routes;
pub use provision::Provision;
pub use records::RecordsWatch;
pub use removal::Removal;
pub use writer::{FleetConfig, FleetWriter};
