//! The `CloudProvider` service: what Cluster Autoscaler asks, answered from memory.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, async_trait};

use super::convert::{instance, node_ref, template_bytes};
use super::deadline::patience;
use super::options::{Release, filled};
use super::pod::pod_requests;
use super::pricing::{UNREADABLE_POD, hours, node_price, pod_price};
use super::proto::cloud_provider_server::CloudProvider;
use super::proto::{
    CleanupRequest, CleanupResponse, GetAvailableGpuTypesRequest, GetAvailableGpuTypesResponse,
    GpuLabelRequest, GpuLabelResponse, NodeGroup, NodeGroupAutoscalingOptions,
    NodeGroupAutoscalingOptionsRequest, NodeGroupAutoscalingOptionsResponse,
    NodeGroupDecreaseTargetSizeRequest, NodeGroupDecreaseTargetSizeResponse, NodeGroupDeleteNodesRequest,
    NodeGroupDeleteNodesResponse, NodeGroupForNodeRequest, NodeGroupForNodeResponse,
    NodeGroupIncreaseSizeRequest, NodeGroupIncreaseSizeResponse, NodeGroupNodesRequest,
    NodeGroupNodesResponse, NodeGroupTargetSizeRequest, NodeGroupTargetSizeResponse,
    NodeGroupTemplateNodeInfoRequest, NodeGroupTemplateNodeInfoResponse, NodeGroupsRequest,
    NodeGroupsResponse, PricingNodePriceRequest, PricingNodePriceResponse, PricingPodPriceRequest,
    PricingPodPriceResponse, RefreshRequest, RefreshResponse,
};
use super::recent_pools::RecentPools;
use super::status::{command_error, unknown_pool};
use crate::api::GPU_LABEL;
use crate::control::{Command, CommandError, FleetHandle};
use crate::fleet::{Fleet, NodeGroupName, Pool, Refusal, Template};

/// The `CloudProvider` service over a fleet.
#[derive(Clone, Debug)]
pub struct CloudProviderService {
    handle: FleetHandle,
    told: RecentPools,
    options_withheld: Arc<Mutex<BTreeSet<NodeGroupName>>>,
}

impl CloudProviderService {
    /// Serves the fleet.
    pub fn new(handle: FleetHandle) -> Self {
        Self { handle, told: RecentPools::default(), options_withheld: Arc::default() }
    }

    fn read_pool<R>(&self, id: &str, f: impl FnOnce(&Fleet, &Pool) -> R) -> Result<R, Status> {
        self.handle.read(|fleet| fleet.pool(id).map(|pool| f(fleet, pool))).ok_or_else(|| unknown_pool(id))
    }

    /// What a pool is, or `gone` for one that is gone and was told in the loop that may be under way: an error would
    /// end that for all pools.
    fn read_pool_or<R>(
        &self,
        id: &str,
        gone: impl FnOnce(Arc<Template>) -> R,
        f: impl FnOnce(&Fleet, &Pool) -> R,
    ) -> Result<R, Status> {
        self.read_pool(id, f).or_else(|unknown| self.told.template(id).map(gone).ok_or(unknown))
    }

    async fn execute(&self, command: Command, patience: Option<Duration>) -> Result<(), Status> {
        self.handle.execute_within(command, patience).await.map_err(|error| command_error(&error))
    }

    /// What the NodeGroup sets, where that is safe with the release that asks
    /// (docs/reference/cluster-autoscaler.md#options).
    fn options(
        &self,
        id: &str,
        defaults: &NodeGroupAutoscalingOptions,
        client: Option<&str>,
    ) -> Option<NodeGroupAutoscalingOptions> {
        let (name, set) = self.handle.read(|fleet| {
            let group = fleet.group(fleet.pool(id)?)?;
            (!group.options.is_empty()).then(|| (group.name.clone(), group.options))
        })?;
        let release = Release::of(defaults, client);
        let reply = release.accepts(&set).then(|| filled(&set, defaults)).flatten();
        if reply.is_none() {
            self.warn_of_withheld_options(name, release);
        }
        reply
    }

    /// Once a NodeGroup: the question comes thousands of times a loop.
    fn warn_of_withheld_options(&self, name: NodeGroupName, release: Release) {
        let mut warned = self.options_withheld.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.contains(&name) {
            return;
        }
        tracing::warn!(
            node_group = %name,
            cluster_autoscaler = release.as_str(),
            "autoscaling options of the NodeGroup are not sent: {}; set the flags of Cluster Autoscaler instead",
            release.why_withheld()
        );
        warned.insert(name);
    }
}

