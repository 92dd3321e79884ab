//! Results of earlier replies, to save calls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::Instant;

use super::account::Account;
use super::plans::Plans;
use crate::fleet::{PendingVms, VmId};
use crate::vpsie::backend::BackendError;

/// Maximum time for which doubtful rows make listings incomplete. Without a limit, one unreadable row would stop all
/// growth.
const DOUBTFUL_FOR: Duration = Duration::from_hours(1);
/// Time for which VPSie must refuse the list of pending VMs until its API counts as one without that list.
const PENDING_REFUSED_FOR: Duration = Duration::from_mins(10);
/// Time before the deletion of a VM is requested again after VPSie refused its password.
const REFUSED_FOR: Duration = Duration::from_mins(10);

#[derive(Default)]
pub(super) struct Memory {
    pub(super) plans: Plans,
    /// Initial passwords of the listed own VMs, for their deletions.
    passwords: BTreeMap<VmId, SecretString>,
    /// Whether the last readable list had own VMs.
    has_own: bool,
    /// Since when VPSie replies without a list although there were own VMs.
    listless_since: Option<Instant>,
    /// Since when VPSie replies without a list.
    null_since: Option<Instant>,
    /// Since when VPSie refuses to list pending VMs. Other failures change nothing.
    pending_refused_since: Option<Instant>,
    /// Whether the last list of pending VMs failed.
    pending_failed: bool,
    /// Own VMs without a readable hostname in the last listing, and since when.
    nameless: BTreeMap<VmId, Instant>,
    /// Deletions that VPSie refused for the password, with their times.
    refused: BTreeMap<VmId, (Instant, BackendError)>,
}

impl Memory {
    /// Remembers a listing. Returns whether the absence of a VM from it proves that there is no such created VM.
    pub(super) fn note_listing(&mut self, account: &Account) -> bool {
        if account.nameless.iter().any(|id| !self.nameless.contains_key(id)) {
            tracing::warn!(
                vms = account.nameless.len(),
                "VPSie lists VMs of this cluster without a readable hostname; for one hour no VM counts as gone"
            );
        }
        let since = |id: &VmId| self.nameless.get(id).copied().unwrap_or_else(Instant::now);
        self.nameless = account.nameless.iter().map(|id| (id.clone(), since(id))).collect();
        let is_listless = !account.is_list && self.has_own;
        self.listless_since = is_listless.then(|| self.listless_since.unwrap_or_else(Instant::now));
        self.null_since = (!account.is_list).then(|| self.null_since.unwrap_or_else(Instant::now));
        if account.is_list {
            self.has_own = !account.own.is_empty();
        }
        let passwords =
            account.own.iter().filter_map(|own| Some((own.vm.id.clone()?, own.vm.password.clone()?)));
        let passwords: BTreeMap<_, _> = passwords.collect();
        if account.has_all_vms {
            self.passwords = passwords;
        } else {
            self.passwords.extend(passwords);
        }
        let doubts = self.nameless.values().chain(&self.listless_since);
        let is_certain = doubts.into_iter().all(|since| since.elapsed() >= DOUBTFUL_FOR);
        account.has_all_vms && is_certain
    }

    /// Remembers whether VPSie listed pending VMs. Returns what the listing shows of them.
    pub(super) fn note_pending(&mut self, account: &Account) -> PendingVms {
        let failed = account.pending_error.as_ref();
        if let Some(error) = failed.filter(|_| !self.pending_failed) {
            tracing::warn!(
                error = error.message,
                "cannot list pending VMs: requests whose VM is not listed are not repeated meanwhile"
            );
        } else if failed.is_none() && self.pending_failed {
            tracing::info!("VPSie lists pending VMs again");
        }
        self.pending_failed = failed.is_some();
        match failed {
            None => self.pending_refused_since = None,
            Some(error) if error.kind.is_lasting() => {
                self.pending_refused_since.get_or_insert_with(Instant::now);
            }
            Some(_) => {}
        }
        if account.has_all_pending {
            PendingVms::Listed
        } else if failed.is_some() && self.lacks_pending_list() {
            PendingVms::Unsupported
        } else {
            PendingVms::Unknown
        }
    }

    /// Whether VPSie has refused to list pending VMs for so long that its API has no such list.
    pub(super) fn lacks_pending_list(&self) -> bool {
        self.pending_refused_since.is_some_and(|since| since.elapsed() >= PENDING_REFUSED_FOR)
    }

    /// Whether VPSie has replied without a list for so long that it has no VM to list.
    pub(super) fn is_null_empty(&self) -> bool {
        self.null_since.is_some_and(|since| since.elapsed() >= DOUBTFUL_FOR)
    }

    pub(super) fn password(&self, id: &VmId) -> Option<SecretString> {
        self.passwords.get(id).cloned()
    }

    /// A recent refusal of the password of the VM.
    pub(super) fn recent_refusal(&mut self, id: &VmId) -> Option<BackendError> {
        self.refused.retain(|_, (since, _)| since.elapsed() < REFUSED_FOR);
        self.refused.get(id).map(|(_, refusal)| refusal.clone())
    }

    pub(super) fn note_deletion(&mut self, id: &VmId, result: &Result<(), BackendError>) {
        match result {
            Err(refusal @ BackendError::PasswordRefused { .. }) => {
                self.refused.insert(id.clone(), (Instant::now(), refusal.clone()));
            }
            Ok(())
            | Err(
                BackendError::Refused { .. }
                | BackendError::Unavailable { .. }
                | BackendError::Unclear { .. },
            ) => {}
        }
    }

    /// Identifiers of the own VMs of the listing.
    pub(super) fn listed_ids(account: &Account) -> BTreeSet<VmId> {
        account.own.iter().filter_map(|own| own.vm.id.clone()).collect()
    }
}
