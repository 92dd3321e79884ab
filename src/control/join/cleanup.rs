//! The clean-up: compares tokens, scripts and records with the VMs that may still join, and deletes those without a VM.
//! A crash leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::deadline::{JOIN_TIME, JoinDeadlines};
use super::outcome::{count_outcome, join_outcome, stopped_datacenters};
use super::records::{JoinChanges, JoinRecord, Joins, PayloadRecord};
use super::{JoinPayloads, JoiningVm, StoppedPayloads, TOKEN_TTL};
use crate::catalog::DatacenterId;
use crate::control::handle::FleetHandle;
use crate::control::nodes::NodesView;
use crate::fleet::{Cause, Fleet, Hostname, NodeGroupName};
use crate::kubernetes::{EventType, Events, Object, ObjectEvent};
use crate::validation::SelfManagedGroup;
use crate::vpsie::{BackendError, Delivery, Scripts};

/// Interval of passes.
const INTERVAL: Duration = Duration::from_secs(15);
/// Interval of checks of unchanged payloads.
const CHECK_INTERVAL: Duration = Duration::from_mins(1);
/// Time from a change of the fleet to the next pass.
const DEBOUNCE: Duration = Duration::from_secs(2);
/// Maximum number of joins that a pass ends or extends, and of scripts that it deletes.
const MAX_PER_PASS: usize = 50;
/// Remaining lifetime below which a token is extended.
const EXTEND_BELOW: Duration = Duration::from_mins(25);
/// The clean-up loop. It runs on the leader.
pub struct JoinCleanup {
    payloads: Arc<JoinPayloads>,
    handle: FleetHandle,
    scripts: Option<Arc<dyn Scripts>>,
    events: Events,
    /// The create timeout, unless the cluster sets its own.
    create_timeout: Duration,
    /// None: Cluster Autoscaler alone gives machines up.
    deadlines: Option<JoinDeadlines>,
    /// NodeGroups with the record of a payload that were deleted in the last pass.
    deleted: BTreeSet<NodeGroupName>,
    known_scripts: KnownScripts,
    /// Time of the last check of the payloads, and what was checked.
    checked_at: Option<Instant>,
    checked: Checked,
}

/// What the payloads depend on, as far as it is in memory.
#[derive(Default, PartialEq)]
struct Checked {
    groups: BTreeMap<NodeGroupName, SelfManagedGroup>,
    records: BTreeMap<NodeGroupName, PayloadRecord>,
    stopped: StoppedPayloads,
}

/// What is known of the scripts at VPSie.
#[derive(Default)]
struct KnownScripts {
    /// Whether a NodeGroup was in force. VPSie cannot be asked before.
    is_configured: bool,
    /// Whether a VM may have had a script.
    are_used: bool,
    /// Whether VPSie was asked since the last join ended.
    are_clean: bool,
    /// Time of the next attempt after a failure.
    retry_at: Option<Instant>,
}

impl JoinCleanup {
    /// Creates the loop. `scripts` are those of the delivery channel, if it has any. `create_timeout` applies if
    /// the cluster sets none.
    pub fn new(
        payloads: Arc<JoinPayloads>,
        handle: FleetHandle,
        scripts: Option<Arc<dyn Scripts>>,
        events: Events,
        create_timeout: Duration,
    ) -> Self {
        Self {
            payloads,
            handle,
            scripts,
            events,
            create_timeout,
            deadlines: None,
            deleted: BTreeSet::new(),
            known_scripts: KnownScripts::default(),
            checked_at: None,
            checked: Checked::default(),
        }
    }

