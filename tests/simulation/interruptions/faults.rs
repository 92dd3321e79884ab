//! Injection of disturbances at random times.

use fake_kube::{ApiRequest, FaultEffect, RequestFault, StatusError};
use jiff::SignedDuration;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::sync::Mutex;
use vpsie_autoscaler::catalog::CapacityType;

use super::cloud::Plan;
use super::disturbances::Disturbance;
use super::world::InterruptionWorld;

use Disturbance::{
    BlockedEvictions, ClockSkew, Crashes, FailedCreations, FlakyServer, LostNotices, OutlivedNotices, SoldOut,
};

impl InterruptionWorld {
    /// Injects at most one event before a step.
    pub(super) async fn inject_faults(&mut self) -> Result<(), String> {
        let has = |disturbance| self.disturbances.contains(&disturbance);
        match self.rng.random_range(0..60) {
            0..4 => {
                self.workload.replicas = self.rng.random_range(0..8);
                self.trace(&("pods", self.workload.replicas));
            }
            // A storm: several notices at once.
            4 => (0..3).for_each(|_| self.interrupt()),
            event if (5..12).contains(&event) && event < 5 + self.notice_weight => self.interrupt(),
            13..15 if has(LostNotices) => self.lose_vm(),
            15..18 if has(SoldOut) => self.toggle(SoldOut)?,
            18..21 if has(FailedCreations) => self.toggle(FailedCreations)?,
            21..24 if has(FlakyServer) => self.toggle(FlakyServer)?,
            24..27 if has(BlockedEvictions) => self.toggle(BlockedEvictions)?,
            27 if has(Crashes) => {
                let pause = SignedDuration::from_secs(self.rng.random_range(0..90));
                self.kill(pause).await;
            }
            28 if has(ClockSkew) => {
                let seconds = self.rng.random_range(-300..300);
                self.trace(&("clock jump", seconds));
                self.clock.jump(seconds);
            }
            _ => {}
        }
        Ok(())
    }

    /// Gives notice to a Node. The process may crash at one of the writes that follow.
    fn interrupt(&mut self) {
        let outlives = self.disturbances.contains(&OutlivedNotices);
        let plan = Plan::draw(&mut self.rng, self.observer.now(), outlives);
        let is_given = self.announce(plan);
        if is_given && self.disturbances.contains(&Crashes) && self.rng.random_bool(0.5) {
            let writes = self.rng.random_range(0..40);
            self.trace(&("crash after writes", writes));
            self.countdown.start(writes);
        }
    }

    /// Begins or ends a lasting fault.
    fn toggle(&mut self, fault: Disturbance) -> Result<(), String> {
        let begins = !self.faults.remove(&fault);
        self.trace(&(fault, begins));
        if begins {
            self.faults.insert(fault);
            self.disturb();
        }
        match fault {
            SoldOut => {
                let is_all = begins && self.rng.random_bool(0.3);
                self.set_capacity(CapacityType::Spot, begins.then_some(0))?;
                self.set_capacity(CapacityType::OnDemand, is_all.then_some(0))
            }
            FailedCreations if begins => {
                let effect = if self.rng.random_bool(0.5) { "lost" } else { "status=503" };
                let text = format!("POST /**/add/slave/** {effect} p=0.6");
                self.simulator.add_fault(text.parse().map_err(|e| format!("{text}: {e:?}"))?);
                Ok(())
            }
            FailedCreations => {
                self.simulator.clear_faults();
                Ok(())
            }
            FlakyServer | BlockedEvictions => {
                self.set_api_faults();
                Ok(())
            }
            ClockSkew | LostNotices | OutlivedNotices | Crashes => Ok(()),
        }
    }

    /// Ends all disturbances except notices and clock skew.
    pub(super) fn end_faults(&mut self) -> Result<(), String> {
        for fault in self.faults.clone() {
            self.toggle(fault)?;
        }
        self.countdown.stop();
        Ok(())
    }

    /// Sets the faults of the provider's requests to the API server.
    fn set_api_faults(&self) {
        self.kube.clear_faults();
        let is_flaky = self.faults.contains(&FlakyServer);
        let is_blocked = self.faults.contains(&BlockedEvictions);
        let rng = Mutex::new(StdRng::seed_from_u64(self.seed ^ self.kube.version()));
        self.kube.on_request(move |request: &ApiRequest| {
            if is_blocked && request.subresource == "eviction" {
                return blocked_eviction().into();
            }
            if !is_flaky || request.client != "provider" {
                return RequestFault::default();
            }
            match rng.lock().unwrap().random_range(0..24) {
                0 => FaultEffect::ReplyLost.into(),
                1 => FaultEffect::RequestLost.into(),
                2 => RequestFault::refused(503),
                _ => RequestFault::default(),
            }
        });
    }
}

/// The reply to an eviction that a disruption budget does not allow.
fn blocked_eviction() -> FaultEffect {
    FaultEffect::Refused(StatusError::new(429, "refused").with_cause("DisruptionBudget", "web needs all"))
}
