//! The `CloudProvider` service. It replies to reads from memory.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, async_trait};

use super::convert::{instance, node_ref, template_bytes};
use super::deadline::time_budget;
use super::expander::{ExpanderService, ExpanderUsage};
use super::options::{Release, fill_options};
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
use crate::clock::{Clock, SystemClock};
use crate::control::{Command, CommandError, FleetHandle};
use crate::fleet::{Fleet, Limits, NodeGroupName, Pool, Refusal, Template, Visibility};

/// The `CloudProvider` service over a fleet.
#[derive(Clone)]
pub struct CloudProviderService {
    handle: FleetHandle,
    clock: Arc<dyn Clock>,
    expander: ExpanderUsage,
    recent_pools: RecentPools,
    options_withheld: Arc<Mutex<BTreeSet<NodeGroupName>>>,
}

impl CloudProviderService {
    /// Serves the fleet.
    pub fn new(handle: FleetHandle) -> Self {
        Self {
            handle,
            clock: Arc::new(SystemClock),
            expander: ExpanderUsage::default(),
            recent_pools: RecentPools::default(),
            options_withheld: Arc::default(),
        }
    }

    /// Hides replacements while Cluster Autoscaler uses this expander (docs/designs/spot.md).
    pub fn with_expander(self, expander: &ExpanderService) -> Self {
        Self { clock: Arc::clone(expander.clock()), expander: expander.usage().clone(), ..self }
    }

    /// The replacements that Cluster Autoscaler sees. Without the expander it may choose another pool than theirs.
    fn visibility(&self) -> Visibility {
        if self.expander.is_used() { Visibility::BesideOthers(self.clock.now()) } else { Visibility::All }
    }

    fn read_pool<R>(&self, id: &str, f: impl FnOnce(&Fleet, &Pool) -> R) -> Result<R, Status> {
        self.handle.read(|fleet| fleet.pool(id).map(|pool| f(fleet, pool))).ok_or_else(|| unknown_pool(id))
    }

    /// Reads a pool. Returns `gone` for a removed pool if the present loop of Cluster Autoscaler may know it:
    /// an error would end the loop for all pools.
    fn read_pool_or<R>(
        &self,
        id: &str,
        gone: impl FnOnce(Arc<Template>) -> R,
        f: impl FnOnce(&Fleet, &Pool) -> R,
    ) -> Result<R, Status> {
        self.read_pool(id, f).or_else(|unknown| self.recent_pools.template(id).map(gone).ok_or(unknown))
    }

    async fn execute(&self, command: Command, time_budget: Option<Duration>) -> Result<(), Status> {
        self.handle.execute_within(command, time_budget).await.map_err(|error| command_error(&error))
    }

    /// The options of the NodeGroup, if the caller's release handles them correctly
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
        let release = Release::detect(defaults, client);
        let reply = release.accepts(&set).then(|| fill_options(&set, defaults)).flatten();
        if reply.is_none() {
            self.warn_of_withheld_options(name, release);
        }
        reply
    }

    /// Warns once per NodeGroup: the request comes thousands of times a loop.
    fn warn_of_withheld_options(&self, name: NodeGroupName, release: Release) {
        let mut warned = self.options_withheld.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.contains(&name) {
            return;
        }
        tracing::warn!(
            nodegroup = %name,
            cluster_autoscaler = release.as_str(),
            "autoscalingOptions of the NodeGroup are not sent to this release of Cluster Autoscaler: {}. Set its flags \
             instead",
            release.why_withheld()
        );
        warned.insert(name);
    }
}

/// A pool in replies to `NodeGroups` and `NodeGroupForNode`, which must be equal
/// (docs/reference/cluster-autoscaler.md#nodegroupfornode).
fn node_group(pool: &Pool, limits: Limits) -> NodeGroup {
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

/// The user agent of the client (`grpc-go/1.68.1`).
fn client_of(metadata: &MetadataMap) -> Option<String> {
    metadata.get("user-agent")?.to_str().ok().map(ToOwned::to_owned)
}

fn wire_size(size: u32) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}

