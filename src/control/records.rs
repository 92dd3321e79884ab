//! Changes of VPSieNodes by users: a deleted VPSieNode deletes its VM, and a lost VPSieNode is written again.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::{CommandError, FleetHandle};
use crate::api::VPSieNode;
use crate::fleet::{Cause, DeletionReason, MachineId};
use crate::kubernetes::watch_config;

/// Interval of retries.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The loop that watches VPSieNodes. It keeps no copies: the fleet has their content.
pub struct RecordsWatch {
    handle: FleetHandle,
    api: Api<PartialObjectMeta<VPSieNode>>,
    /// Names that were listed since the watch restarted.
    listing: BTreeSet<String>,
    deleted: BTreeSet<String>,
    missing: BTreeSet<String>,
}

type Event = watcher::Event<PartialObjectMeta<VPSieNode>>;

impl RecordsWatch {
    /// A loop over the VPSieNodes of a namespace.
    pub fn new(handle: FleetHandle, client: Client, namespace: &str) -> Self {
        Self {
            handle,
            api: Api::namespaced(client, namespace),
            listing: BTreeSet::new(),
            deleted: BTreeSet::new(),
            missing: BTreeSet::new(),
        }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let events = watcher(self.api.clone(), watch_config()).default_backoff().inspect(|event| {
            if let Err(error) = event {
                tracing::warn!(%error, "cannot watch VPSieNodes; the watch is restarted");
            }
        });
        let mut events = std::pin::pin!(events);
        let mut next = Instant::now() + RETRY_INTERVAL;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                event = events.next() => match event {
                    Some(Ok(event)) => self.apply_event(event),
                    Some(Err(_)) => continue,
                    None => return,
                },
                () = tokio::time::sleep_until(next) => next = Instant::now() + RETRY_INTERVAL,
            }
            if self.process_pending().await.is_err() {
                return;
            }
        }
    }

    fn apply_event(&mut self, event: Event) {
        match event {
            watcher::Event::Apply(node) => self.note_existing(&node),
            watcher::Event::Delete(node) => {
                self.deleted.remove(&node.name_any());
                self.missing.insert(node.name_any());
            }
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(node) => {
                self.note_existing(&node);
                self.listing.insert(node.name_any());
            }
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut self.listing);
                let machines =
                    self.handle.read(|fleet| fleet.machines().map(|m| m.id.to_string()).collect::<Vec<_>>());
                self.missing.extend(machines.into_iter().filter(|name| !listed.contains(name)));
            }
        }
    }

    fn note_existing(&mut self, node: &PartialObjectMeta<VPSieNode>) {
        self.missing.remove(&node.name_any());
        if node.metadata.deletion_timestamp.is_some() {
            self.deleted.insert(node.name_any());
        }
    }

    /// Processes deleted and missing VPSieNodes. Retries failures.
    async fn process_pending(&mut self) -> Result<(), CommandError> {
        for name in std::mem::take(&mut self.deleted) {
            let id = MachineId::from(name.as_str());
            let retired = self
                .handle
                .update(Cause::VPSieNodeDeleted, move |fleet, now, _| {
                    fleet.retire(&id, DeletionReason::VPSieNodeDeleted, now)
                })
                .await;
            if !succeeded(retired, &name)? {
                self.deleted.insert(name);
            }
        }
        for name in std::mem::take(&mut self.missing) {
            let id = MachineId::from(name.as_str());
            // Most of them ended normally: the fleet has no such machine.
            if self.handle.read(|fleet| fleet.machine(&id).is_none()) {
                continue;
            }
            let processed = match self.api.get_opt(&name).await {
                Ok(Some(_)) => true,
                Ok(None) => self.rewrite_record(id).await?,
                Err(error) => {
                    tracing::warn!(machine = name, %error, "cannot read a VPSieNode; retrying");
                    false
                }
            };
            if !processed {
                self.missing.insert(name);
            }
        }
        Ok(())
    }

    /// Writes the record again, because a user removed the finalizer: a VM without a record would be billed
    /// until an administrator finds it.
    async fn rewrite_record(&self, id: MachineId) -> Result<bool, CommandError> {
        let name = id.to_string();
        let written = self
            .handle
            .update(Cause::VPSieNodeDeleted, move |fleet, now, _| {
                let retired = fleet.retire(&id, DeletionReason::VPSieNodeDeleted, now);
                if retired.is_empty() { fleet.rewrite_record(&id) } else { retired }
            })
            .await;
        if matches!(&written, Ok(changes) if !changes.is_empty()) {
            tracing::warn!(
                machine = name,
                "a VPSieNode was removed before its VM was deleted; vpsie-autoscaler wrote it again and deletes the VM"
            );
        }
        succeeded(written, &name)
    }
}

fn succeeded<T>(result: Result<T, CommandError>, name: &str) -> Result<bool, CommandError> {
    match result {
        Ok(_) => Ok(true),
        Err(CommandError::Stopped) => Err(CommandError::Stopped),
        Err(error) => {
            tracing::warn!(machine = name, %error, "cannot record the deletion of a VPSieNode; retrying");
            Ok(false)
        }
    }
}
