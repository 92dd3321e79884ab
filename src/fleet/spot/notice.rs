//! The notice of an interruption.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fleet::ids::PoolId;

/// Maximum time between a notice and its deadline.
pub const MAX_NOTICE: Duration = Duration::from_hours(24);

/// Notice of the interruption of a machine's VM. A part of the machine's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// Time of the first report.
    pub received_at: Timestamp,
    /// Time at which VPSie will interrupt the VM.
    pub deadline: Timestamp,
    /// Pools whose replacement failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_pools: Vec<PoolId>,
}
