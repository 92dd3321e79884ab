//! The API server: client, leader election, and the fence that refuses writes of replicas that do not lead.

mod access;
mod bootstrap_token;
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
pub use bootstrap_token::{BootstrapToken, BootstrapTokens, TOKEN_LABEL, TokenGroup};
pub use client::{ConnectError, REQUEST_TIMEOUT, connect, with_request_timeout};
pub use drain::{
    DrainAction, EvictionResult, delete_pod, drain_action, evict, pods_on, termination_grace,
    termination_timeout,
};
pub use events::{EventMetrics, EventType, Events, Object, ObjectEvent, Publisher};
pub use fence::{fence_client, is_write};
pub use lease::{ElectionConfig, Elector, LeaderAddresses, Leadership, LeaseLost, LossReason, identity};
pub use patch::merge_patch;
pub use permissions::{JOIN_PERMISSIONS, PERMISSIONS, Permission, Scope};
pub use role::{LEADER, ROLE_LABEL, Role};
pub use watch::{watch_config, watch_object};
