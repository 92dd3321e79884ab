//! Samples of resources and labels of a size, from its Nodes.

use jiff::Timestamp;

use super::ids::{Hostname, NodeGroupName};
use super::machine::Machine;
use super::record::Change;
use super::size_profile::{NodeShape, ObservedNode, Sample, SizeProfile};
use super::state::Fleet;
use crate::catalog::{Offer, SizeId};

impl Fleet {
    /// The resources and labels observed on Nodes of a size.
    pub fn size_profile(&self, size: SizeId) -> Option<&SizeProfile> {
        self.profiles.get(&size)
    }

    /// Number of Nodes that the template of the NodeGroup's pool is based on.
    pub fn sample_count(&self, size: SizeId, group: &NodeGroupName) -> usize {
        self.sampled_shapes(size, group).len()
    }

    fn make_sample(&self, machine: &Machine, node: ObservedNode) -> Sample {
        let group = &machine.pool.node_group;
        Sample {
            node: node.uid,
            registered: node.registered,
            node_group: group.clone(),
            relearn: self.relearn(group).cloned(),
            shape: node.shape,
        }
    }

    /// Whether [`add_node_sample`](Self::add_node_sample) may change anything.
    pub fn is_new_sample(&self, machine: &Machine, node: &ObservedNode, now: Timestamp) -> bool {
        if self.is_of_other_size(machine, &node.shape) {
            return false;
        }
        let sample = self.make_sample(machine, node.clone());
        self.profiles.get(&machine.size).is_none_or(|profile| profile.is_new_sample(&sample, now))
    }

    /// Adds the Node of a VM as a sample. Its status must have been stable before: the first status of a
    /// kubelet is not complete.
    pub fn add_node_sample(
        &mut self,
        hostname: &Hostname,
        node: ObservedNode,
        now: Timestamp,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(machine) = self.machine_by_hostname(hostname) else { return changes };
        if self.is_of_other_size(machine, &node.shape) {
            return changes;
        }
        let size = machine.size;
        let sample = self.make_sample(machine, node);
        let known = self.profiles.get(&size);
        let NodeShape { capacity, allocatable, .. } = sample.shape;
        let mut profile = known.cloned().unwrap_or(SizeProfile { capacity, allocatable, nodes: Vec::new() });
        // If the NodeGroup of the machine is declared, all NodeGroups are. Undeclared ones were deleted.
        if self.groups.contains_key(&sample.node_group) {
            profile.retain_groups(|group| self.groups.contains_key(group));
        }
        profile.add_sample(sample, now);
        if known != Some(&profile) {
            self.push_change(&mut changes, Change::SaveProfile(size, profile));
        }
        changes
    }

    /// Whether the Node has the cores of another pool's size and not those of its machine's size. If listings
    /// do not show sizes, a late VM may be bound to a machine of another size, and must not change templates.
    fn is_of_other_size(&self, machine: &Machine, shape: &NodeShape) -> bool {
        let cores = shape.capacity.cpu_millis;
        let has_cores = |offer: &Offer| offer.resources.cpu_millis == cores;
        let offers = self.catalog.iter().flat_map(|catalog| &catalog.offers);
        let mut own = offers.filter(|offer| offer.size == machine.size).peekable();
        !self.transient.shown.size
            && own.peek().is_some()
            && !own.any(has_cores)
            && self.pools.values().any(|pool| pool.offer.size != machine.size && has_cores(&pool.offer))
    }
}
