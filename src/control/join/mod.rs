//! The join of VMs to a self-managed cluster: payloads, their credentials, and their clean-up.

mod cleanup;
mod deadline;
mod outcome;
mod records;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use rand::rngs::SysRng;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use super::handle::FleetHandle;
use crate::catalog::DatacenterId;
use crate::clock::Clock;
use crate::fleet::{
    Fleet, Hostname, Machine, MachineId, NodeGroupName, PayloadFindings, Reserved, Taint, network_taint,
};
use crate::join::{
    CloudController, JoinConfig, JoinKind, PayloadHash, PayloadInput, Variables, join_token, render,
};
use crate::kubernetes::{BootstrapToken, BootstrapTokens, TokenGroup};
use crate::validation::SelfManagedGroup;
use crate::vpsie::{
    CreateRequest, Delivery, Payload, PayloadError, PayloadSource, VmGroup, VmNetwork, VmPlace,
};
pub use cleanup::JoinCleanup;
use outcome::{JoinLimit, join_limit};
use records::{JoinChanges, JoinRecord, JoinRecords, Joins, PayloadRecord};
use sources::{PayloadSources, Sources, invalid, unavailable};

/// Lifetime of a bootstrap token. It is extended while its VM may still join.
const TOKEN_TTL: Duration = Duration::from_mins(30);
/// Attempts to create a token whose id is in use.
const MAX_TOKEN_IDS: u32 = 3;
/// Labels of the Secrets of tokens.
const CLUSTER_LABEL: &str = "autoscaler.vpsie.com/cluster";
const MACHINE_LABEL: &str = "autoscaler.vpsie.com/machine";
const HOSTNAME_LABEL: &str = "autoscaler.vpsie.com/hostname";

/// Datacenters in which NodeGroups add no machines because their payload never joins there, with the reason.
pub type StoppedPayloads = BTreeMap<NodeGroupName, BTreeMap<DatacenterId, String>>;

/// Makes the payloads of VMs, each with a credential of its own.
pub struct JoinPayloads {
    handle: FleetHandle,
    clock: Arc<dyn Clock>,
    cluster: String,
    /// None until the NodeGroups are read.
    groups: RwLock<Option<BTreeMap<NodeGroupName, SelfManagedGroup>>>,
    sources: Sources,
    tokens: BootstrapTokens,
    records: JoinRecords,
    nodes: Api<Node>,
    /// Held while tokens and records change, so that the clean-up sees no partial change.
    changing: Mutex<()>,
    stopped: watch::Sender<StoppedPayloads>,
}

impl JoinPayloads {
    /// `client` must be fenced. `cluster` is the UID of the namespace `kube-system`; `namespace` is that of the
    /// NodeGroups.
    pub fn new(
        handle: FleetHandle,
        clock: Arc<dyn Clock>,
        client: &Client,
        namespace: &str,
        cluster: &str,
    ) -> Self {
        Self {
            handle,
            clock,
            cluster: cluster.to_owned(),
            groups: RwLock::default(),
            sources: Sources::new(client.clone(), namespace),
            tokens: BootstrapTokens::new(client.clone()),
            records: JoinRecords::new(client.clone(), namespace),
            nodes: Api::all(client.clone()),
            changing: Mutex::default(),
            stopped: watch::Sender::default(),
        }
    }

    /// Puts the NodeGroups in force.
    pub fn set_groups(&self, groups: BTreeMap<NodeGroupName, SelfManagedGroup>) {
        *self.groups.write().unwrap_or_else(PoisonError::into_inner) = Some(groups);
    }

    /// Datacenters in which NodeGroups add no machines because their payload never joins there.
    pub fn stopped(&self) -> watch::Receiver<StoppedPayloads> {
        self.stopped.subscribe()
    }

