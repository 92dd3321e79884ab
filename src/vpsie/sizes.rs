//! Sizes of VPSie groups and of nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::wire::{Group, Node};
use crate::catalog::{DatacenterId, Offer, SizeId};

/// Known sizes: offers, groups of the cluster, and sizes learned from the creation of groups.
///
/// A group has a `boxsize_id`. It is probably the `KubeSizeID` of the group's creation, but that is not
/// proven (docs/reference/vpsie-api.md#offers). So it does not count if the resources of group and offer
/// differ, and it determines the size of a node only if they are equal.
#[derive(Default)]
pub(super) struct Sizes {
    offers: Vec<Offer>,
    groups: Vec<Group>,
    /// Sizes of groups by id, learned from their creation.
    learned: BTreeMap<u64, SizeId>,
}

impl Sizes {
    pub(super) fn set_offers(&mut self, offers: Vec<Offer>) {
        self.offers = offers;
    }

    /// Known offers of the datacenter that are not in `listed`.
    pub(super) fn other_offers(&self, datacenter: &DatacenterId, listed: &[Offer]) -> Vec<Offer> {
        let is_other = |offer: &&Offer| {
            offer.datacenter == *datacenter && listed.iter().all(|listed| listed.size != offer.size)
        };
        self.offers.iter().filter(is_other).cloned().collect()
    }

    /// Adds groups to the known ones, or replaces them.
    pub(super) fn add_groups(&mut self, groups: Vec<Group>) {
        self.groups.retain(|known| groups.iter().all(|group| group.id != known.id));
        self.groups.extend(groups);
    }

    pub(super) fn set_groups(&mut self, groups: Vec<Group>) {
        self.learned.retain(|id, _| groups.iter().any(|group| group.id == *id));
        self.groups = groups;
    }

    pub(super) fn forget_groups(&mut self) {
        self.groups.clear();
    }

    /// Ids of the known groups, to recognize a new one later.
    pub(super) fn group_ids(&self) -> BTreeSet<u64> {
        self.groups.iter().map(|group| group.id).collect()
    }

    pub(super) fn knows_group(&self, reference: &str) -> bool {
        self.group_named(reference).is_some()
    }

    /// The group of a size, the newest one of several.
    pub(super) fn group_for(&self, size: SizeId) -> Option<u64> {
        let groups = self.groups.iter().filter(|group| self.may_have(group, size));
        groups.map(|group| group.id).max()
    }

    /// Learns the group that was created for the size: a group with this name that is not in `before`.
    pub(super) fn learn_created(&mut self, size: SizeId, name: &str, before: &BTreeSet<u64>) -> Option<u64> {
        let created = self.groups.iter().filter(|group| group.name == name && !before.contains(&group.id));
        let id = created.map(|group| group.id).max()?;
        self.learned.insert(id, size);
        Some(id)
    }

    /// Learns the existing group of the size from VPSie's refusal of a second one: `Group <name> has same
    /// selected Size` (docs/reference/vpsie-api.md#refusals). It is unknown whether that is the name of the
    /// existing group or of the requested one (`requested`), so resources and our naming scheme take
    /// precedence.
    pub(super) fn learn_from_refusal(&mut self, size: SizeId, requested: &str, message: &str) -> Option<u64> {
        let message = message.to_lowercase();
        let suffix = group_name("", size);
        let of_another_size = |group: &Group| self.learned.get(&group.id).is_some_and(|known| *known != size);
        let free: Vec<&Group> = self.groups.iter().filter(|group| !of_another_size(group)).collect();
        let offer = self.offer(size);
        let only = |test: &dyn Fn(&Group) -> bool| {
            let mut passed = free.iter().filter(|group| test(group));
            passed.next().filter(|_| passed.next().is_none()).map(|group| group.id)
        };
        let fits =
            |group: &Group| group.shape.is_known() && offer.is_some_and(|offer| group.shape.fits(offer));
        let may_fit = |group: &Group| offer.is_none_or(|offer| group.shape.fits(offer));
        let says =
            |group: &Group| message.contains(&format!("group {} has", group.name.trim().to_lowercase()));
        let id = only(&fits)
            .or_else(|| only(&|group| may_fit(group) && group.name.ends_with(&suffix)))
            .or_else(|| only(&|group| may_fit(group) && group.name != requested && says(group)))?;
        self.learned.insert(id, size);
        Some(id)
    }

