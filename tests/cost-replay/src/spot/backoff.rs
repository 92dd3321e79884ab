//! Cluster Autoscaler's backoff of node groups (utils/backoff/exponential_backoff.go), with its default times.

use std::collections::HashMap;

/// `--initial-node-group-backoff-duration`.
const INITIAL: u64 = 5 * 60;
/// `--max-node-group-backoff-duration`.
const MAX: u64 = 30 * 60;
/// `--node-group-backoff-reset-timeout`.
const RESET: u64 = 3 * 3600;

#[derive(Clone, Copy, Debug)]
struct Failed {
    duration: u64,
    until: u64,
    last: u64,
}

/// The pools with failed scale-ups. Times are seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff(HashMap<usize, Failed>);

impl Backoff {
    /// Backs a pool off after a failed scale-up.
    pub(crate) fn record_failure(&mut self, pool: usize, now: u64) {
        let duration = match self.0.get(&pool) {
            Some(failed) if failed.last + RESET < now => INITIAL,
            Some(failed) if failed.until > now => failed.duration,
            Some(failed) => (2 * failed.duration).min(MAX),
            None => INITIAL,
        };
        self.0.insert(pool, Failed { duration, until: now + duration, last: now });
    }

    pub(crate) fn is_backed_off(&self, pool: usize, now: u64) -> bool {
        self.0.get(&pool).is_some_and(|failed| failed.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(backoff: &Backoff, from: u64) -> u64 {
        (from..from + 9999).find(|now| !backoff.is_backed_off(0, *now)).unwrap() - from
    }

    #[test]
    fn doubles_until_its_maximum() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut times = Vec::new();
        for _ in 0..5 {
            backoff.record_failure(0, now);
            times.push(until(&backoff, now));
            now += until(&backoff, now);
        }
        assert_eq!(times, [300, 600, 1200, 1800, 1800]);
        assert!(!backoff.is_backed_off(1, 0), "another pool");
    }

    #[test]
    fn is_reset_after_three_hours() {
        let mut backoff = Backoff::default();
        backoff.record_failure(0, 0);
        backoff.record_failure(0, 400);
        assert_eq!(until(&backoff, 400), 600);
        let later = 400 + 3 * 3600 + 1;
        backoff.record_failure(0, later);
        assert_eq!(until(&backoff, later), 300);
    }
}
