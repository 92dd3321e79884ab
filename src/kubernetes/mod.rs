//! Kubernetes' API server: how it is reached, which replica leads, and the fence that keeps the others from
//! changing anything.

mod client;
mod events;
mod patch;
mod permissions;

pub use client::{ConnectError, REQUEST_TIMEOUT, bounded, connect};
pub use events::{EventMetrics, EventType, Events, Happening, Object, Publisher};
pub use patch::merge_patch;
pub use permissions::{PERMISSIONS, Permission, Scope};
