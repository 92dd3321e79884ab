//! Warnings of failures that last.

use std::time::Duration;

use tokio::time::Instant;

/// Limits how often a lasting failure is logged: at once, after each change of its message, and then at an interval.
#[derive(Debug)]
pub struct RepeatedWarning {
    interval: Duration,
    last: Option<(Instant, String)>,
}

impl RepeatedWarning {
    /// A failure that has not occurred yet.
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: None }
    }

    /// Returns true iff the failure must be logged now.
    pub fn is_due(&mut self, message: &str) -> bool {
        let known = |(at, last): &(Instant, String)| last == message && at.elapsed() < self.interval;
        if self.last.as_ref().is_some_and(known) {
            return false;
        }
        self.last = Some((Instant::now(), message.to_owned()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lasting_failure_is_logged_at_the_interval() {
        let mut warning = RepeatedWarning::new(Duration::from_mins(1));
        let mut logged = 0;
        for _ in 0..90 {
            logged += u32::from(warning.is_due("down"));
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        assert_eq!(logged, 3, "in three minutes");
        assert!(warning.is_due("forbidden") && !warning.is_due("forbidden"));
    }
}