/// A pool as `NodeGroups` and `NodeGroupForNode` show it, equal in both
/// (docs/reference/cluster-autoscaler.md#nodegroupfornode).
fn node_group(fleet: &Fleet, pool: &Pool) -> NodeGroup {
    let limits = fleet.limits(pool);
    NodeGroup {
        id: pool.text.to_string(),
        min_size: wire_size(limits.min),
        max_size: wire_size(limits.max),
        debug: format!(
            "NodeGroup {}: {} in {}, {}",
            pool.id.node_group, pool.offer.name, pool.id.datacenter, pool.id.capacity_type
        ),
    }
}

/// What the client says that it is (`grpc-go/1.68.1`).
fn client_of(metadata: &MetadataMap) -> Option<String> {
    metadata.get("user-agent")?.to_str().ok().map(ToOwned::to_owned)
}

fn wire_size(size: u32) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}

/// The pool of a node, real or made up. Never one that `NodeGroups` lacks.
fn pool_of<'a>(fleet: &'a Fleet, provider_id: &str, name: &str) -> Option<&'a Pool> {
    let machine = fleet.machine_of(provider_id, name)?;
    fleet.pool(&machine.pool.to_string())
}

#[async_trait]
impl CloudProvider for CloudProviderService {
    async fn node_groups(
        &self,
        _: Request<NodeGroupsRequest>,
    ) -> Result<Response<NodeGroupsResponse>, Status> {
        let node_groups = self.handle.read(|fleet| {
            self.told.note(fleet);
            fleet.pools().map(|pool| node_group(fleet, pool)).collect()
        });
        Ok(Response::new(NodeGroupsResponse { node_groups }))
    }

    async fn node_group_for_node(
        &self,
        request: Request<NodeGroupForNodeRequest>,
    ) -> Result<Response<NodeGroupForNodeResponse>, Status> {
        let node = request.into_inner().node.unwrap_or_default();
        let found = self.handle.read(|fleet| {
            // A Node without provider id lacks its labels and taints too: counted as a node of its pool it would
            // no longer be upcoming, yet take none of the pods that it was made for, and more would be made.
            let pool = pool_of(fleet, &node.provider_id, &node.name).filter(|_| !node.provider_id.is_empty());
            pool.map(|pool| node_group(fleet, pool))
        });
        Ok(Response::new(NodeGroupForNodeResponse { node_group: Some(found.unwrap_or_default()) }))
    }

    async fn pricing_node_price(
        &self,
        request: Request<PricingNodePriceRequest>,
    ) -> Result<Response<PricingNodePriceResponse>, Status> {
        let request = request.into_inner();
        let hours =
            hours(request.start_timestamp.or(request.start_time), request.end_timestamp.or(request.end_time));
        let node = request.node.unwrap_or_default();
        let hourly = self.handle.read(|fleet| node_price(fleet, &node));
        Ok(Response::new(PricingNodePriceResponse { price: hourly * hours }))
    }

    async fn pricing_pod_price(
        &self,
        request: Request<PricingPodPriceRequest>,
    ) -> Result<Response<PricingPodPriceResponse>, Status> {
        let request = request.into_inner();
        let hours =
            hours(request.start_timestamp.or(request.start_time), request.end_timestamp.or(request.end_time));
        let pod = if request.pod_bytes.is_empty() { &request.pod } else { &request.pod_bytes };
        let requests = pod_requests(pod).unwrap_or(UNREADABLE_POD);
        let rates = self.handle.read(Fleet::rates);
        Ok(Response::new(PricingPodPriceResponse { price: pod_price(rates, requests) * hours }))
    }

    async fn gpu_label(&self, _: Request<GpuLabelRequest>) -> Result<Response<GpuLabelResponse>, Status> {
        Ok(Response::new(GpuLabelResponse { label: GPU_LABEL.to_owned() }))
    }

