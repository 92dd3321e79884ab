//! The fault-free phases of a run: half an hour, half a day, and some minutes two days later. The hazards
//! stay.

use std::time::Duration;

use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use vpsie_autoscaler::fleet::{Hostname, Machine, Phase, UnmanagedKind};
use vpsie_autoscaler::simulator::{AnomaliesConfig, DEFAULT_CLUSTER, VmKind};

use super::hazards::Hazard;
use super::world::{SMALL, World};

/// Steps of the first phase: half an hour.
const FAULT_FREE_STEPS: u32 = 90;
/// First step of that phase in which a record is rejected. Pauses that earlier faults caused have ended.
const FIRST_REJECTION: u32 = 18;
/// Steps of the half-day phase, for effects that appear after hours.
const HALF_DAY_STEPS: u32 = 720;
const HALF_DAY_STEP: Duration = Duration::from_mins(1);

impl World {
    /// Ends the faults, not the hazards, and runs half an hour. Then no pod may be pending for which VPSie
    /// has capacity.
    pub(crate) async fn run_without_faults(&mut self) -> Result<(), String> {
        self.end_faults()?;
        if self.hazards.has(Hazard::SilentShortage) {
            self.simulator.set_capacity(None, SMALL, Some(0)).map_err(|e| e.to_string())?;
        }
        self.restart_by_chance().await?;
        let web = self.rng.random_range(1..6);
        let batch = self.rng.random_range(0..4);
        self.cluster.deploy("web", web, self.new_pod(1500));
        self.cluster.deploy("batch", batch, self.new_pod(500));
        for step in 0..FAULT_FREE_STEPS {
            if self.process.is_none() {
                self.start().await?;
            }
            self.reject_record(step);
            self.step()
                .await
                .map_err(|error| format!("seed {}, fault-free step {step}: {error}", self.seed))?;
        }
        self.store.reject_record(None);
        let pods = self.cluster.list_pods();
        let pending = pods.iter().filter(|pod| pod.name.starts_with("web") && pod.node.is_none()).count();
        // Without sizes in the listings, the machines of one size wait for those of another. Under a silent
        // shortage, Cluster Autoscaler may choose the size without capacity again after each backoff.
        // `liveness` still checks that each machine is requested in time.
        let has_shortage = self.hazards.has(Hazard::SilentShortage);
        if pending > 0 && self.sizes_listed && !has_shortage && !self.hazards.has_unmatched_vms() {
            return Err(format!(
                "seed {}: L: {pending} pods are pending after half an hour without faults, and VPSie has capacity for a size",
                self.seed
            ));
        }
        Ok(())
    }

    /// Lets the API server reject the record of one machine that is not Running, and changes the load. The
    /// other machines must be created and deleted in time.
    fn reject_record(&mut self, step: u32) {
        if !self.hazards.has(Hazard::RejectedRecord) {
            return;
        }
        let load = match step {
            FIRST_REJECTION => Some((6, 0)),
            step if step == FIRST_REJECTION + 6 => Some((6, 3)),
            step if step == FIRST_REJECTION + 27 => Some((0, 0)),
            _ => None,
        };
        if let Some((web, batch)) = load {
            self.cluster.deploy("web", web, self.new_pod(1500));
            // No two of these pods fit one node of the pool, so each needs a machine.
            self.cluster.deploy("batch", batch, self.new_pod(1500));
        }
        if step >= FIRST_REJECTION && self.store.rejected_machine().is_none() {
            let is_starting =
                |machine: &Machine| matches!(machine.phase, Phase::Pending | Phase::Creating { .. });
            let machine =
                self.store.backing.records().machines.into_iter().find(is_starting).map(|machine| machine.id);
            self.trace(&("record is rejected", &machine));
            self.store.reject_record(machine);
        }
    }

    /// Runs half a day with a load that changes every half hour.
    pub(crate) async fn run_half_day(&mut self) -> Result<(), String> {
        self.end_faults()?;
        if self.hazards.has(Hazard::DeletionsForbidden) {
            let anomalies = self.simulator.anomalies();
            self.simulator.set_anomalies(AnomaliesConfig { deletions_forbidden: true, ..anomalies });
        }
        for step in 0..HALF_DAY_STEPS {
            if step % 30 == 0 {
                let (web, batch) = if step % 60 == 0 {
                    (self.rng.random_range(3..9), self.rng.random_range(0..6))
                } else {
                    (0, 0)
                };
                self.trace(&("load", web, batch));
                self.cluster.deploy("web", web, self.new_pod(1500));
                self.cluster.deploy("batch", batch, self.new_pod(500));
            }
            if self.process.is_none() {
                self.start().await?;
            }
            self.step_for(HALF_DAY_STEP)
                .await
                .map_err(|error| format!("seed {}, half-day step {step}: {error}", self.seed))?;
        }
        Ok(())
    }

    /// Two days after the cluster is at rest, an administrator adds a worker.
    pub(crate) async fn run_days_later(&mut self) -> Result<(), String> {
        self.advance(Duration::from_hours(50)).await;
        let group = self.simulator.groups().choose(&mut self.rng).map(|group| group.id);
        if group.is_some() {
            self.simulator.add_foreign_worker(DEFAULT_CLUSTER, group).map_err(|e| e.to_string())?;
        }
        for _ in 0..30 {
            self.step_for(HALF_DAY_STEP)
                .await
                .map_err(|error| format!("seed {}, days later: {error}", self.seed))?;
        }
        Ok(())
    }

    /// Deletes the workers at VPSie that were requested and that the provider records as foreign. The
    /// provider never deletes these, so an administrator must.
    pub(crate) fn delete_foreign_workers(&mut self) -> Result<(), String> {
        if !self.hazards.has_unmatched_vms() {
            return Ok(());
        }
        let records = self.store.backing.records();
        for vm in self.simulator.vms() {
            let foreign = records.unmanaged.iter().any(|unmanaged| {
                unmanaged.kind == UnmanagedKind::Foreign
                    && unmanaged.hostname == Hostname::new(&vm.vm.hostname)
            });
            if foreign && vm.vm.kind == VmKind::Worker && vm.vm.end.is_none() {
                self.trace(&("administrator deletes", &vm.vm.hostname));
                self.simulator.delete_vm(&vm.vm.uuid).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }
}
