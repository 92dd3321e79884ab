//! Injects pauses of a process, as from SIGSTOP, swapping or a stalled host.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

/// Pauses a process. None of its tasks runs during a pause; timers that expire meanwhile fire at its end.
#[derive(Clone, Default)]
pub(crate) struct Freezer(Arc<Mutex<Option<Instant>>>);

impl Freezer {
    /// Pauses the process for `time`.
    pub(crate) fn freeze(&self, time: Duration) {
        *self.0.lock().unwrap() = Some(Instant::now() + time);
    }

    /// Ends the pause.
    pub(crate) fn thaw(&self) {
        *self.0.lock().unwrap() = None;
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen_until().is_some()
    }

    fn frozen_until(&self) -> Option<Instant> {
        self.0.lock().unwrap().filter(|until| Instant::now() < *until)
    }

    /// Polls `work` only while the process is not paused.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = Box::pin(work);
        let mut sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
        std::future::poll_fn(|context| {
            while let Some(until) = self.frozen_until() {
                sleep.as_mut().reset(until);
                if sleep.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
            }
            work.as_mut().poll(context)
        })
        .await
    }
}
