//! Kubernetes' API server: how it is reached, which replica leads, and the fence that keeps the others from
//! changing anything.

mod access;
mod client;
mod drain;
mod events;
mod fence;
mod lease;
mod patch;
mod permissions;
mod role;
mod token_file;
mod watch;

pub use access::KubernetesAccess;
pub use client::{ConnectError, REQUEST_TIMEOUT, bounded, connect};
pub use drain::{Evicted, Staying, evict, leaves_within, pods_on, staying};
pub use events::{EventMetrics, EventType, Events, Happening, Object, Publisher};
pub use fence::{fence_client, is_write};
pub use lease::{ElectionConfig, Elector, Leadership, LeaseLost, Lost, Reached, identity};
pub use patch::merge_patch;
pub use permissions::{PERMISSIONS, Permission, Scope};
pub use role::{LEADER, ROLE_LABEL, Role};
pub use watch::{watch_config, watch_object};
