//! A spot market: when pools have capacity, and how long VMs last. It depends on the seed and not on the policy.

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::data::ReplayPool;

/// Observed spot capacity of a zone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Zone {
    /// Share of the time with capacity.
    pub(crate) available: f64,
    /// Interruptions per hour with capacity.
    pub(crate) interruptions_per_hour: f64,
}

/// Capacity that comes and goes: a Markov process with two states. Times are seconds.
#[derive(Debug)]
struct Capacity {
    is_available: bool,
    /// Time of the next change.
    until: f64,
    mean_on: f64,
    mean_off: f64,
    random: StdRng,
}

/// Spot VMs of one pool.
#[derive(Debug)]
struct SpotPool {
    /// None: always available.
    capacity: Option<Capacity>,
    /// Mean life of a VM by the published interruption rate, seconds.
    mean_life: f64,
    lives: StdRng,
}

/// The spot market of one seed. None: an on-demand pool.
#[derive(Debug)]
pub(crate) struct SpotMarket(Vec<Option<SpotPool>>);

/// Streams of random numbers of a seed. Each pool has a stream of each kind.
#[derive(Clone, Copy)]
enum Stream {
    Zones,
    Capacity,
    Lives,
}

impl SpotMarket {
    /// Assigns zones to the spot pools at random. Without zones, pools are always available.
    pub(crate) fn new(pools: &[ReplayPool], zones: &[Zone], seed: u64) -> Self {
        let mut zones: Vec<&Zone> = zones.iter().collect();
        zones.shuffle(&mut stream(seed, Stream::Zones, 0));
        let mut zones = zones.into_iter().cycle();
        let spot = |(index, pool): (usize, &ReplayPool)| {
            let rate = pool.spot?;
            let capacity =
                zones.next().map(|zone| Capacity::new(zone, stream(seed, Stream::Capacity, index)));
            Some(SpotPool {
                capacity,
                mean_life: 3600.0 / rate.to_per_hour(),
                lives: stream(seed, Stream::Lives, index),
            })
        };
        Self(pools.iter().enumerate().map(spot).collect())
    }

    /// Whether the cloud creates VMs of the pool now. True for an on-demand pool.
    pub(crate) fn is_available(&self, pool: usize) -> bool {
        self.capacity(pool).is_none_or(|capacity| capacity.is_available)
    }

    /// Pools whose availability changes, with the time of the next change.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (usize, u64)> {
        (0..self.0.len()).filter_map(|pool| Some((pool, self.capacity(pool)?.next_change())))
    }

    /// Changes the availability of a pool. Returns the time of the next change.
    pub(crate) fn switch(&mut self, pool: usize) -> Option<u64> {
        let capacity = self.0.get_mut(pool)?.as_mut()?.capacity.as_mut()?;
        capacity.switch();
        Some(capacity.next_change())
    }

    /// Time until the cloud interrupts a new VM, apart from the availability of its pool: the n-th VM of a pool has
    /// the n-th life. None for an on-demand pool.
    pub(crate) fn next_life(&mut self, pool: usize) -> Option<u64> {
        let pool = self.0.get_mut(pool)?.as_mut()?;
        Some(exponential(&mut pool.lives, pool.mean_life).ceil() as u64)
    }

    fn capacity(&self, pool: usize) -> Option<&Capacity> {
        self.0.get(pool)?.as_ref()?.capacity.as_ref()
    }
}

impl Capacity {
    /// The process of a zone, which begins in its stationary distribution.
    fn new(zone: &Zone, mut random: StdRng) -> Self {
        let mean_on = 3600.0 / zone.interruptions_per_hour;
        let mean_off = mean_on * (1.0 - zone.available) / zone.available;
        let is_available = random.random_bool(zone.available);
        let until = exponential(&mut random, if is_available { mean_on } else { mean_off });
        Self { is_available, until, mean_on, mean_off, random }
    }

    fn next_change(&self) -> u64 {
        self.until.ceil() as u64
    }

    fn switch(&mut self) {
        self.is_available = !self.is_available;
        let mean = if self.is_available { self.mean_on } else { self.mean_off };
        self.until += exponential(&mut self.random, mean);
    }
}

fn stream(seed: u64, kind: Stream, pool: usize) -> StdRng {
    StdRng::seed_from_u64((seed << 32) + ((kind as u64) << 16) + pool as u64)
}

fn exponential(random: &mut StdRng, mean: f64) -> f64 {
    -mean * (1.0 - random.random::<f64>()).ln()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::spot::tests::{pools, zone};

    const DAY: u64 = 24 * 3600;

    /// Availability and mean length of its spells over a time.
    fn observe(market: &mut SpotMarket, pool: usize, time: u64) -> (f64, f64) {
        let mut next: HashMap<usize, u64> = market.changes().collect();
        let (mut now, mut on, mut spells) = (0, 0, 0);
        while now < time {
            let until = next[&pool];
            if market.is_available(pool) {
                on += until - now;
                spells += 1;
            }
            now = until;
            next.insert(pool, market.switch(pool).unwrap());
        }
        (on as f64 / now as f64, on as f64 / f64::from(spells))
    }

    #[test]
    fn availability_and_spells_are_those_of_the_zone() {
        for (available, rate) in [(0.17, 1.4), (0.6, 0.44), (0.9, 0.1)] {
            let zones = [zone(available, rate)];
            let mut market = SpotMarket::new(&pools(), &zones, 3);
            let (share, spell) = observe(&mut market, 1, 5_000 * DAY);
            assert!((share - available).abs() < 0.01, "{share}");
            assert!((spell * rate / 3600.0 - 1.0).abs() < 0.03, "{spell}");
        }
    }

    #[test]
    fn it_begins_in_the_stationary_distribution() {
        let zones = [zone(0.6, 0.44)];
        let on = (0..4000).filter(|seed| SpotMarket::new(&pools(), &zones, *seed).is_available(1)).count();
        assert!((2300..2500).contains(&on), "{on}");
    }

    #[test]
    fn a_seed_determines_the_market() {
        let zones = [zone(0.5, 1.0), zone(0.6, 2.0)];
        let history = |seed| {
            let mut market = SpotMarket::new(&pools(), &zones, seed);
            let lives: Vec<_> = (0..9).map(|_| market.next_life(1)).collect();
            let changes: Vec<_> = (0..9).map(|_| market.switch(1)).collect();
            (lives, changes)
        };
        assert_eq!(history(1), history(1));
        assert_ne!(history(1), history(2));
    }

    #[test]
    fn changes_do_not_depend_on_the_vms_bought() {
        let zones = [zone(0.5, 1.0)];
        let mut without = SpotMarket::new(&pools(), &zones, 1);
        let mut with = SpotMarket::new(&pools(), &zones, 1);
        for _ in 0..5 {
            with.next_life(1);
            assert_eq!(with.switch(1), without.switch(1));
        }
    }

    #[test]
    fn lives_have_the_published_rate() {
        let mut market = SpotMarket::new(&pools(), &[], 1);
        let lives: Vec<u64> = (0..20_000).map(|_| market.next_life(1).unwrap()).collect();
        let mean = lives.iter().sum::<u64>() as f64 / lives.len() as f64;
        // 12.5 percent a month.
        assert!((mean / (730.0 / 0.125 * 3600.0) - 1.0).abs() < 0.03, "{mean}");
        assert_eq!(market.next_life(0), None, "an on-demand VM");
        assert!(market.is_available(1), "without zones");
    }
}
