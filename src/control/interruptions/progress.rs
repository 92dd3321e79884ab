//! The stages that the interruption of each machine has reached.

use std::collections::BTreeMap;

use super::metrics::InterruptionStage;
use crate::fleet::{Fleet, Machine, MachineId, Notice, Phase};

/// The last stage of each machine with a notice that was reported.
#[derive(Debug, Default)]
pub(super) struct ReportedStages {
    reported: BTreeMap<MachineId, Reported>,
    /// Stages that were reached before this process started are not reported.
    is_first_pass_over: bool,
}

#[derive(Debug)]
struct Reported {
    notice: Notice,
    stages: Vec<InterruptionStage>,
}

impl ReportedStages {
    /// The stages that were reached since the last call. `is_ready` is true for a machine whose Node is Ready.
    pub(super) fn update(
        &mut self,
        fleet: &Fleet,
        is_ready: impl Fn(&MachineId) -> bool,
    ) -> Vec<(Notice, InterruptionStage)> {
        let mut reached = Vec::new();
        for machine in fleet.machines().filter(|machine| machine.vm().is_some()) {
            let Some(notice) = &machine.notice else { continue };
            let known = self
                .reported
                .entry(machine.id.clone())
                .or_insert_with(|| Reported { notice: notice.clone(), stages: Vec::new() });
            known.notice.clone_from(notice);
            for stage in reached_stages(fleet, machine, &is_ready) {
                if !known.stages.contains(&stage) {
                    known.stages.push(stage);
                    reached.push((notice.clone(), stage));
                }
            }
        }
        self.reported.retain(|id, known| {
            let is_interrupted = |machine: &Machine| machine.notice.is_some() && machine.vm().is_some();
            if fleet.machine(id).is_some_and(is_interrupted) {
                return true;
            }
            // A VM is deleted at once after its drain.
            if known.stages.contains(&InterruptionStage::DrainBegun)
                && !known.stages.contains(&InterruptionStage::Drained)
            {
                reached.push((known.notice.clone(), InterruptionStage::Drained));
            }
            false
        });
        if !std::mem::replace(&mut self.is_first_pass_over, true) {
            reached.clear();
        }
        reached
    }
}

fn reached_stages(
    fleet: &Fleet,
    machine: &Machine,
    is_ready: impl Fn(&MachineId) -> bool,
) -> impl Iterator<Item = InterruptionStage> {
    let ready = has_ready_replacement(fleet, machine, is_ready);
    let (begun, drained) = match &machine.phase {
        Phase::Deleting { drain, .. } => (true, !drain.is_due()),
        Phase::Pending | Phase::Creating { .. } | Phase::Running { .. } | Phase::Failed { .. } => {
            (false, false)
        }
    };
    [
        (fleet.live_replacement(&machine.id).is_some(), InterruptionStage::ReplacementRecorded),
        (ready, InterruptionStage::ReplacementReady),
        (begun, InterruptionStage::DrainBegun),
        (drained, InterruptionStage::Drained),
    ]
    .into_iter()
    .filter_map(|(is_reached, stage)| is_reached.then_some(stage))
}

/// Whether the Node of the machine's replacement is Ready.
pub(super) fn has_ready_replacement(
    fleet: &Fleet,
    machine: &Machine,
    is_ready: impl Fn(&MachineId) -> bool,
) -> bool {
    fleet.live_replacement(&machine.id).is_some_and(|replacement| {
        matches!(replacement.phase, Phase::Running { .. }) && is_ready(&replacement.id)
    })
}
