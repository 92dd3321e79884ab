//! How other loops say that VPSie is worth listing before its time.

use tokio::sync::Notify;

/// Rings in [`Provision`](super::Provision), which alone lists VPSie and paces it.
#[derive(Debug, Default)]
pub struct Bell {
    pub(super) soon: Notify,
    pub(super) now: Notify,
}

impl Bell {
    /// Something was asked of VPSie, and will show in a while.
    pub fn soon(&self) {
        self.soon.notify_one();
    }

    /// Something shows already, and is not known.
    pub fn now(&self) {
        self.now.notify_one();
    }
}
