//! Datacenters in the status of a NodeGroup. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::condition_fact::ConditionFact;
use super::spot_status::next_whole_second;
use crate::api::{BreakerStatus, NodeGroupDatacenter};
use crate::fleet::{DatacenterReport, DatacenterState, Fleet, Machine, MachineId, NodeGroupName};

/// The datacenters of a NodeGroup with a distribution. `machines` are its machines.
pub(super) fn datacenter_status(
    fleet: &Fleet,
    name: &str,
    machines: &[&Machine],
    ready: &dyn Fn(&MachineId) -> bool,
) -> Vec<NodeGroupDatacenter> {
    let reports = fleet.datacenter_reports(&NodeGroupName::from(name));
    reports.iter().map(|report| row(report, machines, ready)).collect()
}

fn row(
    report: &DatacenterReport,
    machines: &[&Machine],
    ready: &dyn Fn(&MachineId) -> bool,
) -> NodeGroupDatacenter {
    let is_ready_here = |machine: &&&Machine| {
        machine.pool.datacenter == report.datacenter
            && machine.counts()
            && machine.vm().is_some()
            && ready(&machine.id)
    };
    let (health, next_attempt) = match report.breaker.state {
        DatacenterState::Closed { .. } => (BreakerStatus::Closed, None),
        DatacenterState::HalfOpen { .. } => (BreakerStatus::HalfOpen, None),
        DatacenterState::Open { until, .. } => (BreakerStatus::Open, until),
    };
    let outage = report.breaker.last.filter(|_| health != BreakerStatus::Closed);
    NodeGroupDatacenter {
        datacenter_id: report.datacenter.to_string(),
        machines: report.machines as i32,
        ready_nodes: machines.iter().filter(is_ready_here).count() as i32,
        minimum: report.minimum as i32,
        shortfall: report.shortfall() as i32,
        health,
        since: outage.map(|outage| Time(next_whole_second(outage.at))),
        next_attempt: next_attempt.map(|until| Time(next_whole_second(until))),
        reason: outage.map(|outage| outage.cause.name().to_owned()),
    }
}

/// The condition `DatacentersHealthy`. None if all machines are in one datacenter.
pub(super) fn datacenters_healthy(fleet: &Fleet, name: &str) -> Option<ConditionFact> {
    let reports = fleet.datacenter_reports(&NodeGroupName::from(name));
    if reports.is_empty() {
        return None;
    }
    let suspect: Vec<String> = reports.iter().filter_map(suspect_text).collect();
    let stopped: Vec<String> =
        fleet.stopped_datacenters(&NodeGroupName::from(name)).map(|(_, why)| why.to_owned()).collect();
    let short: Vec<String> = reports.iter().filter(|report| report.is_short).map(short_text).collect();
    Some(if !suspect.is_empty() || !stopped.is_empty() {
        let reason = if suspect.is_empty() { "PayloadNeverJoins" } else { "DatacenterSuspect" };
        let message = suspect.into_iter().chain(stopped).chain(short).collect::<Vec<_>>().join("; ");
        ConditionFact::new("DatacentersHealthy", false, reason, message)
    } else if !short.is_empty() {
        ConditionFact::new("DatacentersHealthy", true, "DatacenterShort", short.join("; "))
    } else {
        ConditionFact::new("DatacentersHealthy", true, "Healthy", "")
    })
}

fn suspect_text(report: &DatacenterReport) -> Option<String> {
    let DatacenterReport { datacenter, breaker, .. } = report;
    let why = breaker.last.map_or_else(String::new, |last| format!(" ({} at {:.0})", last.cause, last.at));
    let shortfall = match report.shortfall() {
        0 => String::new(),
        shortfall => format!("; it has {shortfall} machines less than its minimum"),
    };
    match breaker.state {
        DatacenterState::Closed { .. } => None,
        DatacenterState::HalfOpen { .. } => {
            Some(format!("datacenter {datacenter} can add one machine, as an attempt{why}{shortfall}"))
        }
        DatacenterState::Open { .. } => Some(format!(
            "datacenter {datacenter} is suspect{why}; other datacenters grow instead{shortfall}"
        )),
    }
}

