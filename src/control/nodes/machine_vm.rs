//! Records what a Node shows about the VM of its machine.

use super::Nodes;
use crate::fleet::{Hostname, MachineId, ProviderId};
use crate::kubernetes::EventType;

impl Nodes {
    /// Adopts the providerID that another controller set first. Returns whether it is recorded.
    pub(super) async fn adopt_provider_id(
        &mut self,
        name: &str,
        machine: MachineId,
        provider_id: ProviderId,
    ) -> bool {
        match self.handle.adopt_provider_id(machine.clone(), provider_id.clone()).await {
            Ok(true) => {
                tracing::info!(
                    node = name,
                    %machine,
                    %provider_id,
                    "adopted the providerID that another controller set"
                );
                let message = format!(
                    "vpsie-autoscaler adopted the providerID {provider_id}, which another controller set on Node \
                     {name}, as the id of machine {machine}"
                );
                self.publish(name, &machine, EventType::Normal, "IdentityAdopted", &message);
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::warn!(node = name, %error, "cannot record the providerID of a Node; retrying");
                false
            }
        }
    }

    /// Makes the VM that joined the machine's. Returns whether it is recorded.
    pub(super) async fn keep_joined(&mut self, name: &str, machine: MachineId, vm: Hostname) -> bool {
        match self.handle.keep_joined(machine.clone(), vm.clone()).await {
            Ok(true) => {
                tracing::warn!(
                    node = name,
                    %machine,
                    %vm,
                    "VPSie created two VMs for one request, and the second one joined: it is kept, the first one is deleted"
                );
                let message = format!(
                    "VPSie created two VMs for one request of machine {machine}; the VM that joined as {name} is kept, the \
                     other one is deleted"
                );
                self.publish(name, &machine, EventType::Warning, "SecondVMJoined", &message);
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::warn!(node = name, %error, "cannot record which VM of a machine joined; retrying");
                false
            }
        }
    }
}
