//! Releases of Cluster Autoscaler whose requests to a provider differ.

/// A minor release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Minor {
    /// 1.28: no `MaxNodeProvisionTime` in options, `Unimplemented` counts as an error.
    V1_28,
    /// 1.30.
    V1_30,
    /// 1.32: an empty reply of the gRPC expander means "no scale-up".
    V1_32,
    /// 1.33: `zeroOrMaxNodeScaling` in options, least-waste by default.
    V1_33,
    /// 1.34: old and new fields side by side.
    V1_34,
    /// 1.35: new fields only, requests options per node and loop.
    V1_35,
    /// 1.36: reverts scale-ups that timed out; only its own requests count as upcoming.
    V1_36,
}

impl Minor {
    /// All releases, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V1_28, Self::V1_30, Self::V1_32, Self::V1_33, Self::V1_34, Self::V1_35, Self::V1_36];

    /// Its name, such as `1.33`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_28 => "1.28",
            Self::V1_30 => "1.30",
            Self::V1_32 => "1.32",
            Self::V1_33 => "1.33",
            Self::V1_34 => "1.34",
            Self::V1_35 => "1.35",
            Self::V1_36 => "1.36",
        }
    }

    /// The release of a name such as `1.33`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|minor| minor.as_str() == text)
    }
}
