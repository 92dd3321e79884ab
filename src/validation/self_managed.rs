//! Checks of `selfManaged` that the schema cannot express, and its conversion.

use std::collections::{BTreeMap, BTreeSet};

use super::problem::Findings;
use super::schema::join;
use super::syntax;
use crate::api;
use crate::catalog::DatacenterId;
use crate::join::{
    CloudController, Credential, JoinConfig, JoinKind, ObjectKey, PayloadTemplate, VariableSource,
};
use crate::vpsie::{Delivery, VmGroup, VmNetwork, VmPlace};

/// Maximum length of the name of such a NodeGroup. Hostnames `<name>-<8 hex digits>-<n>` must be DNS labels.
const NAME_MAX: usize = 52;

/// The plain VMs of a NodeGroup, and their join.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfManagedGroup {
    /// The VMs at VPSie.
    pub vms: VmGroup,
    /// The join of the VMs to the cluster.
    pub join: JoinConfig,
}

impl SelfManagedGroup {
    /// Whether a cloud controller sets `spec.providerID` of its Nodes.
    pub fn has_cloud_controller(&self) -> bool {
        match self.join.cloud_controller {
            CloudController::None => false,
            CloudController::External | CloudController::Embedded => true,
        }
    }
}

/// Checks and converts `selfManaged`. `datacenters` are those of the NodeGroup.
pub(super) fn check(
    spec: &api::NodeGroupSpec,
    own: &api::SelfManaged,
    name: &str,
    datacenters: &[&str],
    findings: &mut Findings,
) -> SelfManagedGroup {
    if name.len() > NAME_MAX {
        findings.add_problem(
            "metadata.name",
            format!(
                "is {} characters long, must be at most {NAME_MAX} with selfManaged: hostnames are made from it",
                name.len()
            ),
        );
    }
    if name.contains('.') {
        findings.add_problem(
            "metadata.name",
            format!("is {name:?}, must have no '.' with selfManaged: hostnames are made from it"),
        );
    }
    if spec.ssh_key_ids.len() > 1 {
        findings.add_problem(
            "spec.sshKeyIDs",
            format!(
                "has {} keys, must have at most one: VPSie accepts one for each VM",
                spec.ssh_key_ids.len()
            ),
        );
    }
    if spec.adopt_existing_workers {
        findings.add_problem(
            "spec.adoptExistingWorkers",
            "must be false with selfManaged: only VMs that vpsie-autoscaler created have its owner marker",
        );
    }
    check_syntax(own, findings);
    check_places("spec.selfManaged.imageIDs", own.image_ids.keys(), datacenters, findings);
    check_places("spec.selfManaged.networks", own.networks.keys(), datacenters, findings);
    SelfManagedGroup {
        vms: VmGroup {
            places: places(spec, own, datacenters, findings),
            project: spec.project.clone(),
            ssh_key: spec.ssh_key_ids.first().cloned(),
            tags: spec.tags.clone(),
            notes: spec.notes.clone(),
            delivery: match own.delivery {
                api::Delivery::Script => Delivery::Script,
                api::Delivery::UserData => Delivery::UserData,
            },
            allow_shared_memory: own.allow_shared_memory,
        },
        join: join_config(spec, own),
    }
}

fn check_syntax(own: &api::SelfManaged, findings: &mut Findings) {
    const FIELD: &str = "spec.selfManaged";
    findings.require(format!("{FIELD}.endpoint"), syntax::endpoint(&own.endpoint));
    if own.join_kind == api::JoinKind::Rke2 && own.endpoint.ends_with(":6443") {
        findings.add_problem(
            format!("{FIELD}.endpoint"),
            format!("is {:?}, must have the port of RKE2's supervisor, 9345 by default", own.endpoint),
        );
    }
    if own.join_kind == api::JoinKind::Custom && own.payload.is_none() {
        findings.add_problem(
            format!("{FIELD}.payload"),
            "is missing: joinKind custom has no built-in template; name the ConfigMap with the template",
        );
    }
    if let Some(payload) = &own.payload {
        check_key(&format!("{FIELD}.payload.configMapKeyRef"), &payload.config_map_key_ref, findings);
    }
    if let Some(shared) = &own.shared_credential {
        check_key(&format!("{FIELD}.sharedCredential"), shared, findings);
    }
    for (datacenter, image) in &own.image_ids {
        findings.require(join(&format!("{FIELD}.imageIDs"), datacenter), syntax::identifier(image));
    }
    for (datacenter, network) in &own.networks {
        let field = join(&format!("{FIELD}.networks"), datacenter);
        for (name, id) in [("vpcID", &network.vpc_id), ("firewallGroupID", &network.firewall_group_id)] {
            if let Some(id) = id {
                findings.require(format!("{field}.{name}"), syntax::identifier(id));
            }
        }
    }
    let mut names = BTreeSet::new();
    for (n, variable) in own.variables.iter().enumerate() {
        let field = format!("{FIELD}.variables[{n}]");
        findings.require(format!("{field}.name"), syntax::variable_name(&variable.name));
        if !names.insert(&variable.name) {
            findings.add_problem(
                format!("{field}.name"),
                format!("is {:?} again, must be listed once", variable.name),
            );
        }
        let sources = [
            variable.value.is_some(),
            variable.config_map_key_ref.is_some(),
            variable.secret_key_ref.is_some(),
        ];
        if sources.into_iter().filter(|set| *set).count() != 1 {
            findings.add_problem(&field, "must have exactly one of value, configMapKeyRef and secretKeyRef");
        }
        for (name, reference) in
            [("configMapKeyRef", &variable.config_map_key_ref), ("secretKeyRef", &variable.secret_key_ref)]
        {
            if let Some(reference) = reference {
                check_key(&format!("{field}.{name}"), reference, findings);
            }
        }
    }
}

