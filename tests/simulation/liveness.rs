//! Liveness checks. They apply in fault-free periods: VPSie answers, the store works and no process is
//! killed.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use vpsie_autoscaler::control::FleetHandle;
use vpsie_autoscaler::fleet::{FailureReason, Fleet, Hostname, Machine, MachineId, Phase, UnmanagedKind};
use vpsie_autoscaler::simulator::Simulator;

/// Liveness bound of a Pending machine. Checks begin after [`RECOVERY`], so earlier pauses are over.
const PENDING: Duration = Duration::from_mins(4);
/// Liveness bound of a Creating machine without a VM. A request times out after ten minutes, and a machine
/// fails after three such requests.
const CREATING: Duration = Duration::from_mins(40);
/// Liveness bound of a machine whose VM must be deleted.
const DELETING: Duration = Duration::from_mins(10);
/// Liveness bound of an orphan. The provider deletes it after fifteen minutes.
const ORPHAN: Duration = Duration::from_mins(25);
/// Maximum time between two listings of VPSie's nodes.
const LISTING: Duration = Duration::from_mins(5);
/// Time for which requests of an earlier process can halt growth.
const HALT: Duration = Duration::from_mins(2);
/// Time after the last fault in which pauses and backoffs end. Nothing is checked until then.
pub(crate) const RECOVERY: Duration = Duration::from_mins(5);

/// Start times of the present states in a fault-free period.
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

/// Conditions of a fault-free period that the checks depend on.
pub(crate) struct Conditions<'a> {
    /// Whether listings show the size of each worker. Otherwise only requests of one size are open at a time.
    pub(crate) sizes_listed: bool,
    /// Whether the runaway guard may halt growth.
    pub(crate) may_halt: bool,
    /// Whether VPSie executes deletions.
    pub(crate) allows_deletions: bool,
    pub(crate) simulator: &'a Simulator,
    /// `KubeSizeID`s without capacity at VPSie.
    pub(crate) short_sizes: &'a [u64],
    /// The machine whose record the API server rejects. It is not checked.
    pub(crate) rejected: Option<MachineId>,
}

impl Liveness {
    /// Resets all start times, after a restart or when faults are injected.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Checks progress. `conditions` is None while faults are injected: nothing is checked.
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
        self.check_listings(conditions.simulator, now)?;
        handle.read(|fleet| {
            self.check_growth(fleet, conditions, now)?;
            self.machines.retain(|id, _| fleet.machine(id).is_some());
            self.unmanaged.retain(|name, _| {
                fleet
                    .unmanaged_node(name)
                    .is_some_and(|node| matches!(node.kind, UnmanagedKind::Orphan { .. }))
            });
            for machine in
                fleet.machines().filter(|machine| Some(&machine.id) != conditions.rejected.as_ref())
            {
                self.check_machine(machine, conditions, now)?;
            }
            for unmanaged in fleet.unmanaged_nodes() {
                if matches!(unmanaged.kind, UnmanagedKind::Orphan { .. }) {
                    let seen = *self.unmanaged.entry(unmanaged.hostname.clone()).or_insert(now);
                    if now > seen + ORPHAN {
                        return Err(format!(
                            "L: the orphan {} is neither adopted nor deleted",
                            unmanaged.hostname
                        ));
                    }
                }
            }
            Ok(())
        })
    }

    fn check_listings(&mut self, simulator: &Simulator, now: Instant) -> Result<(), String> {
        let calls = simulator.calls();
        let listings = calls.iter().filter(|(call, _)| call.starts_with("GET /k8s/cluster/byId"));
        let count = listings.map(|(_, count)| count).sum();
        let (last, at) = *self.listings.get_or_insert((count, now));
        if count != last {
            self.listings = Some((count, now));
        } else if now > at + LISTING {
            return Err(format!("L: the provider has not listed the nodes for {:?}", now - at));
        }
        Ok(())
    }

    /// Checks that the runaway guard halts growth only if the hazards give a reason.
    fn check_growth(
        &mut self,
        fleet: &Fleet,
        conditions: &Conditions<'_>,
        now: Instant,
    ) -> Result<(), String> {
        let halt = fleet.guard_status().and_then(|status| status.halt.as_ref());
        // VPSie may still fulfil requests that it accepted beyond its capacity, so these can halt growth.
        let Some(halt) = halt.filter(|_| !conditions.may_halt && conditions.short_sizes.is_empty()) else {
            self.halted_since = None;
            return Ok(());
        };
        let since = *self.halted_since.get_or_insert(now);
        if now > since + HALT {
            Err(format!("L: growth is halted in a fault-free period: {halt}"))
        } else {
            Ok(())
        }
    }

    fn check_machine(
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
                return Err(format!("L: {} failed and was never requested: {}", machine.id, failure.message));
            }
            *entry = (stage, now);
        }
        let is_exempt = match stage {
            // Without sizes in the listings, machines of other sizes wait.
            Stage::Pending => {
                !conditions.sizes_listed
                    || conditions.may_halt
                    || conditions.short_sizes.contains(&machine.size.0)
            }
            Stage::Deleting => !conditions.allows_deletions,
            _ => false,
        };
        match stage.bound().filter(|bound| !is_exempt && now > entry.1 + *bound) {
            Some(bound) => Err(format!("L: {} has been {stage:?} for more than {bound:?}", machine.id)),
            None => Ok(()),
        }
    }
}
