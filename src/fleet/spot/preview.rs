//! The effect of a notice before it is given.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::notice::NoticeSource;
use crate::catalog::Resources;
use crate::cost::UsdPerHour;
use crate::fleet::age::age;
use crate::fleet::ids::{MachineId, PoolId};
use crate::fleet::machine::Phase;
use crate::fleet::state::Fleet;

/// The effect that the notice of a machine would have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterruptionPreview {
    /// The machine.
    pub machine: MachineId,
    /// Its pool.
    pub pool: PoolId,
    /// Deadline of the notice that it has already.
    pub deadline: Option<Timestamp>,
    /// Pool of the replacement. None if no pool can grow, or no pod must move.
    pub replacement: Option<PoolId>,
    /// Expected price of the replacement, USD per hour, if it is known.
    pub usd_per_hour: Option<UsdPerHour>,
    /// Median time from the record of a machine until its Node registered.
    pub startup: Option<StartupTime>,
}

/// Time that machines took to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartupTime {
    /// Median, seconds.
    pub median_seconds: u64,
    /// Number of machines.
    pub machines: usize,
}

impl Fleet {
    /// The effect of a notice of the machine now. `needed` are the resources of the pods that must move, if any. None for
    /// a machine without a VM.
    pub fn preview_interruption(
        &self,
        id: &MachineId,
        needed: Option<Resources>,
        now: Timestamp,
    ) -> Option<InterruptionPreview> {
        let machine = self.machines.get(id).filter(|machine| machine.vm().is_some())?;
        // The same functions as after a notice, on a copy.
        let mut copy = self.clone();
        copy.record_notice(id, NoticeSource::Node, now + self.grace_period(machine), now);
        if let Some(needed) = needed {
            copy.replace_machine(id, needed, now, &mut |_| MachineId::from("preview"));
        }
        let replacement = copy.live_replacement(id).map(|replacement| replacement.pool.clone());
        let pool = replacement.as_ref().and_then(|id| self.pool(&id.to_string()));
        Some(InterruptionPreview {
            machine: id.clone(),
            pool: machine.pool.clone(),
            deadline: machine.notice.as_ref().map(super::Notice::deadline),
            usd_per_hour: pool.and_then(|pool| self.expected_price(pool)),
            startup: replacement.as_ref().and_then(|pool| self.startup_time(pool)),
            replacement,
        })
    }

    /// The time that the Running machines of the pool took to start; without any, that of its NodeGroup.
    fn startup_time(&self, pool: &PoolId) -> Option<StartupTime> {
        let times = |is_alike: &dyn Fn(&PoolId) -> bool| -> Vec<Duration> {
            let alike = self.machines.values().filter(|machine| is_alike(&machine.pool));
            let mut times: Vec<Duration> = alike
                .filter_map(|machine| match &machine.phase {
                    Phase::Running { since, .. } => Some(age(machine.created_at, *since)),
                    Phase::Pending
                    | Phase::Creating { .. }
                    | Phase::Failed { .. }
                    | Phase::Deleting { .. } => None,
                })
                .collect();
            times.sort();
            times
        };
        let of_pool = times(&|other| other == pool);
        let times =
            if of_pool.is_empty() { times(&|other| other.node_group == pool.node_group) } else { of_pool };
        let median = times.get(times.len() / 2)?;
        Some(StartupTime { median_seconds: median.as_secs(), machines: times.len() })
    }
}