fn check_key(field: &str, reference: &api::KeyRef, findings: &mut Findings) {
    findings.require(format!("{field}.name"), syntax::dns_subdomain(&reference.name));
    findings.require(format!("{field}.key"), syntax::data_key(&reference.key));
}

fn check_places<'a>(
    field: &str,
    named: impl Iterator<Item = &'a String>,
    datacenters: &[&str],
    findings: &mut Findings,
) {
    for datacenter in named.filter(|named| !datacenters.contains(&named.as_str())) {
        let message = format!("is not a datacenter of the NodeGroup ({}): remove it", datacenters.join(", "));
        findings.add_problem(join(field, datacenter), message);
    }
}

fn places(
    spec: &api::NodeGroupSpec,
    own: &api::SelfManaged,
    datacenters: &[&str],
    findings: &mut Findings,
) -> BTreeMap<DatacenterId, VmPlace> {
    let mut places = BTreeMap::new();
    for datacenter in datacenters {
        let Some(image) = own.image_ids.get(*datacenter).or(spec.os_image_id.as_ref()) else {
            let message = format!("has no image for {datacenter}: add one, or set osImageID");
            findings.add_problem("spec.selfManaged.imageIDs", message);
            continue;
        };
        let network = own.networks.get(*datacenter).cloned().unwrap_or_default();
        if !network.public_ipv4 && !network.public_ipv6 && !network.private_ip {
            findings.add_problem(
                join("spec.selfManaged.networks", datacenter),
                "has no address: set publicIPv4, publicIPv6 or privateIP",
            );
        }
        let network = VmNetwork {
            vpc: network.vpc_id,
            firewall_group: network.firewall_group_id,
            public_ipv4: network.public_ipv4,
            public_ipv6: network.public_ipv6,
            private_ip: network.private_ip,
        };
        places.insert(DatacenterId::from(*datacenter), VmPlace { image: image.clone(), network });
    }
    places
}

fn join_config(spec: &api::NodeGroupSpec, own: &api::SelfManaged) -> JoinConfig {
    let kind = match own.join_kind {
        api::JoinKind::Kubeadm => JoinKind::Kubeadm,
        api::JoinKind::K3s => JoinKind::K3s,
        api::JoinKind::Rke2 => JoinKind::Rke2,
        api::JoinKind::Custom => JoinKind::Custom,
    };
    let cloud_controller = match (own.cloud_controller, kind) {
        (Some(api::CloudController::None), _) | (None, JoinKind::Kubeadm | JoinKind::Custom) => {
            CloudController::None
        }
        (Some(api::CloudController::External), _) => CloudController::External,
        (Some(api::CloudController::Embedded), _) | (None, JoinKind::K3s | JoinKind::Rke2) => {
            CloudController::Embedded
        }
    };
    let template = &own.payload;
    JoinConfig {
        kind,
        endpoint: own.endpoint.clone(),
        template: template
            .as_ref()
            .map_or(PayloadTemplate::BuiltIn, |own| PayloadTemplate::ConfigMap(key(&own.config_map_key_ref))),
        variables: own.variables.iter().map(|own| (own.name.clone(), variable(own))).collect(),
        credential: own
            .shared_credential
            .as_ref()
            .map_or(Credential::BootstrapToken, |shared| Credential::Shared(key(shared))),
        cloud_controller,
        kubernetes_version: spec.kubernetes_version.clone(),
    }
}

fn key(reference: &api::KeyRef) -> ObjectKey {
    ObjectKey { name: reference.name.clone(), key: reference.key.clone() }
}

/// The schema requires exactly one source.
fn variable(variable: &api::Variable) -> VariableSource {
    match (&variable.config_map_key_ref, &variable.secret_key_ref) {
        (Some(reference), _) => VariableSource::ConfigMap(key(reference)),
        (None, Some(reference)) => VariableSource::Secret(key(reference)),
        (None, None) => VariableSource::Value(variable.value.clone().unwrap_or_default()),
    }
}
