//! The loops that keep the fleet true: keeper, provision, removal, catalog, nodes.

mod catalog;
mod clock;
mod handle;
mod journal;
mod keeper;
mod metrics;
mod node_groups;
mod nodes;
mod pace;
mod provision;
mod records;
mod removal;
#[cfg(test)]
mod tests;

pub use catalog::refresh_catalog;
pub use clock::{Clock, SystemClock};
pub use handle::{Command, CommandError, FleetHandle};
pub use journal::Journal;
pub use keeper::{Declared, Keeper};
pub use metrics::FleetCollector;
pub use node_groups::{NODE_GROUP_FINALIZER, NodeGroups, Target};
pub use nodes::{Nodes, NodesView};
pub use provision::Provision;
pub use records::RecordsWatch;
pub use removal::Removal;
