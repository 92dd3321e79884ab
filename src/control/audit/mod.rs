//! The audit log: one line, its events and its metrics for each action that spends or frees money.

mod entry;
mod events;
#[cfg(test)]
mod tests;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use crate::fleet::{Cause, Change, Fleet, NoticeSource, Phase, RecordKey, Refusal};
use crate::kubernetes::{EventType, Events, Object, ObjectEvent};
use crate::store::RefusedRecord;
use crate::telemetry::Registry;
use entry::audit_entries;
pub(super) use entry::{AuditAction, AuditEntry};
use events::{entry_events, event_type, refusal_event};

/// Target of the audit log's lines.
pub const AUDIT: &str = "vpsie_autoscaler::audit";

/// Upper bounds of the buckets, seconds. Cluster Autoscaler gives a machine up after 15 minutes.
const STARTUP_BUCKETS: [f64; 10] = [15.0, 30.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 900.0, 1800.0];

/// Writes durable changes to the audit log.
#[derive(Clone, Debug)]
pub struct AuditLog {
    transitions: Family<Transition, Counter>,
    startup: Histogram,
    refused_records: Family<RecordKind, Counter>,
    interruptions: Family<PoolLabel, Counter>,
    breaker_transitions: Family<BreakerTransition, Counter>,
    outages: Family<OutageLabels, Counter>,
    notices: Family<SourceLabel, Counter>,
    events: Events,
}

