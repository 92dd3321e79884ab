//! The cloud's side of interruptions: notices on Nodes, and the end of VMs.

use std::sync::{Arc, Mutex};

use fake_kube::FakeKube;
use jiff::{SignedDuration, Timestamp};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use vpsie_autoscaler::simulator::{Phase, Simulator, VmKind};

use super::{GRACE, STEP};
use crate::cluster::workload::pods_on;

/// Annotation of a notice. Its value is the deadline.
pub(super) const NOTICE: &str = "autoscaler.vpsie.com/interruption";
/// Taint of a termination handler.
const TERMINATION_TAINT: &str = "aws-node-termination-handler/spot-itn";

/// The way in which a Node shows a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// The annotation with the deadline.
    Deadline,
    /// The taint of a termination handler, without a deadline.
    Taint,
}

/// A later change of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Revision {
    /// The annotation gets this deadline.
    Move(Timestamp),
    /// The notice is removed.
    Withdraw,
}

/// The course of an interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) sign: Sign,
    /// Time from the notice to the deadline.
    pub(super) time: SignedDuration,
    /// Time from the notice to its change, and the change.
    pub(super) revision: Option<(SignedDuration, Revision)>,
    /// Whether the VM runs on after the deadline.
    pub(super) outlives: bool,
}

impl Plan {
    /// A notice with a deadline, without changes.
    pub(super) fn new(seconds: i64) -> Self {
        let time = SignedDuration::from_secs(seconds);
        Self { sign: Sign::Deadline, time, revision: None, outlives: false }
    }

    pub(super) fn draw(rng: &mut StdRng, now: Timestamp, outlives: bool) -> Self {
        let sign = if rng.random_bool(0.25) { Sign::Taint } else { Sign::Deadline };
        let seconds = match (sign, rng.random_range(0..3)) {
            (Sign::Taint, _) => GRACE.as_secs(),
            (Sign::Deadline, 0) => rng.random_range(5..60),
            (Sign::Deadline, 1) => rng.random_range(90..180),
            (Sign::Deadline, _) => rng.random_range(180..600),
        };
        let change_at = SignedDuration::from_secs(rng.random_range(2..seconds.max(3)));
        let revision = match rng.random_range(0..5) {
            0 => Some(Revision::Withdraw),
            1 if sign == Sign::Deadline => {
                let after = SignedDuration::from_secs(rng.random_range(20..400));
                Some(Revision::Move(now + change_at + after))
            }
            _ => None,
        };
        Self {
            sign,
            time: SignedDuration::from_secs(seconds),
            revision: revision.map(|revision| (change_at, revision)),
            outlives: outlives && rng.random_bool(0.5),
        }
    }
}

/// A notice that the cloud gave. Times are true ones, without clock skew.
#[derive(Clone, Debug)]
pub(super) struct Interruption {
    /// The Node, in lower case.
    pub(super) node: String,
    pub(super) uuid: String,
    pub(super) sign: Sign,
    pub(super) noticed_at: Timestamp,
    /// Time at which the VM ends. For a notice without a deadline, the end of the grace period.
    pub(super) deadline: Timestamp,
    /// Time since when the Node shows this deadline.
    pub(super) shown_since: Timestamp,
    pub(super) withdrawn_at: Option<Timestamp>,
    pub(super) outlives: bool,
    /// Pods on the Node when the notice was given.
    pub(super) pods: usize,
    /// Whether nothing else disturbed the provider at that time.
    pub(super) is_calm: bool,
    revision: Option<(Timestamp, Revision)>,
    is_ended: bool,
}

impl Interruption {
    /// Whether the Node shows the notice.
    pub(super) fn is_shown(&self) -> bool {
        self.withdrawn_at.is_none()
    }

    /// Whether the deadline was changed.
    pub(super) fn is_moved(&self) -> bool {
        self.shown_since != self.noticed_at
    }
}

/// All interruptions of a run, in the order of their notices. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Cloud(Arc<Mutex<Vec<Interruption>>>);

impl Cloud {
    pub(super) fn all(&self) -> Vec<Interruption> {
        self.0.lock().unwrap().clone()
    }

    /// The last notice of the Node.
    pub(super) fn last_of(&self, node: &str) -> Option<Interruption> {
        self.0.lock().unwrap().iter().rev().find(|one| one.node == node).cloned()
    }

