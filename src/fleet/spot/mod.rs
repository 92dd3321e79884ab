//! Spot machines: their maximum share, the circuit breakers of their classes, and their interruption rates
//! (docs/designs/spot.md).

mod breaker;
mod classes;
mod counts;
mod history;
mod interruptions;
mod notice;
mod policy;
mod preview;
mod replacement;
mod reports;
mod share;
mod take_over;
mod visibility;

pub use breaker::{BreakerState, CircuitBreaker, SpotFailure, SpotFailureReason};
pub(in crate::fleet) use counts::CapacityCounts;
pub use history::{SpotBlock, SpotClass, SpotHistory};
pub use interruptions::Interruptions;
pub use notice::{MAX_NOTICE, Notice, NoticeSource, ReportedInterruption};
pub use policy::{MaxSpotShare, SpotDefaults, SpotPolicy};
pub use preview::{InterruptionPreview, StartupTime};
pub use replacement::ReplacementState;
pub use visibility::Visibility;
