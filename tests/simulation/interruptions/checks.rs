//! Checks of the records, Nodes and VMs of interruptions after each step.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use vpsie_autoscaler::clock::Clock as _;
use vpsie_autoscaler::fleet::{Hostname, Machine, MachineId, Phase, Records, RequestOutcome};
use vpsie_autoscaler::grpc::proto::NodeGroupsRequest;
use vpsie_autoscaler::grpc::proto::cloud_provider_client::CloudProviderClient;

use super::MAX;
use super::cloud::Interruption;
use super::observer::{is_counted, is_live};
use super::world::InterruptionWorld;
use crate::checks;
use crate::cluster::workload::{Workload, name};
use crate::hazards::Hazards;

/// Time in which the provider cordons a Node after a notice, and uncordons it after a withdrawal.
const CORDON_TIME: SignedDuration = SignedDuration::from_secs(30);
/// Minimum time of a notice whose drain must begin before the deadline.
const MIN_NOTICE: SignedDuration = SignedDuration::from_secs(25);
/// Maximum time of a VM beyond its deadline: two minutes until its machine is deleted, and the tolerance of
/// recorded times.
const MAX_OUTLIVED: SignedDuration = SignedDuration::from_mins(4);
/// The same if clocks differ.
const MAX_OUTLIVED_WITH_SKEW: SignedDuration = SignedDuration::from_mins(45);
/// Maximum time for which a replacement is hidden.
const HIDDEN_TIME: SignedDuration = SignedDuration::from_mins(10);
/// Taint of Nodes that Cluster Autoscaler or the provider deletes.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
/// Time in which the provider removes the protection of a Node that is no longer a needed replacement.
const PROTECTION_TIME: SignedDuration = SignedDuration::from_mins(1);
/// Annotation by which the Node of a replacement is protected from scale-down.
const PROTECTED: &str = "cluster-autoscaler.kubernetes.io/scale-down-disabled";
/// Annotations that no Node has at rest.
const TRANSIENT: [&str; 3] =
    [PROTECTED, "autoscaler.vpsie.com/replaces", "autoscaler.vpsie.com/interruption-cordon"];

impl InterruptionWorld {
    /// Checks all invariants.
    pub(super) async fn check(&mut self) -> Result<(), String> {
        if let Some(violation) = self.observer.violations.first() {
            return Err(violation);
        }
        if let Some(process) = &mut self.process {
            process.check_tasks()?;
        }
        let records = self.observer.backing.records();
        checks::check_vms(&self.simulator, &records, &Hazards::default())?;
        check_replacements(&records)?;
        self.check_protection(&records)?;
        self.check_replies(&records).await?;
        for notice in self.observer.cloud.all() {
            self.check_notice(&records, &notice)?;
        }
        Ok(())
    }

    /// 1, 4, H: the target sizes equal the instances, hidden replacements are in neither, and only replacements exceed the
    /// maximum.
    async fn check_replies(&self, records: &Records) -> Result<(), String> {
        if self.channel.server.lock().unwrap().is_none() {
            return Ok(());
        }
        let mut client = CloudProviderClient::new(self.channel.clone());
        let groups = client.node_groups(NodeGroupsRequest {}).await;
        let groups = groups.map_err(|error| format!("8: a read RPC failed: {error}"))?.into_inner();
        let mut total = 0;
        for group in &groups.node_groups {
            let expected = self.visible_target(&group.id);
            let target = checks::check_pool(&mut client, group).await?;
            // The fleet may change meanwhile.
            let is_unchanged = expected == self.visible_target(&group.id);
            if let Some(expected) = expected.filter(|it| is_unchanged && *it != target as usize) {
                return Err(format!("H: the target size of {} is {target}, must be {expected}", group.id));
            }
            total += target as usize;
        }
        // Replacements forget the machine whose notice was withdrawn, and stay until they are unneeded.
        let withdrawn = self.observer.cloud.all().into_iter().filter(|notice| !notice.is_shown()).count();
        let replacements = records.machines.iter().filter(|machine| machine.replaces.is_some()).count();
        if total > MAX as usize + replacements + withdrawn {
            return Err(format!(
                "4: there are {total} machines, {replacements} of them replace others, {withdrawn} notices were \
                 withdrawn, and the maximum is {MAX}"
            ));
        }
        Ok(())
    }

