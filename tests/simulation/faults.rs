//! Fault injection: load changes, faults of VPSie and of the store, crashes and clock jumps, drawn at random.

use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use vpsie_autoscaler::simulator::{AnomaliesConfig, Shortage, VmKind};

use super::fixtures::new_autoscaler;
use super::hazards::Hazard;
use super::records::StoreKind;
use super::world::{SMALL, World};

impl World {
    /// Injects at most one random event before a step, and the clock jump of [`Hazard::YearAhead`]. If no
    /// process runs, starts one with probability 1/2.
    pub(crate) async fn inject_faults(&mut self) -> Result<(), String> {
        if self.process.is_none() && self.rng.random_bool(0.5) {
            self.trace(&"the provider starts");
            self.start().await?;
        }
        self.jump_a_year()?;
        match self.rng.random_range(0..24) {
            0..4 => {
                let web = self.rng.random_range(0..9);
                let batch = self.rng.random_range(0..6);
                self.trace(&("load", web, batch));
                self.cluster.deploy("web", web, self.new_pod(1500));
                self.cluster.deploy("batch", batch, self.new_pod(500));
            }
            4..8 => self.add_fault()?,
            8 => self.simulator.clear_faults(),
            9 => {
                let on = self.rng.random_bool(0.4);
                self.trace(&("outage", on));
                self.simulator.set_outage(on);
            }
            10..12 => {
                let calls = self.rng.random_range(0..20);
                self.trace(&("crash after calls", calls));
                self.store.countdown.start(calls);
            }
            12 => self.kill().await,
            13 => {
                self.trace(&"Cluster Autoscaler restarts");
                self.autoscaler = new_autoscaler(self.minor, &self.channel, self.rng.random());
            }
            14 => {
                let capacity = self.rng.random_bool(0.7).then(|| self.rng.random_range(0..5));
                self.trace(&("capacity", capacity));
                self.simulator.set_capacity(None, SMALL, capacity).map_err(|e| e.to_string())?;
            }
            15 => {
                let seconds = self.rng.random_range(-1800..1800);
                self.trace(&("clock jump", seconds));
                self.clock.jump(seconds);
                self.network.note_clock_jump();
            }
            16 => {
                let workers: Vec<_> =
                    self.simulator.vms().into_iter().filter(|vm| vm.vm.kind == VmKind::Worker).collect();
                if let Some(vm) = workers.choose(&mut self.rng) {
                    self.trace(&("VM deleted at VPSie by another client", &vm.vm.hostname));
                    self.simulator.delete_vm(&vm.vm.uuid).map_err(|e| e.to_string())?;
                }
            }
            17 => {
                let failing = self.rng.random_bool(0.5);
                self.trace(&("store fails", failing));
                self.store.set_failing(failing);
            }
            18 => {
                let limit = self.rng.random_bool(0.5).then_some(30);
                self.trace(&("rate limit", limit));
                self.simulator.set_rate_limit(limit);
            }
            19 => {
                let quota = self.rng.random_bool(0.4).then(|| self.rng.random_range(0..8));
                self.trace(&("quota", quota));
                self.simulator.set_worker_quota(quota);
            }
            20..23 if self.store_kind == StoreKind::Kubernetes => {
                let flaky = self.rng.random_bool(0.6);
                self.trace(&("API server is flaky", flaky));
                self.store.set_flaky(flaky);
            }
            23 => self.store.annotate_all(),
            _ => {}
        }
        Ok(())
    }

    /// Sets the provider's clock a year ahead for some steps.
    fn jump_a_year(&mut self) -> Result<(), String> {
        const YEAR: i64 = 365 * 24 * 3600;
        if !self.hazards.has(Hazard::YearAhead) {
            return Ok(());
        }
        let ahead = self.clock.is_ahead(YEAR / 2);
        if self.rng.random_bool(if ahead { 0.3 } else { 0.05 }) {
            self.trace(&("a year ahead", !ahead));
            self.clock.jump(if ahead { -YEAR } else { YEAR });
            self.network.note_clock_jump();
            if !ahead {
                // The outcome of these requests is unclear, and they create no VM. The provider remembers them
                // for a day.
                let text = "* /**/add/slave/** html=502 count=4";
                self.simulator.add_fault(text.parse().map_err(|e| format!("{text}: {e:?}"))?);
                self.cluster.deploy("web", 6, self.new_pod(1500));
            }
        }
        Ok(())
    }

    fn add_fault(&mut self) -> Result<(), String> {
        let path = ["/**/add/slave/**", "/**/add/slave/**", "/**/delete/slave", "/**/byId/*", "/**"]
            .choose(&mut self.rng)
            .unwrap();
        let effect = [
            "lost",
            "lost",
            "not-sent",
            "status=500",
            "status=503 done",
            "status=429 retry-after=7",
            "html=502",
            "html=502 done",
            "delay=20s",
            "delay=45s",
            "slow=15s",
            "status=404",
        ]
        .choose(&mut self.rng)
        .unwrap();
        let absurd = [
            "status=429 retry-after=86400",
            "status=503 retry-after=10000000000000000000",
            "status=429 retry-after=-1",
            "status=503 retry-after=Fri,_01_Jan_2027_00:00:00_GMT",
            "status=429 retry-after=soon",
        ];
        let is_absurd = self.hazards.has(Hazard::AbsurdRetryAfter) && self.rng.random_bool(0.3);
        let effect = if is_absurd { absurd.choose(&mut self.rng).unwrap() } else { effect };
        let count = self.rng.random_range(1..5);
        let text = format!("* {path} {effect} count={count} p=0.7");
        self.trace(&("fault", &text));
        self.stats.lost += u64::from(effect.contains("lost") || effect.contains("done"));
        self.simulator.add_fault(text.parse().map_err(|e| format!("{text}: {e:?}"))?);
        Ok(())
    }

    /// Ends the faults and the hazards, and restarts the process.
    pub(crate) async fn end_hazards(&mut self) -> Result<(), String> {
        self.trace(&"faults and hazards end");
        self.end_faults()?;
        self.simulator.set_anomalies(AnomaliesConfig::default());
        self.simulator.set_shortage(Shortage::default());
        self.kill().await;
        self.start().await
    }
}
