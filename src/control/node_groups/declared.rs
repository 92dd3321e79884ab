//! The declarations of all NodeGroups and the AutoscalerConfig. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::watched::Watched;
use crate::api::{AutoscalerConfig, NodeGroup};
use crate::cost::CostLimit;
use crate::fleet::{Binding, Declaration, DeletionPolicy, NodeGroupName, SpotDefaults, names};
use crate::validation::{CheckedNodeGroup, Problem, Product, SelfManagedGroup, check_node_group};
use crate::vpsie::{CommonField, ManagedConfig};

/// Declarations in force, and problems of NodeGroups.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Declarations {
    /// The NodeGroups in force, by name. An invalid NodeGroup stays in force in its last valid version.
    pub(super) groups: BTreeMap<String, CheckedNodeGroup>,
    /// Problems of the present versions of NodeGroups, by name.
    pub(super) invalid: BTreeMap<String, InvalidGroup>,
    /// The cluster and datacenter of all NodeGroups.
    pub(super) served: Option<ManagedConfig>,
    limits: ConfigLimits,
}

/// A NodeGroup whose present version is not in force.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct InvalidGroup {
    /// Whether this version cannot read it.
    pub(super) unreadable: bool,
    /// The problem.
    pub(super) message: String,
    /// Whether an earlier version is in force.
    pub(super) has_earlier: bool,
}