    /// H: the number of machines of the pool that Cluster Autoscaler must see. Replacements whose Nodes are not Ready are
    /// hidden for ten minutes, if the pool has no other machine and Cluster Autoscaler uses the expander.
    fn visible_target(&self, pool: &str) -> Option<usize> {
        let now = self.clock.now();
        let is_on_its_way = |machine: &Machine| {
            let is_coming = matches!(machine.phase, Phase::Pending | Phase::Creating { .. });
            let is_new = now.duration_since(machine.created_at) < HIDDEN_TIME;
            is_coming && is_new && machine.replaces.is_some() && machine.notice.is_none()
        };
        self.process.as_ref()?.handle.read(|fleet| {
            let of_pool = |m: &&Machine| is_counted(m) && m.pool.to_string() == pool;
            let counted: Vec<&Machine> = fleet.machines().filter(of_pool).collect();
            let are_hidden = self.uses_expander && counted.iter().all(|machine| is_on_its_way(machine));
            Some(if are_hidden { 0 } else { counted.len() })
        })
    }

    /// P: the Node of a replacement is protected from scale-down only while the replacement is needed.
    fn check_protection(&mut self, records: &Records) -> Result<(), String> {
        let now = self.observer.now();
        let find = |id: &str| records.machines.iter().find(|machine| machine.id.as_str() == id);
        let is_needed = |node: &Value| {
            let hostname = Hostname::new(&name(node));
            let its = |machine: &&Machine| machine.vm().is_some_and(|vm| vm.hostname == hostname);
            let replaced = records.machines.iter().find(its).and_then(|machine| machine.replaces.as_ref());
            let replaced = replaced.and_then(|id| find(id.as_str()));
            replaced.is_some_and(|replaced| replaced.notice.is_some() || !is_counted(replaced))
        };
        let nodes = self.kube.list("nodes");
        let is_protected = |node: &&Value| node["metadata"]["annotations"].get(PROTECTED).is_some();
        let unneeded: BTreeSet<String> =
            nodes.iter().filter(is_protected).filter(|node| !is_needed(node)).map(name).collect();
        self.unneeded_protection.retain(|node, _| unneeded.contains(node));
        for node in unneeded {
            let since = *self.unneeded_protection.entry(node.clone()).or_insert(now);
            let is_late = |up: Timestamp| now > since.max(up) + PROTECTION_TIME;
            if self.observer.up_since().is_some_and(is_late) {
                return Err(format!(
                    "P: the Node {node} is protected from scale-down since {since}, and replaces none"
                ));
            }
        }
        Ok(())
    }

    fn check_notice(&self, records: &Records, notice: &Interruption) -> Result<(), String> {
        let now = self.observer.now();
        let hostname = Hostname::new(&notice.node);
        let machine = records.machines.iter().find(|m| m.vm().is_some_and(|vm| vm.hostname == hostname));
        self.check_outlived(notice, now)?;
        let Some(machine) = machine else { return Ok(()) };
        self.check_drain_time(machine, notice, now)?;
        // Only the last notice of a Node has an effect.
        let last = self.observer.cloud.last_of(&notice.node);
        if last.is_some_and(|last| last.noticed_at == notice.noticed_at) {
            self.check_cordon(machine, notice, now)?;
        }
        Ok(())
    }

    /// V: the VM does not outlive its deadline for long.
    fn check_outlived(&self, notice: &Interruption, now: Timestamp) -> Result<(), String> {
        let max = if self.has_skew() { MAX_OUTLIVED_WITH_SKEW } else { MAX_OUTLIVED };
        let since = match self.observer.up_since() {
            _ if self.has_skew() => notice.deadline,
            Some(up_since) => notice.deadline.max(up_since).max(notice.shown_since),
            None => return Ok(()),
        };
        let exists =
            || self.simulator.vms().iter().any(|vm| vm.vm.uuid == notice.uuid && vm.vm.end.is_none());
        if notice.is_shown() && now > since + max && exists() {
            return Err(format!("V: the VM of {} outlives the deadline {}", notice.node, notice.deadline));
        }
        Ok(())
    }

