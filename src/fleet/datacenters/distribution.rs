//! The declared distribution of a NodeGroup's machines, and the division of its headroom among datacenters.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::catalog::DatacenterId;

/// The distribution of a NodeGroup's machines over several datacenters.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// The datacenters, the primary first, the others in the user's order.
    pub datacenters: Vec<DatacenterId>,
    /// The strategy.
    pub strategy: DatacenterStrategy,
    /// Minimum of machines in each datacenter with a weight above 0.
    pub min_per_datacenter: u32,
    /// Number of machines by which a datacenter may shrink below its part of the NodeGroup.
    pub max_skew: u32,
    /// Maximum additional price of a machine in the datacenter that the strategy chooses, percent.
    pub max_price_difference: u32,
}

/// The strategy of a distribution.
#[derive(Clone, Debug, PartialEq)]
pub enum DatacenterStrategy {
    /// Equal numbers.
    Balanced,
    /// Numbers in proportion to the weights.
    Weighted {
        /// The weights. A datacenter with weight 0 does not grow.
        weights: BTreeMap<DatacenterId, u32>,
        /// Number of machines that are divided at a time.
        step: u32,
    },
    /// All in the first datacenter that can grow.
    PrimaryBackup,
}

/// A datacenter in the division of headroom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::fleet) struct Capacity {
    /// Machines of the NodeGroup that are neither Deleting nor Failed.
    pub(super) machines: u32,
    /// Number of machines that it can add.
    pub(in crate::fleet) limit: u32,
    /// Minimum of machines.
    pub(super) minimum: u32,
}

impl Capacity {
    fn room(&self, given: u32) -> u32 {
        self.limit.saturating_sub(given)
    }
}

impl Distribution {
    /// Position of the datacenter. None if the NodeGroup no longer lists it.
    pub(super) fn position(&self, datacenter: &DatacenterId) -> Option<usize> {
        self.datacenters.iter().position(|listed| listed == datacenter)
    }

    /// Weight of the datacenter at the position: 1 unless the strategy has weights.
    pub(super) fn weight(&self, position: usize) -> u32 {
        match &self.strategy {
            DatacenterStrategy::Weighted { weights, .. } => self
                .datacenters
                .get(position)
                .and_then(|datacenter| weights.get(datacenter))
                .copied()
                .unwrap_or(0),
            DatacenterStrategy::Balanced | DatacenterStrategy::PrimaryBackup => 1,
        }
    }

    /// Whether the strategy permits machines in the datacenter.
    pub(in crate::fleet) fn can_grow(&self, datacenter: &DatacenterId) -> bool {
        self.position(datacenter).is_some_and(|at| self.weight(at) > 0)
    }

    /// Minimum of machines in the datacenter at the position.
    pub(super) fn minimum(&self, position: usize) -> u32 {
        if self.weight(position) == 0 { 0 } else { self.min_per_datacenter }
    }

    /// Number of machines below which Cluster Autoscaler does not shrink the datacenter at the position, so that the
    /// distribution stays as declared. The NodeGroup has `total` machines.
    pub(super) fn floor(&self, position: usize, total: u32) -> u32 {
        let weights: u64 = (0..self.datacenters.len()).map(|at| u64::from(self.weight(at))).sum();
        let part = match self.strategy {
            DatacenterStrategy::PrimaryBackup => 0,
            DatacenterStrategy::Balanced | DatacenterStrategy::Weighted { .. } => {
                (u64::from(total) * u64::from(self.weight(position))).checked_div(weights).unwrap_or(0)
            }
        };
        (part as u32).saturating_sub(self.max_skew).max(self.minimum(position))
    }

    /// Divides the headroom of a NodeGroup among its datacenters: missing minimums first, the rest by the strategy. The
    /// parts are disjoint, so growth of one datacenter by its part leaves the parts of the others.
    pub(super) fn divide(&self, capacities: &[Capacity], headroom: u32) -> Vec<u32> {
        let (mut parts, mut rest) = missing_minimums(capacities, headroom);
        match &self.strategy {
            DatacenterStrategy::Balanced => {
                rest -= reserve(capacities, &mut parts, rest);
                fill_up(capacities, &mut parts, rest);
            }
            DatacenterStrategy::Weighted { step, .. } => {
                rest = self.fill_deficits(capacities, &mut parts, rest, *step);
                self.reserve_by_weight(capacities, &mut parts, rest);
            }
            DatacenterStrategy::PrimaryBackup => fill_in_order(capacities, &mut parts, rest),
        }
        parts
    }

    /// Divides machines that must be added: missing minimums first, the rest as the strategy would add them.
    pub(in crate::fleet) fn place(&self, capacities: &[Capacity], machines: u32) -> Vec<u32> {
        let (mut parts, rest) = missing_minimums(capacities, machines);
        match &self.strategy {
            DatacenterStrategy::Balanced => fill_up(capacities, &mut parts, rest),
            DatacenterStrategy::Weighted { .. } => {
                self.fill_deficits(capacities, &mut parts, rest, machines);
            }
            DatacenterStrategy::PrimaryBackup => fill_in_order(capacities, &mut parts, rest),
        }
        parts
    }

