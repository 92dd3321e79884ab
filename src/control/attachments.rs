//! Reports VMs that cannot be attached to their VPC or firewall group: their Nodes take no pods.

use std::collections::BTreeMap;

use crate::fleet::{Attachment, Fleet, NodeListing, VmId};
use crate::kubernetes::{EventType, Events, Object, ObjectEvent};

/// Messages of failed attachments.
pub(super) type FailedAttachments = BTreeMap<VmId, String>;

/// Reports each failure once, until its message changes.
#[derive(Debug, Default)]
pub(super) struct AttachmentReporter {
    events: Events,
    reported: FailedAttachments,
}

impl AttachmentReporter {
    pub(super) fn new(events: Events) -> Self {
        Self { events, ..Self::default() }
    }

    /// Reports the failures of a listing, once the fleet has its VMs.
    pub(super) fn report(&mut self, fleet: &Fleet, failed: FailedAttachments) {
        for (vm, error) in failed.iter().filter(|(vm, error)| self.reported.get(*vm) != Some(*error)) {
            let Some(machine) = fleet.machine_of(&vm.provider_id(), "") else { continue };
            let message = format!(
                "the VM of machine {} is not attached to its VPC or firewall group, so its Node takes no pods: {error}; \
                 retrying: correct selfManaged.networks, or the VPC or the firewall group in VPSie's panel",
                machine.id
            );
            let group = Object::NodeGroup(machine.pool.node_group.to_string());
            for on in [group, Object::VPSieNode(machine.id.to_string())] {
                let event = ObjectEvent::new(on, EventType::Warning, "VMNotAttached", message.as_str());
                self.events.publish(event);
            }
        }
        self.reported = failed;
    }
}

/// The failed attachments of a listing.
pub(super) fn failed_attachments(listing: &NodeListing) -> FailedAttachments {
    let failed = listing.nodes.iter().filter_map(|node| match &node.attachment {
        Some(Attachment::Failed(message)) => Some((node.id.clone()?, message.clone())),
        Some(Attachment::Done | Attachment::Open) | None => None,
    });
    failed.collect()
}
