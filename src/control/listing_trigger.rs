//! How other loops say that VPSie is worth listing before its time.

use tokio::sync::Notify;

/// Rings in [`Provision`](super::Provision), which alone lists VPSie and paces it.
#[derive(Debug, Default)]
pub struct ListingTrigger {
    pub(super) soon: Notify,
    pub(super) now: Notify,
}

impl ListingTrigger {
    /// Something was asked of VPSie, and will show in a while.
    pub fn list_soon(&self) {
        self.soon.notify_one();
    }

    /// Something shows already, and is not known.
    pub fn list_now(&self) {
        self.now.notify_one();
    }
}
