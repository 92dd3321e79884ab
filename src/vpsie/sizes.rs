//! Which VPSie group has which size, and which size a node has.

use std::collections::{BTreeMap, BTreeSet};

use super::wire::{Group, Node};
use crate::catalog::Offer;
use crate::fleet::SizeId;

/// What is known of sizes: the offers, the cluster's groups, and what making groups has taught.
///
/// A group shows a `boxsize_id`. It is taken for the `KubeSizeID` that the group was made with, which is
/// plausible and not proven (API §5.1), so it does not count where the group's resources say otherwise.
#[derive(Default)]
pub(super) struct Sizes {
    offers: Vec<Offer>,
    groups: Vec<Group>,
    /// Sizes of groups, by their id, that are known from having made them.
    learned: BTreeMap<u64, SizeId>,
}

impl Sizes {
    pub(super) fn set_offers(&mut self, offers: Vec<Offer>) {
        self.offers = offers;
    }

    pub(super) fn set_groups(&mut self, groups: Vec<Group>) {
        self.learned.retain(|id, _| groups.iter().any(|group| group.id == *id));
        self.groups = groups;
    }

    pub(super) fn forget_groups(&mut self) {
        self.groups.clear();
    }

    /// Ids of the groups, to tell a new one afterwards.
    pub(super) fn group_ids(&self) -> BTreeSet<u64> {
        self.groups.iter().map(|group| group.id).collect()
    }

    pub(super) fn knows_group(&self, reference: &str) -> bool {
        self.group_named(reference).is_some()
    }

    /// The group of a size: the newest, should there be several.
    pub(super) fn group_for(&self, size: SizeId) -> Option<u64> {
        let groups = self.groups.iter().filter(|group| self.size_of_group(group) == Some(size));
        groups.map(|group| group.id).max()
    }

    /// Learns which group was made for the size: one of that name that was not there `before`.
    pub(super) fn learn_made(&mut self, size: SizeId, name: &str, before: &BTreeSet<u64>) -> Option<u64> {
        let made = self.groups.iter().filter(|group| group.name == name && !before.contains(&group.id));
        let id = made.map(|group| group.id).max()?;
        self.learned.insert(id, size);
        Some(id)
    }

    /// Learns which group already has the size, from VPSie's refusal to make a second one: `Group <name> has
    /// same selected Size` (API §3.2).
    pub(super) fn learn_from_refusal(&mut self, size: SizeId, words: &str) -> Option<u64> {
        let words = words.to_lowercase();
        let offer = self.offers.iter().find(|offer| offer.size == size);
        let fits = |group: &&Group| offer.is_none_or(|offer| group.shape.fits(offer));
        let says =
            |group: &&Group| words.contains(&format!("group {} has", group.name.trim().to_lowercase()));
        let id = self.groups.iter().filter(fits).find(says)?.id;
        self.learned.insert(id, size);
        Some(id)
    }

    /// The size of a node, where there is no doubt.
    pub(super) fn size_of_node(&self, node: &Node) -> Option<SizeId> {
        if let Some(reference) = &node.group {
            return self.size_of_group(self.group_named(reference)?);
        }
        let by_box_size = || {
            let box_size = node.box_size?;
            let group = self.groups.iter().find(|group| group.box_size == Some(box_size))?;
            self.size_of_group(group)
        };
        by_box_size().or_else(|| self.size_by_shape(node))
    }

    fn size_by_shape(&self, node: &Node) -> Option<SizeId> {
        if !node.shape.is_known() {
            return None;
        }
        let offers = self.offers.iter().filter(|offer| node.shape.fits(offer)).map(|offer| offer.size);
        let groups = self.groups.iter().filter(|group| group.shape.may_be(&node.shape));
        // A group that looks alike and whose size cannot be told leaves doubt.
        let sizes: BTreeSet<Option<SizeId>> =
            offers.map(Some).chain(groups.map(|group| self.size_of_group(group))).collect();
        match sizes.first() {
            Some(size) if sizes.len() == 1 => *size,
            _ => None,
        }
    }

    fn group_named(&self, reference: &str) -> Option<&Group> {
        self.groups.iter().find(|group| {
            group.id.to_string() == reference
                || group.identifier.as_deref().is_some_and(|id| id.eq_ignore_ascii_case(reference))
        })
    }

