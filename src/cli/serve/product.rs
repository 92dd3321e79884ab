//! The product of VPSie that the leader serves: a managed cluster, or plain VMs of a self-managed one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::components::{Tasks, spawn};
use crate::clock::Clock;
use crate::control::{FleetHandle, JoinCleanup, JoinPayloads, NodesView, ServedCluster};
use crate::fleet::{ClusterId, Fleet};
use crate::kubernetes::Events;
use crate::store::KubernetesStore;
use crate::vpsie::{Backend, Client, DeletionKey, ManagedBackend, ManagedConfig, VmBackend, cluster_code};

/// The product that the leader serves.
#[derive(Clone)]
pub(super) enum Product {
    /// Workers of a managed cluster.
    Managed(Arc<ManagedBackend>),
    /// Plain VMs of a self-managed cluster.
    SelfManaged {
        /// The cluster in the records: the UID of the namespace `kube-system`.
        cluster: ClusterId,
        /// Backend for the VMs.
        backend: Arc<VmBackend>,
        /// Payloads with which the VMs join.
        payloads: Arc<JoinPayloads>,
    },
}

impl Product {
    /// A managed cluster. `recorded` is the cluster of the records.
    pub(super) fn managed(client: Client, recorded: Option<ManagedConfig>) -> Self {
        Self::Managed(Arc::new(ManagedBackend::new(client, recorded)))
    }

    /// The self-managed cluster of the API server: `uid` is that of the namespace `kube-system`. The NodeGroups
    /// of another namespace are of another installation, which has its own VMs. `kube` is fenced.
    pub(super) fn self_managed(
        client: Client,
        deletion_key: Option<DeletionKey>,
        uid: &str,
        handle: &FleetHandle,
        clock: &Arc<dyn Clock>,
        kube: &kube::Client,
        namespace: &str,
    ) -> Self {
        let clock = Arc::clone(clock);
        let owner = ClusterId::from(format!("{uid}/{namespace}").as_str());
        let code = cluster_code(&owner);
        let payloads = Arc::new(JoinPayloads::new(handle.clone(), clock, kube, namespace, &code));
        let mut backend = VmBackend::new(client, Arc::clone(&payloads) as _);
        if let Some(key) = deletion_key {
            backend = backend.with_deletion_key(key);
        }
        backend.set_cluster(owner);
        Self::SelfManaged { cluster: uid.into(), backend: Arc::new(backend), payloads }
    }

    /// Its backend.
    pub(super) fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Managed(backend) => Arc::clone(backend) as _,
            Self::SelfManaged { backend, .. } => Arc::clone(backend) as _,
        }
    }

    /// Restores what an earlier process knew: offers, so that the first listing can determine sizes; and VMs that are
    /// attached to their networks.
    pub(super) fn restore(&self, fleet: &Fleet) {
        match self {
            Self::Managed(backend) => {
                if let Some(catalog) = fleet.records().catalog {
                    backend.restore_offers(&catalog);
                }
            }
            // The listing shows the pool of each VM.
            Self::SelfManaged { backend, .. } => backend.restore_attached(fleet.attached_vms().cloned()),
        }
    }

    /// Passes the settings of the NodeGroups to the backend, before they are in force.
    pub(super) fn apply(&self, served: &ServedCluster, store: &KubernetesStore) {
        match (self, served) {
            (Self::Managed(backend), ServedCluster::Managed(config)) => {
                tracing::info!(
                    cluster = %config.cluster,
                    datacenter = %config.datacenter,
                    "cluster and datacenter set from the NodeGroups"
                );
                store.set_cluster(config.cluster.clone());
                backend.set_config(config.clone());
            }
            (Self::SelfManaged { cluster, backend, payloads }, ServedCluster::SelfManaged(groups)) => {
                store.set_cluster(cluster.clone());
                backend.set_groups(
                    groups.iter().map(|(name, group)| (name.clone(), group.vms.clone())).collect(),
                );
                payloads.set_groups(groups.as_ref().clone());
            }
            // VPSie is listed on.
            (Self::SelfManaged { backend, payloads, .. }, ServedCluster::None) => {
                backend.set_groups(BTreeMap::new());
                payloads.set_groups(BTreeMap::new());
            }
            // The fleet's NodeGroups are of its product.
            (Self::Managed(_), ServedCluster::SelfManaged(_) | ServedCluster::None)
            | (Self::SelfManaged { .. }, ServedCluster::Managed(_))
            | (_, ServedCluster::Unknown) => {}
        }
    }

    /// Starts the loops that only this product has.
    pub(super) fn spawn(
        &self,
        tasks: &mut Tasks,
        handle: &FleetHandle,
        events: Events,
        nodes: NodesView,
        create_timeout: Duration,
        shutdown: &CancellationToken,
    ) {
        let Self::SelfManaged { backend, payloads, .. } = self else { return };
        let scripts = Arc::clone(backend) as _;
        let cleanup =
            JoinCleanup::new(Arc::clone(payloads), handle.clone(), Some(scripts), events, create_timeout)
                .with_deadlines(nodes);
        spawn(tasks, "join clean-up", cleanup.run(shutdown.clone()));
    }
}
