//! Conversion between machines and VPSieNodes.

use jiff::Timestamp;

use super::conditions::conditions;
use super::{
    InterruptionNotice, InterruptionReport, MachinePhase, RequestOutcome, RequestRef, VPSieNode,
    VPSieNodeSpec, VPSieNodeStatus, VmRequest,
};
use crate::catalog::SizeId;
use crate::fleet::{
    self, ClusterId, DeletionReason, DrainState, Failure, FailureReason, Hostname, Machine, MachineId, Phase,
    PoolId, ProviderId, Vm, VmId,
};

/// Error of a VPSieNode that is not the record of a machine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("VPSieNode {name} has no {field}: it is not a record of vpsie-autoscaler")]
pub struct NotARecord {
    /// Its name.
    pub name: String,
    /// The field.
    pub field: &'static str,
}

impl VPSieNode {
    /// The record of a machine. The store adds namespace and finalizer.
    pub fn from_machine(machine: &Machine, cluster: &ClusterId) -> Self {
        let pool = &machine.pool;
        let spec = VPSieNodeSpec {
            node_group_name: pool.node_group.to_string(),
            datacenter_id: pool.datacenter.to_string(),
            instance_type: pool.offer.to_string(),
            capacity_type: pool.capacity_type,
            resource_identifier: cluster.to_string(),
            kube_size_id: machine.size.known().and_then(|size| i64::try_from(size.0).ok()),
            recorded_at: Some(machine.created_at),
            requested_at: match machine.phase {
                Phase::Creating { since, .. } => Some(since),
                _ => None,
            },
            requests: machine.requests.iter().map(VmRequest::from).collect(),
            replaces: machine.replaces.as_ref().map(ToString::to_string),
            node_name: None,
            vpsie_node_identifier: None,
            vpsie_group_id: None,
            vpsie_instance_id: None,
            ip_address: None,
            ipv6_address: None,
            project: None,
            os_image_id: None,
            kubernetes_version: None,
            ssh_key_ids: Vec::new(),
        };
        let mut node = Self::new(&machine.id.to_string(), spec);
        node.status = Some(status(machine));
        node
    }

    /// The machine of this record.
    ///
    /// The spec and the deletion timestamp take precedence over an older status: a machine with a request is
    /// Creating, one with a deletion timestamp is Deleting.
    pub fn to_machine(&self) -> Result<Machine, NotARecord> {
        let spec = &self.spec;
        let meta = &self.metadata;
        let name = meta.name.clone().unwrap_or_default();
        let missing = |field| NotARecord { name: name.clone(), field };
        let made = meta.creation_timestamp.as_ref().map(|time| time.0);
        let created_at = spec.recorded_at.or(made).ok_or_else(|| missing("spec.recordedAt"))?;
        let size = match spec.kube_size_id {
            Some(size) => u64::try_from(size).map(SizeId).ok(),
            // An orphan of unknown size. VPSieNodes of the original have no `recordedAt`.
            None => spec.recorded_at.map(|_| SizeId::UNKNOWN),
        };
        Ok(Machine {
            id: MachineId::from(name.as_str()),
            pool: PoolId {
                node_group: spec.node_group_name.as_str().into(),
                datacenter: spec.datacenter_id.as_str().into(),
                offer: spec.instance_type.as_str().into(),
                capacity_type: spec.capacity_type,
            },
            size: size.ok_or_else(|| missing("spec.kubeSizeID"))?,
            created_at,
            phase: self.phase(created_at).ok_or_else(|| missing("status.hostname"))?,
            requests: spec.requests.iter().map(fleet::VmRequest::from).collect(),
            notice: self
                .status
                .as_ref()
                .and_then(|status| status.interruption_notice.as_ref())
                .map(fleet::Notice::from),
            replaces: spec.replaces.as_deref().map(MachineId::from),
        })
    }

