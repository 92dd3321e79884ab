//! What must go on while the weather is fair: VPSie answers, records can be written, nothing is killed.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use vpsie_autoscaler::control::FleetHandle;
use vpsie_autoscaler::fleet::{FailureReason, Fleet, Hostname, Machine, MachineId, Phase, UnmanagedKind};
use vpsie_autoscaler::simulator::Simulator;

/// What waits longer than this in fair weather is stuck. Pauses that VPSie asked for before are over by then.
const PENDING: Duration = Duration::from_mins(4);
/// A request without a result is given up after ten minutes, and a machine after three such requests.
const CREATING: Duration = Duration::from_mins(40);
const DELETING: Duration = Duration::from_mins(10);
/// An orphan is kept for fifteen minutes.
const ORPHAN: Duration = Duration::from_mins(25);
const LISTING: Duration = Duration::from_mins(5);
/// How long requests of an earlier process can halt growth.
const HALT: Duration = Duration::from_mins(2);
/// How long pauses and backoffs from bad weather may last.
pub(crate) const RECOVERY: Duration = Duration::from_mins(5);

/// Since when things are as they are, in fair weather.
#[derive(Default)]
pub(crate) struct Liveness {
    fault_free_since: Option<Instant>,
    machines: BTreeMap<MachineId, (Stage, Instant)>,
    unmanaged: BTreeMap<Hostname, Instant>,
    listings: Option<(u64, Instant)>,
    halted_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    Creating,
    Deleting,
    Other,
}

impl Stage {
    fn of_machine(machine: &Machine) -> Self {
        match machine.phase {
            Phase::Pending => Self::Pending,
            Phase::Creating { vm: None, .. } => Self::Creating,
            _ if machine.needs_vm_deletion() => Self::Deleting,
            _ => Self::Other,
        }
    }

    fn bound(self) -> Option<Duration> {
        match self {
            Self::Pending => Some(PENDING),
            Self::Creating => Some(CREATING),
            Self::Deleting => Some(DELETING),
            Self::Other => None,
        }
    }
}

/// What a world in fair weather says of itself.
pub(crate) struct Conditions<'a> {
    /// Listings tell the size of each worker: sizes do not wait for each other.
    pub(crate) sizes_told: bool,
    /// Whether growth may be halted, because VMs fit no request.
    pub(crate) may_halt: bool,
    /// Whether VPSie carries out deletions.
    pub(crate) deletes: bool,
    pub(crate) simulator: &'a Simulator,
    /// `KubeSizeID`s that there is no room for.
    pub(crate) short: &'a [u64],
    /// The machine whose record cannot be written. All others go on.
    pub(crate) refused: Option<MachineId>,
}

impl Liveness {
    /// The process is another one, or its clock is.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Checks progress. Without conditions, faults are injected, and nothing is checked.
    pub(crate) fn check(
        &mut self,
        handle: &FleetHandle,
        conditions: Option<&Conditions<'_>>,
    ) -> Result<(), String> {
        let now = Instant::now();
        let Some(conditions) = conditions else {
            self.reset();
            return Ok(());
        };
        let since = *self.fault_free_since.get_or_insert(now);
        if now < since + RECOVERY {
            return Ok(());
        }
        self.listings_go_on(conditions.simulator, now)?;
        handle.read(|fleet| {
            self.growth_goes_on(fleet, conditions, now)?;
            self.machines.retain(|id, _| fleet.machine(id).is_some());
            self.unmanaged.retain(|name, _| {
                fleet.unmanaged_node(name).is_some_and(|s| matches!(s.kind, UnmanagedKind::Orphan { .. }))
            });
            for machine in fleet.machines().filter(|machine| Some(&machine.id) != conditions.refused.as_ref())
            {
                self.machine(machine, conditions, now)?;
            }
            for unmanaged in fleet.unmanaged_nodes() {
                if matches!(unmanaged.kind, UnmanagedKind::Orphan { .. }) {
                    let seen = *self.unmanaged.entry(unmanaged.hostname.clone()).or_insert(now);
                    if now > seen + ORPHAN {
                        return Err(format!(
                            "L: orphan {} is neither adopted nor deleted",
                            unmanaged.hostname
                        ));
                    }
                }
            }
            Ok(())
        })
    }

    fn listings_go_on(&mut self, simulator: &Simulator, now: Instant) -> Result<(), String> {
        let calls = simulator.calls();
        let listings = calls.iter().filter(|(call, _)| call.starts_with("GET /k8s/cluster/byId"));
        let count = listings.map(|(_, count)| count).sum();
        let (last, at) = *self.listings.get_or_insert((count, now));
        if count != last {
            self.listings = Some((count, now));
        } else if now > at + LISTING {
            return Err(format!("L: nothing is listed for {:?}", now - at));
        }
        Ok(())
    }

    /// The runaway guard halts growth only where VPSie gives it a reason.
    fn growth_goes_on(
        &mut self,
        fleet: &Fleet,
        conditions: &Conditions<'_>,
        now: Instant,
    ) -> Result<(), String> {
        let halt = fleet.guard_status().and_then(|verdict| verdict.halt.as_ref());
        // VPSie may fulfil an unfulfilled request late, so such requests halt growth.
        let Some(halt) = halt.filter(|_| !conditions.may_halt && conditions.short.is_empty()) else {
            self.halted_since = None;
            return Ok(());
        };
        let since = *self.halted_since.get_or_insert(now);
        if now > since + HALT { Err(format!("L: in fair weather {halt}")) } else { Ok(()) }
    }

    fn machine(
        &mut self,
        machine: &Machine,
        conditions: &Conditions<'_>,
        now: Instant,
    ) -> Result<(), String> {
        let stage = Stage::of_machine(machine);
        let entry = self.machines.entry(machine.id.clone()).or_insert((stage, now));
        if entry.0 != stage {
            if let Phase::Failed { failure, .. } = &machine.phase
                && entry.0 == Stage::Pending
                && failure.reason == FailureReason::ApiUnavailable
                && !conditions.may_halt
            {
                return Err(format!("L: {} failed and was never asked for: {}", machine.id, failure.message));
            }
            *entry = (stage, now);
        }
        let waits_for_others = match stage {
            // Where listings show no sizes, one size is requested at a time.
            Stage::Pending => {
                !conditions.sizes_told || conditions.may_halt || conditions.short.contains(&machine.size.0)
            }
            Stage::Deleting => !conditions.deletes,
            _ => false,
        };
        match stage.bound().filter(|bound| !waits_for_others && now > entry.1 + *bound) {
            Some(bound) => Err(format!("L: {} is {stage:?} for more than {bound:?}", machine.id)),
            None => Ok(()),
        }
    }
}
