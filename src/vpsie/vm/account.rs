//! The VMs of the account, sorted by their owner.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::owner::{Owner, has_own_form, is_tag_of_other};
use super::plans::Plans;
use crate::catalog::DatacenterId;
use crate::fleet::{Attachment, ClusterId, Hostname, ListedNode, NodeRole, PoolId, VmId, VmState};
use crate::vpsie::client::Client;
use crate::vpsie::error::ApiError;
use crate::vpsie::limiter::Purpose;
use crate::vpsie::paging::Listed;
use crate::vpsie::wire::{PendingVm, PlainVm};

/// The VMs of the account that concern one cluster.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact about one of the lists")]
pub(super) struct Account {
    /// VMs with the owner marker of the cluster, without deleted ones.
    pub(super) own: Vec<OwnVm>,
    /// VMs with hostnames of our form, and without any owner marker.
    pub(super) others: Vec<PlainVm>,
    /// VMs with hostnames of our form that are not created yet.
    pub(super) pending: Vec<PendingVm>,
    /// Whether VPSie listed all created VMs.
    pub(super) has_all_vms: bool,
    /// Whether VPSie listed all pending VMs.
    pub(super) has_all_pending: bool,
    /// Error of the list of pending VMs.
    pub(super) pending_error: Option<ApiError>,
    /// Whether the list of created VMs is a list, not `null` or `false`.
    pub(super) is_list: bool,
    /// Whether VPSie listed any VM, of any owner.
    pub(super) has_rows: bool,
    /// VMs with the owner marker and without a readable hostname.
    pub(super) nameless: BTreeSet<VmId>,
}

/// A VM with the owner marker.
pub(super) struct OwnVm {
    /// Unique: a VM with the hostname of an older VM gets a name of its own.
    pub(super) hostname: Hostname,
    pub(super) pool: PoolId,
    pub(super) state: VmState,
    /// Set once the VM is compared with its NodeGroup.
    pub(super) attachment: Option<Attachment>,
    pub(super) vm: PlainVm,
}

impl Account {
    /// Lists the VMs. Pending ones are read first: a VM that is created in between is in both lists, not in
    /// none. If only pending VMs cannot be listed, that is no error.
    pub(super) async fn read(
        client: &Client,
        cluster: &ClusterId,
        purpose: Purpose,
    ) -> Result<Self, ApiError> {
        let pending = client.list_pending_vms(purpose).await;
        Ok(Self::sort(client.list_plain_vms(purpose).await?, pending, cluster))
    }

    fn sort(vms: Listed<PlainVm>, pending: Result<Listed<PendingVm>, ApiError>, cluster: &ClusterId) -> Self {
        let mut account = Self {
            own: Vec::new(),
            others: Vec::new(),
            pending: Vec::new(),
            has_all_vms: vms.whole,
            has_all_pending: pending.as_ref().is_ok_and(|pending| pending.whole),
            pending_error: pending.as_ref().err().cloned(),
            is_list: vms.is_list,
            has_rows: !vms.rows.is_empty(),
            nameless: BTreeSet::new(),
        };
        for vm in vms.rows {
            account.add(vm, cluster);
        }
        account.name_duplicates();
        account.add_pending(pending.map(|pending| pending.rows).unwrap_or_default(), cluster);
        account.drop_other_duplicates();
        account
    }

    fn add(&mut self, vm: PlainVm, cluster: &ClusterId) {
        let Some(state) = vm.state else { return };
        let owner = vm.notes.as_deref().and_then(Owner::parse);
        if owner.as_ref().is_some_and(|owner| owner.cluster != *cluster) {
            return;
        }
        match (owner, vm.hostname.clone()) {
            (Some(owner), Some(hostname)) => {
                self.own.push(OwnVm { hostname, pool: owner.pool, state, attachment: None, vm });
            }
            (Some(_), None) => self.nameless.extend(vm.id),
            (None, Some(hostname)) if has_own_form(&hostname) => self.others.push(vm),
            (None, _) => {}
        }
    }

