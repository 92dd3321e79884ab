//! What comes after the storm: fair weather with the hazards as they are, half a day of it, and days later.

use std::time::Duration;

use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use vpsie_autoscaler::fleet::{Hostname, Machine, Phase, UnmanagedKind};
use vpsie_autoscaler::simulator::{AnomaliesConfig, DEFAULT_CLUSTER, VmKind};

use super::hazards::Hazard;
use super::world::{SMALL, World};

/// Half an hour of fair weather, with the hazards as they are: what can be made is made.
const FAULT_FREE_STEPS: u32 = 90;
/// First step of the lull in which a record may be refused: pauses from bad weather have ended.
const REFUSED: u32 = 18;
/// Half a day, for what shows only after hours.
const HALF_DAY_STEPS: u32 = 720;
const HALF_DAY_STEP: Duration = Duration::from_mins(1);

impl World {
    /// The weather clears, and the hazards stay: what can be made is made, what can be deleted is deleted.
    pub(crate) async fn run_without_faults(&mut self) -> Result<(), String> {
        self.clear()?;
        if self.hazards.has(Hazard::SilentShortage) {
            self.simulator.set_capacity(None, SMALL, Some(0)).map_err(|e| e.to_string())?;
        }
        self.start_again().await?;
        let web = self.rng.random_range(1..6);
        let batch = self.rng.random_range(0..4);
        self.cluster.deploy("web", web, self.pod(1500));
        self.cluster.deploy("batch", batch, self.pod(500));
        for step in 0..FAULT_FREE_STEPS {
            if self.process.is_none() {
                self.start().await?;
            }
            self.refuse_record(step);
            self.step().await.map_err(|why| format!("seed {}, fault-free step {step}: {why}", self.seed))?;
        }
        self.store.refuse(None);
        let pods = self.cluster.list_pods();
        let waiting = pods.iter().filter(|pod| pod.name.starts_with("web") && pod.node.is_none()).count();
        // Where listings do not tell sizes, one size waits for another. Under a silent shortage Cluster Autoscaler may
        // choose the size without room again each time its backoff ends: that each machine is asked for is a bound of
        // `liveness`, and holds there as well.
        let short = self.hazards.has(Hazard::SilentShortage);
        if waiting > 0 && self.sizes_told && !short && !self.hazards.unexplained_vms() {
            return Err(format!(
                "seed {}: L: {waiting} pods wait after half an hour of fair weather, and a size has room",
                self.seed
            ));
        }
        Ok(())
    }

    /// Makes the API server refuse the record of a machine that is not Running yet, and changes the load: all other
    /// machines must be created and deleted as usual.
    fn refuse_record(&mut self, step: u32) {
        if !self.hazards.has(Hazard::RefusedRecord) {
            return;
        }
        let load = match step {
            REFUSED => Some((6, 0)),
            step if step == REFUSED + 6 => Some((6, 3)),
            step if step == REFUSED + 27 => Some((0, 0)),
            _ => None,
        };
        if let Some((web, batch)) = load {
            self.cluster.deploy("web", web, self.pod(1500));
            // Each of these pods needs cores of its own, so machines are requested.
            self.cluster.deploy("batch", batch, self.pod(1500));
        }
        if step >= REFUSED && self.store.refused().is_none() {
            let waits = |machine: &Machine| matches!(machine.phase, Phase::Pending | Phase::Creating { .. });
            let machine =
                self.store.backing.records().machines.into_iter().find(waits).map(|machine| machine.id);
            self.trace(&("refused", &machine));
            self.store.refuse(machine);
        }
    }

    /// Half a day of load that comes and goes.
    pub(crate) async fn run_half_a_day(&mut self) -> Result<(), String> {
        self.clear()?;
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
                self.cluster.deploy("web", web, self.pod(1500));
                self.cluster.deploy("batch", batch, self.pod(500));
            }
            if self.process.is_none() {
                self.start().await?;
            }
            self.step_of(HALF_DAY_STEP)
                .await
                .map_err(|why| format!("seed {}, half-day step {step}: {why}", self.seed))?;
        }
        Ok(())
    }

    /// Days after all is at rest a person adds a worker.
    pub(crate) async fn days_later(&mut self) -> Result<(), String> {
        let named = |why: String, seed: u64| format!("seed {seed}, days later: {why}");
        self.pass(Duration::from_hours(50)).await;
        let group = self.simulator.groups().choose(&mut self.rng).map(|group| group.id);
        if group.is_some() {
            self.simulator.add_foreign_worker(DEFAULT_CLUSTER, group).map_err(|e| e.to_string())?;
        }
        for _ in 0..30 {
            self.step_of(HALF_DAY_STEP).await.map_err(|why| named(why, self.seed))?;
        }
        Ok(())
    }

    /// A person deletes at VPSie what the provider says is not its own, and was asked for by it.
    pub(crate) fn clear_away(&mut self) -> Result<(), String> {
        if !self.hazards.unexplained_vms() {
            return Ok(());
        }
        let records = self.store.backing.records();
        for vm in self.simulator.vms() {
            let foreign = records.unmanaged.iter().any(|unmanaged| {
                unmanaged.kind == UnmanagedKind::Foreign
                    && unmanaged.hostname == Hostname::new(&vm.vm.hostname)
            });
            if foreign && vm.vm.kind == VmKind::Worker && vm.vm.end.is_none() {
                self.trace(&("a person deletes", &vm.vm.hostname));
                self.simulator.delete_vm(&vm.vm.uuid).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }
}