    /// The size of a node, if it is certain.
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

    /// Sizes that a node of uncertain size cannot have, by its resources. Empty if not all of its resources
    /// are known, or if they fit no offer, because VPSie may report them in another form.
    pub(super) fn excluded_by(&self, node: &Node) -> BTreeSet<SizeId> {
        let fits = |offer: &&Offer| node.shape.fits(offer);
        if !node.shape.is_whole()
            || self.size_of_node(node).is_some()
            || !self.offers.iter().any(|o| fits(&o))
        {
            return BTreeSet::new();
        }
        self.offers.iter().filter(|offer| !fits(offer)).map(|offer| offer.size).collect()
    }

    fn size_by_shape(&self, node: &Node) -> Option<SizeId> {
        if !node.shape.is_known() {
            return None;
        }
        let offers = self.offers.iter().filter(|offer| node.shape.fits(offer)).map(|offer| offer.size);
        let groups = self.groups.iter().filter(|group| group.shape.may_be(&node.shape));
        // A similar group of uncertain size makes the size of the node uncertain.
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

    /// Whether the group may be that of the size.
    fn may_have(&self, group: &Group, size: SizeId) -> bool {
        match self.learned.get(&group.id) {
            Some(learned) => *learned == size,
            None => {
                group.box_size == Some(size.0) && self.offer(size).is_none_or(|offer| group.shape.fits(offer))
            }
        }
    }

    /// The size of a group, if it is certain.
    fn size_of_group(&self, group: &Group) -> Option<SizeId> {
        self.learned.get(&group.id).copied().or_else(|| {
            let offer = self.offer(SizeId(group.box_size?))?;
            (group.shape.is_known() && group.shape.fits(offer)).then_some(offer.size)
        })
    }

    fn offer(&self, size: SizeId) -> Option<&Offer> {
        self.offers.iter().find(|offer| offer.size == size)
    }
}

/// Name of a group that this program creates. It contains the size, for users and for later starts.
pub(super) fn group_name(label: &str, size: SizeId) -> String {
    format!("{label}-{size}")
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
        wire::read_offers(Row(&row), &"dc".into()).unwrap().remove(0)
    }

    fn group(row: Value) -> Group {
        Group::read(Row(&map(row))).unwrap()
    }

