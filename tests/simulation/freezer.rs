//! Processes that stand still: stopped by a signal, swapped out, on a host that is stalled.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

/// A process that can stand still: nothing in it is done meanwhile, and its timers have run out when it goes on.
#[derive(Clone, Default)]
pub(crate) struct Freezer(Arc<Mutex<Option<Instant>>>);

impl Freezer {
    pub(crate) fn freeze(&self, time: Duration) {
        *self.0.lock().unwrap() = Some(Instant::now() + time);
    }

    pub(crate) fn thaw(&self) {
        *self.0.lock().unwrap() = None;
    }

    pub(crate) fn frozen(&self) -> bool {
        self.until().is_some()
    }

    fn until(&self) -> Option<Instant> {
        self.0.lock().unwrap().filter(|until| Instant::now() < *until)
    }

    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = Box::pin(work);
        let mut sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
        std::future::poll_fn(|context| {
            while let Some(until) = self.until() {
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