    /// Fails machines whose Node does not register in time.
    #[must_use]
    pub fn with_deadlines(self, nodes: NodesView) -> Self {
        let deadlines = JoinDeadlines::new(nodes, self.payloads.nodes.clone());
        Self { deadlines: Some(deadlines), ..self }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut next = Instant::now();
        let mut failed = false;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(next) => {
                    let done = self.clean().await;
                    failed = done.is_err();
                    let wait = match done {
                        Ok(true) => DEBOUNCE,
                        Ok(false) => INTERVAL,
                        Err(error) => {
                            tracing::warn!(%error, "cannot delete join credentials that are not needed any more; retrying");
                            INTERVAL
                        }
                    };
                    next = Instant::now() + wait;
                }
                () = self.handle.changed(), if !failed => next = next.min(Instant::now() + DEBOUNCE),
            }
        }
    }

    /// One pass. Returns whether there is more to do.
    async fn clean(&mut self) -> Result<bool, kube::Error> {
        let payloads = Arc::clone(&self.payloads);
        let cleaned = {
            let _changing = payloads.changing.lock().await;
            // Records are read before the fleet, so that the fleet has the request of each record.
            let joins = payloads.records.read().await?;
            let create_timeout = self.create_timeout();
            if let Some(deadlines) = &mut self.deadlines {
                let now = payloads.clock.now();
                if let Err(error) = deadlines.expire(&self.handle, &joins, now, create_timeout).await {
                    tracing::warn!(%error, "cannot read whether a Node registered; its VM stays");
                }
            }
            self.clean_joins(joins).await?
        };
        self.report_stopped(&cleaned.payloads).await;
        self.report_findings(&cleaned.payloads).await;
        // VPSie may be slow or down: nothing else waits for it.
        let scripts_left = self.clean_scripts(cleaned.has_ended).await;
        Ok(cleaned.rest || scripts_left)
    }

    /// Deletes the tokens and records of joins that have ended, counts their outcomes, and extends the other tokens.
    async fn clean_joins(&mut self, mut joins: Joins) -> Result<CleanedJoins, kube::Error> {
        let now = self.payloads.clock.now();
        let joining = self.payloads.joining();
        let (mut ended, open): (Vec<Join<'_>>, Vec<Join<'_>>) =
            joins.open.iter().partition(|(hostname, record)| {
                joining.get(*hostname).is_none_or(|vm| vm.machine != record.machine)
            });
        let rest = ended.len() > MAX_PER_PASS;
        ended.truncate(MAX_PER_PASS);
        let tokens = ended.iter().filter_map(|(_, record)| record.token.as_ref());
        for token in tokens.chain(joins.unreadable.values().flatten()) {
            self.payloads.tokens.delete(token).await?;
        }
        let counted = self.handle.read(|fleet| count_outcomes(fleet, &joins, &ended, now));
        let mut changes = JoinChanges::default();
        joins.unreadable.keys().for_each(|key| changes.remove_key(key.clone()));
        for (hostname, _) in &ended {
            changes.remove(hostname);
        }
        for (group, record) in &counted {
            changes.set_payload(group, record);
        }
        self.remove_payloads(&mut joins.payloads, &counted, &mut changes);
        let extended = self.extend(&open, &joining, now, &mut changes).await;
        let has_ended = !ended.is_empty();
        self.payloads.records.write(&changes).await?;
        extended?;
        joins.payloads.extend(counted);
        Ok(CleanedJoins { payloads: joins.payloads, has_ended, rest })
    }

    /// Removes the records of the payloads of deleted NodeGroups. A second pass confirms each: declarations come into force
    /// one after the other.
    fn remove_payloads(
        &mut self,
        records: &mut BTreeMap<NodeGroupName, PayloadRecord>,
        counted: &BTreeMap<NodeGroupName, PayloadRecord>,
        changes: &mut JoinChanges,
    ) {
        let is_deleted =
            |group: &&NodeGroupName| !counted.contains_key(*group) && self.payloads.is_deleted(group);
        let deleted: BTreeSet<NodeGroupName> = records.keys().filter(is_deleted).cloned().collect();
        for group in deleted.intersection(&self.deleted) {
            records.remove(group);
            changes.remove_payload(group);
        }
        self.deleted = deleted;
    }

    fn create_timeout(&self) -> Duration {
        self.handle.read(Fleet::declared_create_timeout).unwrap_or(self.create_timeout)
    }

    /// Records which VMs are listed, and extends the tokens of VMs that may still join.
    async fn extend(
        &self,
        open: &[Join<'_>],
        joining: &BTreeMap<Hostname, JoiningVm>,
        now: Timestamp,
        changes: &mut JoinChanges,
    ) -> Result<(), kube::Error> {
        let create_timeout = self.create_timeout();
        let mut extended = 0;
        for (hostname, before) in open {
            let mut record = (*before).clone();
            if record.listed_at.is_none() && joining.get(*hostname).is_some_and(|vm| vm.is_listed) {
                record.listed_at = Some(now);
                changes.save(hostname, &record);
            }
            let is_due = record.expires_at < now + EXTEND_BELOW
                && now < record.issued_at + create_timeout + JOIN_TIME
                && extended < MAX_PER_PASS;
            let Some(token) = record.token.as_ref().filter(|_| is_due) else { continue };
            extended += 1;
            let expires_at = now + TOKEN_TTL;
            if self.payloads.tokens.extend(token, expires_at).await? {
                record.expires_at = expires_at;
            } else {
                tracing::warn!(
                    machine = %record.machine,
                    "another program deleted the bootstrap token of the machine; its VM cannot join"
                );
                record.token = None;
            }
            changes.save(hostname, &record);
        }
        Ok(())
    }

    /// Deletes the scripts of VMs that do not join any more, if there may be any. Returns whether some are left.
    async fn clean_scripts(&mut self, has_ended: bool) -> bool {
        let Some(scripts) = self.scripts.clone() else { return false };
        let groups = self.payloads.groups();
        let known = &mut self.known_scripts;
        known.is_configured |= !groups.is_empty();
        known.are_used |= groups.values().any(|group| group.vms.delivery == Delivery::Script);
        known.are_clean &= !(has_ended && known.are_used);
        let is_due = known.retry_at.is_none_or(|at| at <= Instant::now());
        if !known.is_configured || known.are_clean || !is_due {
            return false;
        }
        match self.delete_scripts(scripts.as_ref()).await {
            Ok(left) => {
                self.known_scripts.are_clean = !left;
                self.known_scripts.retry_at = None;
                left
            }
            Err(error) => {
                tracing::warn!(%error, "cannot delete the scripts of VMs that do not join any more; retrying");
                self.known_scripts.retry_at = Some(Instant::now() + INTERVAL);
                false
            }
        }
    }

    async fn delete_scripts(&mut self, scripts: &dyn Scripts) -> Result<bool, BackendError> {
        let listed = scripts.list_scripts().await?;
        self.known_scripts.are_used |= !listed.is_empty();
        // The fleet is read after the listing, so that it has the request of each script.
        let joining = self.payloads.joining();
        let unneeded: Vec<_> =
            listed.iter().filter(|script| !joining.contains_key(&script.hostname)).collect();
        for script in unneeded.iter().take(MAX_PER_PASS) {
            scripts.delete_script(script).await?;
        }
        Ok(unneeded.len() > MAX_PER_PASS)
    }

    /// Passes what is known of payloads to the fleet.
    async fn report_findings(&mut self, records: &BTreeMap<NodeGroupName, PayloadRecord>) {
        let is_due = self.checked_at.is_none_or(|at| at.elapsed() >= CHECK_INTERVAL);
        let now = Checked {
            groups: self.payloads.groups(),
            records: records.clone(),
            stopped: self.payloads.stopped.borrow().clone(),
        };
        if !is_due && self.checked == now {
            return;
        }
        (self.checked_at, self.checked) = (Some(Instant::now()), now);
        let findings = self.payloads.findings(records).await;
        if self.handle.read(|fleet| fleet.has_payload_findings(&findings)) {
            return;
        }
        for (group, why) in &findings.problems {
            tracing::warn!(
                nodegroup = %group,
                reason = %why,
                "payload invalid; the NodeGroup adds no machines"
            );
        }
        // After a failure, the next check passes them again.
        let updated = self.handle.update(Cause::Provisioning, move |fleet, _, _| {
            fleet.set_payload_findings(findings);
            Vec::new()
        });
        if updated.await.is_err() {
            self.checked_at = None;
        }
    }

    /// Reports the datacenters of NodeGroups where the payload never joins.
    async fn report_stopped(&self, records: &BTreeMap<NodeGroupName, PayloadRecord>) {
        let mut stopped = StoppedPayloads::new();
        let now = self.payloads.clock.now();
        for (group, record) in records {
            let datacenters = stopped_datacenters(record, now);
            if !datacenters.is_empty()
                && self.payloads.present_hash(group).await.as_ref() == Some(&record.payload)
            {
                stopped.insert(group.clone(), datacenters);
            }
        }
        self.payloads.stopped.send_if_modified(|before| {
            for (group, datacenters) in &stopped {
                let known = before.get(group);
                let is_new = |at: &&DatacenterId| known.is_none_or(|known| !known.contains_key(*at));
                for message in datacenters.keys().filter(is_new).filter_map(|at| datacenters.get(at)) {
                    tracing::warn!(nodegroup = %group, reason = %message, "payload never joins");
                    let on = Object::NodeGroup(group.to_string());
                    let event =
                        ObjectEvent::new(on, EventType::Warning, "PayloadNeverJoins", message.as_str());
                    self.events.publish(event);
                }
            }
            let changed = *before != stopped;
            *before = stopped;
            changed
        });
    }
}

/// A join by the hostname of its VM.
type Join<'a> = (&'a Hostname, &'a JoinRecord);

/// The records after a pass.
struct CleanedJoins {
    payloads: BTreeMap<NodeGroupName, PayloadRecord>,
    has_ended: bool,
    /// Whether more joins have ended.
    rest: bool,
}

/// The changed records of payloads after the joins that have ended.
fn count_outcomes(
    fleet: &Fleet,
    joins: &Joins,
    ended: &[Join<'_>],
    now: Timestamp,
) -> BTreeMap<NodeGroupName, PayloadRecord> {
    let mut ended = ended.to_vec();
    ended.sort_by_key(|(_, record)| record.issued_at);
    let mut counted: BTreeMap<NodeGroupName, PayloadRecord> = BTreeMap::new();
    for (hostname, record) in ended {
        let group = &record.node_group;
        let before = counted.get(group).or_else(|| joins.payloads.get(group));
        let outcome = join_outcome(fleet, hostname, record);
        if let Some(after) = count_outcome(before, record, outcome, now) {
            counted.insert(group.clone(), after);
        }
    }
    counted
}