    /// N: the drain begins before the deadline.
    fn check_drain_time(
        &self,
        machine: &Machine,
        notice: &Interruption,
        now: Timestamp,
    ) -> Result<(), String> {
        let is_due = notice.is_shown()
            && now >= notice.deadline
            && notice.deadline.duration_since(notice.shown_since) >= MIN_NOTICE
            && self.observer.up_since().is_some_and(|since| since + CORDON_TIME <= notice.shown_since);
        let begun = match machine.phase {
            Phase::Deleting { since, .. } => Some(since),
            Phase::Pending | Phase::Creating { .. } | Phase::Running { .. } | Phase::Failed { .. } => None,
        };
        if is_due && begun.is_none_or(|begun| begun > notice.deadline) {
            return Err(format!("N: the drain of {} began at {begun:?}: {notice:?}", notice.node));
        }
        Ok(())
    }

    /// C: the Node is cordoned after a notice. W: it is uncordoned after a withdrawal.
    fn check_cordon(&self, machine: &Machine, notice: &Interruption, now: Timestamp) -> Result<(), String> {
        let changed_at = notice.withdrawn_at.unwrap_or(notice.noticed_at);
        let is_due = self.observer.up_since().is_some_and(|since| now >= changed_at.max(since) + CORDON_TIME);
        let Some(node) = self.kube.get("nodes", "", &notice.node).filter(|_| is_due) else { return Ok(()) };
        let is_deleting = matches!(machine.phase, Phase::Deleting { .. }) || has_taint(&node, TO_BE_DELETED);
        if is_deleting {
            return Ok(());
        }
        let is_cordoned = node["spec"]["unschedulable"] == true;
        match notice.withdrawn_at {
            Some(at) if is_cordoned => {
                Err(format!("W: the Node {} is cordoned, and its notice was withdrawn at {at}", notice.node))
            }
            None if !is_cordoned => Err(format!("C: the Node {} with a notice is not cordoned", notice.node)),
            _ => Ok(()),
        }
    }

    /// L: the cluster is at rest with `replicas` pods.
    pub(super) fn check_rest(&self, replicas: usize) -> Result<(), String> {
        if self.process.is_none() {
            return Err("no process".to_owned());
        }
        let records = self.observer.backing.records();
        for machine in &records.machines {
            let is_settled = match &machine.phase {
                Phase::Running { .. } => true,
                Phase::Deleting { vm: None, .. } => {
                    machine.requests.iter().all(|request| request.outcome == RequestOutcome::Lost)
                }
                _ => false,
            };
            if !is_settled || machine.notice.is_some() || machine.replaces.is_some() {
                return Err(format!("{machine:?}"));
            }
        }
        let running: BTreeSet<String> =
            records.machines.iter().filter_map(|m| Some(m.vm()?.hostname.to_string())).collect();
        for node in self.kube.list("nodes") {
            let annotations = &node["metadata"]["annotations"];
            let left = TRANSIENT.iter().find(|key| annotations.get(key).is_some());
            if left.is_some() || node["spec"]["unschedulable"] == true {
                return Err(format!("the Node {} has {left:?} or a cordon", name(&node)));
            }
            if !running.contains(&name(&node)) {
                return Err(format!("the Node {} has no machine", name(&node)));
            }
        }
        let workers = self.simulator.worker_count();
        match Workload::count_pending(&self.kube) {
            0 if workers != running.len() => Err(format!("{workers} workers, machines are {running:?}")),
            0 if replicas == 0 && workers > 0 => Err(format!("{workers} workers remain")),
            0 => Ok(()),
            pending => Err(format!("{pending} pods are pending")),
        }
    }
}

/// R: no machine has two live replacements.
fn check_replacements(records: &Records) -> Result<(), String> {
    let mut live: BTreeMap<&MachineId, &MachineId> = BTreeMap::new();
    for machine in records.machines.iter().filter(|machine| is_live(machine)) {
        let Some(replaced) = &machine.replaces else { continue };
        if let Some(other) = live.insert(replaced, &machine.id) {
            return Err(format!("R: {other} and {} are replacements of {replaced}", machine.id));
        }
    }
    Ok(())
}

fn has_taint(node: &Value, key: &str) -> bool {
    node["spec"]["taints"].as_array().is_some_and(|taints| taints.iter().any(|taint| taint["key"] == key))
}
