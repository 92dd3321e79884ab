//! Reports of interruptions: each source adds, moves and withdraws its notices (docs/designs/spot.md).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::notice::{MAX_NOTICE, Notice, NoticeSource, ReportedInterruption};
use crate::fleet::age::{TOLERANCE, age};
use crate::fleet::ids::MachineId;
use crate::fleet::machine::{Machine, Phase};
use crate::fleet::record::Change;
use crate::fleet::state::Fleet;

/// Number of listings without its notice after which a notice of VPSie is withdrawn.
const LISTINGS_TO_WITHDRAW: u32 = 2;

impl Fleet {
    /// The deadline to record for a report, or None if nothing changes. A past deadline is unknown, and an unknown one is
    /// that of the last report, or the grace period of the NodeGroup.
    pub fn reported_deadline(
        &self,
        machine: &Machine,
        source: NoticeSource,
        reported: ReportedInterruption,
        now: Timestamp,
    ) -> Option<Timestamp> {
        if machine.vm().is_none() || reported.is_too_early(now) {
            return None;
        }
        let known = machine.notice.as_ref().and_then(|notice| notice.deadlines.get(&source)).copied();
        let found = reported.deadline.filter(|deadline| *deadline > now);
        let deadline = found.or(known).unwrap_or_else(|| now + self.grace_period(machine));
        (known != Some(deadline)).then_some(deadline)
    }

    /// Records that a source reports the interruption of the machine's VM at `deadline`, at most [`MAX_NOTICE`] from now.
    /// An existing notice keeps `received_at`. Ignored for a machine without a VM.
    pub fn record_notice(
        &mut self,
        id: &MachineId,
        source: NoticeSource,
        deadline: Timestamp,
        now: Timestamp,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let deadline = deadline.clamp(now - TOLERANCE, now + MAX_NOTICE);
        let Some(old) = self.machines.get(id).filter(|m| m.vm().is_some()) else { return changes };
        let mut machine = old.clone();
        let notice = machine.notice.get_or_insert_with(|| Notice {
            received_at: now,
            deadlines: BTreeMap::new(),
            failed_pools: Vec::new(),
        });
        notice.deadlines.insert(source, deadline);
        if machine != *old {
            let is_new = old.notice.is_none() && old.counts();
            self.push_change(&mut changes, Change::SaveMachine(machine.clone()));
            if is_new {
                self.record_interruption(&mut changes, &machine, now);
            }
        }
        changes
    }

    /// Removes the report of a source, and the notice of the machine with its last one. A replacement that was not
    /// requested yet is then removed; another one stays, and replaces the machine if a new notice comes soon. Ignored once
    /// the drain began because of the notice: it cannot be stopped, and needs its deadline.
    pub fn withdraw_notice(&mut self, id: &MachineId, source: NoticeSource) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(mut machine) = self.machines.get(id).cloned() else { return changes };
        if machine.is_ending_by_notice() {
            return changes;
        }
        let Some(notice) = &mut machine.notice else { return changes };
        if notice.deadlines.remove(&source).is_none() {
            return changes;
        }
        if notice.deadlines.is_empty() {
            machine.notice = None;
            let is_unrequested = |m: &&Machine| m.phase == Phase::Pending && m.requests.is_empty();
            let unrequested: Vec<_> =
                self.replacements_of(id).filter(is_unrequested).map(|m| m.id.clone()).collect();
            for replacement in unrequested {
                self.push_change(&mut changes, Change::DropMachine(replacement));
            }
        }
        self.push_change(&mut changes, Change::SaveMachine(machine));
        changes
    }

    /// Records what VPSie's listing reports about the interruption of the machine's VM: a notice, or none. A notice is
    /// withdrawn after [`LISTINGS_TO_WITHDRAW`] listings without it, because VPSie's listings may differ from each other.
    /// A row that first shows an interruption in the past announces nothing.
    pub(in crate::fleet) fn note_listed_interruption(
        &mut self,
        changes: &mut Vec<Change>,
        id: &MachineId,
        reported: Option<ReportedInterruption>,
        now: Timestamp,
    ) {
        let source = NoticeSource::VPSie;
        let Some(machine) = self.machines.get(id) else { return };
        let is_known = machine.notice.as_ref().is_some_and(|notice| notice.deadlines.contains_key(&source));
        let is_over = |at: Timestamp| !is_known && age(at, now) >= TOLERANCE;
        let reported = reported.filter(|new| !new.is_too_early(now) && !new.deadline.is_some_and(is_over));
        if let Some(reported) = reported {
            self.transient.listings_without_notice.remove(id);
            if let Some(deadline) = self.reported_deadline(machine, source, reported, now) {
                changes.extend(self.record_notice(id, source, deadline, now));
            }
        } else if is_known {
            let listings = self.transient.listings_without_notice.entry(id.clone()).or_default();
            *listings += 1;
            if *listings >= LISTINGS_TO_WITHDRAW {
                self.transient.listings_without_notice.remove(id);
                changes.extend(self.withdraw_notice(id, source));
            }
        }
    }
}