    fn node(mut row: Value) -> Node {
        row["hostname"] = "x".into();
        wire::read_nodes(&map(json!({"slaves": [row]})), &wire::InterruptionFields::default())
            .unwrap()
            .nodes
            .remove(0)
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
    fn prefers_learned_sizes_until_the_group_is_gone() {
        let mut sizes = sizes(vec![], vec![json!({"id": 5, "group_name": "a", "boxsize_id": 99})]);
        assert_eq!(sizes.learn_created(SizeId(1), "a", &BTreeSet::from([5])), None);
        assert_eq!(sizes.learn_created(SizeId(1), "a", &BTreeSet::new()), Some(5));
        assert_eq!((sizes.group_for(SizeId(1)), sizes.group_for(SizeId(99))), (Some(5), None));
        sizes.set_groups(vec![]);
        assert_eq!(sizes.learned.len(), 0);
    }

    fn learn(offers: Vec<Offer>, groups: Vec<Value>, words: &str) -> Option<u64> {
        let words = format!("Group {words} has same selected Size, please select another size");
        sizes(offers, groups).learn_from_refusal(SizeId(1), "mine-1", &words)
    }

    #[test]
    fn a_refusal_leads_to_the_only_group_of_these_resources() {
        let groups = vec![
            json!({"id": 5, "group_name": "a", "cpu": 2, "ram": 4096}),
            json!({"id": 6, "group_name": "b", "cpu": 4, "ram": 8192}),
        ];
        assert_eq!(learn(vec![offer(1, 2, 4096, 80)], groups.clone(), "mine-1"), Some(5));
        assert_eq!(learn(vec![offer(1, 2, 4000, 80)], groups.clone(), "a"), None);
        assert_eq!(learn(vec![], groups, "mine-1"), None);
    }

    #[test]
    fn a_refusal_leads_to_the_group_that_we_named_after_the_size() {
        let groups = vec![
            json!({"id": 5, "group_name": "theirs-1", "cpu": 2, "ram": 4096}),
            json!({"id": 6, "group_name": "theirs-2", "cpu": 2, "ram": 4096}),
        ];
        assert_eq!(learn(vec![offer(1, 2, 4096, 80)], groups, "mine-1"), Some(5));
    }

    #[test]
    fn a_refusal_leads_to_the_group_that_it_names() {
        let groups = vec![json!({"id": 5, "group_name": "one"}), json!({"id": 6, "group_name": "big one"})];
        assert_eq!(learn(vec![], groups.clone(), "Big One"), Some(6));
        assert_eq!(learn(vec![], groups, "mine-1"), None);
    }

    #[test]
    fn a_node_has_the_size_of_its_group_by_number_or_uuid() {
        let groups = vec![json!({"id": 5, "identifier": "U-5", "boxsize_id": 1, "cpu": 2, "ram": 4096})];
        let known = sizes(vec![offer(1, 2, 4096, 80)], groups.clone());
        for group in [json!(5), json!("5"), json!("u-5")] {
            assert_eq!(known.size_of_node(&node(json!({"group_id": group}))), Some(SizeId(1)));
        }
        assert_eq!(known.size_of_node(&node(json!({"group_id": 6, "boxsize_id": 1}))), None);
        assert_eq!(known.size_of_node(&node(json!({"boxsize_id": 1}))), Some(SizeId(1)));
        assert_eq!(sizes(vec![], groups).size_of_node(&node(json!({"group_id": 5}))), None);
    }

    #[test]
    fn a_box_size_without_a_fitting_offer_determines_no_size() {
        let group = |box_size, cpu| json!({"id": 5, "boxsize_id": box_size, "cpu": cpu, "ram": 4096});
        for row in [group(9, 2), group(1, 4), json!({"id": 5, "boxsize_id": 1})] {
            let known = sizes(vec![offer(1, 2, 4096, 80)], vec![row]);
            assert_eq!(known.size_of_node(&node(json!({"group_id": 5}))), None);
        }
    }

    #[test]
    fn a_node_is_known_by_its_resources_only_without_doubt() {
        let offers = vec![offer(1, 2, 4096, 80), offer(2, 4, 8192, 160), offer(3, 4, 8192, 320)];
        let known = sizes(offers.clone(), vec![]);
        assert_eq!(known.size_of_node(&node(json!({"cpu": 2, "ram": 4096, "disk": 80}))), Some(SizeId(1)));
        assert_eq!(known.size_of_node(&node(json!({"cpu": 2, "ram": 4096}))), Some(SizeId(1)));
        assert_eq!(known.size_of_node(&node(json!({"cpu": 4, "ram": 8192, "disk": 320}))), Some(SizeId(3)));
        let ambiguous = node(json!({"cpu": 4, "ram": 8192}));
        assert_eq!(known.size_of_node(&ambiguous), None);
        for doubtful in [ambiguous, node(json!({"cpu": 4, "ram": 8000, "disk": 160}))] {
            assert_eq!(known.excluded_by(&doubtful), BTreeSet::new());
        }
        assert_eq!(known.size_of_node(&node(json!({"cpu": 2, "ram": 4000}))), None);
        assert_eq!(known.size_of_node(&node(json!({"cpu": 2}))), None);
        let retired =
            sizes(offers, vec![json!({"id": 5, "boxsize_id": 9, "cpu": 2, "ram": 4096, "ssd": 80})]);
        let alike = node(json!({"cpu": 2, "ram": 4096, "disk": 80}));
        assert_eq!(retired.size_of_node(&alike), None);
        assert_eq!(retired.excluded_by(&alike), BTreeSet::from([SizeId(2), SizeId(3)]));
    }
}
