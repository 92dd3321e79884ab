//! The audit log's lines, and docs/operate/audit.md about them.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::control::audit::AuditAction;
use crate::control::audit::entry::tests::{AuditedFleet, POOL};
use crate::fleet::{Halt, Hostname, Vm};

/// The fields of each line, in their order, and their meanings.
const FIELDS: [(&str, &str); 14] = [
    ("action", "the action: one of the values below"),
    ("machine", "name of the machine and of its VPSieNode"),
    ("nodegroup", "its NodeGroup"),
    ("pool", "its pool; a pool is a node group of Cluster Autoscaler"),
    ("offer", "the offer of its VM, as in the NodeGroup"),
    ("datacenter", "the datacenter whose circuit breaker changed its state"),
    ("size", "VPSie's `KubeSizeID`"),
    ("vm", "hostname of the VM and name of its Node"),
    ("vm_id", "the VM's UUID at VPSie"),
    (
        "by",
        "the cause, never empty: one of the values below. For a machine that is being deleted, its deletion reason",
    ),
    (
        "halt",
        "reason for which the runaway guard halts growth: `TooManyVMs`, `UnexplainedNodes` or `DeletionsOverdue`",
    ),
    (
        "reason",
        "reason of the failure: the `errorCode` that Cluster Autoscaler gets; for the circuit breaker of a datacenter, the \
         evidence",
    ),
    ("message", "message of the failure, in VPSie's words; for a halt, the remedy"),
    ("usd_per_hour", "list price of the machine"),
];

/// The log, line by line.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(work: impl FnOnce()) -> Vec<Value> {
    // Without this, threads of other tests that have no subscriber would disable log lines that they reach
    // first.
    drop(tracing::subscriber::set_global_default(tracing_subscriber::registry()));
    let written = Written::default();
    let writer = written.clone();
    let logs =
        tracing_subscriber::fmt().with_writer(move || writer.clone()).json().flatten_event(true).finish();
    tracing::subscriber::with_default(logs, work);
    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_line_has_all_fields_also_without_values() {
    let entries = AuditedFleet::new(false).increase();
    let mut lines = logged(|| write_line(&entries[0]));
    let line = lines[0].as_object_mut().unwrap();
    assert_eq!(line.remove("timestamp").is_some(), lines.len() == 1);
    assert_eq!(
        lines[0],
        json!({
            "level": "INFO", "target": AUDIT, "action": "recorded", "machine": "web-1", "nodegroup": "web",
            "pool": POOL, "offer": "small", "datacenter": "", "size": "2", "vm": "", "vm_id": "", "by": "ClusterAutoscaler",
            "halt": "", "reason": "", "message": "", "usd_per_hour": "0.0274",
        })
    );
}

