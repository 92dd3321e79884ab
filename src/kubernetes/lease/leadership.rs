//! Whether this process leads, to be asked at each write.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Says whether this process leads. Ends by itself when it is not renewed in time, also while nobody runs who could
/// end it, and once it has ended it never holds again.
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

/// This process does not lead any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease is lost: another replica may lead now{}", if *.begun { " (what was asked may have been done)" } else { "" })]
pub struct LeaseLost {
    /// Whether what was to be done had begun.
    pub begun: bool,
}

impl Leadership {
    /// Of the only process: without end.
    pub fn always() -> Self {
        Self(None)
    }

    pub(crate) fn until(until: Instant) -> Self {
        Self(Some(Arc::new(watch::Sender::new(Hold { until, ended: false }))))
    }

    /// Whether this process leads now.
    pub fn holds(&self) -> bool {
        self.0.as_ref().is_none_or(|hold| hold.borrow().holds())
    }

    /// For how long it leads if it is not renewed: zero when it does not. None: without end.
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

    /// Does the work as long as this process leads: it is asked before each step of the work, so that a process that
    /// was stopped for a while does not go on where it was. What is begun and not done by then is dropped.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> Result<T, LeaseLost> {
        let (mut work, mut ended) = (pin!(work), pin!(self.ended()));
        let mut begun = false;
        std::future::poll_fn(|context| {
            if !self.holds() {
                return Poll::Ready(Err(LeaseLost { begun }));
            }
            begun = true;
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            ended.as_mut().poll(context).map(|()| Err(LeaseLost { begun }))
        })
        .await
    }

    /// It was renewed. Whether it still holds: what has ended stays so.
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

    /// When it ends if it is not renewed.
    pub(super) fn end_time(&self) -> Option<Instant> {
        self.0.as_ref().map(|hold| hold.borrow().until)
    }
}
