//! Replacements on their way that Cluster Autoscaler does not see (docs/designs/spot.md).

use std::time::Duration;

use jiff::Timestamp;

use crate::fleet::age::age;
use crate::fleet::limits::{Limits, PoolLimits};
use crate::fleet::machine::Machine;
use crate::fleet::state::{Fleet, Pool};

/// Maximum time for which a replacement is hidden. After it, Cluster Autoscaler sees a VM whose Node never becomes
/// Ready, and removes it.
const HIDDEN_FOR: Duration = Duration::from_mins(10);

/// The replacements that a caller sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// All of them.
    All,
    /// Those of pools with other machines, at this time. In a pool of replacements on their way, all are hidden.
    BesideOthers(Timestamp),
}

impl<'a> PoolLimits<'a> {
    /// The limits of a pool of the fleet, without hidden replacements.
    pub fn visible(&mut self, pool: &'a Pool, visibility: Visibility) -> Limits {
        let limits = self.of(pool);
        self.fleet().without_hidden(limits, pool, visibility)
    }
}

impl Fleet {
    /// Size limits and target size of a pool, without hidden replacements. The number of nodes that the pool can add
    /// is the same: hidden replacements count in all limits.
    pub fn visible_limits(&self, pool: &Pool, visibility: Visibility) -> Limits {
        self.without_hidden(self.limits(pool), pool, visibility)
    }

    /// Target size of a pool, without hidden replacements.
    pub fn visible_target(&self, pool: &Pool, visibility: Visibility) -> u32 {
        if self.hides_replacements(pool, visibility) { 0 } else { pool.target }
    }

    fn without_hidden(&self, limits: Limits, pool: &Pool, visibility: Visibility) -> Limits {
        let hidden = limits.target - self.visible_target(pool, visibility);
        Limits {
            min: limits.min.saturating_sub(hidden),
            max: limits.max.saturating_sub(hidden),
            target: limits.target - hidden,
        }
    }

    /// The pool's machines that Cluster Autoscaler gets, without hidden replacements.
    pub fn visible_machines<'a>(
        &'a self,
        pool: &'a Pool,
        visibility: Visibility,
    ) -> impl Iterator<Item = &'a Machine> {
        let hides = self.hides_replacements(pool, visibility);
        self.machines_of(pool).filter(move |machine| !(hides && machine.counts()))
    }

    /// Whether the pool's machines in the target size are hidden: all are replacements on their way.
    ///
    /// From release 1.36 on, Cluster Autoscaler regards a pool as unhealthy that has a target size, no Node, and no
    /// scale-up of its own, and does not offer it to the expander. Without the replacements, the pool has no target
    /// size and is healthy.
    fn hides_replacements(&self, pool: &Pool, visibility: Visibility) -> bool {
        let now = match visibility {
            Visibility::BesideOthers(now) if pool.target > 0 && !self.replacements.is_empty() => now,
            Visibility::BesideOthers(_) | Visibility::All => return false,
        };
        let is_hidden = |m: &Machine| m.is_coming_replacement() && age(m.created_at, now) < HIDDEN_FOR;
        let members = pool.members.iter().filter_map(|id| self.machines.get(id));
        members.filter(|machine| machine.counts()).all(is_hidden)
    }
}
