//! Plans for VMs, by datacenter and image (docs/reference/vpsie-api.md#plans).

use std::collections::{BTreeMap, BTreeSet};

use super::group::VmGroup;
use crate::catalog::{DatacenterId, MachineClass, Offer, SizeId};
use crate::fleet::NodeGroupName;
use crate::vpsie::client::Client;
use crate::vpsie::error::{ApiError, ErrorKind};
use crate::vpsie::wire::PlanCategory;

/// An image in a datacenter, for which plans are read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PlanPlace {
    pub(super) datacenter: DatacenterId,
    pub(super) image: String,
}

/// A plan in a datacenter.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) offer: Offer,
    /// Whether its VMs share memory (category A).
    pub(super) shares_memory: bool,
}

/// The places of the groups, each with whether a group there allows shared memory.
pub(super) fn places(groups: &BTreeMap<NodeGroupName, VmGroup>) -> BTreeMap<PlanPlace, bool> {
    let mut places = BTreeMap::new();
    for group in groups.values() {
        for (datacenter, place) in &group.places {
            let place = PlanPlace { datacenter: datacenter.clone(), image: place.image.clone() };
            *places.entry(place).or_default() |= group.allow_shared_memory;
        }
    }
    places
}

/// Plans of earlier replies.
#[derive(Default)]
pub(super) struct Plans(BTreeMap<PlanPlace, Vec<Plan>>);

impl Plans {
    /// Replaces the plans of a place. Known plans that an incomplete listing lacks are kept.
    pub(super) fn set(&mut self, place: PlanPlace, mut plans: Vec<Plan>, whole: bool) {
        if !whole {
            let listed: BTreeSet<SizeId> = plans.iter().map(|plan| plan.offer.size).collect();
            let known = self.0.remove(&place).unwrap_or_default();
            plans.extend(known.into_iter().filter(|plan| !listed.contains(&plan.offer.size)));
        }
        self.0.insert(place, plans);
    }

    pub(super) fn forget(&mut self, place: &PlanPlace) {
        self.0.remove(place);
    }

    /// The plan of a class with an image. Of several with one name, one without shared memory.
    pub(super) fn find(&self, place: &PlanPlace, class: &MachineClass) -> Option<&Plan> {
        let plans = self.0.get(place)?.iter().filter(|plan| plan.offer.size == class.size);
        plans.min_by_key(|plan| plan.shares_memory)
    }

    /// The size of the plan with the identifier.
    pub(super) fn size_of(&self, identifier: &str) -> Option<SizeId> {
        let has_it = |plan: &&Plan| {
            plan.offer.identifier.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(identifier))
        };
        self.0.values().flatten().find(has_it).map(|plan| plan.offer.size)
    }

    /// The offers of the places: one for each plan name in each datacenter. A plan with shared memory is an
    /// offer only where a group allows it.
    pub(super) fn offers(&self, places: &BTreeMap<PlanPlace, bool>) -> Vec<Offer> {
        let mut offers: BTreeMap<MachineClass, &Plan> = BTreeMap::new();
        for (place, allows_shared) in places {
            let plans = self.0.get(place).into_iter().flatten();
            for plan in plans.filter(|plan| *allows_shared || !plan.shares_memory) {
                let offer = offers.entry(plan.offer.class()).or_insert(plan);
                if offer.shares_memory && !plan.shares_memory {
                    *offer = plan;
                }
            }
        }
        offers.into_values().map(|plan| plan.offer.clone()).collect()
    }
}

/// The categories of plans. None: VPSie does not list them.
pub(super) async fn read_categories(client: &Client) -> Result<Option<Vec<PlanCategory>>, ApiError> {
    match client.list_plan_categories().await {
        Ok(categories) if !categories.is_empty() => Ok(Some(categories)),
        Ok(_) => Ok(None),
        Err(error) => match error.kind {
            ErrorKind::NotFound
            | ErrorKind::WrongServer
            | ErrorKind::BadConfiguration
            | ErrorKind::Refused
            | ErrorKind::Forbidden => {
                tracing::warn!(
                    error = error.message,
                    "cannot list the categories of plans: plans with shared memory are not recognized"
                );
                Ok(None)
            }
            ErrorKind::Unauthenticated
            | ErrorKind::Quota
            | ErrorKind::Shortage
            | ErrorKind::PasswordRefused
            | ErrorKind::RateLimited
            | ErrorKind::NotSent
            | ErrorKind::NotAdmitted
            | ErrorKind::Unclear => Err(error),
        },
    }
}

/// Reads the plans of a place, with a call for each category. Returns whether they are complete.
pub(super) async fn read_plans(
    client: &Client,
    place: &PlanPlace,
    categories: Option<&[PlanCategory]>,
    allows_shared: bool,
) -> Result<(Vec<Plan>, bool), ApiError> {
    let Some(categories) = categories else {
        let listed = client.list_plans(&place.datacenter, &place.image, None).await?;
        let plans = listed.rows.into_iter().map(|offer| Plan { offer, shares_memory: false });
        return Ok((plans.collect(), listed.whole));
    };
    let mut plans = Vec::new();
    let mut whole = true;
    for category in categories.iter().filter(|category| allows_shared || !category.shares_memory()) {
        let listed = client.list_plans(&place.datacenter, &place.image, Some(&category.id)).await?;
        whole &= listed.whole;
        let shares_memory = category.shares_memory();
        plans.extend(listed.rows.into_iter().map(|offer| Plan { offer, shares_memory }));
    }
    Ok((plans, whole))
}