    fn group(&self, group: &NodeGroupName) -> Option<SelfManagedGroup> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).as_ref()?.get(group).cloned()
    }

    fn groups(&self) -> BTreeMap<NodeGroupName, SelfManagedGroup> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Whether the NodeGroup was deleted. False until the NodeGroups are read.
    fn is_deleted(&self, group: &NodeGroupName) -> bool {
        let is_absent = self
            .groups
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|known| !known.contains_key(group));
        let is_used = |fleet: &Fleet| {
            fleet.node_group(group).is_some()
                || fleet.lacks_spec(group)
                || fleet.machines().any(|machine| machine.pool.node_group == *group)
        };
        is_absent && !self.handle.read(is_used)
    }

    /// The VMs that may still join, by hostname.
    fn joining(&self) -> BTreeMap<Hostname, JoiningVm> {
        self.handle.read(|fleet| {
            let vm = |machine: &Machine, hostname: &Hostname| JoiningVm {
                machine: machine.id.clone(),
                datacenter: machine.pool.datacenter.clone(),
                is_listed: machine.vm().is_some_and(|vm| vm.hostname == *hostname && vm.id.is_some()),
            };
            fleet
                .joining_hostnames()
                .map(|(machine, hostname)| (hostname.clone(), vm(machine, hostname)))
                .collect()
        })
    }

    /// The hash of the payload that the NodeGroup would get now. None if it cannot be made.
    async fn present_hash(&self, group: &NodeGroupName) -> Option<PayloadHash> {
        let SelfManagedGroup { vms, join } = self.group(group)?;
        let sources = self.sources.read(&join).await.ok()?;
        Some(hash(&vms, &join, &sources, &self.handle.read(|fleet| declared(fleet, group))))
    }

    /// What the payload of the NodeGroup is like now. Writes nothing.
    async fn check(&self, group: &NodeGroupName, record: Option<&PayloadRecord>) -> PayloadCheck {
        let is_proven = |of: &PayloadRecord| of.is_proven();
        // If the present payload is not known, it counts as unchanged.
        let unknown = PayloadCheck { problem: None, is_proven: record.is_some_and(is_proven) };
        let Some(SelfManagedGroup { vms, join }) = self.group(group) else { return unknown };
        let sources = match self.sources.read(&join).await {
            Ok(sources) => sources,
            Err(PayloadError::Invalid(why)) => return PayloadCheck { problem: Some(why), ..unknown },
            Err(PayloadError::Unavailable(_)) => return unknown,
        };
        let hash = hash(&vms, &join, &sources, &self.handle.read(|fleet| declared(fleet, group)));
        let is_proven = record.is_some_and(|record| record.payload == hash && record.is_proven());
        PayloadCheck { problem: self.render_problem(group, &join, &sources), is_proven }
    }

    /// The problem that a user must correct before a payload can be rendered for the NodeGroup.
    fn render_problem(
        &self,
        group: &NodeGroupName,
        config: &JoinConfig,
        sources: &PayloadSources,
    ) -> Option<String> {
        let request = self.handle.read(|fleet| example_request(fleet, group))?;
        let node = self.handle.read(|fleet| node(fleet, &request))?;
        let credential = match &sources.shared_credential {
            Some(credential) => credential.clone(),
            None => new_token().ok()?.credential(),
        };
        let token = join_token(config.kind, &credential, &sources.ca).map_err(|error| error.to_string());
        let rendered = token.and_then(|token| {
            let hostname = Hostname::new(request.machine.as_str());
            let variables = variables(config, sources, &node, &request, &hostname, token);
            render(&sources.template, &variables).map_err(|error| error.to_string())
        });
        rendered.err()
    }

    /// Returns the NodeGroups whose payload cannot be rendered, never joins, or has joined.
    async fn findings(&self, records: &BTreeMap<NodeGroupName, PayloadRecord>) -> PayloadFindings {
        let mut findings = PayloadFindings::default();
        let mut proven = BTreeSet::new();
        for group in self.groups().into_keys() {
            let PayloadCheck { problem, is_proven } = self.check(&group, records.get(&group)).await;
            if is_proven {
                proven.insert(group.clone());
            }
            if let Some(why) = problem {
                findings.problems.insert(group, why.into());
                continue;
            }
            let Some(stopped) = self.stopped.borrow().get(&group).cloned() else { continue };
            let everywhere = self.handle.read(|fleet| {
                fleet.growable_datacenters(&group).into_iter().all(|at| stopped.contains_key(at))
            });
            let mut stopped = stopped.into_iter().map(|(datacenter, why)| (datacenter, Arc::from(why)));
            if everywhere && let Some((_, why)) = stopped.next() {
                findings.problems.insert(group, why);
            } else {
                findings.stopped.insert(group, stopped.collect());
            }
        }
        findings.proven = Some(proven);
        findings
    }

    /// Creates a token for the request, and renders the payload with it. Tokens of earlier requests of the machine are
    /// deleted first.
    async fn issue_token(
        &self,
        request: &CreateRequest,
        hostname: &Hostname,
        config: &JoinConfig,
        payload: PayloadHash,
        mut token: BootstrapToken,
        render: impl Fn(&BootstrapToken) -> Result<SecretString, PayloadError>,
    ) -> Result<SecretString, PayloadError> {
        let mut rendered = render(&token)?;
        let _changing = self.changing.lock().await;
        let joins = self.admit(request, &payload).await?;
        self.revoke(request, &joins).await?;
        let now = self.clock.now();
        let mut record = Self::new_record(request, payload, now);
        for _ in 0..MAX_TOKEN_IDS {
            record.token = Some(token.id().to_owned());
            self.save(hostname, &record).await?;
            let labels = self.labels(request, hostname);
            let group = token_group(config.kind);
            let created = self.tokens.create(&token, group, record.expires_at, &labels).await;
            match created {
                Ok(()) => return Ok(rendered),
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    token = new_token()?;
                    rendered = render(&token)?;
                }
                Err(error) => return Err(unavailable("create a bootstrap token", &error)),
            }
        }
        // The record must not name the token of another program.
        record.token = None;
        self.save(hostname, &record).await?;
        Err(PayloadError::Unavailable("cannot create a bootstrap token: every id is in use".to_owned()))
    }

    /// Records a join with a shared credential. Tokens of earlier requests of the machine are deleted first.
    async fn record_shared(
        &self,
        request: &CreateRequest,
        hostname: &Hostname,
        payload: PayloadHash,
    ) -> Result<(), PayloadError> {
        let _changing = self.changing.lock().await;
        let joins = self.admit(request, &payload).await?;
        self.revoke(request, &joins).await?;
        self.save(hostname, &Self::new_record(request, payload, self.clock.now())).await
    }

    /// Checks that one more machine may join with the payload. Returns the records.
    async fn admit(&self, request: &CreateRequest, payload: &PayloadHash) -> Result<Joins, PayloadError> {
        let joins =
            self.records.read().await.map_err(|error| unavailable("read the records of joins", &error))?;
        let record = joins.payloads.get(&request.pool.node_group);
        match join_limit(record, payload, &request.pool.datacenter, self.clock.now()) {
            JoinLimit::Stopped(message) => Err(invalid(message)),
            JoinLimit::AtMost(max) if !self.has_turn(request, payload, &joins, max) => {
                let message = "waiting for the first VM with this payload to join";
                Err(PayloadError::Unavailable(message.to_owned()))
            }
            JoinLimit::AtMost(_) | JoinLimit::None => Ok(joins),
        }
    }

    /// Whether fewer than `max` other machines of the NodeGroup may still join with the payload, or none in the datacenter of
    /// the request: a datacenter where machines never join must not delay the others.
    fn has_turn(&self, request: &CreateRequest, payload: &PayloadHash, joins: &Joins, max: usize) -> bool {
        let joining = self.joining();
        let datacenter_of = |(hostname, record): (&Hostname, &JoinRecord)| {
            let is_other = record.node_group == request.pool.node_group
                && record.payload == *payload
                && record.machine != request.machine;
            let vm = joining.get(hostname).filter(|vm| is_other && vm.machine == record.machine)?;
            Some((record.machine.clone(), vm.datacenter.clone()))
        };
        let others: BTreeMap<MachineId, DatacenterId> = joins.open.iter().filter_map(datacenter_of).collect();
        others.len() < max || !others.values().any(|datacenter| *datacenter == request.pool.datacenter)
    }

    /// Deletes the tokens of all requests of the machine. Their records stay for the clean-up.
    async fn revoke(&self, request: &CreateRequest, joins: &Joins) -> Result<(), PayloadError> {
        let earlier = joins.open.values().filter(|record| record.machine == request.machine);
        for token in earlier.filter_map(|record| record.token.as_ref()) {
            let deleted = self.tokens.delete(token).await;
            deleted
                .map_err(|error| unavailable("delete the bootstrap token of an earlier request", &error))?;
        }
        Ok(())
    }

    fn new_record(request: &CreateRequest, payload: PayloadHash, now: Timestamp) -> JoinRecord {
        JoinRecord {
            machine: request.machine.clone(),
            node_group: request.pool.node_group.clone(),
            token: None,
            issued_at: now,
            expires_at: now + TOKEN_TTL,
            listed_at: None,
            payload,
        }
    }

    async fn save(&self, hostname: &Hostname, record: &JoinRecord) -> Result<(), PayloadError> {
        let mut changes = JoinChanges::default();
        changes.save(hostname, record);
        let saved = self.records.write(&changes).await;
        saved.map_err(|error| unavailable("write the record of a join", &error))
    }

    fn labels(&self, request: &CreateRequest, hostname: &Hostname) -> BTreeMap<String, String> {
        let labels = [
            (CLUSTER_LABEL, self.cluster.as_str()),
            (MACHINE_LABEL, request.machine.as_str()),
            (HOSTNAME_LABEL, hostname.as_str()),
        ];
        labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }
}