    /// None if the phase needs a VM and the record has none.
    fn phase(&self, created_at: Timestamp) -> Option<Phase> {
        let spec = &self.spec;
        let fallback = VPSieNodeStatus::default();
        let status = self.status.as_ref().unwrap_or(&fallback);
        let vm = self.vm(status);
        let since = |time: Option<Timestamp>| time.unwrap_or(created_at);
        let deleting = self.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        let requested = spec.requested_at.or(spec.requests.first().map(|request| request.at));
        Some(match status.phase {
            MachinePhase::Deleting => Phase::Deleting {
                vm,
                since: since(status.terminating_at.or(deleting)),
                reason: status.deletion_reason.unwrap_or_default(),
                drain: DrainState::stored(status.draining),
                accepted_at: status.deleted_at,
            },
            // A user deleted it, and the status is not updated yet.
            _ if deleting.is_some() => Phase::Deleting {
                drain: DrainState::Pending,
                vm,
                since: since(deleting),
                reason: DeletionReason::VPSieNodeDeleted,
                accepted_at: None,
            },
            MachinePhase::Pending if requested.is_none() && vm.is_none() => Phase::Pending,
            MachinePhase::Pending | MachinePhase::Creating => Phase::Creating { vm, since: since(requested) },
            MachinePhase::Running => Phase::Running { vm: vm?, since: since(status.provisioned_at) },
            MachinePhase::Failed => Phase::Failed {
                failure: Failure {
                    reason: status.failure_reason.unwrap_or(FailureReason::Refused),
                    message: status.last_error.clone().unwrap_or_default(),
                },
                at: since(status.failed_at),
            },
        })
    }

    /// The VM of the status; without a status, the VM in the spec.
    fn vm(&self, status: &VPSieNodeStatus) -> Option<Vm> {
        let (hostname, id) = match (&status.hostname, &self.status) {
            (Some(hostname), _) => (hostname, &status.vpsie_node_identifier),
            (None, None) => (self.spec.node_name.as_ref()?, &self.spec.vpsie_node_identifier),
            (None, Some(_)) => return None,
        };
        let addresses = status.addresses.clone();
        let provider_id = status.provider_id.as_deref().map(ProviderId::from);
        Some(Vm {
            hostname: Hostname::new(hostname),
            id: id.as_deref().map(VmId::from),
            addresses,
            provider_id,
            attached: status.attached,
            request: status.request.as_ref().map(fleet::RequestRef::from),
        })
    }
}

fn status(machine: &Machine) -> VPSieNodeStatus {
    let vm = machine.vm();
    let mut status = VPSieNodeStatus {
        hostname: vm.map(|vm| vm.hostname.to_string()),
        vpsie_node_identifier: vm.and_then(|vm| vm.id.as_ref()).map(ToString::to_string),
        addresses: vm.map(|vm| vm.addresses.clone()).unwrap_or_default(),
        provider_id: vm.and_then(|vm| vm.provider_id.as_ref()).map(ToString::to_string),
        attached: vm.and_then(|vm| vm.attached),
        request: vm.and_then(|vm| vm.request.as_ref()).map(RequestRef::from),
        interruption_notice: machine.notice.as_ref().map(InterruptionNotice::from),
        conditions: conditions(machine),
        ..VPSieNodeStatus::default()
    };
    match &machine.phase {
        Phase::Pending => {}
        Phase::Creating { .. } => status.phase = MachinePhase::Creating,
        Phase::Running { since, .. } => {
            status.phase = MachinePhase::Running;
            status.provisioned_at = Some(*since);
            status.node_name.clone_from(&status.hostname);
            status.joined_at = Some(*since);
        }
        Phase::Failed { failure, at } => {
            status.phase = MachinePhase::Failed;
            status.failed_at = Some(*at);
            status.failure_reason = Some(failure.reason);
            status.last_error = Some(failure.message.clone());
        }
        Phase::Deleting { since, reason, drain, accepted_at, .. } => {
            status.phase = MachinePhase::Deleting;
            status.deletion_reason = Some(*reason);
            status.draining = drain.is_due();
            status.terminating_at = Some(*since);
            status.deleted_at = *accepted_at;
        }
    }
    status
}

