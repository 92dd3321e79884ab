//! The loops that keep the fleet true: keeper, provision, removal, catalog, nodes.

mod bell;
mod catalog;
mod clock;
mod handle;
mod journal;
mod keeper;
mod metrics;
mod nodes;
mod pace;
mod provision;
mod removal;
#[cfg(test)]
mod tests;

pub use bell::Bell;
pub use catalog::refresh_catalog;
pub use clock::{Clock, SystemClock};
pub use handle::{Command, CommandError, FleetHandle};
pub use journal::Journal;
pub use keeper::{Declared, Keeper};
pub use metrics::FleetCollector;
pub use nodes::{NodeFacts, Nodes, NodesView};
pub use provision::Provision;
pub use removal::Removal;