#[async_trait]
impl PayloadSource for JoinPayloads {
    async fn payload(&self, request: &CreateRequest) -> Result<Payload, PayloadError> {
        let group = &request.pool.node_group;
        let hostname = request.hostname.as_ref().ok_or_else(|| invalid("the request has no hostname"))?;
        let SelfManagedGroup { vms, join: config } = self.group(group).ok_or_else(|| {
            invalid(format!("NodeGroup {group} has no selfManaged, so its VMs could not join the cluster"))
        })?;
        let sources = self.sources.read(&config).await?;
        let (declared, node) = self.handle.read(|fleet| (declared(fleet, group), node(fleet, request)));
        let mut node = node.ok_or_else(|| invalid(format!("pool {} does not exist", request.pool)))?;
        if vms.has_network(&request.pool.datacenter) {
            node.taints.push(network_taint());
        }
        let hash = hash(&vms, &config, &sources, &declared);
        let render_with = |credential: &SecretString| {
            let token = join_token(config.kind, credential, &sources.ca).map_err(invalid)?;
            let variables = variables(&config, &sources, &node, request, hostname, token);
            render(&sources.template, &variables).map_err(invalid)
        };
        let rendered = match &sources.shared_credential {
            None => {
                let render = |token: &BootstrapToken| render_with(&token.credential());
                self.issue_token(request, hostname, &config, hash, new_token()?, render).await?
            }
            Some(credential) => {
                let rendered = render_with(credential)?;
                self.record_shared(request, hostname, hash).await?;
                rendered
            }
        };
        Ok(Payload::new(rendered.expose_secret()))
    }
}

