//! Limits of the number of spot machines in a NodeGroup.

use std::time::Duration;

use crate::cost::InterruptionRate;
use crate::fleet::taint::TaintEffect;

/// The limits that a NodeGroup sets for spot and on-demand machines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpotPolicy {
    /// Maximum share of spot machines.
    pub max_share: MaxSpotShare,
    /// Whether on-demand pools may grow beyond the number of machines that the maximum share requires.
    pub on_demand_fallback: bool,
    /// Assumed time from a notice to the interruption, if the notice has no deadline.
    pub grace_period: Duration,
    /// Spot pools of a class do not grow while its interruption rate is above this with a certainty of 95 percent. None: no limit.
    pub allowed_interruption_rate: Option<InterruptionRate>,
    /// Effect of the capacity-type taint of spot Nodes. None: they have no such taint.
    pub taint: Option<TaintEffect>,
}

/// Spot settings of NodeGroups that do not set their own (`--spot-instances`, `--spot-grace-period`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpotDefaults {
    /// Whether a NodeGroup has spot pools.
    pub enabled: bool,
    /// Assumed time from a notice to the interruption, if the notice has no deadline.
    pub grace_period: Duration,
}

impl Default for SpotDefaults {
    fn default() -> Self {
        Self { enabled: false, grace_period: Duration::from_mins(2) }
    }
}

/// Maximum share of spot machines, percent. The number of spot machines is rounded down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxSpotShare(u8);

impl MaxSpotShare {
    /// The maximum share, 0 to 100. A larger `percent` counts as 100.
    pub fn new(percent: u32) -> Self {
        Self(percent.min(100) as u8)
    }

    /// The maximum share in percent, 0 to 100.
    pub fn percent(self) -> u32 {
        self.0.into()
    }

    /// Maximum number of spot machines among `total` machines.
    pub fn max_spot(self, total: u32) -> u32 {
        (u64::from(total) * u64::from(self.0) / 100) as u32
    }

    /// Number of spot machines that may be added while the number of on-demand machines stays. `u32::MAX` at
    /// 100 percent.
    pub fn headroom(self, spot: u32, on_demand: u32) -> u32 {
        let share = u64::from(self.0);
        let allowed = share * (u64::from(spot) + u64::from(on_demand));
        let more = allowed.saturating_sub(100 * u64::from(spot));
        // None: at 100 percent, no number of spot machines is too large.
        more.checked_div(100 - share).map_or(u32::MAX, |more| u32::try_from(more).unwrap_or(u32::MAX))
    }

    /// Minimum number of on-demand machines beside `spot` spot machines. `u32::MAX` if no number is enough.
    pub fn min_on_demand(self, spot: u32) -> u32 {
        if spot == 0 {
            return 0;
        }
        let share = u64::from(self.0);
        if share == 0 {
            return u32::MAX;
        }
        let required = (u64::from(spot) * (100 - share)).div_ceil(share);
        u32::try_from(required).unwrap_or(u32::MAX)
    }
}
