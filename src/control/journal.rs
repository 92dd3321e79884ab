//! One log line and one count for each decision that spends or saves money.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::fleet::{Change, Fleet, Machine, Phase, Stranger, StrangerKind};

/// Writes down what becomes durable.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    transitions: Family<Transition, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transition {
    pool: String,
    from: &'static str,
    to: &'static str,
    reason: &'static str,
}

impl Journal {
    /// Registers `machine_transitions_total{pool,from,to,reason}`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "machine_transitions",
            "Changes of phase of machines; reason is that of a failure",
            self.transitions.clone(),
        );
    }

    /// Writes down a change to the fleet as it is before it.
    pub(super) fn write(&self, fleet: &Fleet, change: &Change) {
        match change {
            Change::SaveMachine(machine) => {
                let from = fleet.machine(&machine.id).map_or("none", |old| old.phase.name());
                let asked = fleet.machine(&machine.id).is_some_and(|old| old.asks.len() < machine.asks.len());
                if from != machine.phase.name() || asked {
                    self.machine(machine, from, machine.phase.name());
                }
            }
            Change::DropMachine(id) => {
                if let Some(machine) = fleet.machine(id) {
                    self.machine(machine, machine.phase.name(), "gone");
                }
            }
            Change::SaveStranger(stranger) => write_stranger(fleet.stranger(&stranger.hostname), stranger),
            Change::SaveLearned(size, learned) => tracing::info!(
                %size,
                cpu_millis = learned.allocatable.cpu_millis,
                memory_mib = learned.allocatable.memory_mib,
                "allocatable of a size learned from a node"
            ),
            Change::SaveCatalog(catalog) => tracing::info!(offers = catalog.offers.len(), "catalog changed"),
            Change::DropStranger(_) => {}
        }
    }

    fn machine(&self, machine: &Machine, from: &'static str, to: &'static str) {
        let failure = match &machine.phase {
            Phase::Failed { failure, .. } => Some(failure),
            _ => None,
        };
        let reason = failure.map_or("", |failure| failure.reason.code());
        let pool = machine.pool.to_string();
        tracing::info!(
            machine = %machine.id,
            pool,
            from,
            to,
            vm = machine.vm().map(|vm| vm.hostname.as_str()),
            requests = machine.asks.len(),
            reason,
            message = failure.map(|failure| failure.message.as_str()),
            "machine"
        );
        self.transitions.get_or_create(&Transition { pool, from, to, reason }).inc();
    }
}

fn write_stranger(was: Option<&Stranger>, stranger: &Stranger) {
    if was.is_some_and(|was| was.kind == stranger.kind) {
        return;
    }
    let vm = stranger.hostname.as_str();
    match &stranger.kind {
        StrangerKind::Foreign => tracing::info!(vm, "listed node is not ours; it is never touched"),
        StrangerKind::Orphan { pool, .. } => {
            tracing::warn!(vm, %pool, "VM of ours that no machine waits for: adopted, or deleted after the grace");
        }
        StrangerKind::Gone { machine, deleted: true, .. } => tracing::info!(vm, %machine, "VM is deleted"),
        StrangerKind::Gone { machine, deleted: false, .. } => {
            tracing::warn!(vm, %machine, "VM vanished from VPSie's listings; nobody here deleted it");
        }
    }
}
