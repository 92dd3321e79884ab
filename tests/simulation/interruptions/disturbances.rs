//! Disturbances of a run with interruptions.

use std::collections::BTreeSet;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// A kind of fault that a run has at random times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Disturbance {
    /// The clocks of the provider, the API server and each kubelet differ by minutes. No check of a time
    /// applies.
    ClockSkew,
    /// VMs vanish without a notice.
    LostNotices,
    /// VMs run on after the deadline of their notice.
    OutlivedNotices,
    /// VPSie has no spot VMs for some minutes, and sometimes no VMs at all.
    SoldOut,
    /// VPSie refuses creations, or their replies are lost.
    FailedCreations,
    /// The process ends at any time, or at a write after a notice, and starts again at once or later.
    Crashes,
    /// Requests of the provider to the API server are lost or refused, and replies are lost.
    FlakyServer,
    /// A disruption budget allows no evictions for some minutes.
    BlockedEvictions,
}

use Disturbance::{
    BlockedEvictions, ClockSkew, Crashes, FailedCreations, FlakyServer, LostNotices, OutlivedNotices, SoldOut,
};

impl Disturbance {
    const ALL: [Self; 8] = [
        ClockSkew,
        LostNotices,
        OutlivedNotices,
        SoldOut,
        FailedCreations,
        Crashes,
        FlakyServer,
        BlockedEvictions,
    ];

    /// Draws the disturbances of a run. `DISTURBANCES=ClockSkew,SoldOut` replaces the drawn ones.
    pub(super) fn draw(rng: &mut StdRng) -> BTreeSet<Self> {
        let probability = |disturbance: &Self| match disturbance {
            ClockSkew => 0.15,
            LostNotices | OutlivedNotices | SoldOut | FailedCreations | Crashes | FlakyServer
            | BlockedEvictions => 0.35,
        };
        let drawn: BTreeSet<Self> =
            Self::ALL.into_iter().filter(|disturbance| rng.random_bool(probability(disturbance))).collect();
        let Ok(names) = std::env::var("DISTURBANCES") else { return drawn };
        let parse = |name: &str| {
            let found = Self::ALL.into_iter().find(|disturbance| format!("{disturbance:?}") == name);
            found.unwrap_or_else(|| panic!("DISTURBANCES: {name:?} is not one of {:?}", Self::ALL))
        };
        names.split(',').filter(|name| !name.is_empty()).map(parse).collect()
    }
}
