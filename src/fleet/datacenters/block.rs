//! Reasons why a datacenter cannot grow.

use std::fmt;

use jiff::Timestamp;

use super::breaker::Outage;
use crate::catalog::DatacenterId;

/// The reason why pools of a datacenter cannot grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatacenterBlock {
    /// The circuit breaker of the datacenter is open.
    Open {
        /// The outage. None in a damaged record.
        outage: Option<Outage>,
        /// Time of the next attempt. None: growth is allowed again when the outage has ended.
        until: Option<Timestamp>,
    },
    /// The circuit breaker is half-open.
    HalfOpen,
    /// The weight of the datacenter is 0.
    NoWeight,
    /// The datacenter is a backup, and a datacenter before it in the order can grow (`primary-backup`).
    Backup {
        /// The datacenter that can grow.
        primary: DatacenterId,
    },
}

impl fmt::Display for DatacenterBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { outage, until } => {
                f.write_str("its circuit breaker is open")?;
                if let Some(outage) = outage {
                    write!(f, " ({} at {:.0})", outage.cause, outage.at)?;
                }
                match until {
                    Some(until) => write!(f, "; next attempt after {until:.0}"),
                    None => f.write_str("; it closes after this has ended"),
                }
            }
            Self::HalfOpen => f.write_str(
                "its circuit breaker is half-open: the datacenter can add one machine, and more once the Node of that \
                 machine is Ready",
            ),
            Self::NoWeight => f.write_str("its weight in multiRegion.weightedDistribution is 0"),
            Self::Backup { primary } => write!(f, "it is a backup, and datacenter {primary} can grow"),
        }
    }
}
