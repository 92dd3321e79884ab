//! What is to be done about a Node. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use crate::catalog::{Resources, quantity};
use crate::fleet::{
    Fleet, Hostname, Learned, Machine, PROVIDER_ID_PREFIX, Phase, Stranger, StrangerKind, names, node_labels,
};

/// What is to be done about a Node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Nothing.
    Leave,
    /// Merge this into it: its providerID, labels, annotation, and on the first time its taints.
    Patch(Value),
    /// Note that it registered, and what it shows of its size.
    Register(Hostname, Option<Learned>),
    /// Delete the object: its VM is gone.
    Delete,
    /// Its providerID, which cannot be changed, is another VM's.
    Contradiction(String),
}

/// What is to be done about a Node.
pub(super) fn verdict(fleet: &Fleet, node: &Node) -> Verdict {
    let hostname = Hostname::new(node.metadata.name.as_deref().unwrap_or_default());
    match (fleet.machine_at(&hostname), fleet.stranger(&hostname)) {
        (Some(machine), _) => of_machine(fleet, node, hostname, machine),
        (None, Some(stranger)) if is_gone(node, stranger) => Verdict::Delete,
        _ => Verdict::Leave,
    }
}

fn of_machine(fleet: &Fleet, node: &Node, hostname: Hostname, machine: &Machine) -> Verdict {
    // Without a UUID there is no providerID yet; the next listing brings it.
    let Some(id) = machine.vm().and_then(|vm| vm.id.as_ref()) else { return Verdict::Leave };
    let wanted = id.provider_id();
    match provider_id(node) {
        // An earlier VM had the same name, and its kubelet is silent.
        Some(found) if found != wanted && fleet.machine_of(found, "").is_none() && !is_ready(node) => {
            return Verdict::Delete;
        }
        Some(found) if found != wanted => return Verdict::Contradiction(found.to_owned()),
        found => {
            if let Some(patch) = patch(fleet, node, machine, &wanted, found.is_none()) {
                return Verdict::Patch(patch);
            }
        }
    }
    let shows = node.status.as_ref().filter(|_| is_ready(node)).and_then(shows);
    let news = match (fleet.learned(machine.size), shows) {
        (_, None) => None,
        (Some(known), Some(shows)) if known.smallest(shows) == known => None,
        (_, shows) => shows,
    };
    if news.is_some() || matches!(machine.phase, Phase::Creating { .. }) {
        return Verdict::Register(hostname, news);
    }
    Verdict::Leave
}

/// What the Node lacks of its identity. None when it lacks nothing.
fn patch(fleet: &Fleet, node: &Node, machine: &Machine, wanted: &str, unnamed: bool) -> Option<Value> {
    let text = machine.pool.to_string();
    let pool = fleet.pool(&text)?;
    let group = fleet.group(pool);
    let labels: BTreeMap<String, String> = node_labels(group, &pool.id, &pool.offer);
    let has = node.metadata.labels.as_ref();
    let missing: BTreeMap<_, _> =
        labels.into_iter().filter(|(key, value)| has.and_then(|has| has.get(key)) != Some(value)).collect();
    let annotation = node.metadata.annotations.as_ref().and_then(|all| all.get(names::POOL));
    let first = annotation != Some(&text);
    if !unnamed && !first && missing.is_empty() {
        return None;
    }
    let mut patch = json!({ "metadata": { "labels": missing, "annotations": { names::POOL: text } } });
    if unnamed {
        patch["spec"]["providerID"] = json!(wanted);
    }
    // Once only, so that a taint that somebody takes away stays away.
    if let Some(group) = group.filter(|group| first && !group.taints.is_empty()) {
        let mut taints: Vec<Value> = node
            .spec
            .iter()
            .flat_map(|spec| spec.taints.iter().flatten())
            .filter(|old| {
                !group.taints.iter().any(|t| t.key == old.key && t.effect.to_string() == old.effect)
            })
            .map(|old| json!(old))
            .collect();
        taints.extend(
            group
                .taints
                .iter()
                .map(|t| json!({ "key": t.key, "value": t.value, "effect": t.effect.to_string() })),
        );
        patch["spec"]["taints"] = json!(taints);
        // The list is written whole: nobody else's change to it may be lost.
        patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
    }
    Some(patch)
}

