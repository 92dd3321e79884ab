//! The deadline of joins: a machine whose Node has not registered in time fails, and its VM is deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use tokio::time::Instant;

use super::records::{JoinRecord, Joins};
use crate::control::handle::FleetHandle;
use crate::control::nodes::NodesView;
use crate::fleet::{Cause, Failure, FailureReason, Fleet, Hostname, Phase};

/// Time that a VM has to join after the create timeout. Its token is extended until then.
pub(super) const JOIN_TIME: Duration = Duration::from_mins(20);
/// Minimum time for which this process observes a join before it ends it: after a start, listings and Nodes come first.
const MIN_OBSERVED: Duration = Duration::from_mins(2);
/// Maximum number of joins that a pass ends.
const MAX_PER_PASS: usize = 10;

/// The deadlines of the open joins.
pub(super) struct JoinDeadlines {
    view: NodesView,
    nodes: Api<Node>,
    ages: JoinAges,
}

impl JoinDeadlines {
    pub(super) fn new(view: NodesView, nodes: Api<Node>) -> Self {
        Self { view, nodes, ages: JoinAges::default() }
    }

    /// Fails the machines whose deadline has passed and that have no Node. The API server is asked for each: the view may
    /// be older.
    pub(super) async fn expire(
        &mut self,
        handle: &FleetHandle,
        joins: &Joins,
        now: Timestamp,
        create_timeout: Duration,
    ) -> Result<(), kube::Error> {
        let limit = create_timeout + JOIN_TIME;
        let overdue = self.ages.older_than(limit, joins, now);
        if !self.view.has_listed() {
            return Ok(());
        }
        let waits = |(hostname, record): &(&Hostname, &JoinRecord)| {
            handle.read(|fleet| is_joining(fleet, hostname, record))
                && self.view.nodes_of(&record.machine).is_empty()
        };
        for (hostname, record) in overdue.into_iter().filter(waits).take(MAX_PER_PASS) {
            if !self.is_registered(hostname).await? {
                fail(handle, hostname, record, limit).await;
            }
        }
        Ok(())
    }

    /// Whether the API server has the Node now. vpsie-autoscaler may list Nodes, not get them.
    async fn is_registered(&self, hostname: &Hostname) -> Result<bool, kube::Error> {
        let named = ListParams::default().fields(&format!("metadata.name={hostname}"));
        Ok(!self.nodes.list(&named).await?.items.is_empty())
    }
}

/// Whether the machine waits for the Node of this VM.
fn is_joining(fleet: &Fleet, hostname: &Hostname, record: &JoinRecord) -> bool {
    let phase = fleet.machine(&record.machine).map(|machine| &machine.phase);
    matches!(phase, Some(Phase::Creating { vm: Some(vm), .. }) if vm.hostname == *hostname)
}

async fn fail(handle: &FleetHandle, hostname: &Hostname, record: &JoinRecord, limit: Duration) {
    let minutes = limit.as_secs() / 60;
    let failure = if record.listed_at.is_some() {
        let message = format!(
            "the VM did not join the cluster within {minutes} minutes, and is deleted: log in to a new VM to see why"
        );
        Failure { reason: FailureReason::JoinTimeout, message }
    } else {
        let message = format!("VPSie did not list the created VM within {minutes} minutes; it is deleted");
        Failure { reason: FailureReason::CreateTimeout, message }
    };
    tracing::warn!(machine = %record.machine, vm = %hostname, error = failure.message, "the machine failed");
    let (machine, hostname) = (record.machine.clone(), hostname.clone());
    let failed =
        handle.update(Cause::Expiry, move |fleet, now, _| fleet.fail_join(&machine, &hostname, failure, now));
    if let Err(error) = failed.await {
        tracing::warn!(machine = %record.machine, %error, "cannot record that a VM did not join; retrying");
    }
}

/// The ages of open joins. The wall clock counts only until this process first sees a join; then a jump of it has no
/// effect.
#[derive(Default)]
struct JoinAges(BTreeMap<Hostname, SeenJoin>);

struct SeenJoin {
    at: Instant,
    /// Its age at that time.
    age: Duration,
}

impl JoinAges {
    /// The joins that are at least as old as the limit.
    fn older_than<'a>(
        &mut self,
        limit: Duration,
        joins: &'a Joins,
        now: Timestamp,
    ) -> Vec<(&'a Hostname, &'a JoinRecord)> {
        self.0.retain(|hostname, _| joins.open.contains_key(hostname));
        let ages = &mut self.0;
        let mut is_old = |hostname: &Hostname, record: &JoinRecord| {
            let age = || Duration::try_from(now.duration_since(record.issued_at)).unwrap_or_default();
            let new = || SeenJoin { at: Instant::now(), age: age() };
            let seen = ages.entry(hostname.clone()).or_insert_with(new);
            let observed = seen.at.elapsed();
            observed >= MIN_OBSERVED && seen.age.saturating_add(observed) >= limit
        };
        joins.open.iter().filter(|(hostname, record)| is_old(hostname, record)).collect()
    }
}