    /// Gives up to `step` machines to the datacenters with the largest deficits. Returns the rest.
    fn fill_deficits(&self, capacities: &[Capacity], parts: &mut [u32], mut rest: u32, step: u32) -> u32 {
        let given: u32 = parts.iter().sum();
        for _ in given..step.max(given) {
            if rest == 0 {
                break;
            }
            let Some(at) = self.largest_deficit(capacities, parts, step) else { break };
            parts[at] += 1;
            rest -= 1;
        }
        rest
    }

    /// Gives one machine to each datacenter with a weight that got none.
    fn reserve_by_weight(&self, capacities: &[Capacity], parts: &mut [u32], mut rest: u32) {
        for (at, capacity) in capacities.iter().enumerate() {
            if rest > 0 && parts[at] == 0 && capacity.limit > 0 && self.weight(at) > 0 {
                parts[at] = 1;
                rest -= 1;
            }
        }
    }

    /// The datacenter with the largest deficit `weight x (total + step) - machines` that can grow. The first one wins a tie.
    fn largest_deficit(&self, capacities: &[Capacity], parts: &[u32], step: u32) -> Option<usize> {
        let weights: i64 = (0..capacities.len()).map(|at| i64::from(self.weight(at))).sum();
        let total: i64 = capacities.iter().map(|capacity| i64::from(capacity.machines)).sum();
        let can_grow = |at: &usize| self.weight(*at) > 0 && capacities[*at].room(parts[*at]) > 0;
        (0..capacities.len()).filter(can_grow).max_by_key(|at| {
            let machines = i64::from(capacities[*at].machines) + i64::from(parts[*at]);
            let deficit = i64::from(self.weight(*at)) * (total + i64::from(step)) - machines * weights;
            (deficit, Reverse(*at))
        })
    }

    /// Whether the next machine belongs in the datacenter at the position, among those with a part of the headroom.
    pub(super) fn is_next(&self, position: usize, capacities: &[Capacity], parts: &[u32]) -> bool {
        let open = |at: &usize| parts[*at] > 0;
        match &self.strategy {
            DatacenterStrategy::Balanced => {
                let fewest = (0..parts.len()).filter(open).map(|at| capacities[at].machines).min();
                fewest.is_none_or(|fewest| capacities[position].machines <= fewest)
            }
            DatacenterStrategy::Weighted { step, .. } => {
                let limit =
                    |(capacity, part): (&Capacity, &u32)| Capacity { limit: (*part).min(1), ..*capacity };
                let open: Vec<Capacity> = capacities.iter().zip(parts).map(limit).collect();
                let next = self.largest_deficit(&open, &vec![0; parts.len()], *step);
                next.is_none_or(|next| next == position)
            }
            DatacenterStrategy::PrimaryBackup => {
                (0..parts.len()).find(open).is_none_or(|first| first == position)
            }
        }
    }
}

/// The parts that missing minimums have of `machines`, and the rest.
fn missing_minimums(capacities: &[Capacity], machines: u32) -> (Vec<u32>, u32) {
    let mut rest = machines;
    let part = |capacity: &Capacity| {
        let part = capacity.minimum.saturating_sub(capacity.machines).min(capacity.limit).min(rest);
        rest -= part;
        part
    };
    (capacities.iter().map(part).collect(), rest)
}

/// Gives `rest` machines to the datacenters in their order.
fn fill_in_order(capacities: &[Capacity], parts: &mut [u32], mut rest: u32) {
    for (part, capacity) in parts.iter_mut().zip(capacities) {
        let more = capacity.room(*part).min(rest);
        *part += more;
        rest -= more;
    }
}

/// Gives one machine to each datacenter that can grow and has no part, if `rest` suffices for all: a pod that is bound to a
/// datacenter must not wait while the NodeGroup can grow. Returns the number of given machines.
fn reserve(capacities: &[Capacity], parts: &mut [u32], rest: u32) -> u32 {
    let without: Vec<&mut u32> = parts
        .iter_mut()
        .zip(capacities)
        .filter_map(|(part, capacity)| (*part == 0 && capacity.limit > 0).then_some(part))
        .collect();
    let number = without.len() as u32;
    if number > rest {
        return 0;
    }
    for part in without {
        *part = 1;
    }
    number
}

/// Gives `rest` machines to the datacenters with the fewest machines, so that the result is as even as the limits allow. Of
/// equal ones, the first gets more.
fn fill_up(capacities: &[Capacity], parts: &mut [u32], rest: u32) {
    let base: Vec<(u64, u64)> = capacities
        .iter()
        .zip(parts.iter())
        .map(|(capacity, part)| {
            (u64::from(capacity.machines) + u64::from(*part), u64::from(capacity.room(*part)))
        })
        .collect();
    let needed = |level: u64| -> u64 {
        base.iter().map(|(machines, room)| level.saturating_sub(*machines).min(*room)).sum()
    };
    // The highest level that `rest` machines reach in all datacenters.
    let highest = base.iter().map(|(machines, _)| machines).max().copied().unwrap_or(0) + u64::from(rest);
    let (mut reached, mut above) = (0, highest + 1);
    while above - reached > 1 {
        let level = u64::midpoint(reached, above);
        if needed(level) <= u64::from(rest) { reached = level } else { above = level }
    }
    let mut left = u64::from(rest) - needed(reached);
    for (part, (machines, room)) in parts.iter_mut().zip(&base) {
        let mut more = reached.saturating_sub(*machines).min(*room);
        if left > 0 && more < *room && machines + more == reached {
            more += 1;
            left -= 1;
        }
        *part += more as u32;
    }
}