    /// A running worker whose Node is identified and shows no notice. Spot VMs are chosen more often.
    pub(super) fn choose_victim(
        &self,
        kube: &FakeKube,
        simulator: &Simulator,
        rng: &mut StdRng,
    ) -> Option<(String, String)> {
        let is_eligible = |node: &str| {
            kube.get("nodes", "", node).is_some_and(|node| node["spec"]["providerID"].is_string())
                && self.last_of(node).is_none_or(|last| !last.is_shown())
        };
        let vms = simulator.vms().into_iter();
        let running = vms.filter(|vm| vm.vm.kind == VmKind::Worker && vm.phase == Phase::Running);
        let running = running.filter(|vm| vm.vm.end.is_none());
        let victims: Vec<_> = running
            .map(|vm| (vm.vm.hostname.to_lowercase(), vm.vm.uuid.clone(), vm.vm.spot))
            .filter(|(node, ..)| is_eligible(node))
            .collect();
        let spot: Vec<_> = victims.iter().filter(|(.., spot)| *spot).cloned().collect();
        let from = if spot.is_empty() || rng.random_bool(0.2) { &victims } else { &spot };
        from.choose(rng).map(|(node, uuid, _)| (node.clone(), uuid.clone()))
    }

    /// Gives notice of an interruption.
    pub(super) fn announce(
        &self,
        kube: &FakeKube,
        (node, uuid): (String, String),
        plan: Plan,
        now: Timestamp,
        is_calm: bool,
    ) -> Interruption {
        let deadline = now + plan.time;
        show(kube, &node, plan.sign, Some(deadline));
        let interruption = Interruption {
            sign: plan.sign,
            noticed_at: now,
            deadline,
            shown_since: now,
            withdrawn_at: None,
            outlives: plan.outlives,
            pods: pods_on(kube, &node).len(),
            is_calm,
            revision: plan.revision.map(|(after, revision)| (now + after, revision)),
            is_ended: false,
            node,
            uuid,
        };
        self.0.lock().unwrap().push(interruption.clone());
        interruption
    }

    /// Changes the notices that are due now, and ends the VMs whose deadline is in the next step. Returns the
    /// changes.
    pub(super) fn advance(&self, kube: &FakeKube, simulator: &Simulator, now: Timestamp) -> Vec<String> {
        let mut changes = Vec::new();
        for one in self.0.lock().unwrap().iter_mut().filter(|one| one.is_shown() && !one.is_ended) {
            match one.revision.take_if(|(at, _)| *at <= now) {
                Some((_, Revision::Withdraw)) => {
                    one.withdrawn_at = Some(now);
                    show(kube, &one.node, one.sign, None);
                    changes.push(format!("the notice of {} is withdrawn", one.node));
                    continue;
                }
                Some((_, Revision::Move(deadline))) => {
                    (one.deadline, one.shown_since) = (deadline.max(now + STEP), now);
                    show(kube, &one.node, one.sign, Some(one.deadline));
                    changes.push(format!("the deadline of {} is moved to {}", one.node, one.deadline));
                }
                None => {}
            }
            let left = one.deadline.duration_since(now).max(SignedDuration::ZERO);
            if !one.outlives && left <= STEP {
                one.is_ended = true;
                // The provider may have deleted it.
                drop(simulator.interrupt(&one.uuid, left));
            }
        }
        changes
    }
}

/// Shows the notice on the Node, or removes it.
fn show(kube: &FakeKube, node: &str, sign: Sign, deadline: Option<Timestamp>) {
    let patch = match sign {
        Sign::Deadline => {
            let value = deadline.map(|deadline| deadline.to_string());
            json!({"metadata": {"annotations": {NOTICE: value}}})
        }
        Sign::Taint => {
            let object = kube.get("nodes", "", node).unwrap_or_default();
            let mut taints = object["spec"]["taints"].as_array().cloned().unwrap_or_default();
            taints.retain(|taint: &Value| taint["key"] != TERMINATION_TAINT);
            if deadline.is_some() {
                taints.push(json!({"key": TERMINATION_TAINT, "effect": "NoSchedule"}));
            }
            json!({"spec": {"taints": taints}})
        }
    };
    // The Node may be gone.
    drop(kube.patch("nodes", "", node, patch));
}
