//! Rate limit of the requests: a maximum number in any window, with a share that is reserved for deletions.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::retry_after::RetryAfter;

/// Purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Deletions, which stop costs. They may use the whole rate.
    Deletion,
    /// All other requests.
    Ordinary,
}

/// Slightly more than a minute, because requests take different times to arrive.
const WINDOW: Duration = Duration::from_secs(61);

pub(super) struct Limiter {
    rate: usize,
    ordinary: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sent: VecDeque<(Instant, Purpose)>,
    paused_until: Option<Instant>,
}

impl Limiter {
    /// Admits at most `per_minute` requests, with the share `deletion_share` (0 to 1) for deletions only.
    pub(super) fn new(per_minute: u32, deletion_share: f64) -> Self {
        let rate = per_minute.max(1) as usize;
        let reserved = (rate as f64 * deletion_share.clamp(0.0, 1.0)).round() as usize;
        Self { rate, ordinary: rate.saturating_sub(reserved).max(1), state: Mutex::default() }
    }

    /// Waits until a request may be sent, and counts it as sent. If that is not before `deadline`, returns
    /// the necessary waiting time at once.
    pub(super) async fn acquire(&self, purpose: Purpose, deadline: Instant) -> Result<(), Duration> {
        loop {
            let now = Instant::now();
            let Err(at) = self.try_acquire(purpose, now) else { return Ok(()) };
            if at >= deadline {
                return Err(at - now);
            }
            tokio::time::sleep_until(at).await;
        }
    }

    /// Stops all requests for some time, after VPSie replied with 429.
    pub(super) fn pause(&self, pause: RetryAfter) {
        let until = Instant::now() + pause.get();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.paused_until = state.paused_until.max(Some(until));
    }

    /// Counts a request as sent, or returns the time of the next attempt.
    fn try_acquire(&self, purpose: Purpose, now: Instant) -> Result<(), Instant> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = state.paused_until.filter(|until| *until > now) {
            return Err(until);
        }
        while state.sent.front().is_some_and(|(at, _)| *at + WINDOW <= now) {
            state.sent.pop_front();
        }
        let full = |at: Option<&(Instant, Purpose)>| Err(at.map_or(now, |(at, _)| *at) + WINDOW);
        if state.sent.len() >= self.rate {
            return full(state.sent.front());
        }
        let is_ordinary = |sent: &&(Instant, Purpose)| sent.1 == Purpose::Ordinary;
        if purpose == Purpose::Ordinary && state.sent.iter().filter(is_ordinary).count() >= self.ordinary {
            return full(state.sent.iter().find(is_ordinary));
        }
        state.sent.push_back((now, purpose));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn seconds_for(limiter: &Limiter, purpose: Purpose, count: usize) -> u64 {
        let start = Instant::now();
        for _ in 0..count {
            limiter.acquire(purpose, start + Duration::from_hours(1)).await.unwrap();
        }
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn no_minute_has_more_than_the_rate() {
        let limiter = Limiter::new(10, 0.0);
        assert_eq!(seconds_for(&limiter, Purpose::Ordinary, 10).await, 0);
        assert_eq!(seconds_for(&limiter, Purpose::Ordinary, 1).await, 61);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(seconds_for(&limiter, Purpose::Ordinary, 9).await, 0);
        assert_eq!(seconds_for(&limiter, Purpose::Ordinary, 1).await, 31);
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_is_kept_for_deletions() {
        let limiter = Limiter::new(10, 0.2);
        assert_eq!(seconds_for(&limiter, Purpose::Ordinary, 8).await, 0);
        assert_eq!(seconds_for(&limiter, Purpose::Deletion, 2).await, 0);
        assert_eq!(seconds_for(&limiter, Purpose::Ordinary, 1).await, 61);
    }

    #[tokio::test(start_paused = true)]
    async fn deletions_may_use_the_whole_rate() {
        let limiter = Limiter::new(10, 0.2);
        assert_eq!(seconds_for(&limiter, Purpose::Deletion, 10).await, 0);
        assert_eq!(seconds_for(&limiter, Purpose::Deletion, 1).await, 61);
    }

    #[tokio::test(start_paused = true)]
    async fn fails_at_once_if_the_wait_exceeds_the_deadline() {
        let limiter = Limiter::new(1, 0.0);
        let deadline = Instant::now() + Duration::from_secs(20);
        limiter.acquire(Purpose::Ordinary, deadline).await.unwrap();
        assert_eq!(limiter.acquire(Purpose::Ordinary, deadline).await, Err(WINDOW));
        assert_eq!(Instant::now() + Duration::from_secs(20), deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_everything_back_but_not_for_ever() {
        let limiter = Limiter::new(10, 0.2);
        let pause = |seconds| limiter.pause(RetryAfter::new(Duration::from_secs(seconds)));
        pause(7);
        pause(3);
        assert_eq!(seconds_for(&limiter, Purpose::Deletion, 1).await, 7);
        pause(9 * 3600);
        assert_eq!(seconds_for(&limiter, Purpose::Ordinary, 1).await, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_all_still_lets_ordinary_calls_through() {
        let limiter = Limiter::new(5, 1.0);
        assert_eq!(seconds_for(&limiter, Purpose::Ordinary, 1).await, 0);
    }
}
