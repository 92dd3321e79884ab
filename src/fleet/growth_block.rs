//! Why a pool would not grow if it were asked to now.

use jiff::Timestamp;

use super::state::Fleet;

/// Why a pool is certain not to grow now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrowthBlock {
    /// In one word, such as `STOCKOUT`.
    pub reason: &'static str,
    /// For a person: what would have to change.
    pub message: String,
}

impl Fleet {
    /// Why the pool would not grow by that many: it would be refused, or VPSie had too little of it lately. A quota is
    /// the account's, so it stands in the way of every pool.
    pub fn growth_block(&self, pool: &str, by: u32, now: Timestamp) -> Option<GrowthBlock> {
        if let Err(refusal) = self.may_grow(pool, by) {
            return Some(GrowthBlock { reason: refusal.word(), message: refusal.to_string() });
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
