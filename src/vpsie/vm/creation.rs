//! Requests one VM.

use super::calls::{CreationReply, NewVm, PayloadChannel};
use super::deletion_key::DeletionKey;
use super::group::{Delivery, VmGroup, VmPlace};
use super::owner::{Owner, is_dns_label, owner_tag};
use super::payload::{Payload, PayloadError, PayloadSource};
use super::scripts::{self, ScriptAdditions, ScriptName};
use crate::fleet::{ClusterId, FailureReason, Hostname, Vm};
use crate::vpsie::backend::{BackendError, CreateRequest};
use crate::vpsie::client::Client;
use crate::vpsie::error::ApiError;

/// Maximum size of a payload, bytes. VPSie documents no limit; other clouds have this one.
const MAX_PAYLOAD: usize = 16 * 1024;

/// A request for a VM, after the checks of its NodeGroup.
pub(super) struct Creation<'a> {
    pub(super) client: &'a Client,
    pub(super) payloads: &'a dyn PayloadSource,
    pub(super) scripts: &'a ScriptAdditions,
    pub(super) deletion_key: Option<&'a DeletionKey>,
    pub(super) cluster: ClusterId,
    pub(super) group: &'a VmGroup,
    pub(super) place: &'a VmPlace,
    /// UUID of the plan in the datacenter.
    pub(super) plan: String,
    pub(super) request: &'a CreateRequest,
    pub(super) hostname: &'a Hostname,
}

impl Creation<'_> {
    /// Renders the payload, adds its script, and requests the VM. Returns the VM if the reply identifies it.
    pub(super) async fn run(&self) -> Result<Option<Vm>, BackendError> {
        let payload = self.payloads.payload(self.request).await.map_err(|error| match error {
            PayloadError::Invalid(message) => refuse(message),
            PayloadError::Unavailable(message) => BackendError::Unavailable {
                reason: FailureReason::ApiUnavailable,
                message,
                retry_after: None,
            },
        })?;
        check_payload(&payload, self.group.delivery)?;
        match self.group.delivery {
            Delivery::UserData => self.send(PayloadChannel::UserData(&payload)).await,
            Delivery::Script => {
                let name = ScriptName::new(self.hostname, &self.cluster, self.client.random_uuid());
                let script = self.scripts.add(self.client, &name, &payload).await?;
                let created = self.send(PayloadChannel::Script(&script, &payload)).await;
                match &created {
                    // The VM may exist, and need its script.
                    Ok(_) | Err(BackendError::Unclear { .. }) => {}
                    Err(
                        BackendError::Refused { .. }
                        | BackendError::PasswordRefused { .. }
                        | BackendError::Unavailable { .. },
                    ) => scripts::delete(self.client, &name, &script).await,
                }
                created
            }
        }
    }

    async fn send(&self, payload: PayloadChannel<'_>) -> Result<Option<Vm>, BackendError> {
        let owner = Owner { cluster: self.cluster.clone(), pool: self.request.pool.clone() };
        let tags: Vec<String> =
            std::iter::once(owner_tag(&self.cluster)).chain(self.group.tags.iter().cloned()).collect();
        let vm = NewVm {
            plan: &self.plan,
            image: &self.place.image,
            datacenter: &self.request.class.datacenter,
            hostname: self.hostname,
            notes: owner.notes(self.group.notes.as_deref()),
            tags: &tags,
            project: self.group.project.as_deref(),
            ssh_key: self.group.ssh_key.as_deref(),
            public_ipv4: self.place.network.public_ipv4,
            public_ipv6: self.place.network.public_ipv6,
            private_ip: self.place.network.private_ip,
            password: self.deletion_key.map(|key| key.password(self.hostname)),
            payload,
            process: self.client.random_uuid().to_string(),
        };
        Ok(match self.client.create_vm(&vm).await.map_err(ApiError::into_write_error)? {
            CreationReply::Accepted => None,
            CreationReply::Created(id) => Some(Vm {
                hostname: self.hostname.clone(),
                id: Some(id),
                addresses: Vec::new(),
                provider_id: None,
                attached: None,
                request: None,
            }),
        })
    }
}

fn check_payload(payload: &Payload, delivery: Delivery) -> Result<(), BackendError> {
    let text = payload.expose();
    if delivery == Delivery::Script && !text.starts_with("#!") {
        return Err(refuse("the payload does not start with #!, so VPSie cannot run it as a script"));
    }
    if text.len() > MAX_PAYLOAD {
        return Err(refuse(format!("the payload has {} bytes, must be at most {MAX_PAYLOAD}", text.len())));
    }
    Ok(())
}

pub(super) fn check_hostname(hostname: &Hostname) -> Result<(), BackendError> {
    if is_dns_label(hostname.as_str()) {
        return Ok(());
    }
    Err(refuse(format!("hostname {hostname} is not a DNS label of at most 63 letters, digits and -")))
}

/// A refusal because of a setting. VPSie was not asked for a VM.
pub(super) fn refuse(message: impl Into<String>) -> BackendError {
    BackendError::Refused { reason: FailureReason::InvalidConfiguration, message: message.into() }
}
