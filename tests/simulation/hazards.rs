//! What may be wrong with a world for as long as a run lasts, beside its weather.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use vpsie_autoscaler::simulator::{
    AnomaliesConfig, ListShape, Nodes, Paging, Shapes, Shortage, Simulator, Span, Total,
};

use super::records::StoreKind;

/// Something that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hazard {
    /// VPSie accepts requests that it has no room for, and never fulfils them.
    SilentShortage,
    /// VPSie refuses every deletion for half a day.
    DeletionsForbidden,
    /// VMs appear hours after their request.
    LateVms,
    /// VPSie makes two VMs for one request.
    Duplicates,
    /// Deleted VMs are listed and run again.
    ReturningVms,
    /// Rows of new workers do not tell their role.
    UnknownRoles,
    /// The account has other VMs with the hostnames of workers, and lists the workers later.
    Namesakes,
    /// Lists are cut without a total.
    CutLists,
    /// `Retry-After` of days, of 10^19 seconds, of a date years ahead, of nonsense.
    AbsurdRetryAfter,
    /// VPSie takes seconds to answer, and records cannot be written for seconds in between.
    StoreGaps,
    /// The provider's clock is a year ahead once, and days later a person adds a worker.
    YearAhead,
    /// Increases fail, and what was written of them until then must be taken back.
    HalfWrittenIncreases,
    /// Listings lack hostnames, or the list of workers, for minutes.
    IncompleteListings,
    /// The API server refuses the record of one machine while the weather is fair.
    RefusedRecord,
}

use Hazard::{
    AbsurdRetryAfter, CutLists, DeletionsForbidden, Duplicates, HalfWrittenIncreases, IncompleteListings,
    LateVms, Namesakes, RefusedRecord, ReturningVms, SilentShortage, StoreGaps, UnknownRoles, YearAhead,
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
        RefusedRecord,
        IncompleteListings,
    ];

    /// How often a world has it. Hazards that last half a day are rare, because such a world runs as long as five
    /// others.
    fn chance(self) -> f64 {
        match self {
            DeletionsForbidden | LateVms | Duplicates | UnknownRoles | YearAhead => 0.04,
            _ => 0.15,
        }
    }

    /// Returns true iff it exists only where an API server keeps the records.
    fn needs_objects(self) -> bool {
        self == RefusedRecord
    }
}

/// The hazards of one world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hazards(BTreeSet<Hazard>);

impl Hazards {
    /// Some, by chance, or the one under which a planted bug shows. `HAZARDS=LateVms,Namesakes` takes these instead, and
    /// all of them; `WITHOUT=LateVms` leaves it out.
    pub(crate) fn draw(rng: &mut StdRng, seed: u64, store_kind: StoreKind, planted: Option<Hazard>) -> Self {
        // A generator of its own: draws for these hazards must not change other worlds.
        let mut apart = StdRng::seed_from_u64(seed ^ 0x0b1e);
        let mut drawn = |hazard: &Hazard| {
            let is_apart = hazard.needs_objects() || *hazard == IncompleteListings;
            let rng = if is_apart { &mut apart } else { &mut *rng };
            let drawn = rng.random_bool(hazard.chance());
            drawn && (store_kind == StoreKind::Kubernetes || !hazard.needs_objects())
        };
        let by_chance = Hazard::ALL.into_iter().filter(|hazard| drawn(hazard)).collect();
        if let Some(planted) = planted {
            return Self(BTreeSet::from([planted]));
        }
        let mut chosen: BTreeSet<_> = Self::named("HAZARDS").unwrap_or(by_chance).into_iter().collect();
        for hazard in Self::named("WITHOUT").unwrap_or_default() {
            chosen.remove(&hazard);
        }
        Self(chosen)
    }

    fn named(variable: &str) -> Option<Vec<Hazard>> {
        let names = std::env::var(variable).ok()?;
        let named = |name: &str| {
            let found = Hazard::ALL.into_iter().find(|hazard| format!("{hazard:?}") == name);
            found.unwrap_or_else(|| panic!("{variable}: {name:?} is none of {:?}", Hazard::ALL))
        };
        Some(names.split(',').filter(|name| !name.is_empty()).map(named).collect())
    }

    pub(crate) fn has(&self, hazard: Hazard) -> bool {
        self.0.contains(&hazard)
    }

    /// Whether VMs of ours may fit no request: such a VM is left alone and counted.
    pub(crate) fn unexplained_vms(&self) -> bool {
        [LateVms, Duplicates, ReturningVms, UnknownRoles].iter().any(|hazard| self.has(*hazard))
    }

    /// Whether VPSie makes VMs beyond those that were asked for.
    pub(crate) fn vms_beyond_requests(&self) -> bool {
        [Duplicates, ReturningVms].iter().any(|hazard| self.has(*hazard))
    }

    /// Whether the world goes on for half a day.
    pub(crate) fn is_long(&self) -> bool {
        [DeletionsForbidden, LateVms, Duplicates, UnknownRoles].iter().any(|hazard| self.has(*hazard))
    }

    pub(crate) fn shape(&self, shapes: &mut Shapes, rng: &mut StdRng) {
        if self.has(Namesakes) || self.has(CutLists) {
            shapes.nodes = Nodes::Plain;
        }
        if self.has(CutLists) {
            shapes.paging = if rng.random_bool(0.5) { Paging::Rows } else { Paging::Pages };
            shapes.total = Total::Absent;
            shapes.list = if rng.random_bool(0.5) { ListShape::Array } else { ListShape::Bare };
        }
    }

    pub(crate) fn apply(&self, simulator: &Simulator, rng: &mut StdRng) {
        let chance = |hazard, chance: f64| if self.has(hazard) { chance } else { 0.0 };
        let minutes =
            |from, to| Span { from: SignedDuration::from_mins(from), to: SignedDuration::from_mins(to) };
        let told_after = if self.has(Namesakes) { minutes(0, rng.random_range(1..5)) } else { Span::ZERO };
        simulator.set_anomalies(AnomaliesConfig {
            duplicates: chance(Duplicates, 0.3),
            late: chance(LateVms, 0.6),
            late_by: minutes(70, 360),
            returns: chance(ReturningVms, 0.3),
            returns_after: minutes(1, 90),
            unknown_roles: chance(UnknownRoles, 0.9),
            namesakes: chance(Namesakes, 0.7),
            uuid_listed_after: told_after,
            incomplete_listings: chance(IncompleteListings, 0.3),
            ..AnomaliesConfig::default()
        });
        if self.has(SilentShortage) {
            simulator.set_shortage(Shortage::Silent);
        }
    }
}
