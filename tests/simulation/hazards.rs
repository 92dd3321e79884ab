//! Hazards: anomalies that last for a whole run, unlike injected faults.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use vpsie_autoscaler::simulator::{
    AnomaliesConfig, ListShape, Nodes, Paging, Shapes, Shortage, Simulator, Span, Total,
};

use super::records::StoreKind;

/// A lasting anomaly of VPSie, the API server or the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hazard {
    /// VPSie accepts requests beyond its capacity, and never fulfils them.
    SilentShortage,
    /// VPSie refuses every deletion for half a day.
    DeletionsForbidden,
    /// VMs appear hours after their request.
    LateVms,
    /// VPSie creates two VMs for one request.
    Duplicates,
    /// Deleted VMs are listed and run again.
    ReturningVms,
    /// Rows of new workers do not show their role.
    UnknownRoles,
    /// The account has other VMs with the hostnames of workers. `storages/vms` lists the workers later than
    /// their cluster does.
    Namesakes,
    /// Lists are paged and do not show their total number of rows.
    CutLists,
    /// Replies have a `Retry-After` of a day, of 10^19 seconds, of a date a year ahead, or of invalid text.
    AbsurdRetryAfter,
    /// VPSie takes seconds to answer creations, and the store fails for seconds at a time.
    StoreGaps,
    /// The provider's clock is a year ahead for some steps. Days later an administrator adds a worker.
    YearAhead,
    /// Increases that fail after a part of their records was written must leave no machine: enables that
    /// check.
    HalfWrittenIncreases,
    /// Listings lack hostnames, or the list of workers, for minutes at a time.
    IncompleteListings,
    /// The API server rejects the record of one machine in the fault-free period.
    RejectedRecord,
}

use Hazard::{
    AbsurdRetryAfter, CutLists, DeletionsForbidden, Duplicates, HalfWrittenIncreases, IncompleteListings,
    LateVms, Namesakes, RejectedRecord, ReturningVms, SilentShortage, StoreGaps, UnknownRoles, YearAhead,
};

impl Hazard {
    pub(crate) const ALL: [Self; 14] = [
        SilentShortage,
        DeletionsForbidden,
        LateVms,
        Duplicates,
        ReturningVms,
        UnknownRoles,
        Namesakes,
        CutLists,
        AbsurdRetryAfter,
        StoreGaps,
        YearAhead,
        HalfWrittenIncreases,
        RejectedRecord,
        IncompleteListings,
    ];

    /// Probability that a run has this hazard. Hazards with a half-day phase are rare, because such a run
    /// takes as long as five others.
    fn probability(self) -> f64 {
        match self {
            DeletionsForbidden | LateVms | Duplicates | UnknownRoles | YearAhead => 0.04,
            _ => 0.15,
        }
    }

    /// Returns true iff this hazard requires the records to be in an API server.
    fn needs_api_server(self) -> bool {
        self == RejectedRecord
    }
}

/// The hazards of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hazards(BTreeSet<Hazard>);

impl Hazards {
    /// Draws the hazards of a run. `required` is the hazard that a planted bug needs; it is then the only
    /// one. `HAZARDS=LateVms,Namesakes` replaces the drawn hazards, and `WITHOUT=LateVms` removes a hazard.
    pub(crate) fn draw(rng: &mut StdRng, seed: u64, store_kind: StoreKind, required: Option<Hazard>) -> Self {
        // These hazards draw from a separate generator, so that the other draws of a seed do not depend on
        // them.
        let mut separate = StdRng::seed_from_u64(seed ^ 0x0b1e);
        let mut drawn = |hazard: &Hazard| {
            let is_separate = hazard.needs_api_server() || *hazard == IncompleteListings;
            let rng = if is_separate { &mut separate } else { &mut *rng };
            let drawn = rng.random_bool(hazard.probability());
            drawn && (store_kind == StoreKind::Kubernetes || !hazard.needs_api_server())
        };
        let drawn_hazards = Hazard::ALL.into_iter().filter(|hazard| drawn(hazard)).collect();
        if let Some(required) = required {
            return Self(BTreeSet::from([required]));
        }
        let mut chosen: BTreeSet<_> =
            Self::parse_variable("HAZARDS").unwrap_or(drawn_hazards).into_iter().collect();
        for hazard in Self::parse_variable("WITHOUT").unwrap_or_default() {
            chosen.remove(&hazard);
        }
        Self(chosen)
    }

    fn parse_variable(variable: &str) -> Option<Vec<Hazard>> {
        let names = std::env::var(variable).ok()?;
        let parse = |name: &str| {
            let found = Hazard::ALL.into_iter().find(|hazard| format!("{hazard:?}") == name);
            found.unwrap_or_else(|| panic!("{variable}: {name:?} is not one of {:?}", Hazard::ALL))
        };
        Some(names.split(',').filter(|name| !name.is_empty()).map(parse).collect())
    }

    pub(crate) fn has(&self, hazard: Hazard) -> bool {
        self.0.contains(&hazard)
    }

    /// Returns true iff a worker that VPSie created may match no open request. The provider records such a
    /// worker as foreign and does not touch it.
    pub(crate) fn has_unmatched_vms(&self) -> bool {
        [LateVms, Duplicates, ReturningVms, UnknownRoles].iter().any(|hazard| self.has(*hazard))
    }

    /// Returns true iff VPSie may run more VMs than were requested.
    pub(crate) fn has_unrequested_vms(&self) -> bool {
        [Duplicates, ReturningVms].iter().any(|hazard| self.has(*hazard))
    }

    /// Returns true iff the run has a half-day phase, because the effect of the hazard appears after hours.
    pub(crate) fn needs_half_day(&self) -> bool {
        [DeletionsForbidden, LateVms, Duplicates, UnknownRoles].iter().any(|hazard| self.has(*hazard))
    }

    /// Selects the variants of the API that the hazards need.
    pub(crate) fn set_shapes(&self, shapes: &mut Shapes, rng: &mut StdRng) {
        if self.has(Namesakes) || self.has(CutLists) {
            shapes.nodes = Nodes::Plain;
        }
        if self.has(CutLists) {
            shapes.paging = if rng.random_bool(0.5) { Paging::Rows } else { Paging::Pages };
            shapes.total = Total::Absent;
            shapes.list = if rng.random_bool(0.5) { ListShape::Array } else { ListShape::Bare };
        }
    }

    /// Configures the simulator.
    pub(crate) fn apply(&self, simulator: &Simulator, rng: &mut StdRng) {
        let if_has = |hazard, probability: f64| if self.has(hazard) { probability } else { 0.0 };
        let minutes =
            |from, to| Span { from: SignedDuration::from_mins(from), to: SignedDuration::from_mins(to) };
        let uuid_listed_after =
            if self.has(Namesakes) { minutes(0, rng.random_range(1..5)) } else { Span::ZERO };
        simulator.set_anomalies(AnomaliesConfig {
            duplicates: if_has(Duplicates, 0.3),
            late: if_has(LateVms, 0.6),
            late_by: minutes(70, 360),
            returns: if_has(ReturningVms, 0.3),
            returns_after: minutes(1, 90),
            unknown_roles: if_has(UnknownRoles, 0.9),
            namesakes: if_has(Namesakes, 0.7),
            uuid_listed_after,
            incomplete_listings: if_has(IncompleteListings, 0.3),
            ..AnomaliesConfig::default()
        });
        if self.has(SilentShortage) {
            simulator.set_shortage(Shortage::Silent);
        }
    }
}
