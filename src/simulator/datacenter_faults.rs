//! Faults of one datacenter that last, until the control endpoint removes them.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::anomalies::mix;
use super::config_error::ConfigError;

/// Faults of a datacenter. None by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DatacenterFaults {
    /// Fate of requests for VMs.
    pub creations: Creations,
    /// Share of its VMs whose rows are missing from every list, 0 to 1.
    pub missing_rows: f64,
    /// Whether its row says that it is not active.
    pub inactive: bool,
    /// Delay of every request that names it, or one of its VMs or clusters.
    pub slow: SignedDuration,
    /// Whether every such request is refused with 503, and its Nodes send no heartbeats.
    pub outage: bool,
}

/// Fate of requests for VMs in a datacenter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Creations {
    /// VMs are created.
    #[default]
    Accepted,
    /// Requests are refused, with `shortageMessage`.
    Refused,
    /// Requests are accepted; no VM is created.
    Lost,
    /// Requests are accepted; the VMs are listed once the fault is over.
    Hidden,
    /// Requests are accepted; the VMs are pending until the fault is over.
    Pending,
}

/// How a datacenter withholds a requested VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// Nothing shows it.
    Hidden,
    /// `vm/pending` shows it.
    Pending,
}

impl Creations {
    /// How a VM that is requested now is withheld.
    pub(super) fn held(self) -> Option<Held> {
        match self {
            Self::Hidden => Some(Held::Hidden),
            Self::Pending => Some(Held::Pending),
            Self::Accepted | Self::Refused | Self::Lost => None,
        }
    }
}

impl DatacenterFaults {
    /// Returns true iff lists do not show the VM of that number.
    pub(super) fn hides_row(&self, vm: u64) -> bool {
        // The upper bits, so that a share of 1 hides each row.
        ((mix(vm) >> 11) as f64) < self.missing_rows * (1_u64 << 53) as f64
    }

    /// Checks the ranges of the values.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let error = |field: &str, problem: String| {
            Err(ConfigError { field: format!("datacenters.faults.{field}"), problem })
        };
        if !(0.0..=1.0).contains(&self.missing_rows) {
            return error("missingRows", format!("must be 0 to 1, is {}", self.missing_rows));
        }
        if self.slow.is_negative() {
            return error("slow", format!("must be 0s or more, is {}", self.slow));
        }
        Ok(())
    }
}
