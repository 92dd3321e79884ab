//! Bugs that are planted into the network to VPSie and keep a state of their own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::time::Instant;
use vpsie_autoscaler::simulator::Simulator;
use vpsie_autoscaler::vpsie::TransportError;

use super::planted_bugs::PlantedBug;

/// What such a bug remembers.
#[derive(Clone, Default)]
pub(crate) struct PlantedState {
    quiet_until: Arc<Mutex<Option<Instant>>>,
}

impl PlantedState {
    /// What it does before a request is sent.
    pub(crate) async fn before(&self, bug: Option<PlantedBug>) {
        let until = *self.quiet_until.lock().unwrap();
        if let Some(until) = until.filter(|_| bug == Some(PlantedBug::ObeysRetryAfter)) {
            tokio::time::sleep_until(until).await;
        }
    }

    /// What it remembers of the answer.
    pub(crate) fn after(&self, bug: Option<PlantedBug>, answer: &Result<Response<Bytes>, TransportError>) {
        let (Some(PlantedBug::ObeysRetryAfter), Ok(reply)) = (bug, answer) else { return };
        let seconds_after =
            reply.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(seconds) = seconds_after.filter(|seconds: &u64| *seconds < 1_000_000) {
            let until = Instant::now() + Duration::from_secs(seconds);
            let mut quiet_until = self.quiet_until.lock().unwrap();
            *quiet_until = (*quiet_until).max(Some(until));
        }
    }

    /// Another VM with the hostname of the one that is deleted, if there is one.
    pub(crate) fn namesake(simulator: &Simulator, victim: &str) -> Option<String> {
        let vms = simulator.vms();
        let hostname = &vms.iter().find(|vm| vm.vm.uuid == victim)?.vm.hostname;
        let other = vms.iter().find(|vm| vm.vm.hostname == *hostname && vm.vm.uuid != victim)?;
        Some(other.vm.uuid.clone())
    }
}
