//! Why a pool would not grow if it were asked to now.

use std::time::Duration;

use jiff::Timestamp;

use super::clock_skew::is_ahead;
use super::command::Refusal;
use super::creation::age;
use super::machine::{Failure, FailureReason, Machine, Phase};
use super::state::Fleet;
use crate::catalog::{DatacenterId, SizeId};

/// How long a shortage counts as one: Cluster Autoscaler leaves a pool alone for as long after its first failure
/// (`--initial-node-group-backoff-duration`).
const SHORTAGE_LASTS: Duration = Duration::from_mins(5);

/// Failures of one size that are noted and lie further apart are not of one clock.
const AHEAD: Duration = Duration::from_hours(2);

/// Why a pool is certain not to grow now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hindrance {
    /// In one word, such as `STOCKOUT`.
    pub reason: &'static str,
    /// For a person: what would have to change.
    pub message: String,
}

/// What VPSie had too little of, by size and datacenter. Never durable: machines that failed say it again.
pub(super) type Shortages = std::collections::HashMap<(SizeId, DatacenterId), (Failure, Timestamp)>;

impl Fleet {
    /// Why the pool would not grow by that many: it would be refused, or VPSie had too little of it lately. A quota is
    /// the account's, so it stands in the way of every pool.
    pub fn hindrance(&self, pool: &str, by: u32, now: Timestamp) -> Option<Hindrance> {
        if let Err(refusal) = self.may_grow(pool, by) {
            return Some(Hindrance { reason: refusal.word(), message: refusal.to_string() });
        }
        let pool = self.pool(pool)?;
        let recent = |(_, at): &&(Failure, Timestamp)| !is_ahead(*at, now) && age(*at, now) < SHORTAGE_LASTS;
        let own = self.shortages.get(&(pool.offer.size, pool.id.datacenter.clone()));
        let quota =
            || self.shortages.values().filter(|(failure, _)| failure.reason == FailureReason::QuotaExceeded);
        let (failure, at) =
            own.filter(recent).or_else(|| quota().filter(recent).max_by_key(|(_, at)| *at))?;
        Some(Hindrance { reason: failure.reason.code(), message: format!("{} ({at:.0})", failure.message) })
    }

    /// Notes a shortage that a machine met with, or that there is none any more: a machine has got its VM.
    pub(super) fn note_shortage(&mut self, machine: &Machine) {
        let key = || (machine.size, machine.pool.datacenter.clone());
        match &machine.phase {
            Phase::Failed { failure, at }
                if matches!(failure.reason, FailureReason::Stockout | FailureReason::QuotaExceeded) =>
            {
                // One that is newer by hours was noted while the clock was ahead.
                let older = |noted: Timestamp| noted <= *at || age(*at, noted) >= AHEAD;
                let newest = self.shortages.get(&key()).is_none_or(|(_, noted)| older(*noted));
                if newest {
                    self.shortages.insert(key(), (failure.clone(), *at));
                }
            }
            // One that was asked for before says nothing.
            Phase::Creating { vm: Some(_), .. } | Phase::Running { .. } => {
                let over = |(_, at): &(Failure, Timestamp)| *at <= machine.created_at;
                if self.shortages.get(&key()).is_some_and(over) {
                    self.shortages.remove(&key());
                }
                // An account that gets a VM of any size is below its quota.
                self.shortages.retain(|_, shortage| {
                    shortage.0.reason != FailureReason::QuotaExceeded || !over(shortage)
                });
            }
            _ => {}
        }
    }
}

impl Refusal {
    /// What is in the way, in one word.
    fn word(&self) -> &'static str {
        match self {
            Self::AboveMax { .. } => "MAXIMUM_REACHED",
            Self::AboveClusterMax { .. } => "CLUSTER_MAXIMUM_REACHED",
            Self::Halted { .. } => "GROWTH_HALTED",
            Self::AboveVmBound { .. } => "VM_BOUND_REACHED",
            Self::VmsStillPaid { .. } => "VMS_STILL_PAID",
            Self::AboveCostLimit(_) => "COST_LIMIT_REACHED",
            Self::PriceUnknown { .. } => "PRICE_UNKNOWN",
            Self::LimitsUnknown { .. } => "LIMITS_UNKNOWN",
            Self::UnknownPool(_)
            | Self::Delta { .. }
            | Self::BelowMin { .. }
            | Self::NotGrowable { .. }
            | Self::ForeignNode { .. } => "NOT_GROWABLE",
        }
    }
}
