//! Reasons why a pool cannot grow now.

use jiff::Timestamp;

use super::state::{Fleet, Pool};

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
        self.shortage_block(pool, now).or_else(|| self.share_block(pool))
    }

    /// The pool has no headroom, because all headroom of its NodeGroup belongs to other datacenters. It is no refusal.
    fn share_block(&self, pool: &Pool) -> Option<GrowthBlock> {
        let group = self.group(pool).filter(|group| group.distribution.is_some())?;
        (self.pool_headroom(group, pool) == 0).then(|| GrowthBlock {
            reason: "DATACENTER_SHARE_REACHED",
            message: format!(
                "datacenter {} has its part of the NodeGroup (multiRegion); other datacenters have the headroom",
                pool.id.datacenter
            ),
        })
    }

    /// The reason why an option of Cluster Autoscaler with that many nodes of the pool is certain to fail. None if it
    /// only takes over replacements. Cluster Autoscaler adds no more nodes than the maximum of the pool allows; a shortage
    /// does not lower the maximum, so it blocks nodes beyond the replacements.
    pub fn option_block(&self, pool: &Pool, nodes: u32, now: Timestamp) -> Option<GrowthBlock> {
        let available = self.available_replacements(pool);
        // One more node is enough: near a maximum, Cluster Autoscaler adds fewer nodes than the option has.
        if available == 0 {
            return self.growth_block(&pool.text, 1, now);
        }
        let limits = self.limits(pool);
        let added = nodes.min(limits.max - limits.target).saturating_sub(available);
        if added > 0 { self.shortage_block(pool, now) } else { None }
    }

    fn shortage_block(&self, pool: &Pool, now: Timestamp) -> Option<GrowthBlock> {
        let shortage = self.shortages.active(&pool.id.class(pool.offer.size), now)?;
        let failure = &shortage.failure;
        Some(GrowthBlock {
            reason: failure.reason.code(),
            message: format!("{} ({:.0})", failure.message, shortage.at),
        })
    }
}