/// The payload of a NodeGroup.
struct PayloadCheck {
    /// The problem that a user must correct before it can be rendered.
    problem: Option<String>,
    /// Whether a machine has joined with it.
    is_proven: bool,
}

/// A VM that may still join.
struct JoiningVm {
    machine: MachineId,
    datacenter: DatacenterId,
    /// Whether VPSie lists it with a UUID.
    is_listed: bool,
}

/// A request for the first pool of the NodeGroup, which is never sent. None while no pool is known.
fn example_request(fleet: &Fleet, group: &NodeGroupName) -> Option<CreateRequest> {
    let pool = fleet.pools().find(|pool| pool.id.node_group == *group)?;
    let machine = MachineId::new(format!("{group}-00000000"));
    let class = pool.id.class(pool.offer.size);
    Some(CreateRequest { machine, pool: pool.id.clone(), class, hostname: None })
}

fn new_token() -> Result<BootstrapToken, PayloadError> {
    BootstrapToken::generate(&mut SysRng)
        .map_err(|error| PayloadError::Unavailable(format!("cannot make a bootstrap token: {error}")))
}

fn token_group(kind: JoinKind) -> TokenGroup {
    match kind {
        // k0s and others give rights to all bootstrap tokens.
        JoinKind::Kubeadm | JoinKind::Custom => TokenGroup::Kubeadm,
        JoinKind::K3s => TokenGroup::K3s,
        JoinKind::Rke2 => TokenGroup::Rke2,
    }
}

