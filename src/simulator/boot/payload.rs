//! Reads payloads as kubeadm, k3s and RKE2 read them. Pure: the payload is not executed.

use super::plan::{JoinKind, JoinPlan, value_error};
use super::plan_error::PlanError;
use super::script::Script;
use super::{k3s, kubeadm};

impl JoinPlan {
    /// Reads the payload of a VM.
    pub fn parse(payload: &str) -> Result<Self, PlanError> {
        if !payload.starts_with("#!") {
            return Err(PlanError::NotAScript);
        }
        let script = Script::parse(payload)?;
        let found: Vec<JoinKind> = [
            (JoinKind::Kubeadm, kubeadm::is_configured(&script)),
            (JoinKind::K3s, k3s::is_configured(&script, k3s::K3S)),
            (JoinKind::Rke2, k3s::is_configured(&script, k3s::RKE2)),
        ]
        .into_iter()
        .filter_map(|(kind, is_configured)| is_configured.then_some(kind))
        .collect();
        let plan = match found[..] {
            [] => Err(PlanError::NoConfiguration),
            [JoinKind::Kubeadm] => kubeadm::parse(&script),
            [JoinKind::K3s] => k3s::parse(&script, k3s::K3S),
            [JoinKind::Rke2] => k3s::parse(&script, k3s::RKE2),
            [_, _, ..] => Err(PlanError::SeveralKinds),
        }?;
        plan.check_labels()?;
        Ok(plan)
    }

    /// A kubelet refuses to start with other labels of Kubernetes' own domains.
    fn check_labels(&self) -> Result<(), PlanError> {
        match self.labels.keys().find(|key| !may_label(key)) {
            None => Ok(()),
            Some(key) => Err(value_error("node labels", format!("a kubelet must not set {key}"))),
        }
    }
}

/// Labels of Kubernetes' own domains that a kubelet may set.
const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

fn may_label(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let is_in = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    let is_own = is_in("kubernetes.io") || is_in("k8s.io");
    !is_own || KUBELET_LABELS.contains(&key) || is_in("kubelet.kubernetes.io") || is_in("node.kubernetes.io")
}