impl Default for AuditLog {
    fn default() -> Self {
        Self {
            transitions: Family::default(),
            startup: Histogram::new(STARTUP_BUCKETS),
            refused_records: Family::default(),
            interruptions: Family::default(),
            breaker_transitions: Family::default(),
            outages: Family::default(),
            notices: Family::default(),
            events: Events::default(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transition {
    pool: String,
    from: &'static str,
    to: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabel {
    pool: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BreakerTransition {
    pool: String,
    to: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutageLabels {
    datacenter: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecordKind {
    record: &'static str,
}

/// The entries and metrics of a change.
pub(super) struct ChangeReport {
    entries: Vec<AuditEntry>,
    transition: Option<Transition>,
    /// Seconds from the record of a machine until it is Running, if that is the change.
    startup: Option<f64>,
    /// Sources that report the interruption of the machine since this change.
    notices: Vec<NoticeSource>,
    /// Datacenters whose circuit breaker opened by this change.
    outages: Vec<OutageLabels>,
}

impl AuditLog {
    /// Publishes events of the entries.
    pub fn with_events(self, events: Events) -> Self {
        Self { events, ..self }
    }

    /// Registers `machine_transitions_total{pool,from,to,reason}`, `machine_startup_duration_seconds`,
    /// `refused_records_total{record}`, `spot_interruptions_total{pool}`, `spot_breaker_transitions_total{pool,to}`,
    /// `datacenter_breaker_opened_total{datacenter,reason}` and `interruption_notices_total{source}`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Phase changes of machines; reason is the reason of a failure";
        registry.register("machine_transitions", help, None, &self.transitions);
        let help = "Time from the creation of a machine's record until the machine is Running";
        registry.register("machine_startup_duration", help, Some(Unit::Seconds), &self.startup);
        let help = "Writes of records that the API server refused, by kind of record: machine, node, size, \
            request_history, spot_history, datacenter_history, catalog; each write is retried";
        registry.register("refused_records", help, None, &self.refused_records);
        let help = "Interruptions of spot machines";
        registry.register("spot_interruptions", help, None, &self.interruptions);
        let help = "State changes of the circuit breakers of spot pools, by new state: open (fallback to on demand), \
            half_open, closed (return to spot)";
        registry.register("spot_breaker_transitions", help, None, &self.breaker_transitions);
        let help = "Openings of the circuit breaker of the datacenter, by reason";
        registry.register("datacenter_breaker_opened", help, None, &self.outages);
        let help = "Interruption notices received, by source: node, vpsie (VPSie's listing), webhook";
        registry.register("interruption_notices", help, None, &self.notices);
    }

    /// The report of a change with this cause. `fleet` is the fleet before the change.
    pub(super) fn report(fleet: &Fleet, change: &Change, cause: Cause) -> ChangeReport {
        ChangeReport {
            entries: audit_entries(fleet, change, cause),
            transition: transition(fleet, change),
            startup: startup(fleet, change),
            notices: new_notices(fleet, change),
            outages: new_outages(fleet, change),
        }
    }

    /// Writes the report of a change.
    pub(super) fn write(&self, change: &Change, report: ChangeReport) {
        match change {
            Change::SaveProfile(size, profile) => tracing::info!(
                %size,
                cpu_millis = profile.allocatable.cpu_millis,
                memory_mib = profile.allocatable.memory_mib,
                disk_gib = profile.allocatable.disk_gib,
                nodes = profile.nodes.len(),
                "updated the templates of a size from the allocatable resources of its last Nodes"
            ),
            Change::SaveCatalog(catalog) => {
                tracing::info!(offers = catalog.offers.len(), "updated the catalog of offers and prices");
            }
            _ => {}
        }
        if let Some(transition) = report.transition {
            self.transitions.get_or_create(&transition).inc();
        }
        if let Some(seconds) = report.startup {
            self.startup.observe(seconds);
        }
        for source in report.notices {
            self.notices.get_or_create(&SourceLabel { source: source.name() }).inc();
        }
        for outage in report.outages {
            self.outages.get_or_create(&outage).inc();
        }
        for entry in report.entries {
            write_line(&entry);
            self.count_spot(&entry);
            for event in entry_events(&entry) {
                self.events.publish(event);
            }
        }
    }

    fn count_spot(&self, entry: &AuditEntry) {
        let Some(pool) = entry.pool.as_ref().map(ToString::to_string) else { return };
        let to = match entry.kind {
            AuditAction::Interrupted => {
                self.interruptions.get_or_create(&PoolLabel { pool }).inc();
                return;
            }
            AuditAction::SpotBreakerOpened => "open",
            AuditAction::SpotBreakerHalfOpen => "half_open",
            AuditAction::SpotBreakerClosed => "closed",
            _ => return,
        };
        self.breaker_transitions.get_or_create(&BreakerTransition { pool, to }).inc();
    }

    /// Reports a record that the store refused. `changes` are the changes of that commit.
    pub(super) fn record_refused(&self, refused: &RefusedRecord, changes: &[Change]) {
        let RefusedRecord { record, problem } = refused;
        tracing::error!(
            %record,
            error = problem,
            "the API server refused a record; vpsie-autoscaler retries it. Other records are not affected"
        );
        self.refused_records.get_or_create(&RecordKind { record: record.kind() }).inc();
        let RecordKey::Machine(id) = record else { return };
        let message = format!(
            "the API server refused the record of machine {id}; vpsie-autoscaler retries it: {problem}"
        );
        let machine = Object::VPSieNode(id.to_string());
        let group = changes.iter().find_map(|change| match change {
            Change::SaveMachine(saved) if saved.id == *id => Some(saved.pool.node_group.to_string()),
            _ => None,
        });
        for on in group.map(Object::NodeGroup).into_iter().chain([machine]) {
            self.events.publish(ObjectEvent::new(on, EventType::Warning, "RecordRefused", message.clone()));
        }
    }

    /// Publishes the event of a refused command.
    pub(super) fn refused(&self, refusal: &Refusal) {
        if let Some(event) = refusal_event(refusal) {
            self.events.publish(event);
        }
    }
}

fn transition(fleet: &Fleet, change: &Change) -> Option<Transition> {
    let (machine, from, to) = match change {
        Change::SaveMachine(machine) => {
            let old = fleet.machine(&machine.id);
            let is_requested = old.is_some_and(|old| old.requests.len() < machine.requests.len());
            let from = old.map_or("none", |old| old.phase.name());
            let to = machine.phase.name();
            (from != to || is_requested).then_some((machine, from, to))?
        }
        Change::DropMachine(id) => {
            let machine = fleet.machine(id)?;
            (machine, machine.phase.name(), "ended")
        }
        _ => return None,
    };
    let reason = match &machine.phase {
        Phase::Failed { failure, .. } => failure.reason.code(),
        _ => "",
    };
    Some(Transition { pool: machine.pool.to_string(), from, to, reason })
}

fn startup(fleet: &Fleet, change: &Change) -> Option<f64> {
    let Change::SaveMachine(machine) = change else { return None };
    let (Phase::Running { since, .. }, Phase::Pending | Phase::Creating { .. }) =
        (&machine.phase, &fleet.machine(&machine.id)?.phase)
    else {
        return None;
    };
    Some(since.duration_since(machine.created_at).as_secs_f64().max(0.0))
}

/// The sources of the machine's notice that its record lacks before the change.
fn new_notices(fleet: &Fleet, change: &Change) -> Vec<NoticeSource> {
    let Change::SaveMachine(machine) = change else { return Vec::new() };
    let known = fleet.machine(&machine.id).and_then(|old| old.notice.as_ref());
    let is_new = |source: &&NoticeSource| known.is_none_or(|notice| !notice.deadlines.contains_key(source));
    machine.notice.iter().flat_map(|notice| notice.deadlines.keys()).filter(is_new).copied().collect()
}

/// The outages that open a circuit breaker by the change.
fn new_outages(fleet: &Fleet, change: &Change) -> Vec<OutageLabels> {
    let Change::SaveDatacenterHistory(history) = change else { return Vec::new() };
    let opened = history.datacenters().filter(|health| {
        let before = fleet.datacenter_history().state(&health.datacenter);
        health.breaker.state.name() == "open" && before.name() != "open"
    });
    let labels = opened.filter_map(|health| {
        let reason = health.breaker.last?.cause.name();
        Some(OutageLabels { datacenter: health.datacenter.to_string(), reason })
    });
    labels.collect()
}

/// Writes one line. Its fields are the schema in docs/operate/audit.md.
pub(super) fn write_line(entry: &AuditEntry) {
    fn text(value: Option<&impl ToString>) -> String {
        value.map(ToString::to_string).unwrap_or_default()
    }
    let failure = entry.failure.as_ref().map(|failure| (failure.reason.code(), failure.message.clone()));
    let outage = entry.outage.map(|outage| (outage.name(), outage.to_string()));
    let (reason, message) = failure.or(outage).unwrap_or_default();
    macro_rules! line {
        ($level:ident) => {
            tracing::event!(
                target: AUDIT,
                tracing::Level::$level,
                action = entry.kind.name(),
                machine = text(entry.machine.as_ref()),
                nodegroup = text(entry.pool.as_ref().map(|pool| &pool.node_group)),
                pool = text(entry.pool.as_ref()),
                offer = text(entry.pool.as_ref().map(|pool| &pool.offer)),
                datacenter = text(entry.datacenter.as_ref()),
                size = text(entry.size.as_ref()),
                vm = text(entry.vm.as_ref()),
                vm_id = text(entry.vm_id.as_ref()),
                by = entry.by.name(),
                halt = entry.halt.unwrap_or_default(),
                reason = reason,
                message = message,
                usd_per_hour = text(entry.usd_per_hour.as_ref()),
            )
        };
    }
    if matches!(event_type(entry.kind), Some((EventType::Warning, ..))) {
        line!(WARN);
    } else {
        line!(INFO);
    }
}