fn short_text(report: &DatacenterReport) -> String {
    format!("datacenter {} has no capacity for the offers of the NodeGroup", report.datacenter)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::fleet::{Change, DatacenterHistory, DatacenterStrategy, Distribution};

    /// A NodeGroup in two datacenters, and this record of the second one.
    fn fleet(breaker: &serde_json::Value) -> Fleet {
        let mut fleet = crate::control::priced_fleet();
        let mut group = fleet.node_group(&"web".into()).cloned().unwrap();
        group.distribution = Some(Distribution {
            datacenters: vec!["ams1".into(), "fra1".into()],
            strategy: DatacenterStrategy::Balanced,
            min_per_datacenter: 1,
            max_skew: 2,
            max_price_difference: 10,
        });
        fleet.declare(vec![group]);
        let history = json!([{"datacenter": "fra1", "breaker": breaker}]);
        let history: DatacenterHistory = serde_json::from_value(history).unwrap();
        fleet.apply(&Change::SaveDatacenterHistory(history));
        fleet
    }

    fn rows(fleet: &Fleet) -> Vec<NodeGroupDatacenter> {
        let machines: Vec<&Machine> = fleet.machines().collect();
        let ready: BTreeSet<MachineId> = machines.iter().take(2).map(|machine| machine.id.clone()).collect();
        datacenter_status(fleet, "web", &machines, &|id| ready.contains(id))
    }

    #[test]
    fn each_datacenter_has_a_row() {
        let fleet = fleet(&json!({
            "state": {"state": "open", "since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:02:00.5Z"},
            "outages": 1, "last": {"cause": "notDelivered", "at": "2026-01-01T00:00:00Z"},
        }));
        let rows = serde_json::to_value(rows(&fleet)).unwrap();
        assert_eq!(
            rows,
            json!([
                {
                    "datacenterID": "ams1", "machines": 4, "readyNodes": 1, "minimum": 1, "shortfall": 0,
                    "health": "closed",
                },
                {
                    "datacenterID": "fra1", "machines": 0, "readyNodes": 0, "minimum": 1, "shortfall": 1,
                    "health": "open", "since": "2026-01-01T00:00:00Z", "nextAttempt": "2026-01-01T00:02:01Z",
                    "reason": "NotDelivered",
                },
            ])
        );
        let fact = datacenters_healthy(&fleet, "web").unwrap();
        let condition = fact.condition(&[], jiff::Timestamp::UNIX_EPOCH);
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "DatacenterSuspect"));
        assert!(
            condition.message.starts_with("datacenter fra1 is suspect (VPSie accepted two"),
            "{}",
            condition.message
        );
    }

    #[test]
    fn a_half_open_breaker_is_an_attempt() {
        let fleet = fleet(&json!({
            "state": {"state": "halfOpen", "since": "2026-01-01T00:00:00Z"},
            "outages": 1, "last": {"cause": "offersFailed", "at": "2026-01-01T00:00:00Z"},
        }));
        assert_eq!(rows(&fleet)[1].health, BreakerStatus::HalfOpen);
        let condition =
            datacenters_healthy(&fleet, "web").unwrap().condition(&[], jiff::Timestamp::UNIX_EPOCH);
        assert!(condition.message.contains("as an attempt"), "{}", condition.message);
    }

    #[test]
    fn healthy_datacenters_are_a_true_condition() {
        let fleet = fleet(&json!({"state": {"state": "closed"}, "outages": 0}));
        let condition =
            datacenters_healthy(&fleet, "web").unwrap().condition(&[], jiff::Timestamp::UNIX_EPOCH);
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "Healthy"));
        assert!(datacenters_healthy(&crate::control::priced_fleet(), "web").is_none(), "one datacenter");
    }
}