#[test]
fn a_machine_that_comes_up_is_timed_once() {
    let mut audited = AuditedFleet::new(false);
    audited.increase();
    let mut machine = audited.fleet().machine(&"web-1".into()).unwrap().clone();
    let vm = Vm {
        hostname: Hostname::new("slave-1"),
        id: None,
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    };
    machine.phase = Phase::Running { vm, since: machine.created_at + Duration::from_secs(42) };
    let change = Change::SaveMachine(machine);
    let audit_log = AuditLog::default();
    let mut registry = Registry::default();
    audit_log.register(&mut registry);
    let mut after = audited.fleet().clone();
    after.apply(&change);
    for fleet in [audited.fleet(), &after] {
        audit_log.write(&change, AuditLog::report(fleet, &change, Cause::Node));
    }
    let text = registry.encode().unwrap();
    for line in ["machine_startup_duration_seconds_sum 42.0", "machine_startup_duration_seconds_count 1"] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn fields_that_are_documented_are_those_of_each_line() {
    let mut entry = AuditedFleet::new(false).increase().remove(0);
    for kind in AuditAction::ALL {
        entry.kind = *kind;
        let line = logged(|| write_line(&entry)).remove(0);
        let mut fields: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        fields.retain(|field| !["timestamp", "level", "target"].contains(field));
        let mut documented = FIELDS.map(|(field, _)| field);
        fields.sort_unstable();
        documented.sort_unstable();
        assert_eq!(fields, documented);
        assert_eq!(line["action"], kind.name());
        assert_eq!(line["by"], Cause::ClusterAutoscaler.name());
    }
}

#[test]
fn documents_every_reason_of_a_halt() {
    let (_, meaning) = FIELDS.iter().find(|(field, _)| *field == "halt").unwrap();
    for reason in Halt::REASONS {
        assert!(meaning.contains(&format!("`{reason}`")), "{reason}");
    }
}

fn page() -> String {
    let mut page = format!(
        "# Audit log and events\n\n\
         Generated from the code by `UPDATE=1 cargo test --lib audit`.\n\n\
         ## Audit log\n\n\
         Each action that spends or frees money, or explains one, is one line of the log with target `{AUDIT}`. It is written once the action is durable: a request is in the log before it is sent to VPSie. Lines that a user should look at have level WARN, the others INFO.\n\n\
         Every line has all of these fields, as texts; a field without a value is empty. Fields and values keep their names; new ones may be added.\n\n\
         | Field | |\n| --- | --- |\n"
    );
    for (field, meaning) in FIELDS {
        writeln!(page, "| `{field}` | {meaning} |").unwrap();
    }
    page.push_str("\n| `action` | |\n| --- | --- |\n");
    for kind in AuditAction::ALL {
        writeln!(page, "| `{}` | {} |", kind.name(), kind.meaning()).unwrap();
    }
    page.push_str("\n| `by` | |\n| --- | --- |\n");
    for cause in Cause::ALL {
        writeln!(page, "| `{}` | {} |", cause.name(), cause.meaning()).unwrap();
    }
    page.push_str(
        "\nTo log only the audit log, as JSON, and to select the VMs that appeared:\n\n\
         ```sh\n\
         vpsie-autoscaler serve --log-format json --log-level 'off,vpsie_autoscaler::audit=info' ...\n\
         kubectl logs ... | jq -c 'select(.target == \"vpsie_autoscaler::audit\" and .action == \"bound\")'\n\
         ```\n\n\
         ## Events\n\n\
         With `--store=kubernetes`, actions are also events (`events.k8s.io/v1`, from `vpsie-autoscaler`) on the VPSieNode of the machine. If a user may have to act, the event is also on its NodeGroup:\n\n\
         | Reason | Type | On | Published for |\n| --- | --- | --- | --- |\n",
    );
    for action in AuditAction::ALL {
        let Some((kind, reason, group)) = event_type(*action) else { continue };
        let on = match (*action, group) {
            (
                AuditAction::OrphanFound
                | AuditAction::UnexpectedFound
                | AuditAction::DatacenterBreakerOpened
                | AuditAction::DatacenterBreakerHalfOpen
                | AuditAction::DatacenterBreakerClosed
                | AuditAction::GrowthHalted
                | AuditAction::GrowthResumed,
                _,
            ) => "NodeGroup",
            (_, true) => "NodeGroup, VPSieNode",
            (_, false) => "VPSieNode",
        };
        writeln!(page, "| `{reason}` | {kind:?} | {on} | `{}` |", action.name()).unwrap();
    }
    page.push_str(
        "| `OrphanDeleted` | Normal | NodeGroup, VPSieNode | `marked_for_deletion` by `Orphan` |\n\
         | `MaximumReached` | Warning | NodeGroup | a scale-up was refused: the NodeGroup would exceed `maxNodes` |\n\
         | `ClusterMaximumReached` | Warning | NodeGroup | a scale-up was refused: all NodeGroups together would exceed `maxClusterWorkers` |\n\
         | `CostLimitReached` | Warning | NodeGroup | a scale-up was refused: it would exceed a cost limit |\n\
         | `PriceUnknown` | Warning | NodeGroup | a scale-up was refused: there is a cost limit, and the price of the offer is unknown. Also published for each pool without a known price |\n\
         | `VMsStillPaid` | Warning | NodeGroup | a scale-up was refused: extra VMs (being deleted, orphans, unexpected nodes) leave no headroom |\n\
         | `SpotShareReached` | Warning | NodeGroup | a scale-up was refused: the share of spot machines would exceed `spotConfig.maxSpotPercentage` |\n\
         | `FallbackDisabled` | Warning | NodeGroup | a scale-up was refused: `spotConfig.fallbackToOnDemand` is false, and `maxSpotPercentage` requires no more on-demand machines |\n\
         | `NeededForSpotShare` | Warning | NodeGroup | a scale-down was refused: the share of spot machines would exceed `spotConfig.maxSpotPercentage` |\n\
         | `DatacenterUnavailable` | Warning | NodeGroup | a scale-up was refused: the circuit breaker of the datacenter is open or half-open, its weight is 0, or it is a backup and the primary can grow |\n\
         | `DatacenterMinimumReached` | Warning | NodeGroup | a scale-down was refused: `multiRegion.minNodesPerRegion` |\n\
         | `GrowthHalted` | Warning | NodeGroup | a scale-up was refused: the runaway guard halts growth |\n\
         | `VMLimitReached` | Warning | NodeGroup | a scale-up was refused: it would exceed the VM limit of the runaway guard; growth is not halted |\n\
         | `LimitsUnknown` | Warning | NodeGroup | a scale-up was refused: the limits of the AutoscalerConfig are unknown |\n\
         | `MinimumReached` | Warning | NodeGroup | a scale-down was refused: the NodeGroup's minimum |\n\
         | `NotGrowable` | Warning | NodeGroup | a scale-up was refused: the NodeGroup is invalid, unreadable or (being) deleted, or its offer was removed from it or from VPSie's catalog |\n\
         | `ScalingMayStop` | Warning | NodeGroup | so many Nodes are not Ready that Cluster Autoscaler stops all scaling by default; only with several datacenters |\n\
         | `PayloadNeverJoins` | Warning | NodeGroup | the last three machines of a self-managed NodeGroup in a datacenter never joined the cluster; no more are created there until its payload changes |\n\
         | `RecordRefused` | Warning | NodeGroup, VPSieNode | the API server refused the record of the machine; vpsie-autoscaler retries it |\n\
         | `ListedAsControlPlane` | Warning | NodeGroup, VPSieNode | VPSie lists the VM of the machine as control plane; it is neither drained nor deleted |\n\
         | `NotControlPlane` | Normal | NodeGroup, VPSieNode | VPSie no longer lists the VM of the machine as control plane |\n\n\
         `Deleting` is not published on the NodeGroup if Cluster Autoscaler deletes the machine, because Cluster Autoscaler publishes its own event.\n\n\
         ```sh\n\
         kubectl describe nodegroup workers\n\
         kubectl get events -n kube-system --field-selector reason=Failed\n\
         ```\n\n\
         The same message about the same object is published once a minute. No work waits for an event: an event that cannot be published is only counted, in `vpsie_autoscaler_kubernetes_events_total` (`result=\"published\"`, `failed`, or `dropped` when too many wait). The audit log has all of them.\n",
    );
    page
}

#[test]
fn docs_audit_md_is_as_the_code_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate/audit.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/operate/audit.md differs: UPDATE=1 cargo test --lib audit");
}
