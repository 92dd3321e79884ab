//! The calls of the VPSie API (docs/reference/vpsie-api.md#calls). Paths are case-sensitive.

use serde_json::json;

use super::call::{Body, Call, path};
use super::client::Client;
use super::error::{ApiError, ErrorKind};
use super::limiter::Purpose;
use super::paging::Listed;
use super::reply::Payload;
use super::wire::{self, Cluster, Datacenter, Group, NodeRows, VmName};
use crate::catalog::{CapacityType, DatacenterId, Offer, SizeId};
use crate::fleet::{ClusterId, VmId};

const CLUSTERS: &str = "k8s/cluster/all";
const DATACENTERS: &str = "datacenter";
const OFFERS: &str = "k8s/offers";
const CLUSTER: &str = "k8s/cluster/byId/{}";
const GROUPS: &str = "k8s/node/groups/byClusterId/{}";
const ADD_GROUP: &str = "k8s/cluster/add/group";
const ADD_WORKER: &str = "k8s/cluster/byId/{}/add/slave/group/{}";
const DELETE_WORKER: &str = "k8s/cluster/byId/{}/delete/slave";
const VMS: &str = "storages/vms";

/// Reply to a deletion.
#[derive(Debug, PartialEq)]
pub(super) enum DeletionReply {
    /// VPSie accepted it.
    Accepted,
    /// VPSie does not find the VM, or does not know the call (docs/reference/vpsie-api.md#base-url). With its
    /// message.
    NotFound(String),
}

impl Client {
    /// Lists the clusters of the account. This is the cheapest call that checks credentials.
    pub(super) async fn list_clusters(&self) -> Result<Vec<Cluster>, ApiError> {
        Ok(self.read_rows(Call::get("list_clusters", CLUSTERS), Cluster::read).await?.rows)
    }

    pub(super) async fn list_datacenters(&self) -> Result<Vec<Datacenter>, ApiError> {
        Ok(self.read_rows(Call::get("list_datacenters", DATACENTERS), Datacenter::read).await?.rows)
    }

    /// Lists the offers of a datacenter.
    pub(super) async fn list_offers(&self, datacenter: &DatacenterId) -> Result<Listed<Offer>, ApiError> {
        let body = Body::Json(json!({"dcIdentifier": datacenter}));
        let call = Call::post("list_offers", OFFERS, body);
        let listed = self.read_rows(call, |row| wire::read_offers(row, datacenter)).await?;
        let Listed { rows, whole, is_list } = listed;
        Ok(Listed { rows: rows.into_iter().flatten().collect(), whole, is_list })
    }

    /// Lists the VPSie groups of the cluster, without deleted ones.
    pub(super) async fn list_groups(&self, cluster: &ClusterId) -> Result<Listed<Group>, ApiError> {
        let call = Call::get("list_groups", path(GROUPS, &[cluster.as_str()]));
        let mut groups = self.read_rows(call, Group::read).await?;
        groups.rows.retain(|group| !group.deleted);
        Ok(groups)
    }

    /// Lists the nodes of the cluster. A reply without a list of workers is an error, unless VPSie's groups
    /// have none.
    pub(super) async fn list_nodes(
        &self,
        cluster: &ClusterId,
        purpose: Purpose,
    ) -> Result<NodeRows, ApiError> {
        let rows = self.read_nodes(cluster, purpose).await?;
        if !rows.has_workers && self.count_workers(cluster).await? != Some(0) {
            let message = "VPSie replied without a list of workers, and its groups may have some";
            return Err(ApiError::new(ErrorKind::Unclear, message));
        }
        Ok(rows)
    }

    /// Reads VPSie's reply about the nodes of the cluster. If the cluster does not exist, this is an error,
    /// not an empty list.
    pub(super) async fn read_nodes(
        &self,
        cluster: &ClusterId,
        purpose: Purpose,
    ) -> Result<NodeRows, ApiError> {
        let call = Call::get("list_nodes", path(CLUSTER, &[cluster.as_str()])).with_purpose(purpose);
        let read = match self.send(&call).await?.payload() {
            Payload::Object(object) => wire::read_nodes(&object, self.interruption_fields()),
            Payload::False | Payload::Nothing => {
                return Err(ApiError::new(ErrorKind::NotFound, "VPSie does not find the cluster"));
            }
            Payload::Accepted | Payload::List { .. } => None,
        };
        let rows = read.ok_or_else(|| {
            ApiError::new(ErrorKind::Unclear, "VPSie replied without a readable list of nodes")
        })?;
        for _ in 0..rows.skipped {
            self.metrics().count_skipped_row(call.endpoint);
        }
        Ok(rows)
    }

    /// Number of workers in the cluster's groups. None if a group, its count or the list is missing.
    pub(super) async fn count_workers(&self, cluster: &ClusterId) -> Result<Option<u32>, ApiError> {
        let groups = self.list_groups(cluster).await?;
        let is_known = groups.whole && groups.is_list;
        Ok(groups.rows.iter().map(|group| group.nodes).sum::<Option<u32>>().filter(|_| is_known))
    }

    /// Lists hostnames and UUIDs of all VMs of the account, including workers of managed clusters.
    pub(super) async fn list_vm_names(&self, purpose: Purpose) -> Result<Vec<VmName>, ApiError> {
        let call = Call::get("list_vms", VMS).with_purpose(purpose);
        Ok(self.read_rows(call, VmName::read).await?.rows)
    }

    /// Creates a VPSie group. Replies differ in form, so list the groups afterwards.
    pub(super) async fn add_group(
        &self,
        cluster: &ClusterId,
        name: &str,
        size: SizeId,
    ) -> Result<(), ApiError> {
        let body = json!({"clusterIdentifier": cluster, "groupName": name, "KubeSizeID": size});
        self.send(&Call::post("add_group", ADD_GROUP, Body::Json(body)).without_repeats()).await.map(drop)
    }

    /// Adds one worker to a group. Not idempotent. The reply does not reliably identify the VM.
    pub(super) async fn add_worker(
        &self,
        cluster: &ClusterId,
        group: u64,
        capacity_type: CapacityType,
    ) -> Result<(), ApiError> {
        let path = path(ADD_WORKER, &[cluster.as_str(), &group.to_string()]);
        let body = match capacity_type {
            CapacityType::OnDemand => Body::Empty,
            CapacityType::Spot => Body::Json(json!({"is_spot": true})),
        };
        match self.send(&Call::post("add_worker", path, body).without_repeats()).await?.payload() {
            Payload::False => {
                Err(ApiError::new(ErrorKind::Unclear, "VPSie neither accepted nor refused the request"))
            }
            _ => Ok(()),
        }
    }

    /// Deletes exactly this worker.
    pub(super) async fn delete_worker(
        &self,
        cluster: &ClusterId,
        vm: &VmId,
    ) -> Result<DeletionReply, ApiError> {
        let body = json!({
            "identifier": vm,
            "deleteStatistic": {"reason": "other", "note": "no longer needed by the autoscaler"},
        });
        let call = Call::delete("delete_worker", path(DELETE_WORKER, &[cluster.as_str()]), Body::Json(body));
        match self.send(&call).await {
            Ok(reply) => Ok(match reply.payload() {
                Payload::False => DeletionReply::NotFound("not found".to_owned()),
                _ => DeletionReply::Accepted,
            }),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::WrongServer) => {
                Ok(DeletionReply::NotFound(error.message))
            }
            Err(error) => Err(error),
        }
    }
}
