//! Reasons why a pool cannot grow now.

use jiff::Timestamp;

use super::state::Fleet;

/// The reason why a pool cannot grow now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrowthBlock {
    /// A code such as `STOCKOUT`.
    pub reason: &'static str,
    /// The cause and the remedy, as a sentence.
    pub message: String,
}

impl Fleet {
    /// The reason why the pool cannot grow by that many machines: a refusal, or a recent shortage at VPSie.
    /// None if it can. A quota belongs to the account, so it blocks every pool.
    pub fn growth_block(&self, pool: &str, by: u32, now: Timestamp) -> Option<GrowthBlock> {
        if let Err(refusal) = self.may_grow(pool, by) {
            return Some(GrowthBlock { reason: refusal.code(), message: refusal.to_string() });
        }
        let pool = self.pool(pool)?;
        let shortage = self.shortages.active(&pool.id.class(pool.offer.size), now)?;
        let failure = &shortage.failure;
        Some(GrowthBlock {
            reason: failure.reason.code(),
            message: format!("{} ({:.0})", failure.message, shortage.at),
        })
    }
}
