//! What happens to a world, by chance.

use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use vpsie_autoscaler::simulator::{AnomaliesConfig, Shortage, VmKind};

use super::hazards::Hazard;
use super::records::StoreKind;
use super::setting::autoscaler;
use super::world::{SMALL, World};

impl World {
    /// Something happens, or not.
    pub(crate) async fn inject_faults(&mut self) -> Result<(), String> {
        if self.process.is_none() && self.rng.random_bool(0.5) {
            self.trace(&"the provider starts");
            self.start().await?;
        }
        self.year_ahead()?;
        let what = self.rng.random_range(0..24);
        match what {
            0..4 => {
                let web = self.rng.random_range(0..9);
                let batch = self.rng.random_range(0..6);
                self.trace(&("load", web, batch));
                self.cluster.deploy("web", web, self.pod(1500));
                self.cluster.deploy("batch", batch, self.pod(500));
            }
            4..8 => self.add_fault()?,
            8 => self.simulator.clear_faults(),
            9 => {
                let on = self.rng.random_bool(0.4);
                self.trace(&("outage", on));
                self.simulator.set_outage(on);
            }
            10..12 => {
                let steps = self.rng.random_range(0..20);
                self.trace(&("countdown", steps));
                self.store.countdown.start(steps);
            }
            12 => self.kill().await,
            13 => {
                self.trace(&"Cluster Autoscaler restarts");
                self.autoscaler = autoscaler(self.minor, &self.channel, self.rng.random());
            }
            14 => {
                let room = self.rng.random_bool(0.7).then(|| self.rng.random_range(0..5));
                self.trace(&("capacity", room));
                self.simulator.set_capacity(None, SMALL, room).map_err(|e| e.to_string())?;
            }
            15 => {
                let seconds = self.rng.random_range(-1800..1800);
                self.trace(&("clock", seconds));
                self.clock.jump(seconds);
                self.network.clock_jumped();
            }
            16 => {
                let workers: Vec<_> =
                    self.simulator.vms().into_iter().filter(|vm| vm.vm.kind == VmKind::Worker).collect();
                if let Some(vm) = workers.choose(&mut self.rng) {
                    self.trace(&("deleted behind our back", &vm.vm.hostname));
                    self.simulator.delete_vm(&vm.vm.uuid).map_err(|e| e.to_string())?;
                }
            }
            17 => {
                let failing = self.rng.random_bool(0.5);
                self.trace(&("disk full", failing));
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
                self.trace(&("storm", flaky));
                self.store.set_flaky(flaky);
            }
            23 => self.store.touch(),
            _ => {}
        }
        Ok(())
    }

    /// The clock is a year ahead for some steps.
    fn year_ahead(&mut self) -> Result<(), String> {
        const YEAR: i64 = 365 * 24 * 3600;
        if !self.hazards.has(Hazard::YearAhead) {
            return Ok(());
        }
        let ahead = self.clock.is_ahead(YEAR / 2);
        if self.rng.random_bool(if ahead { 0.3 } else { 0.05 }) {
            self.trace(&("a year ahead", !ahead));
            self.clock.jump(if ahead { -YEAR } else { YEAR });
            self.network.clock_jumped();
            if !ahead {
                // Requests that no VM comes of, and that are remembered.
                let text = "* /**/add/slave/** html=502 count=4";
                self.simulator.add_fault(text.parse().map_err(|e| format!("{text}: {e:?}"))?);
                self.cluster.deploy("web", 6, self.pod(1500));
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
        let chosen = self.hazards.has(Hazard::AbsurdRetryAfter) && self.rng.random_bool(0.3);
        let effect = if chosen { absurd.choose(&mut self.rng).unwrap() } else { effect };
        // A creation that VPSie executes twice looks like a worker that a person added.
        let count = self.rng.random_range(1..5);
        let text = format!("* {path} {effect} count={count} p=0.7");
        self.trace(&("fault", &text));
        self.stats.lost += u64::from(effect.contains("lost") || effect.contains("done"));
        self.simulator.add_fault(text.parse().map_err(|e| format!("{text}: {e:?}"))?);
        Ok(())
    }

    /// The weather clears, and the hazards end.
    pub(crate) async fn end_hazards(&mut self) -> Result<(), String> {
        self.trace(&"calm");
        self.clear()?;
        self.simulator.set_anomalies(AnomaliesConfig::default());
        self.simulator.set_shortage(Shortage::default());
        self.kill().await;
        self.start().await
    }
}
