//! Several datacenters of a NodeGroup: the distribution of its machines, and the health of each datacenter
//! (docs/designs/datacenters.md).

mod block;
mod breaker;
mod counts;
mod derived;
mod distribution;
mod evidence;
mod headroom;
mod health;
mod history;
mod index;
mod missing_rows;
mod observations;
mod reports;
mod shortness;

pub use block::DatacenterBlock;
pub use breaker::{DatacenterBreaker, DatacenterState, Outage, OutageCause};
pub use distribution::{DatacenterStrategy, Distribution};
pub use history::{CreationFailure, CreationFailureKind, DatacenterHealth, DatacenterHistory};
pub use reports::DatacenterReport;

pub(super) use counts::DatacenterCounts;
pub(super) use distribution::Capacity;
pub(super) use index::Datacenters;
pub(super) use observations::DatacenterObservations;