/// The pool of a node, real or fake. `NodeGroups` always has it.
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
        let visibility = self.visibility();
        let node_groups = self.handle.read(|fleet| {
            self.recent_pools.record_all(fleet);
            let mut limits = fleet.pool_limits();
            fleet.pools().map(|pool| node_group(pool, limits.visible(pool, visibility))).collect()
        });
        Ok(Response::new(NodeGroupsResponse { node_groups }))
    }

    async fn node_group_for_node(
        &self,
        request: Request<NodeGroupForNodeRequest>,
    ) -> Result<Response<NodeGroupForNodeResponse>, Status> {
        let node = request.into_inner().node.unwrap_or_default();
        let visibility = self.visibility();
        let found = self.handle.read(|fleet| {
            // A Node without providerID has no labels and taints yet. As a node of its pool it would no
            // longer be upcoming, but could not take its pods, and Cluster Autoscaler would add more nodes.
            let pool = pool_of(fleet, &node.provider_id, &node.name).filter(|_| !node.provider_id.is_empty());
            pool.map(|pool| node_group(pool, fleet.visible_limits(pool, visibility)))
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

    /// Nothing to do: the fleet is always up to date, and an error would abort the loop
    /// (docs/reference/cluster-autoscaler.md#refresh).
    async fn refresh(&self, _: Request<RefreshRequest>) -> Result<Response<RefreshResponse>, Status> {
        Ok(Response::new(RefreshResponse {}))
    }

    async fn node_group_target_size(
        &self,
        request: Request<NodeGroupTargetSizeRequest>,
    ) -> Result<Response<NodeGroupTargetSizeResponse>, Status> {
        let id = &request.get_ref().id;
        let visibility = self.visibility();
        let target = |fleet: &Fleet, pool: &Pool| fleet.visible_target(pool, visibility);
        let target = self.read_pool_or(id, |_| 0, target)?;
        Ok(Response::new(NodeGroupTargetSizeResponse { target_size: wire_size(target) }))
    }

    async fn node_group_increase_size(
        &self,
        request: Request<NodeGroupIncreaseSizeRequest>,
    ) -> Result<Response<NodeGroupIncreaseSizeResponse>, Status> {
        let time_budget = time_budget(request.metadata());
        let NodeGroupIncreaseSizeRequest { delta, id: pool } = request.into_inner();
        self.expander.note_increase();
        self.execute(Command::IncreaseSize { pool, delta }, time_budget).await?;
        Ok(Response::new(NodeGroupIncreaseSizeResponse {}))
    }

    async fn node_group_delete_nodes(
        &self,
        request: Request<NodeGroupDeleteNodesRequest>,
    ) -> Result<Response<NodeGroupDeleteNodesResponse>, Status> {
        let time_budget = time_budget(request.metadata());
        let NodeGroupDeleteNodesRequest { nodes, id: pool } = request.into_inner();
        let nodes = nodes.into_iter().map(node_ref).collect();
        self.execute(Command::DeleteNodes { pool, nodes }, time_budget).await?;
        Ok(Response::new(NodeGroupDeleteNodesResponse {}))
    }

    async fn node_group_decrease_target_size(
        &self,
        request: Request<NodeGroupDecreaseTargetSizeRequest>,
    ) -> Result<Response<NodeGroupDecreaseTargetSizeResponse>, Status> {
        let time_budget = time_budget(request.metadata());
        let NodeGroupDecreaseTargetSizeRequest { delta, id: pool } = request.into_inner();
        let was_recent = self.recent_pools.is_recent(&pool);
        match self.handle.execute_within(Command::DecreaseTargetSize { pool, delta }, time_budget).await {
            // A removed pool has no unfulfilled target to reduce.
            Err(CommandError::Refused(Refusal::UnknownPool(_))) if was_recent => {}
            done => done.map_err(|error| command_error(&error))?,
        }
        Ok(Response::new(NodeGroupDecreaseTargetSizeResponse {}))
    }

    async fn node_group_nodes(
        &self,
        request: Request<NodeGroupNodesRequest>,
    ) -> Result<Response<NodeGroupNodesResponse>, Status> {
        let id = &request.get_ref().id;
        let visibility = self.visibility();
        let instances =
            |fleet: &Fleet, pool: &Pool| fleet.visible_machines(pool, visibility).map(instance).collect();
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

    /// An unknown pool has no options: an error would stop Cluster Autoscaler from removing its nodes
    /// (docs/reference/cluster-autoscaler.md#options).
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
