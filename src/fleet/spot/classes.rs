//! Circuit breakers and interruption rates of spot classes in the fleet.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::breaker::{BreakerState, SpotFailure, SpotFailureReason};
use super::history::{MAX_COUNTED, SpotBlock, SpotClass, SpotHistory, is_since};
use super::policy::SpotPolicy;
use crate::catalog::{CapacityType, MachineClass};
use crate::cost::{InterruptionRate, UsdPerHour};
use crate::fleet::ids::PoolId;
use crate::fleet::machine::{FailureReason, Machine, Phase};
use crate::fleet::record::Change;
use crate::fleet::state::{Fleet, Pool};

impl Fleet {
    /// The record of spot classes.
    pub fn spot_history(&self) -> &SpotHistory {
        &self.spot_history
    }

    /// The state of the circuit breaker of the pool's class. None for an on-demand pool.
    pub fn breaker_state(&self, pool: &Pool) -> Option<BreakerState> {
        (pool.id.capacity_type == CapacityType::Spot)
            .then(|| self.spot_history.breaker_state(&pool.id.class(pool.offer.size)))
    }

    /// The estimated interruption rate of the pool's machines. None for an on-demand pool.
    pub fn interruption_rate(&self, pool: &Pool) -> Option<InterruptionRate> {
        (pool.id.capacity_type == CapacityType::Spot).then(|| {
            let prior = self.prices().interruption_prior(&pool.offer);
            self.spot_class(pool).map_or(prior, |class| class.interruptions.rate(prior))
        })
    }

    /// The expected cost of the interruptions of one machine of the pool: their rate, times the price of the
    /// same machine on demand for the lost time.
    pub fn interruption_cost(&self, pool: &Pool) -> UsdPerHour {
        let Some(rate) = self.interruption_rate(pool) else { return UsdPerHour::ZERO };
        let on_demand = PoolId { capacity_type: CapacityType::OnDemand, ..pool.id.clone() };
        let price = self.pool(&on_demand.to_string()).and_then(|pool| pool.price).or(pool.price);
        let lost_hours = self.settings.interruption_loss.as_secs_f64() / 3600.0;
        price.map_or(UsdPerHour::ZERO, |price| price.scaled(rate.to_per_hour() * lost_hours))
    }

    /// The price of a machine of the pool with the cost of its interruptions. None if the price is unknown.
    pub fn expected_price(&self, pool: &Pool) -> Option<UsdPerHour> {
        Some(pool.price? + self.interruption_cost(pool))
    }

    /// Share of the NodeGroup's spot machines that have the class of the spot pool, 0 to 1. 0 for an on-demand
    /// pool.
    pub fn spot_concentration(&self, pool: &Pool) -> f64 {
        let spot = self.capacity_counts(&pool.id.node_group).spot;
        if pool.id.capacity_type != CapacityType::Spot || spot == 0 {
            return 0.0;
        }
        f64::from(pool.target) / f64::from(spot)
    }

    fn spot_class(&self, pool: &Pool) -> Option<&SpotClass> {
        self.spot_history.find_class(&pool.id.class(pool.offer.size))
    }

    /// The reason why the spot pool cannot grow by one machine, apart from the maximum share. None if it can.
    pub fn spot_block(&self, pool: &Pool) -> Option<SpotBlock> {
        let policy = self.group(pool)?.spot?;
        let (headroom, block) = self.class_headroom(pool, &policy);
        block.filter(|_| headroom == 0)
    }

    /// Number of machines that the class of the spot pool can add, and the reason if that is not unlimited.
    pub(super) fn class_headroom(&self, pool: &Pool, policy: &SpotPolicy) -> (u32, Option<SpotBlock>) {
        let Some(class) = self.spot_class(pool) else { return (u32::MAX, None) };
        if let Some(allowed) = policy.allowed_interruption_rate {
            let certain = class.interruptions.certain_rate(self.prices().interruption_prior(&pool.offer));
            if certain > allowed {
                return (0, Some(SpotBlock::AboveAllowedRate { certain, allowed }));
            }
        }
        match class.breaker.state {
            BreakerState::Closed => (u32::MAX, None),
            BreakerState::Open { until } => {
                (0, Some(SpotBlock::Open { failure: class.breaker.last_failure, until }))
            }
            BreakerState::HalfOpen { since } => {
                let tried = self.machines_since(&class.class(), since).next().is_some();
                (u32::from(!tried), Some(SpotBlock::HalfOpen))
            }
        }
    }

