//! Deletes one VM.

use std::collections::VecDeque;
use std::time::Duration;

use secrecy::SecretString;

use super::deletion_key::DeletionKey;
use super::shared_account::SharedAccount;
use crate::fleet::{ClusterId, FailureReason, Hostname, VmId};
use crate::retry_after::RetryAfter;
use crate::vpsie::backend::BackendError;
use crate::vpsie::client::Client;
use crate::vpsie::endpoints::DeletionReply;
use crate::vpsie::error::{ApiError, ErrorKind};
use crate::vpsie::limiter::Purpose;

/// Pause before the next attempt to delete a pending VM, which is not listed yet.
const PENDING_PAUSE: Duration = Duration::from_secs(30);

/// The deletion of a VM of the cluster.
pub(super) struct Deletion<'a> {
    pub(super) client: &'a Client,
    pub(super) key: Option<&'a DeletionKey>,
    pub(super) cluster: &'a ClusterId,
    pub(super) account: &'a SharedAccount,
    /// Whether a reply without a list counts as an empty list.
    pub(super) is_null_empty: bool,
    /// Whether VPSie has no list of pending VMs. A VM that it creates later is deleted when it is listed.
    pub(super) lacks_pending: bool,
}

impl Deletion<'_> {
    /// Finds the UUID of a VM by hostname and owner marker. None if there is no such VM.
    pub(super) async fn find_id(&self, hostname: &Hostname) -> Result<Option<VmId>, BackendError> {
        let account =
            self.account.read(self.client, self.cluster).await.map_err(ApiError::into_read_error)?;
        if let Some(own) = account.find(hostname) {
            let id = own.vm.id.clone().map(Some);
            return id.ok_or_else(|| unavailable(format!("VPSie lists {hostname} without a UUID"), None));
        }
        if account.pending.iter().any(|vm| vm.hostname == *hostname) {
            let message =
                format!("VPSie has not listed the VM {hostname} yet; pending VMs cannot be deleted");
            return Err(unavailable(message, Some(PENDING_PAUSE)));
        }
        let is_proven = account.has_all_vms
            && self.is_list(account.is_list)
            && (account.has_all_pending || self.lacks_pending)
            && account.nameless.is_empty();
        if is_proven { Ok(None) } else { Err(incomplete_listing()) }
    }

    /// Deletes exactly this VM, with the first password that VPSie accepts.
    pub(super) async fn run(
        &self,
        hostname: &Hostname,
        id: &VmId,
        initial_password: Option<SecretString>,
    ) -> Result<(), BackendError> {
        let mut may_list = initial_password.is_none();
        let derived = self.key.map(|key| key.password(hostname));
        let mut passwords: VecDeque<Option<SecretString>> =
            [derived, initial_password].into_iter().flatten().map(Some).collect();
        passwords.push_back(None);
        let mut refusal = String::new();
        while let Some(password) = passwords.pop_front() {
            match self.client.delete_vm(id, password.as_ref()).await {
                Ok(DeletionReply::Accepted) => return Ok(()),
                Ok(DeletionReply::NotFound(message)) => return self.confirm_gone(id, &message).await,
                Err(error) if error.kind == ErrorKind::PasswordRefused => refusal = error.message,
                Err(error) => return Err(error.into_write_error()),
            }
            if std::mem::take(&mut may_list)
                && let Some(initial) = self.read_initial_password(id).await
            {
                passwords.push_front(Some(initial));
            }
        }
        self.client.metrics().count_password_refusal();
        let message = format!(
            "{refusal}; the VM is billed until it is deleted: set --vpsie-vm-password-key-file to the key with which it was \
             created, or delete {hostname} in VPSie's panel"
        );
        Err(BackendError::PasswordRefused { message })
    }

    fn is_list(&self, is_list: bool) -> bool {
        is_list || self.is_null_empty
    }

    async fn read_initial_password(&self, id: &VmId) -> Option<SecretString> {
        match self.client.list_plain_vms(Purpose::Deletion).await {
            Ok(vms) => vms.rows.into_iter().find(|vm| vm.id.as_ref() == Some(id))?.password,
            Err(error) => {
                tracing::warn!(
                    vm_id = id.as_str(),
                    error = error.message,
                    "cannot read the initial password of the VM from VPSie's listing"
                );
                None
            }
        }
    }

    /// Checks by a listing that a VM is gone after VPSie replied "not found": with a wrong URL prefix, VPSie
    /// sends that reply for everything (docs/reference/vpsie-api.md#base-url).
    async fn confirm_gone(&self, id: &VmId, refusal: &str) -> Result<(), BackendError> {
        let vms = self.client.list_plain_vms(Purpose::Deletion).await.map_err(ApiError::into_read_error)?;
        if vms.rows.iter().any(|vm| vm.id.as_ref() == Some(id) && vm.state.is_some()) {
            let message = format!("VPSie lists the VM, but did not delete it: {refusal}");
            return Err(unavailable(message, None));
        }
        if vms.whole && self.is_list(vms.is_list) { Ok(()) } else { Err(incomplete_listing()) }
    }
}

fn incomplete_listing() -> BackendError {
    unavailable("VPSie's list of VMs is incomplete, and the VM may be missing from it".to_owned(), None)
}

fn unavailable(message: String, retry_after: Option<Duration>) -> BackendError {
    BackendError::Unavailable {
        reason: FailureReason::ApiUnavailable,
        message,
        retry_after: retry_after.map(RetryAfter::new),
    }
}