    async fn get_available_gpu_types(
        &self,
        _: Request<GetAvailableGpuTypesRequest>,
    ) -> Result<Response<GetAvailableGpuTypesResponse>, Status> {
        Ok(Response::new(GetAvailableGpuTypesResponse::default()))
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Result<Response<CleanupResponse>, Status> {
        Ok(Response::new(CleanupResponse {}))
    }

    /// The fleet keeps itself fresh, and an error here would abort the loop
    /// (docs/reference/cluster-autoscaler.md#refresh).
    async fn refresh(&self, _: Request<RefreshRequest>) -> Result<Response<RefreshResponse>, Status> {
        Ok(Response::new(RefreshResponse {}))
    }

    async fn node_group_target_size(
        &self,
        request: Request<NodeGroupTargetSizeRequest>,
    ) -> Result<Response<NodeGroupTargetSizeResponse>, Status> {
        let id = &request.get_ref().id;
        let target = self.read_pool_or(id, |_| 0, |fleet, pool| fleet.limits(pool).target)?;
        Ok(Response::new(NodeGroupTargetSizeResponse { target_size: wire_size(target) }))
    }

    async fn node_group_increase_size(
        &self,
        request: Request<NodeGroupIncreaseSizeRequest>,
    ) -> Result<Response<NodeGroupIncreaseSizeResponse>, Status> {
        let patience = patience(request.metadata());
        let NodeGroupIncreaseSizeRequest { delta, id: pool } = request.into_inner();
        self.execute(Command::IncreaseSize { pool, delta }, patience).await?;
        Ok(Response::new(NodeGroupIncreaseSizeResponse {}))
    }

    async fn node_group_delete_nodes(
        &self,
        request: Request<NodeGroupDeleteNodesRequest>,
    ) -> Result<Response<NodeGroupDeleteNodesResponse>, Status> {
        let patience = patience(request.metadata());
        let NodeGroupDeleteNodesRequest { nodes, id: pool } = request.into_inner();
        let nodes = nodes.into_iter().map(node_ref).collect();
        self.execute(Command::DeleteNodes { pool, nodes }, patience).await?;
        Ok(Response::new(NodeGroupDeleteNodesResponse {}))
    }

    async fn node_group_decrease_target_size(
        &self,
        request: Request<NodeGroupDecreaseTargetSizeRequest>,
    ) -> Result<Response<NodeGroupDecreaseTargetSizeResponse>, Status> {
        let patience = patience(request.metadata());
        let NodeGroupDecreaseTargetSizeRequest { delta, id: pool } = request.into_inner();
        let was_told = self.told.has(&pool);
        match self.handle.execute_within(Command::DecreaseTargetSize { pool, delta }, patience).await {
            // Nothing is left to give up of a pool that is gone.
            Err(CommandError::Refused(Refusal::UnknownPool(_))) if was_told => {}
            done => done.map_err(|error| command_error(&error))?,
        }
        Ok(Response::new(NodeGroupDecreaseTargetSizeResponse {}))
    }

    async fn node_group_nodes(
        &self,
        request: Request<NodeGroupNodesRequest>,
    ) -> Result<Response<NodeGroupNodesResponse>, Status> {
        let id = &request.get_ref().id;
        let instances = |fleet: &Fleet, pool: &Pool| fleet.machines_of(pool).map(instance).collect();
        let instances = self.read_pool_or(id, |_| Vec::new(), instances)?;
        Ok(Response::new(NodeGroupNodesResponse { instances }))
    }

    async fn node_group_template_node_info(
        &self,
        request: Request<NodeGroupTemplateNodeInfoRequest>,
    ) -> Result<Response<NodeGroupTemplateNodeInfoResponse>, Status> {
        let id = &request.get_ref().id;
        let template = self.read_pool_or(id, |last| last, Fleet::template)?;
        let bytes = template_bytes(id, &template);
        Ok(Response::new(NodeGroupTemplateNodeInfoResponse { node_info: bytes.clone(), node_bytes: bytes }))
    }

    /// A pool that is not known has no options of its own either: an error here would leave its nodes
    /// standing (docs/reference/cluster-autoscaler.md#options).
    async fn node_group_get_options(
        &self,
        request: Request<NodeGroupAutoscalingOptionsRequest>,
    ) -> Result<Response<NodeGroupAutoscalingOptionsResponse>, Status> {
        let client = client_of(request.metadata());
        let NodeGroupAutoscalingOptionsRequest { id, defaults } = request.into_inner();
        let options = self.options(&id, &defaults.unwrap_or_default(), client.as_deref());
        Ok(Response::new(NodeGroupAutoscalingOptionsResponse { node_group_autoscaling_options: options }))
    }
}
