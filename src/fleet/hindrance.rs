//! Why a pool would not grow if it were asked to now.

use jiff::Timestamp;

use super::command::Refusal;
use super::state::Fleet;

/// Why a pool is certain not to grow now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hindrance {
    /// In one word.
    pub reason: &'static str,
    /// For a person: what would have to change.
    pub message: String,
}

impl Fleet {
    /// Why the pool would not grow by that many, if it is certain that it would not.
    pub fn hindrance(&self, pool: &str, by: u32, _now: Timestamp) -> Option<Hindrance> {
        let refusal = self.may_grow(pool, by).err()?;
        let reason = match refusal {
            Refusal::AboveMax { .. } => "MAXIMUM_REACHED",
            Refusal::AboveClusterMax { .. } => "CLUSTER_MAXIMUM_REACHED",
            _ => "NOT_GROWABLE",
        };
        Some(Hindrance { reason, message: refusal.to_string() })
    }
}
