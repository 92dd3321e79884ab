//! Checks each write of the provider to the API server, before the server executes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_kube::FakeKube;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use vpsie_autoscaler::catalog::CapacityType;
use vpsie_autoscaler::clock::Clock as _;
use vpsie_autoscaler::fleet::{DeletionReason, Hostname, Machine, MachineId, Phase, Records};

use super::BOOT;
use super::cloud::{Cloud, Interruption};
use crate::clock::VirtualClock;
use crate::cluster::is_ready;
use crate::cluster::workload::node_of;
use crate::network::Violations;
use crate::records::Backing;

/// Time beyond the boot that a notice must leave for the replacement to be ready before the drain.
const BEYOND_BOOT: SignedDuration = SignedDuration::from_secs(30);
/// Time until a request whose reply a crash lost is repeated.
const UNCLEAR_TIME: SignedDuration = SignedDuration::from_secs(90);
/// Time from a withdrawal in which a drain may still begin.
const WITHDRAWAL_SEEN: SignedDuration = SignedDuration::from_secs(15);

/// The object of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) plural: String,
    pub(super) name: String,
    pub(super) subresource: String,
}

impl Target {
    /// The object in the path of a request.
    pub(super) fn parse(path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let skipped = if parts.first() == Some(&"api") { 2 } else { 3 };
        let mut parts = parts.into_iter().skip(skipped).peekable();
        if parts.next_if_eq(&"namespaces").is_some() {
            parts.next();
        }
        let mut next = || parts.next().unwrap_or_default().to_owned();
        Self { plural: next(), name: next(), subresource: next() }
    }
}

/// Observer of the provider's writes. Clones share the state.
#[derive(Clone)]
pub(super) struct Observer {
    pub(super) kube: FakeKube,
    pub(super) backing: Backing,
    pub(super) clock: VirtualClock,
    pub(super) cloud: Cloud,
    pub(super) violations: Violations,
    /// Maximum share of spot machines, percent.
    pub(super) share: u64,
    pub(super) state: Arc<Mutex<ObserverState>>,
}

#[derive(Default)]
pub(super) struct ObserverState {
    /// Replacements by the machine that they replace, as their first write shows.
    replacements: BTreeMap<String, BTreeSet<String>>,
    /// Time since when there is no disturbance other than crashes. None while there is one.
    pub(super) calm_since: Option<Timestamp>,
    /// Times of all records of new machines that replace none.
    increases: Vec<Timestamp>,
    /// Time since when the provider runs and reaches the API server, with the right time.
    pub(super) up_since: Option<Timestamp>,
    /// Number of evictions while a replacement was ready.
    pub(super) timely_evictions: u64,
    /// Number of crashes of the process.
    pub(super) crashes: u64,
    /// Number of recorded replacements.
    pub(super) replaced: u64,
}

