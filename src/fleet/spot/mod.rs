//! Spot machines: their maximum share, the circuit breakers of their classes, and their interruption rates
//! (docs/designs/spot.md).

mod breaker;
mod classes;
mod counts;
mod history;
mod interruptions;
mod notice;
mod policy;
mod replacement;
mod share;

pub use breaker::{BreakerState, CircuitBreaker, SpotFailure, SpotFailureReason};
pub(in crate::fleet) use counts::CapacityCounts;
pub use history::{SpotBlock, SpotClass, SpotHistory};
pub use interruptions::Interruptions;
pub use notice::{MAX_NOTICE, Notice};
pub use policy::{MaxSpotShare, SpotPolicy};
pub use replacement::ReplacementState;