/// Whether the Node is of that VM, which is gone. A VM that nobody deleted counts as gone only if its kubelet
/// is silent too.
fn is_gone(node: &Node, stranger: &Stranger) -> bool {
    let StrangerKind::Gone { deleted, .. } = stranger.kind else { return false };
    let same = match (provider_id(node), &stranger.id) {
        (Some(found), Some(id)) => found == id.provider_id(),
        (Some(found), None) => found.starts_with(PROVIDER_ID_PREFIX),
        (None, _) => true,
    };
    same && (deleted || !is_ready(node))
}

fn provider_id(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.provider_id.as_deref().filter(|id| !id.is_empty())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn shows(status: &NodeStatus) -> Option<Learned> {
    Some(Learned {
        capacity: resources(status.capacity.as_ref()?)?,
        allocatable: resources(status.allocatable.as_ref()?)?,
    })
}

fn resources(of: &BTreeMap<String, Quantity>) -> Option<Resources> {
    let read = |name: &str| quantity::parse(&of.get(name)?.0);
    Some(Resources {
        cpu_millis: (read("cpu")? * 1000.0) as u64,
        memory_mib: (read("memory")? / f64::from(1 << 20)) as u64,
        disk_gib: read("ephemeral-storage").map_or(0, |bytes| (bytes / f64::from(1 << 30)) as u64),
        pods: read("pods")? as u32,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::catalog::{Catalog, Offer};
    use crate::fleet::{
        AutoscalingOptions, NodeGroup, PoolId, Records, Reserved, SizeId, Taint, TaintEffect, Vm, VmId,
    };

    const POOL: &str = "web/ams1/small/on-demand";
    const ID: &str = "vpsie://00000000-0000-4000-8000-000000000001";

    fn fleet(phase: Phase, strangers: Vec<Stranger>) -> Fleet {
        let pool: PoolId = POOL.parse().unwrap();
        let offer = Offer {
            size: SizeId(2),
            name: "small".to_owned(),
            identifier: None,
            datacenter: "ams1".into(),
            resources: Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 40, pods: 110 },
            monthly: None,
            hourly: None,
        };
        let group = NodeGroup {
            name: "web".into(),
            min: 0,
            max: 3,
            pools: vec![pool.clone()],
            size: None,
            labels: [("team".to_owned(), "web".to_owned())].into(),
            taints: vec![Taint {
                key: "dedicated".into(),
                value: "web".into(),
                effect: TaintEffect::NoSchedule,
            }],
            preferred: None,
            options: AutoscalingOptions::default(),
            adopt: false,
            deletion: None,
        };
        let machine = Machine {
            id: "web-00000001".into(),
            pool,
            size: SizeId(2),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            phase,
            asks: Vec::new(),
        };
        let records = Records {
            machines: vec![machine],
            strangers,
            learned: Vec::new(),
            catalog: Some(Arc::new(Catalog { offers: vec![offer] })),
        };
        Fleet::restore(vec![group], records, Reserved::default())
    }

    fn vm() -> Vm {
        Vm {
            hostname: Hostname::new("slave-1"),
            id: Some(VmId::from("00000000-0000-4000-8000-000000000001")),
            addresses: Vec::new(),
        }
    }

    fn creating() -> Phase {
        Phase::Creating { vm: Some(vm()), since: jiff::Timestamp::UNIX_EPOCH }
    }

    fn node(provider_id: &str, ready: bool) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": "slave-1", "resourceVersion": "7", "labels": { "kubernetes.io/os": "linux" } },
            "spec": {
                "providerID": provider_id,
                "taints": [{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }],
            },
            "status": {
                "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "Unknown" } }],
                "capacity": { "cpu": "2", "memory": "4030456Ki", "ephemeral-storage": "41152812Ki", "pods": "110" },
                "allocatable": { "cpu": "1930m", "memory": "3200Mi", "ephemeral-storage": "37G", "pods": "110" },
            },
        }))
        .unwrap()
    }

    fn merged(node: &Node, patch: Value) -> Node {
        let mut value = serde_json::to_value(node).unwrap();
        merge(&mut value, patch);
        serde_json::from_value(value).unwrap()
    }

    fn merge(into: &mut Value, patch: Value) {
        match (into, patch) {
            (Value::Object(into), Value::Object(patch)) => {
                for (key, value) in patch {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, patch) => *into = patch,
        }
    }

    #[test]
    fn a_new_node_gets_its_identity_and_then_registers() {
        let fleet = fleet(creating(), Vec::new());
        let bare = node("", true);
        let Verdict::Patch(patch) = verdict(&fleet, &bare) else { panic!("no patch") };
        assert_eq!(patch["spec"]["providerID"], ID);
        assert_eq!(patch["metadata"]["labels"]["team"], "web");
        assert_eq!(patch["metadata"]["annotations"][names::POOL], POOL);
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        let named = merged(&bare, patch);
        assert_eq!(named.spec.as_ref().unwrap().taints.as_ref().unwrap().len(), 2, "its own taint stays");
        let Verdict::Register(hostname, Some(shows)) = verdict(&fleet, &named) else {
            panic!("not registered")
        };
        assert_eq!(hostname, vm().hostname);
        assert_eq!((shows.allocatable.cpu_millis, shows.allocatable.memory_mib), (1930, 3200));
        assert_eq!((shows.capacity.memory_mib, shows.allocatable.disk_gib), (3935, 34));
    }

    #[test]
    fn a_label_that_was_lost_is_given_again_and_a_taint_is_not() {
        let fleet = fleet(creating(), Vec::new());
        let bare = node("", true);
        let Verdict::Patch(patch) = verdict(&fleet, &bare) else { panic!("no patch") };
        let mut named = merged(&bare, patch);
        named.metadata.labels.as_mut().unwrap().remove("team");
        named.spec.as_mut().unwrap().taints = None;
        let Verdict::Patch(patch) = verdict(&fleet, &named) else { panic!("no patch") };
        assert_eq!(patch["metadata"]["labels"], json!({ "team": "web" }));
        assert_eq!(patch.get("spec"), None);
    }

    #[test]
    fn a_node_of_another_vm_is_left_while_it_is_ready() {
        let fleet = fleet(creating(), Vec::new());
        assert!(matches!(verdict(&fleet, &node("vpsie://other", true)), Verdict::Contradiction(_)));
        assert_eq!(verdict(&fleet, &node("vpsie://other", false)), Verdict::Delete);
    }

    #[test]
    fn the_node_of_a_vm_that_is_gone_is_deleted() {
        let gone = |deleted| Stranger {
            hostname: Hostname::new("slave-1"),
            id: vm().id,
            first_seen: jiff::Timestamp::UNIX_EPOCH,
            kind: StrangerKind::Gone {
                machine: "web-00000001".into(),
                pool: POOL.parse().unwrap(),
                size: SizeId(2),
                deleted,
            },
        };
        let after = |deleted| fleet(Phase::Pending, vec![gone(deleted)]);
        assert_eq!(verdict(&after(true), &node(ID, true)), Verdict::Delete);
        assert_eq!(verdict(&after(false), &node(ID, false)), Verdict::Delete);
        assert_eq!(verdict(&after(false), &node(ID, true)), Verdict::Leave, "its kubelet still speaks");
        assert_eq!(verdict(&after(true), &node("vpsie://other", false)), Verdict::Leave);
        assert_eq!(verdict(&fleet(Phase::Pending, Vec::new()), &node("", false)), Verdict::Leave, "foreign");
    }
}
