//! Extra VMs: paid for, but in no target size.
//!
//! A Deleting machine leaves its pool's target size at once, but its VM is billed until VPSie has deleted it.
//! So existing VMs limit growth as well: all VMs of a NodeGroup together stay within its maximum and a surge.
//! The surge allows the replacement of nodes at the maximum.

use std::collections::HashMap;

use super::ids::PoolId;
use super::machine::{Machine, Phase, RequestOutcome};
use super::record::{UnmanagedKind, UnmanagedNode};

/// Number of VMs that may be paid for beyond a maximum while others are being deleted: a tenth of it, at
/// least two.
pub fn surge(max: u32) -> u32 {
    (max / 10).max(2)
}

/// Number of extra VMs by pool.
pub(super) type ExtraVms = HashMap<PoolId, u32>;

impl Machine {
    /// Whether it has a VM, or a VM of it may still appear, although the machine is in no target size.
    pub(super) fn is_extra_vm(&self) -> bool {
        let may_come = || self.requests.iter().any(|request| request.outcome != RequestOutcome::Lost);
        matches!(self.phase, Phase::Deleting { .. }) && (self.vm().is_some() || may_come())
    }
}

impl UnmanagedNode {
    /// The pool in which it counts as an extra VM.
    pub(super) fn extra_vm_pool(&self) -> Option<&PoolId> {
        match &self.kind {
            UnmanagedKind::Orphan { pool, .. } => Some(pool),
            UnmanagedKind::Foreign => self.awaited_by.as_ref(),
            UnmanagedKind::Gone { .. } => None,
        }
    }
}

/// Adds or removes one extra VM of the pool.
pub(super) fn count_extra_vm(extra_vms: &mut ExtraVms, pool: &PoolId, more: bool) {
    if more {
        *extra_vms.entry(pool.clone()).or_default() += 1;
    } else if let Some(count) = extra_vms.get_mut(pool) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            extra_vms.remove(pool);
        }
    }
}