    /// Machines of the class that were created since then and are neither Failed nor Deleting.
    fn machines_since<'a>(
        &'a self,
        class: &'a MachineClass,
        since: Timestamp,
    ) -> impl Iterator<Item = &'a Machine> {
        let pools = self.pools.values().filter(|pool| pool.id.class(pool.offer.size) == *class);
        pools.flat_map(|pool| &pool.members).filter_map(|id| self.machines.get(id)).filter(move |machine| {
            is_since(machine.created_at, since)
                && machine.counts()
                && !matches!(machine.phase, Phase::Failed { .. })
        })
    }

    /// The record of spot classes after the change, if a spot machine fails by it.
    pub(in crate::fleet) fn spot_history_after(&self, change: &Change) -> Option<SpotHistory> {
        let Change::SaveMachine(machine) = change else { return None };
        let Phase::Failed { failure, at } = &machine.phase else { return None };
        let was_failed =
            self.machines.get(&machine.id).is_some_and(|old| matches!(old.phase, Phase::Failed { .. }));
        if machine.pool.capacity_type != CapacityType::Spot || was_failed {
            return None;
        }
        let reason = match failure.reason {
            FailureReason::Stockout | FailureReason::Refused => SpotFailureReason::Refused,
            FailureReason::CreateTimeout => SpotFailureReason::NotDelivered,
            // They do not depend on the class.
            FailureReason::QuotaExceeded
            | FailureReason::JoinTimeout
            | FailureReason::Authentication
            | FailureReason::InvalidConfiguration
            | FailureReason::ApiUnavailable
            | FailureReason::DatacenterUnavailable => return None,
        };
        let mut history = self.spot_history.clone();
        let class = history.entry(machine.class(), *at);
        class.breaker.record_failure(SpotFailure { reason, at: *at }, machine.created_at);
        (history != self.spot_history).then_some(history)
    }

    /// Records the interruption of a spot machine.
    pub(in crate::fleet) fn record_interruption(
        &mut self,
        changes: &mut Vec<Change>,
        machine: &Machine,
        now: Timestamp,
    ) {
        if machine.pool.capacity_type != CapacityType::Spot {
            return;
        }
        let mut history = self.spot_history.clone();
        let class = history.entry(machine.class(), now);
        if class.counted.contains(&machine.id) {
            return;
        }
        if class.counted.len() >= MAX_COUNTED {
            class.counted.remove(0);
        }
        class.counted.push(machine.id.clone());
        let is_repeated = class.interruptions.record(now);
        let is_tried = matches!(class.breaker.state,
            BreakerState::HalfOpen { since } if is_since(machine.created_at, since));
        if is_repeated || is_tried {
            let failure = SpotFailure { reason: SpotFailureReason::Interrupted, at: now };
            class.breaker.record_failure(failure, now);
        }
        self.save_spot_history(changes, history);
    }

    /// Makes the transitions of circuit breakers that are due, and adds the running time of spot machines.
    pub(in crate::fleet) fn advance_spot_classes(&mut self, changes: &mut Vec<Change>, now: Timestamp) {
        let mut running: BTreeMap<MachineClass, Vec<(Timestamp, Timestamp)>> = BTreeMap::new();
        for machine in self.machines.values().filter(|m| m.pool.capacity_type == CapacityType::Spot) {
            if let Phase::Running { since, .. } = machine.phase {
                running.entry(machine.class()).or_default().push((machine.created_at, since));
            }
        }
        let mut history = self.spot_history.clone();
        for class in running.keys() {
            history.entry(class.clone(), now);
        }
        for (class, state) in &mut history.0 {
            let running = running.get(class).map_or(&[][..], Vec::as_slice);
            state.breaker.correct_times(now);
            state.interruptions.correct_times(now);
            state.interruptions.add_running_time(now, running.iter().map(|(_, since)| *since));
            if let BreakerState::HalfOpen { since: half_open } = state.breaker.state {
                let tried = running.iter().filter(|(created, _)| is_since(*created, half_open));
                state.breaker.advance(now, tried.map(|(_, since)| *since));
            } else {
                state.breaker.advance(now, std::iter::empty());
            }
        }
        history.0.retain(|class, state| {
            running.contains_key(class) || !state.breaker.is_reset(now) || !state.interruptions.is_empty()
        });
        self.save_spot_history(changes, history);
    }

    fn save_spot_history(&mut self, changes: &mut Vec<Change>, history: SpotHistory) {
        if history != self.spot_history {
            self.push_change(changes, Change::SaveSpotHistory(history));
        }
    }
}
