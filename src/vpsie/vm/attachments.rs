//! Attaches created VMs to the VPC and firewall group of their NodeGroup
//! (docs/reference/vpsie-api.md#networks).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::group::VmNetwork;
use crate::catalog::DatacenterId;
use crate::fleet::{Attachment, Hostname, VmId};
use crate::vpsie::client::Client;
use crate::vpsie::error::ApiError;

/// Maximum number of VMs that are attached at the same time. The calls for one VM are sequential: VPSie refuses two
/// attachments of a VM at the same time.
const MAX_TASKS: usize = 4;
/// Pause after a failed attachment. Each further pause is twice as long, up to the maximum.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_mins(5);

/// A VM that is to be attached.
pub(super) struct Wanted {
    pub(super) id: VmId,
    pub(super) hostname: Hostname,
    pub(super) datacenter: DatacenterId,
    pub(super) network: VmNetwork,
}

/// Attachments of the VMs of the last listing. VMs that were attached by an earlier process are restored from the
/// records.
#[derive(Default)]
pub(super) struct Attachments {
    progress: Arc<Mutex<BTreeMap<VmId, Progress>>>,
    /// Attachments in progress. They end with the backend.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a step of its own")]
struct Progress {
    vpc: bool,
    firewall_group: bool,
    /// Once a VM is attached, changes of its NodeGroup do not apply to it.
    is_done: bool,
    is_running: bool,
    failure: Option<AttachmentFailure>,
}

/// The last failures in a row.
#[derive(Clone, Debug)]
struct AttachmentFailure {
    count: u32,
    /// Message of the last one.
    message: String,
    paused_until: Instant,
}

impl Progress {
    fn has_all(&self, network: &VmNetwork) -> bool {
        (self.vpc || network.vpc.is_none()) && (self.firewall_group || network.firewall_group.is_none())
    }

    fn record(&mut self, result: &Result<(), ApiError>) {
        self.is_running = false;
        let count = self.failure.as_ref().map_or(0, |failure| failure.count);
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(count)).min(MAX_PAUSE);
        self.failure = result.as_ref().err().map(|error| AttachmentFailure {
            count: count.saturating_add(1),
            message: error.message.clone(),
            paused_until: Instant::now() + pause,
        });
    }
}

impl Attachments {
    /// Restores the VMs that an earlier process attached.
    pub(super) fn restore(&self, vms: impl IntoIterator<Item = VmId>) {
        let done = vms.into_iter().map(|id| (id, Progress { is_done: true, ..Progress::default() }));
        lock(&self.progress).extend(done);
    }

    /// The attachment of a VM.
    pub(super) fn attachment(&self, id: &VmId, network: &VmNetwork) -> Attachment {
        let mut all = lock(&self.progress);
        let progress = all.entry(id.clone()).or_default();
        progress.is_done |= progress.has_all(network);
        match &progress.failure {
            _ if progress.is_done => Attachment::Done,
            Some(failure) => Attachment::Failed(failure.message.clone()),
            None => Attachment::Open,
        }
    }

    /// Starts the attachment of VMs, in this order, as far as the maximum allows. Forgets all VMs except
    /// `listed`, if the listing is complete.
    pub(super) fn start(&self, client: &Client, wanted: Vec<Wanted>, listed: Option<&BTreeSet<VmId>>) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        if let Some(listed) = listed {
            lock(&self.progress).retain(|id, progress| listed.contains(id) || progress.is_running);
        }
        for vm in wanted {
            if tasks.len() >= MAX_TASKS {
                break;
            }
            {
                let mut all = lock(&self.progress);
                let progress = all.entry(vm.id.clone()).or_default();
                let failure = progress.failure.as_ref();
                let is_paused = failure.is_some_and(|failure| failure.paused_until > Instant::now());
                if progress.is_running || is_paused || progress.is_done {
                    continue;
                }
                progress.is_running = true;
            }
            let client = client.clone();
            let progress = Arc::clone(&self.progress);
            tasks.spawn(async move { attach(&client, &progress, vm).await });
        }
    }
}

async fn attach(client: &Client, all: &Mutex<BTreeMap<VmId, Progress>>, vm: Wanted) {
    let result = attach_all(client, all, &vm).await;
    match &result {
        Ok(()) => tracing::info!(vm = %vm.hostname, "attached the VM to its VPC or firewall group"),
        Err(error) => tracing::warn!(
            vm = %vm.hostname,
            error = error.message,
            "cannot attach a VM to its VPC or firewall group; its Node takes no Pods until then; retrying"
        ),
    }
    lock(all).entry(vm.id).or_default().record(&result);
}

async fn attach_all(
    client: &Client,
    all: &Mutex<BTreeMap<VmId, Progress>>,
    vm: &Wanted,
) -> Result<(), ApiError> {
    let known = lock(all).get(&vm.id).cloned().unwrap_or_default();
    if let Some(vpc) = vm.network.vpc.as_deref().filter(|_| !known.vpc) {
        client.add_to_vpc(&vm.id, vpc, &vm.datacenter).await?;
        lock(all).entry(vm.id.clone()).or_default().vpc = true;
    }
    if let Some(group) = vm.network.firewall_group.as_deref().filter(|_| !known.firewall_group) {
        client.attach_firewall_group(&vm.id, group).await?;
        lock(all).entry(vm.id.clone()).or_default().firewall_group = true;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
