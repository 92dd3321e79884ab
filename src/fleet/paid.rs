//! What is paid for beyond the target sizes, and how much room for growth it leaves.
//!
//! A machine that is Deleting leaves its pool's target size at once, and its VM is billed until VPSie has deleted it. So
//! VMs that still exist bound growth as well: all VMs of a NodeGroup together stay within its maximum and a surge that
//! lets nodes be replaced at the maximum.

use std::collections::HashMap;

use super::ids::PoolId;
use super::machine::{Machine, Phase, RequestOutcome};
use super::record::{UnmanagedKind, UnmanagedNode};

/// VMs that may be paid for beyond a maximum, while others are being deleted: a tenth of it, and at least two.
pub fn surge(max: u32) -> u32 {
    (max / 10).max(2)
}

/// VMs that are paid for and are in no target size, by pool.
pub(super) type ExtraVms = HashMap<PoolId, u32>;

impl Machine {
    /// Whether a VM of it exists or may come, though it is in no target size any more.
    pub(super) fn is_extra_vm(&self) -> bool {
        let may_come = || self.requests.iter().any(|request| request.outcome != RequestOutcome::Lost);
        matches!(self.phase, Phase::Deleting { .. }) && (self.vm().is_some() || may_come())
    }
}

impl UnmanagedNode {
    /// The pool that it counts as paid for in.
    pub(super) fn paid_in(&self) -> Option<&PoolId> {
        match &self.kind {
            UnmanagedKind::Orphan { pool, .. } => Some(pool),
            UnmanagedKind::Foreign => self.awaited_by.as_ref(),
            UnmanagedKind::Gone { .. } => None,
        }
    }
}

/// Counts one VM of the pool more, or one less.
pub(super) fn count(extra_vms: &mut ExtraVms, pool: &PoolId, more: bool) {
    if more {
        *extra_vms.entry(pool.clone()).or_default() += 1;
    } else if let Some(count) = extra_vms.get_mut(pool) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            extra_vms.remove(pool);
        }
    }
}
