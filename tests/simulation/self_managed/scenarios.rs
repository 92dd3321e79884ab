//! Acceptance scenarios that last for long: a VM that is pending for longer than its token is valid at first, and a
//! payload whose VMs never join.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use vpsie_autoscaler::clock::Clock;
use vpsie_autoscaler::fleet::{MachineId, Phase};
use vpsie_autoscaler::simulator::{Span, TimesConfig};

use super::NAMESPACE;
use super::boot::expirations;
use super::world::{Setting, World};

/// A template of a kubeadm payload. HASHES is the list of CA hashes.
const TEMPLATE: &str = "#!/bin/sh
cat >/run/join.yaml <<'END'
apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken:
    apiServerEndpoint: {{ endpoint|yaml }}
    token: {{ token|yaml }}
    caCertHashes: HASHES
nodeRegistration:
  name: {{ node_name|yaml }}
  taints: {{ taints|yaml }}
  kubeletExtraArgs:
  - name: node-labels
    value: {{ kubelet_labels|yaml }}
END
kubeadm join --config /run/join.yaml
";
/// The hash of no CA.
const OTHER_CA: &str = "[\"sha256:0000000000000000000000000000000000000000000000000000000000000000\"]";
/// Machines that may join at once with a payload that has never joined.
const UNPROVEN: usize = 3;
/// Failures in a row that stop a payload. The failures of a burst count once.
const FAILURES: usize = 3;

impl World {
    fn now(&self) -> Timestamp {
        self.clock.unskewed().now()
    }

    /// VMs that the provider has created so far.
    fn count_created(&self) -> usize {
        let gone: BTreeSet<String> = self.simulator.gone().into_iter().map(|vm| vm.vm.uuid).collect();
        self.own_vms().into_iter().chain(gone).collect::<BTreeSet<_>>().len()
    }

    /// The message of the condition PayloadValid if it is False.
    fn payload_problem(&self) -> Option<String> {
        let group = self.kube.get("nodegroups", NAMESPACE, "web")?;
        let conditions = group["status"]["conditions"].as_array()?;
        let is_problem = |condition: &&serde_json::Value| {
            condition["type"] == "PayloadValid" && condition["status"] == "False"
        };
        Some(conditions.iter().find(is_problem)?["message"].as_str()?.to_owned())
    }

    /// Runs steps until the condition holds, and returns the time.
    async fn run_until(
        &mut self,
        what: &str,
        limit: SignedDuration,
        mut condition: impl FnMut(&Self) -> Result<bool, String>,
    ) -> Result<SignedDuration, String> {
        let began = self.now();
        while !condition(self)? {
            let passed = self.now().duration_since(began);
            if passed > limit {
                return Err(format!("{what}: not within {limit:?}"));
            }
            self.step().await?;
        }
        Ok(self.now().duration_since(began))
    }

    /// Returns an error if a machine failed for a shortage.
    fn check_no_shortage(&self) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        process.handle.read(|fleet| {
            let short = fleet.machines().find(
                |machine| matches!(&machine.phase, Phase::Failed { failure, .. } if failure.reason.class() == 1),
            );
            short.map_or(Ok(()), |machine| Err(format!("a shortage is reported: {machine:?}")))
        })
    }
}