impl Observer {
    /// The time without skew.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.unskewed().now()
    }

    /// Checks one write.
    pub(super) fn check(&self, method: &Method, target: &Target, body: &[u8]) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let result = match (method, target.plural.as_str(), target.subresource.as_str()) {
            (&Method::POST, "vpsienodes", "") => self.check_new_machine(&body),
            (&Method::PATCH, "vpsienodes", "") => {
                self.note_change(&target.name, &body);
                Ok(())
            }
            (&Method::POST, "pods", "eviction") | (&Method::DELETE, "pods", "") => {
                self.check_eviction(&target.name)
            }
            _ => Ok(()),
        };
        if let Err(violation) = result {
            self.violations.add(violation);
        }
    }

    /// Number of records of new machines that replace none.
    pub(super) fn increase_count(&self) -> usize {
        self.state.lock().unwrap().increases.len()
    }

    /// Time since when the provider runs and reaches the API server, with the right time.
    pub(super) fn up_since(&self) -> Option<Timestamp> {
        self.state.lock().unwrap().up_since
    }

    fn check_new_machine(&self, body: &Value) -> Result<(), String> {
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let records = self.backing.records();
        // A write with a lost reply is repeated.
        if records.machines.iter().any(|machine| machine.id.as_str() == name) {
            return Ok(());
        }
        let replaced = body["spec"]["replaces"].as_str();
        let Some(replaced) = replaced else {
            self.state.lock().unwrap().increases.push(self.now());
            return Ok(());
        };
        let mut state = self.state.lock().unwrap();
        let known = state.replacements.entry(replaced.to_owned()).or_default();
        let live = records.machines.iter().find(|m| known.contains(m.id.as_str()) && is_live(m));
        if let Some(live) = live.filter(|live| live.id.as_str() != name) {
            return Err(format!(
                "R: a second replacement {name} of {replaced} is recorded while {} is live",
                live.id
            ));
        }
        known.insert(name);
        state.replaced += 1;
        Ok(())
    }

    /// A replacement whose notice was withdrawn a while ago replaces no machine.
    fn note_change(&self, name: &str, body: &Value) {
        if body["spec"].get("replaces").is_some_and(Value::is_null) {
            let mut state = self.state.lock().unwrap();
            for known in state.replacements.values_mut() {
                known.remove(name);
            }
        }
    }

    /// Begins the check of a new machine against the maximum share of spot machines, before it is recorded.
    pub(super) fn begin_share_check(&self, body: &[u8]) -> Option<ShareCheck> {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        (body["spec"]["capacityType"] == "spot").then(|| ShareCheck {
            name: body["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            is_replacement: body["spec"]["replaces"].is_string(),
            spot: spot(&self.backing.records()),
            on_demand: on_demand(&self.backing.records()),
            crashes: self.state.lock().unwrap().crashes,
        })
    }

    /// Checks that a new spot machine is within the maximum share of the machines that stay: on-demand machines with a
    /// notice do not count. A replacement takes the place of a machine with a notice. The same commit may record other
    /// machines; a crash may interrupt it. Another commit may record machines that replace none, or others that do.
    pub(super) async fn check_share(self, check: ShareCheck) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let records = self.backing.records();
        let leaves = |machine: &&Machine| !(check.is_replacement && machine.notice.is_some());
        let leaving: BTreeSet<&MachineId> =
            records.machines.iter().filter(|m| !leaves(m)).map(|machine| &machine.id).collect();
        let is_known = |machine: &&Machine| {
            check.spot.contains(&machine.id) || machine.replaces.is_some() == check.is_replacement
        };
        let known: BTreeSet<&MachineId> =
            records.machines.iter().filter(is_known).map(|machine| &machine.id).collect();
        let spot = spot(&records);
        let spot = spot.iter().filter(|id| known.contains(id) && !leaving.contains(id)).count() as u64;
        let mut beside = on_demand(&records);
        beside.extend(check.on_demand);
        let beside = beside.len() as u64;
        let is_interrupted = self.state.lock().unwrap().crashes != check.crashes;
        if 100 * spot > self.share * (spot + beside) && !is_interrupted {
            self.violations.add(format!(
                "S: {} is one of {spot} spot machines beside {beside} on demand, and the maximum share is {} percent",
                check.name, self.share
            ));
        }
    }

    /// Checks that an evicted pod runs on the Node of a machine that is being deleted for a valid reason, and
    /// that its replacement is ready if there was time.
    fn check_eviction(&self, pod: &str) -> Result<(), String> {
        let pod = self.kube.get("pods", "default", pod).unwrap_or_default();
        let Some(node) = node_of(&pod).map(str::to_owned) else { return Ok(()) };
        let records = self.backing.records();
        let hostname = Hostname::new(&node);
        let machine = records.machines.iter().find(|m| m.vm().is_some_and(|vm| vm.hostname == hostname));
        let Some(machine @ Machine { phase: Phase::Deleting { reason, since, .. }, .. }) = machine else {
            return Err(format!("E: a pod on {node} is evicted, and its machine is not being deleted"));
        };
        if *reason != DeletionReason::InterruptionNotice {
            return Ok(());
        }
        let Some(notice) = self.cloud.last_of(&node) else {
            return Err(format!("E: a pod on {node} is evicted because of a notice, and there was none"));
        };
        let is_late =
            |at: Timestamp| self.up_since().is_some_and(|since| since <= at) && *since > at + WITHDRAWAL_SEEN;
        if notice.withdrawn_at.is_some_and(is_late) {
            return Err(format!("E: the drain of {node} began at {since}, after the withdrawal: {notice:?}"));
        }
        self.check_order(&records, machine.id.as_str(), &notice)
    }

    fn check_order(&self, records: &Records, machine: &str, notice: &Interruption) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        let known = state.replacements.get(machine).cloned().unwrap_or_default();
        let its = |m: &&Machine| known.contains(m.id.as_str());
        let is_up = |m: &Machine| {
            let node = m.vm().and_then(|vm| self.kube.get("nodes", "", vm.hostname.as_str()));
            matches!(m.phase, Phase::Running { .. }) && node.is_some_and(|node| is_ready(&node))
        };
        if records.machines.iter().filter(its).any(is_up) {
            state.timely_evictions += 1;
            return Ok(());
        }
        let is_long = |time: SignedDuration| time >= BOOT + BEYOND_BOOT;
        let left_since = |since: Timestamp| notice.deadline.duration_since(since);
        let is_up = state
            .up_since
            .is_some_and(|since| since <= notice.noticed_at || is_long(left_since(since) - UNCLEAR_TIME));
        let is_undisturbed = notice.is_calm
            && is_up
            && state.calm_since.is_some_and(|since| since <= notice.noticed_at)
            // Other machines may be requested first.
            && !state.increases.iter().any(|at| *at >= notice.noticed_at)
            && !self.cloud.all().iter().any(|other| other.noticed_at >= notice.noticed_at && other.node != notice.node);
        let is_long = is_long(left_since(notice.noticed_at));
        if notice.pods > 0 && !notice.is_moved() && is_long && is_undisturbed {
            return Err(format!(
                "O: a pod on {} is evicted {:.0} s after the notice and {:.0} s before the deadline, and no replacement is ready; replacements are {known:?}",
                notice.node,
                self.now().duration_since(notice.noticed_at).as_secs_f64(),
                notice.deadline.duration_since(self.now()).as_secs_f64(),
            ));
        }
        Ok(())
    }
}