/// The known state of the AutoscalerConfig.
#[derive(Clone, Copy, Debug)]
pub(super) enum ObservedConfig<'a> {
    /// There is none.
    None,
    /// It is in force.
    InForce(&'a AutoscalerConfig),
    /// It was never read, for this reason.
    Unknown(&'a str),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ConfigLimits {
    max_machines: Option<u32>,
    cost: CostLimit,
    create_timeout: Option<Duration>,
    /// The reason, if the other limits are unknown.
    unknown: Option<String>,
}

impl Declarations {
    /// Returns the next declarations. `recorded` is the cluster of existing machines, which cannot change. `spot` applies
    /// to NodeGroups that set nothing. NodeGroups of a product with another `binding` are refused.
    pub(super) fn next(
        &self,
        seen: &Watched<NodeGroup>,
        config: ObservedConfig<'_>,
        recorded: Option<&ManagedConfig>,
        spot: SpotDefaults,
        binding: Binding,
    ) -> Self {
        let mut objects: Vec<&NodeGroup> = seen.objects.values().filter(|object| is_ours(object)).collect();
        objects.sort_by_key(|object| {
            let made = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (made, object.metadata.name.clone())
        });
        let mut next = Self { limits: limits(config), ..Self::default() };
        let mut checked = Vec::new();
        for object in objects {
            let name = object.metadata.name.clone().unwrap_or_default();
            match check_node_group(object, spot) {
                Ok(group) => checked.push((name, group)),
                Err(problems) => {
                    if let Some(last) = self.groups.get(&name) {
                        next.groups.insert(name.clone(), last.clone());
                    }
                    next.refuse(name, false, sentences(&problems.0));
                }
            }
        }
        let is_named = |served: &&ManagedConfig| {
            let known = checked.iter().map(|(_, group)| group).chain(next.groups.values());
            known.into_iter().any(|group| group.product.managed() == Some(*served))
        };
        let kept = self.served.as_ref().filter(is_named);
        next.served = recorded
            .or(kept)
            .cloned()
            .or_else(|| checked.iter().find_map(|(_, group)| group.product.managed().cloned()));
        for (name, group) in checked {
            match next.describe_difference(&group.product, binding) {
                None => drop(next.groups.insert(name, group)),
                Some(message) => next.refuse(name, false, message),
            }
        }
        for (name, object) in seen.unreadable.iter().filter(|(_, object)| is_managed(&object.meta)) {
            // The deletion policy may be unreadable, so an earlier one must not drain machines.
            if let Some(deletion) = next.groups.get_mut(name).and_then(|last| last.group.deletion.as_mut()) {
                *deletion = DeletionPolicy::WhenEmpty;
            }
            next.refuse(
                name.clone(),
                true,
                format!("this version cannot read the NodeGroup: {}", object.error),
            );
        }
        for (name, invalid) in &mut next.invalid {
            invalid.has_earlier = next.groups.contains_key(name);
        }
        next
    }

    fn refuse(&mut self, name: String, unreadable: bool, message: String) {
        self.invalid.insert(name, InvalidGroup { unreadable, message, has_earlier: false });
    }

    /// Why a NodeGroup cannot be served with the others.
    fn describe_difference(&self, product: &Product, binding: Binding) -> Option<String> {
        match (product, binding) {
            (Product::Managed(_), Binding::ByName) => Some(
                "spec.resourceIdentifier: is for managed clusters, but this vpsie-autoscaler serves plain VMs \
                 (--backend=vm): use spec.selfManaged, or --backend=managed"
                    .to_owned(),
            ),
            (Product::SelfManaged(_), Binding::ByDifference) => Some(
                "spec.selfManaged: is for plain VMs, but this vpsie-autoscaler serves a managed cluster \
                 (--backend=managed): use spec.resourceIdentifier, or --backend=vm"
                    .to_owned(),
            ),
            (Product::SelfManaged(_), Binding::ByName) => None,
            (Product::Managed(managed), Binding::ByDifference) => {
                self.served.as_ref().and_then(|served| describe_managed_difference(managed, served))
            }
        }
    }

    /// The plain VMs of the NodeGroups in force.
    pub(super) fn self_managed(&self) -> BTreeMap<NodeGroupName, SelfManagedGroup> {
        let own = |(name, checked): (&String, &CheckedNodeGroup)| {
            Some((name.as_str().into(), checked.product.self_managed()?.clone()))
        };
        self.groups.iter().filter_map(own).collect()
    }

    /// The limits that the AutoscalerConfig sets, as one sentence.
    pub(super) fn describe_limits(&self) -> String {
        let ConfigLimits { max_machines, cost, create_timeout, unknown: _ } = &self.limits;
        let limits = [
            max_machines.map(|max| format!("at most {max} machines in all NodeGroups")),
            cost.hourly.map(|usd| format!("at most {} USD per hour", usd.0.normalize())),
            cost.monthly.map(|usd| format!("at most {} USD per month", usd.0.normalize())),
            create_timeout.map(|timeout| format!("create timeout {} s", timeout.as_secs())),
        ];
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        if limits.is_empty() {
            return "in force; it sets no limit, so those of the flags apply".to_owned();
        }
        format!("in force: {}; limits of the flags apply as well", limits.join(", "))
    }

    /// The reason, if the limits of the AutoscalerConfig are unknown. NodeGroups cannot grow then.
    pub(super) fn limits_unknown(&self) -> Option<&str> {
        self.limits.unknown.as_deref()
    }

    /// The declaration for the fleet.
    pub(super) fn declaration(&self) -> Declaration {
        Declaration {
            groups: self.groups.values().map(|checked| checked.group.clone()).collect(),
            max_machines: self.limits.max_machines,
            cost_limit: self.limits.cost,
            create_timeout: self.limits.create_timeout,
            limits_unknown: self.limits.unknown.as_deref().map(Into::into),
            without_spec: self.names_without_spec().map(|name| name.as_str().into()).collect(),
        }
    }

    /// Names of the NodeGroups without a valid version.
    fn names_without_spec(&self) -> impl Iterator<Item = &String> {
        self.invalid.iter().filter(|(_, invalid)| !invalid.has_earlier).map(|(name, _)| name)
    }
}

fn is_ours(object: &NodeGroup) -> bool {
    is_managed(&object.metadata)
}

/// As in files: all objects without the label `managed=false`.
fn is_managed(meta: &ObjectMeta) -> bool {
    let labels = meta.labels.as_ref();
    labels.and_then(|labels| labels.get(names::MANAGED)).is_none_or(|managed| managed != "false")
}

/// Why the NodeGroup cannot be served with the others of its managed cluster.
fn describe_managed_difference(managed: &ManagedConfig, others: &ManagedConfig) -> Option<String> {
    let CommonField { path, reason, value } = managed.difference(others)?;
    let (actual, expected) = (value(managed), value(others));
    Some(format!("{path}: is {actual:?}, must be {expected:?} as for the other NodeGroups: {reason}"))
}

fn sentences(problems: &[Problem]) -> String {
    let sentence = |problem: &Problem| format!("{}: {}", problem.field, problem.message);
    problems.iter().map(sentence).collect::<Vec<_>>().join("; ")
}

fn limits(config: ObservedConfig<'_>) -> ConfigLimits {
    let unknown = |why: &str| ConfigLimits { unknown: Some(why.to_owned()), ..ConfigLimits::default() };
    let config = match config {
        ObservedConfig::None => return ConfigLimits::default(),
        ObservedConfig::InForce(config) => config,
        ObservedConfig::Unknown(why) => return unknown(why),
    };
    let Some(settings) = &config.spec.global_settings else { return ConfigLimits::default() };
    let number = |value: Option<i32>| value.map(u32::try_from).transpose();
    let (Ok(max_machines), Ok(timeout)) =
        (number(settings.max_cluster_workers), number(settings.node_ready_timeout_seconds))
    else {
        return unknown("a number of its globalSettings is below 0");
    };
    ConfigLimits {
        max_machines,
        cost: settings.cost_limit.as_ref().map(Into::into).unwrap_or_default(),
        create_timeout: timeout.map(|seconds| Duration::from_secs(seconds.into())),
        unknown: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::catalog::CapacityType;

    fn object(name: &str, more: &Value) -> NodeGroup {
        let mut spec = json!({
            "minNodes": 0, "maxNodes": 3, "datacenterID": "ams1", "resourceIdentifier": "c-1",
            "offeringIDs": ["small"],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup",
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec,
        }))
        .unwrap()
    }

    fn seen<'a>(objects: impl IntoIterator<Item = &'a NodeGroup>) -> Watched<NodeGroup> {
        let named = |object: &NodeGroup| (object.metadata.name.clone().unwrap(), object.clone());
        let mut seen = Watched::default();
        seen.objects.extend(objects.into_iter().map(named));
        seen
    }

    fn next(
        declared: &Declarations,
        objects: &[&NodeGroup],
        config: Option<&AutoscalerConfig>,
        recorded: Option<&ManagedConfig>,
    ) -> Declarations {
        let config = config.map_or(ObservedConfig::None, ObservedConfig::InForce);
        let seen = seen(objects.iter().copied());
        declared.next(&seen, config, recorded, SpotDefaults::default(), Binding::ByDifference)
    }

    fn max_of(declared: &Declarations, name: &str) -> u32 {
        declared.groups[name].group.max
    }

    #[test]
    fn an_invalid_node_group_stays_in_force_in_its_last_version() {
        let first = next(&Declarations::default(), &[&object("a", &json!({}))], None, None);
        assert_eq!((max_of(&first, "a"), first.invalid.len()), (3, 0));
        let invalid = [object("a", &json!({"minNodes": 9})), object("b", &json!({"minNodes": 9}))];
        let second = next(&first, &invalid.iter().collect::<Vec<_>>(), None, None);
        assert_eq!((max_of(&second, "a"), second.groups.len(), second.invalid.len()), (3, 1, 2));
        assert_eq!(second.invalid["a"].message, "spec.minNodes: is 9, must be at most maxNodes, which is 3");
        let third = next(&second, &[&object("a", &json!({"maxNodes": 5}))], None, None);
        assert_eq!((max_of(&third, "a"), third.invalid.len()), (5, 0));
        assert_eq!(next(&third, &[], None, None), Declarations::default());
    }

    #[test]
    fn all_are_of_one_cluster_and_datacenter() {
        let other = object("a", &json!({"resourceIdentifier": "c-2"}));
        let elsewhere = object("c", &json!({"datacenterID": "fra1"}));
        let mut first = object("b", &json!({}));
        first.metadata.creation_timestamp =
            Some("2025-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().into());
        let declared = next(&Declarations::default(), &[&other, &first, &elsewhere], None, None);
        assert_eq!(declared.groups.keys().collect::<Vec<_>>(), ["b"], "the oldest decides");
        assert!(declared.invalid["a"].message.contains("must be \"c-1\""), "{:?}", declared.invalid);
        assert!(declared.invalid["c"].message.contains("must be \"ams1\""), "{:?}", declared.invalid);
        let gone = next(&declared, &[&other], None, None);
        assert_eq!(gone.served.as_ref().unwrap().cluster.as_str(), "c-2", "nothing holds the first any more");
        let recorded = next(&declared, &[&other], None, declared.served.as_ref());
        assert_eq!((recorded.groups.len(), recorded.served == declared.served), (0, true), "machines do");
    }

    #[test]
    fn an_unmanaged_node_group_is_ignored() {
        let mut left = object("a", &json!({}));
        left.metadata.labels = Some([(names::MANAGED.to_owned(), "false".to_owned())].into());
        assert_eq!(next(&Declarations::default(), &[&left], None, None), Declarations::default());
    }

    #[test]
    fn spot_defaults_apply_to_node_groups_that_set_nothing() {
        let hour = Duration::from_hours(1);
        let spot = |enabled, config: &Value| {
            let config = if config.is_null() { json!({}) } else { json!({ "spotConfig": config }) };
            let defaults = SpotDefaults { enabled, grace_period: hour };
            let group = object("a", &config);
            let next = Declarations::default().next(
                &seen([&group]),
                ObservedConfig::None,
                None,
                defaults,
                Binding::ByDifference,
            );
            let group = next.groups["a"].group.clone();
            let is_spot = |pool: &&crate::fleet::PoolId| pool.capacity_type == CapacityType::Spot;
            assert_eq!(group.spot.is_some(), group.pools.iter().any(|pool| is_spot(&pool)));
            group.spot.map(|spot| (spot.max_share.percent(), spot.grace_period))
        };
        assert_eq!(spot(false, &Value::Null), None);
        assert_eq!(spot(true, &Value::Null), Some((80, hour)));
        assert_eq!(spot(true, &json!({"maxSpotPercentage": 50})), Some((50, hour)));
        assert_eq!(spot(true, &json!({"enabled": false})), None);
        let own = json!({"enabled": true, "interruptionGracePeriod": "90s"});
        assert_eq!(spot(false, &own), Some((80, Duration::from_secs(90))));
    }

    #[test]
    fn a_deleted_node_group_declares_its_deletion_policy() {
        let mut deleted = object("a", &json!({"deletionPolicy": "Drain"}));
        deleted.metadata.deletion_timestamp = deleted.metadata.creation_timestamp.clone();
        let declared = next(&Declarations::default(), &[&deleted], None, None);
        assert_eq!(declared.declaration().groups[0].deletion, Some(crate::fleet::DeletionPolicy::Drain));
    }

    #[test]
    fn the_config_sets_limits() {
        let config: AutoscalerConfig = serde_json::from_value(json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "AutoscalerConfig", "metadata": {"name": "default"},
            "spec": {"globalSettings": {"maxClusterWorkers": 7, "nodeReadyTimeoutSeconds": 90}},
        }))
        .unwrap();
        let declared = next(&Declarations::default(), &[], Some(&config), None).declaration();
        assert_eq!(
            (declared.max_machines, declared.create_timeout),
            (Some(7), Some(Duration::from_secs(90)))
        );
    }

    #[test]
    fn the_status_names_only_limits_of_the_autoscaler_config() {
        let describe = |settings: &Value| {
            let config: AutoscalerConfig = serde_json::from_value(json!({
                "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "AutoscalerConfig",
                "metadata": {"name": "default"}, "spec": {"globalSettings": settings},
            }))
            .unwrap();
            next(&Declarations::default(), &[], Some(&config), None).describe_limits()
        };
        assert_eq!(describe(&json!({})), "in force; it sets no limit, so those of the flags apply");
        assert_eq!(
            describe(&json!({"maxClusterWorkers": 7, "costLimit": {"hourly": "5.00"}})),
            "in force: at most 7 machines in all NodeGroups, at most 5 USD per hour; limits of the flags apply as well"
        );
    }

    #[test]
    fn limits_that_are_not_known_allow_nothing() {
        let unknown = ObservedConfig::Unknown("no reply");
        let spot = SpotDefaults::default();
        let declared = Declarations::default().next(&seen([]), unknown, None, spot, Binding::ByDifference);
        assert_eq!(declared.declaration().limits_unknown.as_deref(), Some("no reply"));
        let negative: AutoscalerConfig = serde_json::from_value(json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "AutoscalerConfig", "metadata": {"name": "default"},
            "spec": {"globalSettings": {"maxClusterWorkers": -1}},
        }))
        .unwrap();
        assert!(next(&Declarations::default(), &[], Some(&negative), None).limits_unknown().is_some());
    }
}
