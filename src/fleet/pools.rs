//! Pools, derived from the declarations, the catalog and the machines.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::group::NodeGroup;
use super::ids::{NodeGroupName, PoolId};
use super::size_profile::{NodeShape, Sample};
use super::state::{Fleet, Pool};
use super::template::{node_labels, template};
use crate::catalog::{
    CapacityType, DEFAULT_MAX_PODS, MachineClass, Offer, Resources, SizeId, is_capacity_type_label,
};
use crate::cost::{Rates, UsdPerHour};

impl Fleet {
    /// Derives the pools from the declarations, the catalog and the machines.
    pub(super) fn derive_pools(&mut self) {
        let mut ids: BTreeMap<PoolId, Option<SizeId>> = BTreeMap::new();
        for machine in self.machines.values() {
            ids.insert(machine.pool.clone(), Some(machine.size));
        }
        for group in self.groups.values() {
            for id in &group.pools {
                ids.entry(id.clone()).or_default();
            }
        }
        let is_spot = |id: &&PoolId| id.capacity_type == CapacityType::Spot;
        let has_spot_offer = |group: &&NodeGroup| {
            group.spot.is_some() && group.pools.iter().filter(is_spot).any(|id| self.find_offer(id).is_some())
        };
        self.spot_groups =
            self.groups.values().filter(has_spot_offer).map(|group| group.name.clone()).collect();
        let old = std::mem::take(&mut self.pools);
        for (id, size) in ids {
            let text: Arc<str> = id.to_string().into();
            let mut pool = self.derive_pool(&id, text.clone(), size);
            let known = pool.growable || size.is_some() || old.contains_key(&text);
            if let Some(was) = old.get(&text) {
                pool.members.clone_from(&was.members);
                pool.target = was.target;
                if !pool.growable {
                    pool.offer = was.offer.clone();
                    pool.price = was.price;
                }
                if *was.template == *pool.template {
                    pool.template = Arc::clone(&was.template);
                }
            }
            // A declared pool exists from when its offer is first known.
            if known {
                self.pools.insert(text, pool);
            }
        }
        self.group_costs = self.costs();
        self.derive_datacenters();
        let priced = self.pools.values().filter_map(|pool| Some((pool.offer.resources, pool.price?)));
        self.rates = Rates::marginal(priced).unwrap_or_default();
    }

    pub(super) fn costs(&self) -> HashMap<NodeGroupName, UsdPerHour> {
        let mut costs: HashMap<NodeGroupName, UsdPerHour> = HashMap::new();
        for pool in self.pools.values() {
            let cost = costs.entry(pool.id.node_group.clone()).or_default();
            *cost = *cost + pool.price.unwrap_or_default() * pool.target;
        }
        costs
    }

    /// The offer of a declared pool, if the catalog has it.
    fn find_offer(&self, id: &PoolId) -> Option<&Offer> {
        let catalog = self.catalog.as_ref()?;
        match self.groups.get(&id.node_group).and_then(|group| group.size) {
            Some(size) => catalog.offers.iter().find(|o| o.class() == id.class(size)),
            None => catalog.resolve(&id.datacenter, &id.offer, id.capacity_type),
        }
    }

    /// Labels that vpsie-autoscaler sets on every Node of the pool.
    pub fn node_labels(&self, pool: &Pool) -> BTreeMap<String, String> {
        node_labels(self.group(pool), &pool.id, &pool.offer, self.has_spot_offer(&pool.id.node_group))
    }

    /// Whether the catalog has the offer of one of the NodeGroup's spot pools.
    pub(super) fn has_spot_offer(&self, group: &NodeGroupName) -> bool {
        self.spot_groups.contains(group)
    }

