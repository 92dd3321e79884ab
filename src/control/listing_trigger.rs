//! A notification of other loops that VPSie should be listed earlier.

use tokio::sync::Notify;

/// Wakes [`Provision`](super::Provision), the only loop that lists VPSie.
#[derive(Debug, Default)]
pub struct ListingTrigger {
    pub(super) soon: Notify,
    pub(super) now: Notify,
}

impl ListingTrigger {
    /// Makes a listing due soon: a request to VPSie will show an effect.
    pub fn list_soon(&self) {
        self.soon.notify_one();
    }

    /// Makes a listing due now: an effect is visible that the last listing did not show.
    pub fn list_now(&self) {
        self.now.notify_one();
    }
}