impl From<&fleet::Notice> for InterruptionNotice {
    fn from(notice: &fleet::Notice) -> Self {
        Self {
            received_at: notice.received_at,
            deadline: notice.deadline(),
            reports: notice
                .deadlines
                .iter()
                .map(|(&source, &deadline)| InterruptionReport { source, deadline })
                .collect(),
            failed_pools: notice.failed_pools.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<&InterruptionNotice> for fleet::Notice {
    /// Pools that cannot be read are left out.
    fn from(notice: &InterruptionNotice) -> Self {
        Self {
            received_at: notice.received_at,
            deadlines: notice.reports.iter().map(|report| (report.source, report.deadline)).collect(),
            failed_pools: notice.failed_pools.iter().filter_map(|pool| pool.parse().ok()).collect(),
        }
    }
}

impl From<&fleet::RequestRef> for RequestRef {
    fn from(request: &fleet::RequestRef) -> Self {
        Self { machine: request.machine.to_string(), at: request.at }
    }
}

impl From<&RequestRef> for fleet::RequestRef {
    fn from(request: &RequestRef) -> Self {
        Self { machine: MachineId::from(request.machine.as_str()), at: request.at }
    }
}

impl From<&fleet::VmRequest> for VmRequest {
    fn from(request: &fleet::VmRequest) -> Self {
        let outcome = match request.outcome {
            fleet::RequestOutcome::InFlight => RequestOutcome::InFlight,
            fleet::RequestOutcome::Accepted => RequestOutcome::Accepted,
            fleet::RequestOutcome::Unclear => RequestOutcome::Unclear,
            fleet::RequestOutcome::Lost => RequestOutcome::Lost,
        };
        Self { at: request.at, outcome, hostname: request.hostname.as_ref().map(ToString::to_string) }
    }
}

impl From<&VmRequest> for fleet::VmRequest {
    fn from(request: &VmRequest) -> Self {
        let outcome = match request.outcome {
            RequestOutcome::InFlight => fleet::RequestOutcome::InFlight,
            RequestOutcome::Accepted => fleet::RequestOutcome::Accepted,
            RequestOutcome::Unclear => fleet::RequestOutcome::Unclear,
            RequestOutcome::Lost => fleet::RequestOutcome::Lost,
        };
        let hostname = request.hostname.as_deref().map(fleet::Hostname::new);
        Self { at: request.at, outcome, hostname }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        (1_700_000_000_000_000_000_i64..1_900_000_000_000_000_000)
            .prop_map(|nanos| Timestamp::from_nanosecond(nanos.into()).unwrap())
    }

    fn vm() -> impl Strategy<Value = Vm> {
        let id = || proptest::option::of("[0-9a-f]{8}");
        let request = proptest::option::of(("[a-z]{1,8}", time()));
        let request = request.prop_map(|request| {
            request.map(|(machine, at)| fleet::RequestRef { machine: machine.as_str().into(), at })
        });
        let attached = any::<Option<bool>>();
        ("[a-z]{1,8}", id(), id(), attached, request).prop_map(
            |(hostname, id, provider_id, attached, request)| Vm {
                request,
                attached,
                provider_id: provider_id.as_deref().map(ProviderId::from),
                hostname: Hostname::new(&hostname),
                id: id.as_deref().map(VmId::from),
                addresses: Vec::new(),
            },
        )
    }

    fn phase() -> impl Strategy<Value = Phase> {
        let maybe = || proptest::option::of(vm());
        prop_oneof![
            Just(Phase::Pending),
            (maybe(), time()).prop_map(|(vm, since)| Phase::Creating { vm, since }),
            (vm(), time()).prop_map(|(vm, since)| Phase::Running { vm, since }),
            (".{0,20}", time()).prop_map(|(message, at)| Phase::Failed {
                failure: Failure { reason: FailureReason::Stockout, message },
                at
            }),
            (maybe(), time(), proptest::option::of(time()), any::<bool>()).prop_map(
                |(vm, since, accepted_at, drain)| Phase::Deleting {
                    vm,
                    since,
                    reason: DeletionReason::NodeGroupDeleted,
                    drain: DrainState::stored(drain),
                    accepted_at
                }
            ),
        ]
    }

    fn machine() -> impl Strategy<Value = Machine> {
        let outcome = prop_oneof![
            Just(fleet::RequestOutcome::InFlight),
            Just(fleet::RequestOutcome::Accepted),
            Just(fleet::RequestOutcome::Unclear),
            Just(fleet::RequestOutcome::Lost),
        ];
        let request =
            (time(), outcome).prop_map(|(at, outcome)| fleet::VmRequest { at, outcome, hostname: None });
        (phase(), time(), 0..1000_u64, proptest::collection::vec(request, 0..3)).prop_map(
            |(phase, created_at, size, requests)| Machine {
                id: "workers-0a1b2c3d".into(),
                pool: "workers/ams1/s-2vcpu-4gb/spot".parse().unwrap(),
                size: SizeId(size),
                created_at,
                // A Pending machine has no requests.
                requests: if phase == Phase::Pending { Vec::new() } else { requests },
                phase,
                notice: None,
                replaces: None,
            },
        )
    }

    proptest! {
        #[test]
        fn a_machine_is_the_same_after_it_was_a_vpsie_node(machine in machine()) {
            let record = VPSieNode::from_machine(&machine, &"c-1".into());
            prop_assert!(record.spec.kube_size_id.is_none_or(|size| size >= 1), "as the CRD has it");
            let text = serde_json::to_string(&record).unwrap();
            let node: VPSieNode = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(node.to_machine(), Ok(machine));
        }
    }

    fn node(more: &serde_json::Value) -> VPSieNode {
        let mut spec = json!({
            "nodeGroupName": "workers", "datacenterID": "ams1", "instanceType": "s-2vcpu-4gb",
            "resourceIdentifier": "c-1", "kubeSizeID": 7, "recordedAt": "2026-01-01T00:00:00Z",
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "VPSieNode", "metadata": {"name": "workers-1"},
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn a_request_without_status_means_creating() {
        assert_eq!(node(&json!({})).to_machine().unwrap().phase, Phase::Pending);
        let requested = node(&json!({"requests": [{"at": "2026-01-01T00:00:01Z", "outcome": "InFlight"}]}));
        let since = "2026-01-01T00:00:01Z".parse().unwrap();
        assert_eq!(requested.to_machine().unwrap().phase, Phase::Creating { vm: None, since });
    }

    #[test]
    fn takes_the_vm_of_the_spec_before_there_is_a_status() {
        let taken_in =
            node(&json!({"nodeName": "AMS-1", "vpsieNodeIdentifier": "u-1"})).to_machine().unwrap();
        assert_eq!(taken_in.instance_id(), "vpsie://u-1");
        assert_eq!(taken_in.vm().unwrap().hostname.as_str(), "ams-1");
    }

    #[test]
    fn a_deletion_timestamp_means_deleting() {
        let mut deleted = node(&json!({"nodeName": "ams-1"}));
        let at: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        deleted.metadata.deletion_timestamp = Some(at.into());
        let machine = deleted.to_machine().unwrap();
        assert!(
            matches!(machine.phase, Phase::Deleting { vm: Some(_), since, drain: DrainState::Pending, .. } if since == at)
        );
    }

    #[test]
    fn refuses_vpsie_nodes_of_the_original() {
        let mut original = node(&json!({}));
        (original.spec.kube_size_id, original.spec.recorded_at) = (None, None);
        original.metadata.creation_timestamp = Some(Timestamp::UNIX_EPOCH.into());
        assert_eq!(
            original.to_machine().unwrap_err().to_string(),
            "VPSieNode workers-1 has no spec.kubeSizeID: it is not a record of vpsie-autoscaler"
        );
    }
}
