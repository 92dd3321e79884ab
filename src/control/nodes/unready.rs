//! Nodes that are not Ready, as evidence about their datacenters.

use super::Nodes;
use crate::fleet::{Fleet, Machine, NodeGroupName, Phase};
use crate::kubernetes::{EventType, Object, ObjectEvent};

/// Default of `--ok-total-unready-count`.
const OK_UNREADY: usize = 3;
/// Default of `--max-total-unready-percentage`.
const MAX_UNREADY_PERCENT: usize = 45;

/// Whether Cluster Autoscaler stops all scaling by default: more Nodes than both limits allow are not Ready.
fn stops_scaling(unready: usize, all: usize) -> bool {
    unready > OK_UNREADY && 100 * unready > MAX_UNREADY_PERCENT * all
}

impl Nodes {
    /// Passes the machines whose Node is not Ready to the fleet: many of one datacenter are evidence of an outage.
    pub(super) async fn note_unready(&mut self) {
        if self.handle.read(|fleet| fleet.watched_datacenters().is_empty()) || !self.view.has_listed() {
            return;
        }
        self.report_stopped_scaling();
        let running = self.handle.read(|fleet| {
            let is_running = |machine: &&Machine| matches!(machine.phase, Phase::Running { .. });
            fleet.machines().filter(is_running).map(|machine| machine.id.clone()).collect::<Vec<_>>()
        });
        let unready = running.into_iter().filter(|machine| !self.view.is_ready(machine)).collect();
        if let Err(error) = self.handle.note_unready_nodes(unready).await {
            tracing::warn!(%error, "cannot record the health of datacenters; retrying");
        }
    }

    /// Publishes an event when so many Nodes are not Ready that Cluster Autoscaler stops all scaling by default.
    fn report_stopped_scaling(&mut self) {
        let (unready, all) = self.view.count_unready();
        let stops = stops_scaling(unready, all);
        if stops == std::mem::replace(&mut self.stops_scaling, stops) || !stops {
            return;
        }
        let spread = |fleet: &Fleet| -> Vec<NodeGroupName> {
            let groups = fleet.group_names().into_iter();
            groups.filter(|group| !fleet.datacenter_reports(group).is_empty()).collect()
        };
        tracing::warn!(
            unready,
            nodes = all,
            "Cluster Autoscaler may stop all scaling, because too many Nodes are not Ready"
        );
        for group in self.handle.read(spread) {
            let message = format!(
                "{unready} of {all} Nodes are not Ready: by default, Cluster Autoscaler stops all scaling; set its \
                 --max-total-unready-percentage above the share of the largest datacenter"
            );
            let on = Object::NodeGroup(group.to_string());
            self.events.publish(ObjectEvent::new(on, EventType::Warning, "ScalingMayStop", message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_unready_nodes_do_not_stop_scaling() {
        for (unready, all, stops) in
            [(3, 4, false), (4, 8, true), (4, 9, false), (5, 11, true), (0, 0, false)]
        {
            assert_eq!(stops_scaling(unready, all), stops, "{unready} of {all}");
        }
    }
}