    /// Gives VMs with the hostname of an older VM a name of their own.
    fn name_duplicates(&mut self) {
        let age = |own: &OwnVm| {
            let created: Option<Timestamp> = own.vm.created.map(|time| time.at);
            (created.is_none(), created, own.vm.number.is_none(), own.vm.number, own.vm.id.clone())
        };
        self.own.sort_by_cached_key(age);
        let mut seen = BTreeSet::new();
        for own in &mut self.own {
            let is_first = seen.insert(own.hostname.clone());
            if let (false, Some(id)) = (is_first, &own.vm.id) {
                own.hostname = own.hostname.duplicate(id);
            }
        }
        // Rows of one hostname without a UUID cannot be distinguished: the first one is kept.
        let mut seen = BTreeSet::new();
        self.own.retain(|own| seen.insert(own.hostname.clone()));
    }

    /// Adds the pending VMs that may be of the cluster and are not listed as created.
    fn add_pending(&mut self, pending: Vec<PendingVm>, cluster: &ClusterId) {
        let mut known: BTreeSet<Hostname> = self.own.iter().map(|own| own.hostname.clone()).collect();
        for vm in pending {
            let is_of_other = vm.tags.iter().any(|tag| is_tag_of_other(tag, cluster));
            if has_own_form(&vm.hostname) && !is_of_other && known.insert(vm.hostname.clone()) {
                self.pending.push(vm);
            }
        }
    }

    /// Drops VMs without the owner marker whose hostname another VM has.
    fn drop_other_duplicates(&mut self) {
        let own = self.own.iter().map(|own| &own.hostname);
        let mut known: BTreeSet<Hostname> =
            own.chain(self.pending.iter().map(|vm| &vm.hostname)).cloned().collect();
        self.others.retain(|vm| vm.hostname.clone().is_some_and(|hostname| known.insert(hostname)));
    }

    /// The VM with the hostname that the fleet knows.
    pub(super) fn find(&self, hostname: &Hostname) -> Option<&OwnVm> {
        self.own.iter().find(|own| own.hostname == *hostname)
    }
}

impl OwnVm {
    /// The datacenter, as the NodeGroup writes it.
    pub(super) fn datacenter(&self) -> Option<DatacenterId> {
        let shown = self.vm.datacenter.as_deref()?;
        let is_same = self.pool.datacenter.as_str().eq_ignore_ascii_case(shown);
        Some(if is_same { self.pool.datacenter.clone() } else { shown.into() })
    }
}

impl PendingVm {
    /// The node of a pending VM. Its row shows neither UUID nor owner.
    pub(super) fn into_listed(self, plans: &Plans) -> ListedNode {
        ListedNode {
            hostname: self.hostname,
            id: None,
            size: self.plan.as_deref().and_then(|plan| plans.size_of(plan)),
            excluded: BTreeSet::new(),
            datacenter: self.datacenter.as_deref().map(Into::into),
            capacity_type: None,
            role: NodeRole::Worker,
            state: VmState::Provisioning,
            addresses: Vec::new(),
            created_at: None,
            interruption: None,
            attachment: None,
            pool: None,
        }
    }
}

/// The node of a VM without size and pool.
pub(super) fn listed(hostname: Hostname, role: NodeRole, state: VmState, vm: PlainVm) -> ListedNode {
    ListedNode {
        hostname,
        id: vm.id,
        size: None,
        excluded: BTreeSet::new(),
        datacenter: vm.datacenter.as_deref().map(Into::into),
        capacity_type: vm.capacity_type,
        role,
        state,
        addresses: vm.addresses.into_iter().collect(),
        // A time without a zone may be wrong by hours, and could hide that the node is new.
        created_at: vm.created.filter(|time| time.zoned).map(|time| time.at),
        interruption: vm.interruption,
        attachment: None,
        pool: None,
    }
}
