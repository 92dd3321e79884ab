//! The loops that keep the fleet true: keeper, provision, observe, nodes.

mod clock;
mod handle;

pub use clock::{Clock, SystemClock};
pub use handle::{Command, CommandError, CommandRequest, FleetHandle};
