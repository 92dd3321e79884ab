//! The notice of an interruption.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fleet::ids::PoolId;

/// Maximum time between a notice and its deadline.
pub const MAX_NOTICE: Duration = Duration::from_hours(24);

/// A source of notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeSource {
    /// An annotation, taint or condition of the Node.
    Node,
    /// The row of the VM in VPSie's listing.
    #[serde(rename = "vpsie")]
    VPSie,
    /// A request to the webhook.
    Webhook,
}

impl NoticeSource {
    /// Its name in metrics and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::VPSie => "vpsie",
            Self::Webhook => "webhook",
        }
    }
}

/// The interruption of a VM, as a source reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedInterruption {
    /// Time at which the VM ends, if the source shows it.
    pub deadline: Option<Timestamp>,
}

impl ReportedInterruption {
    /// Whether it is ignored, because its deadline is more than [`MAX_NOTICE`] ahead.
    pub fn is_too_early(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline > now + MAX_NOTICE)
    }
}

/// Notice of the interruption of a machine's VM. A part of the machine's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// Time of the first report.
    pub received_at: Timestamp,
    /// Time at which VPSie will interrupt the VM, by each source that reports it.
    pub deadlines: BTreeMap<NoticeSource, Timestamp>,
    /// Pools whose replacement failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_pools: Vec<PoolId>,
}

impl Notice {
    /// The earliest time at which VPSie will interrupt the VM.
    pub fn deadline(&self) -> Timestamp {
        self.deadlines.values().min().copied().unwrap_or(self.received_at)
    }
}