/// Labels and taints of the Nodes of a NodeGroup in all its pools.
#[derive(Default)]
struct DeclaredNodes {
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
}

fn declared(fleet: &Fleet, group: &NodeGroupName) -> DeclaredNodes {
    let group = fleet.node_group(group);
    group
        .map(|group| DeclaredNodes { labels: group.labels.clone(), taints: group.taints.clone() })
        .unwrap_or_default()
}

/// Labels, taints and reserved resources of the Node of a request: those of the pool's template.
struct RequestedNode {
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    reserved: Reserved,
}

fn node(fleet: &Fleet, request: &CreateRequest) -> Option<RequestedNode> {
    let pool = fleet.pool(&request.pool.to_string())?;
    let taints = fleet.group(pool).map(|group| group.node_taints(pool.id.capacity_type));
    Some(RequestedNode {
        labels: fleet.node_labels(pool),
        taints: taints.unwrap_or_default(),
        reserved: fleet.reserved(),
    })
}

fn hash(
    vms: &VmGroup,
    config: &JoinConfig,
    sources: &PayloadSources,
    declared: &DeclaredNodes,
) -> PayloadHash {
    let input = PayloadInput {
        config,
        vms: &vms_that_run(vms),
        template: &sources.template,
        labels: &declared.labels,
        taints: &declared.taints,
        variables: &sources.variables,
        shared_credential: sources.shared_credential.as_ref(),
        ca: &sources.ca,
    };
    input.hash()
}

/// The part of the VMs that can keep a payload from joining: image, network, and channel.
fn vms_that_run(vms: &VmGroup) -> Value {
    let places = vms.places.iter().map(|(datacenter, VmPlace { image, network })| {
        let VmNetwork { vpc, firewall_group, public_ipv4, public_ipv6, private_ip } = network;
        json!({
            "datacenter": datacenter.to_string(),
            "image": image,
            "vpc": vpc,
            "firewallGroup": firewall_group,
            "addresses": [public_ipv4, public_ipv6, private_ip],
        })
    });
    let delivery = match vms.delivery {
        Delivery::Script => "script",
        Delivery::UserData => "userData",
    };
    json!({ "delivery": delivery, "places": places.collect::<Vec<_>>() })
}

fn variables(
    config: &JoinConfig,
    sources: &PayloadSources,
    node: &RequestedNode,
    request: &CreateRequest,
    hostname: &Hostname,
    token: SecretString,
) -> Variables {
    Variables {
        kind: config.kind,
        node_name: hostname.to_string(),
        pool: request.pool.to_string(),
        datacenter: request.pool.datacenter.to_string(),
        offering: request.pool.offer.to_string(),
        labels: node.labels.clone(),
        taints: node.taints.clone(),
        reserved: node.reserved,
        endpoint: config.endpoint.clone(),
        kubernetes_version: config.kubernetes_version.clone(),
        cloud_provider_external: config.cloud_controller == CloudController::External,
        ca: sources.ca.clone(),
        token,
        vars: sources.variables.clone(),
    }
}