    fn size_of_group(&self, group: &Group) -> Option<SizeId> {
        if let Some(size) = self.learned.get(&group.id) {
            return Some(*size);
        }
        let size = SizeId(group.box_size?);
        let offer = self.offers.iter().find(|offer| offer.size == size);
        offer.is_none_or(|offer| group.shape.fits(offer)).then_some(size)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::super::wire::{self, Row};
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    fn offer(id: u64, cpu: u64, ram: u64, disk: u64) -> Offer {
        let row = map(json!({"id": id, "name": format!("o{id}"), "cpu": cpu, "ram": ram, "disk": disk}));
        wire::offer(Row(&row), &"dc".into()).unwrap()
    }

    fn group(row: Value) -> Group {
        Group::read(Row(&map(row))).unwrap()
    }

    fn node(mut row: Value) -> Node {
        row["hostname"] = "x".into();
        wire::nodes(&map(json!({"slaves": [row]})), || panic!("skipped")).unwrap().remove(0)
    }

    fn sizes(offers: Vec<Offer>, groups: Vec<Value>) -> Sizes {
        Sizes { offers, groups: groups.into_iter().map(group).collect(), learned: BTreeMap::new() }
    }

    #[test]
    fn the_newest_group_of_a_size_is_its_group() {
        let sizes = sizes(
            vec![],
            vec![
                json!({"id": 5, "boxsize_id": 1}),
                json!({"id": 6, "boxsize_id": 1}),
                json!({"id": 7, "boxsize_id": 2}),
            ],
        );
        assert_eq!(sizes.group_for(SizeId(1)), Some(6));
        assert_eq!(sizes.group_for(SizeId(3)), None);
    }

    #[test]
    fn a_box_size_does_not_count_where_the_resources_differ() {
        let offers = vec![offer(1, 2, 4096, 80)];
        let group = |cpu| json!({"id": 5, "boxsize_id": 1, "cpu": cpu, "ram": 4096, "ssd": 80});
        assert_eq!(sizes(offers.clone(), vec![group(2)]).group_for(SizeId(1)), Some(5));
        assert_eq!(sizes(offers, vec![group(4)]).group_for(SizeId(1)), None);
    }

    #[test]
    fn what_making_a_group_taught_counts_most_and_goes_with_the_group() {
        let mut sizes = sizes(vec![], vec![json!({"id": 5, "group_name": "a", "boxsize_id": 99})]);
        assert_eq!(sizes.learn_made(SizeId(1), "a", &BTreeSet::from([5])), None);
        assert_eq!(sizes.learn_made(SizeId(1), "a", &BTreeSet::new()), Some(5));
        assert_eq!((sizes.group_for(SizeId(1)), sizes.group_for(SizeId(99))), (Some(5), None));
        sizes.set_groups(vec![]);
        assert_eq!(sizes.learned.len(), 0);
    }

    #[test]
    fn a_refusal_names_the_group_that_has_the_size() {
        let words = "Group Big One has same selected Size, please select another size";
        let groups = vec![json!({"id": 5, "group_name": "one"}), json!({"id": 6, "group_name": "big one"})];
        assert_eq!(sizes(vec![], groups).learn_from_refusal(SizeId(1), words), Some(6));
    }

    #[test]
    fn a_node_has_the_size_of_its_group_by_number_or_uuid() {
        let sizes = sizes(vec![], vec![json!({"id": 5, "identifier": "U-5", "boxsize_id": 1})]);
        for group in [json!(5), json!("5"), json!("u-5")] {
            assert_eq!(sizes.size_of_node(&node(json!({"group_id": group}))), Some(SizeId(1)));
        }
        assert_eq!(sizes.size_of_node(&node(json!({"group_id": 6, "boxsize_id": 1}))), None);
        assert_eq!(sizes.size_of_node(&node(json!({"boxsize_id": 1}))), Some(SizeId(1)));
    }

    #[test]
    fn a_node_is_known_by_its_resources_only_without_doubt() {
        let offers = vec![offer(1, 2, 4096, 80), offer(2, 4, 8192, 160), offer(3, 4, 8192, 320)];
        let known = sizes(offers.clone(), vec![]);
        assert_eq!(known.size_of_node(&node(json!({"cpu": 2, "ram": 4096, "disk": 80}))), Some(SizeId(1)));
        assert_eq!(known.size_of_node(&node(json!({"cpu": 2, "ram": 4096}))), Some(SizeId(1)));
        assert_eq!(known.size_of_node(&node(json!({"cpu": 4, "ram": 8192, "disk": 320}))), Some(SizeId(3)));
        assert_eq!(known.size_of_node(&node(json!({"cpu": 4, "ram": 8192}))), None);
        assert_eq!(known.size_of_node(&node(json!({"cpu": 2, "ram": 4000}))), None);
        assert_eq!(known.size_of_node(&node(json!({"cpu": 2}))), None);
        let retired =
            sizes(offers, vec![json!({"id": 5, "boxsize_id": 9, "cpu": 2, "ram": 4096, "ssd": 80})]);
        assert_eq!(retired.size_of_node(&node(json!({"cpu": 2, "ram": 4096, "disk": 80}))), None);
    }
}
