//! Reports machines whose VM VPSie lists as control plane: it is neither drained nor deleted.

use std::collections::BTreeMap;

use crate::fleet::{Fleet, Hostname, MachineId, NodeGroupName};
use crate::kubernetes::{EventType, Events, Object, ObjectEvent};

/// Reports each change once.
#[derive(Debug, Default)]
pub(super) struct ControlPlaneReporter {
    events: Events,
    /// Machines that are reported.
    reported: BTreeMap<MachineId, ControlPlaneVm>,
}

#[derive(Debug)]
struct ControlPlaneVm {
    group: NodeGroupName,
    hostname: Hostname,
}

impl ControlPlaneReporter {
    pub(super) fn new(events: Events) -> Self {
        Self { events, ..Self::default() }
    }

    /// Reports the changes since the last listing.
    pub(super) fn report(&mut self, fleet: &Fleet) {
        let machines = fleet.machines().filter(|machine| fleet.is_control_plane(machine));
        let present: BTreeMap<MachineId, ControlPlaneVm> = machines
            .filter_map(|machine| {
                let group = machine.pool.node_group.clone();
                Some((machine.id.clone(), ControlPlaneVm { group, hostname: machine.vm()?.hostname.clone() }))
            })
            .collect();
        for (machine, vm) in present.iter().filter(|(machine, _)| !self.reported.contains_key(*machine)) {
            tracing::warn!(
                %machine,
                vm = %vm.hostname,
                "VPSie lists the VM of a machine as control plane; it is neither drained nor deleted"
            );
            let message = format!(
                "VPSie lists VM {} of machine {machine} as control plane; it is neither drained nor deleted until VPSie \
                 lists it as a worker",
                vm.hostname
            );
            self.publish(machine, vm, EventType::Warning, "ListedAsControlPlane", &message);
        }
        for (machine, vm) in self.reported.iter().filter(|(machine, _)| !present.contains_key(*machine)) {
            if fleet.machine(machine).is_none() {
                continue;
            }
            tracing::info!(
                %machine,
                vm = %vm.hostname,
                "VPSie no longer lists the VM of a machine as control plane"
            );
            let message =
                format!("VPSie no longer lists VM {} of machine {machine} as control plane", vm.hostname);
            self.publish(machine, vm, EventType::Normal, "NotControlPlane", &message);
        }
        self.reported = present;
    }

    fn publish(
        &self,
        machine: &MachineId,
        vm: &ControlPlaneVm,
        kind: EventType,
        reason: &'static str,
        message: &str,
    ) {
        for on in [Object::NodeGroup(vm.group.to_string()), Object::VPSieNode(machine.to_string())] {
            self.events.publish(ObjectEvent::new(on, kind, reason, message));
        }
    }
}
