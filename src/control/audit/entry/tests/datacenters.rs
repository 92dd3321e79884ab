//! Circuit breakers of datacenters.

use serde_json::json;

use super::*;
use crate::fleet::{DatacenterHistory, DatacenterStrategy, Distribution};

/// A fleet whose NodeGroup has two datacenters.
fn spread() -> AuditedFleet {
    let mut audited = AuditedFleet::new(false);
    let pool = audited.working.pool(POOL).unwrap();
    let mut groups: Vec<NodeGroup> = audited.working.group(pool).cloned().into_iter().collect();
    groups[0].distribution = Some(Distribution {
        datacenters: vec!["ams1".into(), "fra1".into()],
        strategy: DatacenterStrategy::Balanced,
        min_per_datacenter: 0,
        max_skew: 2,
        max_price_difference: 10,
    });
    audited.working.declare(groups.clone());
    audited.shared.declare(groups);
    audited
}

fn set_state(audited: &mut AuditedFleet, state: &serde_json::Value) -> Vec<AuditEntry> {
    let last = json!({"cause": "notDelivered", "at": audited.now});
    let breaker = json!({"state": state, "outages": 1, "last": last});
    let history = json!([{"datacenter": "ams1", "breaker": breaker}]);
    let history: DatacenterHistory = serde_json::from_value(history).unwrap();
    audited.play(Cause::Expiry, |fleet, _, _| {
        let change = Change::SaveDatacenterHistory(history);
        fleet.apply(&change);
        vec![change]
    })
}

/// The actions of circuit breakers of datacenters.
pub(super) fn record_datacenter_actions() -> Vec<AuditEntry> {
    let mut audited = spread();
    let now = audited.now;
    let mut entries = set_state(&mut audited, &json!({"state": "open", "since": now, "until": now}));
    entries.extend(set_state(&mut audited, &json!({"state": "halfOpen", "since": now})));
    entries.extend(set_state(&mut audited, &json!({"state": "closed", "since": now})));
    entries
}

#[test]
fn an_outage_is_an_event_of_each_node_group() {
    let entries = record_datacenter_actions();
    let opened = &entries[0];
    assert_eq!(opened.datacenter.as_ref().map(crate::catalog::DatacenterId::as_str), Some("ams1"));
    let events = entry_events(opened);
    assert_eq!((events.len(), &events[0].on), (1, &Object::NodeGroup("web".to_owned())));
    assert!(
        events[0].message.starts_with(
            "datacenter ams1: its circuit breaker opened: VPSie accepted two machines in a row there and delivered no VM"
        ),
        "{}",
        events[0].message
    );
    assert_eq!(entries.len(), 3);
    assert!(set_state(&mut spread(), &json!({"state": "closed"})).is_empty(), "no change of the state");
}