/// The state before a spot machine is recorded.
pub(super) struct ShareCheck {
    name: String,
    is_replacement: bool,
    /// Spot machines that count in the share.
    spot: BTreeSet<MachineId>,
    /// On-demand machines that count in the share.
    on_demand: BTreeSet<MachineId>,
    crashes: u64,
}

/// Spot machines that count in the share.
fn spot(records: &Records) -> BTreeSet<MachineId> {
    let machines = records.machines.iter().filter(|machine| is_counted(machine));
    let machines = machines.filter(|machine| machine.pool.capacity_type == CapacityType::Spot);
    machines.map(|machine| machine.id.clone()).collect()
}

/// On-demand machines that count in the share: those without a notice.
fn on_demand(records: &Records) -> BTreeSet<MachineId> {
    let stays = |machine: &&Machine| is_counted(machine) && machine.notice.is_none();
    let machines = records.machines.iter().filter(stays);
    let machines = machines.filter(|machine| machine.pool.capacity_type == CapacityType::OnDemand);
    let machines = machines.filter(|machine| !matches!(machine.phase, Phase::Failed { .. }));
    machines.map(|machine| machine.id.clone()).collect()
}

/// Whether the machine counts in the target size.
pub(super) fn is_counted(machine: &Machine) -> bool {
    !matches!(machine.phase, Phase::Deleting { .. })
}

/// Whether the machine can still take the pods of the machine that it replaces.
pub(super) fn is_live(machine: &Machine) -> bool {
    is_counted(machine) && !matches!(machine.phase, Phase::Failed { .. }) && machine.notice.is_none()
}
