//! Planted bugs in the network to VPSie that have a state, or that need the list of VMs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::time::Instant;
use vpsie_autoscaler::simulator::Simulator;
use vpsie_autoscaler::vpsie::TransportError;

use super::planted_bugs::PlantedBug;

/// The state of [`PlantedBug::UnboundedRetryAfter`].
#[derive(Clone, Default)]
pub(crate) struct PlantedState {
    blocked_until: Arc<Mutex<Option<Instant>>>,
}

impl PlantedState {
    /// Delays a request until the latest `Retry-After` has passed.
    pub(crate) async fn delay_request(&self, bug: Option<PlantedBug>) {
        let until = *self.blocked_until.lock().unwrap();
        if let Some(until) = until.filter(|_| bug == Some(PlantedBug::UnboundedRetryAfter)) {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Notes the `Retry-After` of a reply.
    pub(crate) fn note_reply(
        &self,
        bug: Option<PlantedBug>,
        reply: &Result<Response<Bytes>, TransportError>,
    ) {
        let (Some(PlantedBug::UnboundedRetryAfter), Ok(reply)) = (bug, reply) else { return };
        let seconds_after =
            reply.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(seconds) = seconds_after.filter(|seconds: &u64| *seconds < 1_000_000) {
            let until = Instant::now() + Duration::from_secs(seconds);
            let mut blocked_until = self.blocked_until.lock().unwrap();
            *blocked_until = (*blocked_until).max(Some(until));
        }
    }

    /// Returns another VM with the hostname of this VM, if one exists.
    pub(crate) fn find_namesake(simulator: &Simulator, uuid: &str) -> Option<String> {
        let vms = simulator.vms();
        let hostname = &vms.iter().find(|vm| vm.vm.uuid == uuid)?.vm.hostname;
        let other = vms.iter().find(|vm| vm.vm.hostname == *hostname && vm.vm.uuid != uuid)?;
        Some(other.vm.uuid.clone())
    }
}