    pub(super) fn derive_pool(&self, id: &PoolId, text: Arc<str>, machines: Option<SizeId>) -> Pool {
        let group = self.groups.get(&id.node_group);
        let offered = self.find_offer(id);
        let offer = offered.cloned().unwrap_or_else(|| self.remembered_offer(id, machines));
        let mut profile = self.expected_shape(offer.size, &id.node_group);
        if let Some(shape) = profile.as_mut().filter(|_| self.has_spot_offer(&id.node_group)) {
            // Samples are of Nodes of both capacity types.
            shape.labels.retain(|key, _| !is_capacity_type_label(key));
        }
        if let Some(shape) = profile.as_mut().filter(|_| group.is_some_and(|g| g.distribution.is_some())) {
            // Samples are of Nodes of all datacenters, and labels of other programs can name the datacenter.
            shape.labels.clear();
        }
        let nodes = self.sampled_shapes(offer.size, &id.node_group);
        let position = group.and_then(|group| group.pools.iter().position(|pool| pool == id));
        Pool {
            position: position.map(|position| position as u32),
            growable: offered.is_some() && position.is_some() && group.is_some_and(|g| g.deletion.is_none()),
            template: Arc::new(template(
                group,
                &node_labels(group, id, &offer, self.has_spot_offer(&id.node_group)),
                id,
                &offer,
                profile,
                &nodes,
                self.settings.reserved,
            )),
            price: self.settings.prices.price(&offer),
            id: id.clone(),
            text,
            offer,
            members: BTreeSet::new(),
            target: 0,
        }
    }

    /// The expected shape of a Node of the NodeGroup with that size. None if it is unknown.
    fn expected_shape(&self, size: SizeId, group: &NodeGroupName) -> Option<NodeShape> {
        let profile = self.profiles.get(&size)?;
        let counts = |sample: &Sample| self.relearn(&sample.node_group) == sample.relearn.as_ref();
        let earlier = || profile.earlier().filter(|_| self.relearn(group).is_none());
        profile.shape(group, counts).or_else(earlier)
    }

    /// Samples of the last Nodes of the NodeGroup with that size.
    pub(super) fn sampled_shapes(&self, size: SizeId, group: &NodeGroupName) -> Vec<&NodeShape> {
        let anew = self.relearn(group);
        let nodes = self.profiles.get(&size).map(|profile| &profile.nodes);
        let own = nodes
            .into_iter()
            .flatten()
            .filter(|sample| sample.node_group == *group && sample.relearn.as_ref() == anew);
        own.map(|sample| &sample.shape).collect()
    }

    pub(super) fn relearn(&self, group: &NodeGroupName) -> Option<&String> {
        self.groups.get(group).and_then(|group| group.node.relearn.as_ref())
    }

    /// An offer that the catalog does not have, with known or assumed resources: a template must not be
    /// empty.
    fn remembered_offer(&self, id: &PoolId, size: Option<SizeId>) -> Offer {
        // A spot offer that the catalog lacks costs no more than on demand.
        let on_demand = MachineClass {
            datacenter: id.datacenter.clone(),
            size: size.unwrap_or(SizeId::UNKNOWN),
            capacity_type: CapacityType::OnDemand,
        };
        let twin = self.catalog.iter().flat_map(|catalog| &catalog.offers).find(|o| o.class() == on_demand);
        if let Some(twin) = twin.filter(|_| id.capacity_type == CapacityType::Spot) {
            return Offer { capacity_type: CapacityType::Spot, ..twin.clone() };
        }
        let profile = size.and_then(|size| self.profiles.get(&size));
        let smallest = Resources { cpu_millis: 1000, memory_mib: 1024, disk_gib: 10, pods: DEFAULT_MAX_PODS };
        Offer {
            size: size.unwrap_or(SizeId::UNKNOWN),
            name: id.offer.to_string(),
            identifier: None,
            datacenter: id.datacenter.clone(),
            capacity_type: id.capacity_type,
            resources: profile.map_or(smallest, |profile| profile.capacity),
            monthly: None,
            hourly: None,
        }
    }
}