/// The first VM is pending for 35 minutes. Its token, which is valid for 30 minutes at first, lets it join.
async fn pending_for_long(seed: u64) -> Result<(), String> {
    let after =
        |minutes| Span { from: SignedDuration::from_mins(minutes), to: SignedDuration::from_mins(minutes) };
    let setting = Setting {
        create_timeout: Duration::from_hours(1),
        provision_time: Duration::from_hours(2),
        times: TimesConfig { listed: after(35), boot: after(38), ..TimesConfig::default() },
        ..Setting::default()
    };
    let mut world = World::calm(seed, setting)?;
    world.set_up().await?;
    world.start().await?;
    world.workload.replicas = 1;
    let mut seen = Vec::new();
    let hour = SignedDuration::from_hours(1);
    world
        .run_until("the VM joins", hour, |world| {
            let valid = expirations(&world.kube);
            let new: Vec<Timestamp> = valid.values().copied().filter(|at| !seen.contains(at)).collect();
            seen.extend(new);
            if valid.len() > 1 || world.count_created() > 1 {
                return Err(format!("{valid:?}, {} VMs", world.count_created()));
            }
            Ok(world.boots.joined == 1)
        })
        .await?;
    let joined_at = world.now();
    if seen.len() < 2 || seen[0] >= joined_at {
        return Err(format!("joined at {joined_at}, expirations {seen:?}: the token was not extended"));
    }
    let bound = |world: &World| {
        let running = |fleet: &vpsie_autoscaler::fleet::Fleet| {
            fleet.machines().all(|machine| matches!(machine.phase, Phase::Running { .. }))
        };
        Ok(world.process.as_ref().is_some_and(|process| process.handle.read(running)))
    };
    world.run_until("the machine runs", SignedDuration::from_mins(2), bound).await?;
    let last = seen.last().copied();
    let gone = |world: &World| {
        let valid = expirations(&world.kube);
        match valid.values().find(|at| Some(**at) > last) {
            Some(at) => Err(format!("the token of a Node was extended to {at}")),
            None => Ok(valid.is_empty()),
        }
    };
    world.run_until("the token is deleted", SignedDuration::from_mins(1), gone).await?;
    for _ in 0..20 {
        world.step().await?;
    }
    match (expirations(&world.kube).is_empty(), world.boots.refused) {
        (true, 0) => world.check_rest(1),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn a_vm_of_a_self_managed_cluster_joins_after_pending_for_long() {
    crate::run_seeds(2, "pending_for_long", |seed| crate::run_in_virtual_time(pending_for_long(seed)));
}

/// VMs refuse the CA of the API server. Few are bought, and none is reported as a shortage; a corrected payload joins.
async fn never_joins(seed: u64) -> Result<usize, String> {
    let wrong: &'static str = TEMPLATE.replace("HASHES", OTHER_CA).leak();
    let setting =
        Setting { provision_time: Duration::from_mins(12), template: Some(wrong), ..Setting::default() };
    let mut world = World::calm(seed, setting)?;
    world.set_up().await?;
    world.start().await?;
    world.workload.replicas = 8;
    let mut machines: BTreeSet<MachineId> = BTreeSet::new();
    let hours = SignedDuration::from_hours;
    let stopped = world
        .run_until("the payload is stopped", hours(2), |world| {
            world.check_no_shortage()?;
            if let Some(process) = &world.process {
                process.handle.read(|fleet| {
                    machines.extend(fleet.machines().map(|machine| machine.id.clone()));
                });
            }
            let up = world.own_vms().len();
            if up > 2 * UNPROVEN {
                return Err(format!("{up} VMs with an unproven payload"));
            }
            Ok(world.payload_problem().is_some_and(|message| message.contains("never joined")))
        })
        .await?;
    let bought = world.count_created();
    if bought > UNPROVEN * FAILURES || world.boots.distrusting != bought as u64 || world.boots.joined > 0 {
        return Err(format!("{bought} VMs were bought, {} refused the CA", world.boots.distrusting));
    }
    // It lasts for 30 minutes.
    for _ in 0..25 * 4 {
        world.step().await?;
        world.check_no_shortage()?;
    }
    if world.count_created() != bought {
        return Err(format!("{} VMs were bought after the stop", world.count_created() - bought));
    }
    world.set_template(&TEMPLATE.replace("HASHES", "{{ ca_hashes|yaml }}"))?;
    let joins = |world: &World| Ok(world.boots.joined >= 1);
    let again =
        world.run_until("a VM with the corrected payload joins", SignedDuration::from_mins(8), joins).await?;
    let valid = |world: &World| Ok(world.payload_problem().is_none());
    world.run_until("the condition ends", SignedDuration::from_mins(2), valid).await?;
    println!("seed {seed}: {bought} VMs until the stop after {stopped:#}, corrected after {again:#}");
    Ok(bought)
}

#[test]
fn a_self_managed_cluster_adds_few_vms_if_a_payload_never_joins() {
    let bought = crate::run_seeds(2, "never_joins", |seed| crate::run_in_virtual_time(never_joins(seed)));
    assert!(bought.iter().all(|bought| *bought >= FAILURES));
}
