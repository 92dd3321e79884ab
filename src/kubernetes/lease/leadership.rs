//! The leadership of this process, which is checked at each write.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The leadership of this process. It expires by itself when it is not renewed in time, and never holds again
/// after it has ended.
#[derive(Clone, Debug)]
pub struct Leadership(Option<Arc<watch::Sender<Hold>>>);

#[derive(Clone, Copy, Debug)]
struct Hold {
    until: Instant,
    ended: bool,
}

impl Hold {
    fn holds(self) -> bool {
        !self.ended && Instant::now() < self.until
    }
}

/// This process no longer leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica lost the Lease: another replica may lead now{}", if *.begun { "; the request may have been executed" } else { "" })]
pub struct LeaseLost {
    /// Whether the operation had begun.
    pub begun: bool,
}

impl Leadership {
    /// The leadership of a single process, which never ends.
    pub fn always() -> Self {
        Self(None)
    }

    pub(crate) fn until(until: Instant) -> Self {
        Self(Some(Arc::new(watch::Sender::new(Hold { until, ended: false }))))
    }

    /// Returns true iff this process leads now.
    pub fn holds(&self) -> bool {
        self.0.as_ref().is_none_or(|hold| hold.borrow().holds())
    }

    /// The time until it expires without a renewal, zero if it has ended, None if it never ends.
    pub fn remaining(&self) -> Option<Duration> {
        let hold = *self.0.as_ref()?.borrow();
        let left = hold.until.saturating_duration_since(Instant::now());
        Some(if hold.ended { Duration::ZERO } else { left })
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let Some(hold) = &self.0 else { return std::future::pending().await };
        let mut changes = hold.subscribe();
        loop {
            let now = *changes.borrow_and_update();
            if !now.holds() {
                return;
            }
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(now.until) => {}
            }
        }
    }

    /// Runs an operation while this process leads. The leadership is checked at each poll, so that a process
    /// that was suspended does not continue. An operation that is incomplete when the leadership ends is
    /// dropped.
    pub async fn during<T>(&self, operation: impl Future<Output = T>) -> Result<T, LeaseLost> {
        let mut operation = pin!(operation);
        let mut ended = pin!(self.ended());
        let mut begun = false;
        std::future::poll_fn(|context| {
            if !self.holds() {
                return Poll::Ready(Err(LeaseLost { begun }));
            }
            begun = true;
            if let Poll::Ready(done) = operation.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            ended.as_mut().poll(context).map(|()| Err(LeaseLost { begun }))
        })
        .await
    }

    /// Extends it after a renewal. Returns true iff it holds: an ended leadership stays ended.
    pub(super) fn extend(&self, until: Instant) -> bool {
        self.0.as_ref().is_none_or(|hold| {
            hold.send_modify(|hold| *hold = Hold { until: hold.until.max(until), ended: !hold.holds() });
            self.holds()
        })
    }

    /// Ends it now.
    pub(super) fn end(&self) {
        if let Some(hold) = &self.0 {
            hold.send_modify(|hold| hold.ended = true);
        }
    }

    /// The time at which it expires without a renewal.
    pub(super) fn end_time(&self) -> Option<Instant> {
        self.0.as_ref().map(|hold| hold.borrow().until)
    }
}
