//! The baseline: tonic alone, with a constant reply for every method.

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, async_trait};
use vpsie_autoscaler::grpc::proto::cloud_provider_client::CloudProviderClient;
use vpsie_autoscaler::grpc::proto::cloud_provider_server::{CloudProvider, CloudProviderServer};
use vpsie_autoscaler::grpc::proto::*;

use super::cluster::{self, Cluster};

/// Replies of the provider for the first node and the first pool, one for each method.
#[derive(Clone)]
pub(crate) struct Constants {
    node_groups: NodeGroupsResponse,
    node_group_for_node: NodeGroupForNodeResponse,
    options: NodeGroupAutoscalingOptionsResponse,
    target_size: NodeGroupTargetSizeResponse,
    nodes: NodeGroupNodesResponse,
    template: NodeGroupTemplateNodeInfoResponse,
    node_price: PricingNodePriceResponse,
    pod_price: PricingPodPriceResponse,
}

impl Constants {
    pub(crate) async fn read(
        client: &mut CloudProviderClient<Channel>,
        cluster: &Cluster,
        prices: &(Vec<PricingNodePriceRequest>, Vec<PricingPodPriceRequest>),
    ) -> Self {
        let (node, _) = cluster.nodes[0].clone();
        let pool = &cluster.pools[0];
        let constants = Self {
            node_groups: client.node_groups(cluster::node_groups()).await.unwrap().into_inner(),
            node_group_for_node: client.node_group_for_node(node).await.unwrap().into_inner(),
            options: client.node_group_get_options(cluster::options(pool)).await.unwrap().into_inner(),
            target_size: client
                .node_group_target_size(cluster::target_size(pool))
                .await
                .unwrap()
                .into_inner(),
            nodes: client.node_group_nodes(cluster::nodes(pool)).await.unwrap().into_inner(),
            template: client
                .node_group_template_node_info(cluster::template(pool))
                .await
                .unwrap()
                .into_inner(),
            node_price: client.pricing_node_price(prices.0[0].clone()).await.unwrap().into_inner(),
            pod_price: client.pricing_pod_price(prices.1[0].clone()).await.unwrap().into_inner(),
        };
        // The replies have the same size only if the provider knows the nodes and pools.
        assert_eq!(constants.node_groups.node_groups.len(), cluster.pools.len());
        assert_eq!(constants.node_group_for_node.node_group.as_ref().map(|group| &group.id), Some(pool));
        assert_eq!(constants.nodes.instances.len(), cluster.nodes.len().div_ceil(cluster.pools.len()));
        for node in &prices.0[..3] {
            let price = client.pricing_node_price(node.clone()).await.unwrap().into_inner();
            assert_eq!(price, constants.node_price, "{node:?} is not known");
        }
        constants
    }
}

pub(crate) async fn serve(constants: Constants) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let router = Server::builder().add_service(CloudProviderServer::new(Bare(constants)));
    tokio::spawn(router.serve_with_incoming(incoming));
    port
}

struct Bare(Constants);

type Reply<T> = Result<Response<T>, Status>;

#[async_trait]
impl CloudProvider for Bare {
    async fn node_groups(&self, _: Request<NodeGroupsRequest>) -> Reply<NodeGroupsResponse> {
        Ok(Response::new(self.0.node_groups.clone()))
    }

    async fn node_group_for_node(
        &self,
        _: Request<NodeGroupForNodeRequest>,
    ) -> Reply<NodeGroupForNodeResponse> {
        Ok(Response::new(self.0.node_group_for_node.clone()))
    }

    async fn refresh(&self, _: Request<RefreshRequest>) -> Reply<RefreshResponse> {
        Ok(Response::new(RefreshResponse {}))
    }

    async fn node_group_target_size(
        &self,
        _: Request<NodeGroupTargetSizeRequest>,
    ) -> Reply<NodeGroupTargetSizeResponse> {
        Ok(Response::new(self.0.target_size))
    }

    async fn node_group_nodes(&self, _: Request<NodeGroupNodesRequest>) -> Reply<NodeGroupNodesResponse> {
        Ok(Response::new(self.0.nodes.clone()))
    }

    async fn node_group_template_node_info(
        &self,
        _: Request<NodeGroupTemplateNodeInfoRequest>,
    ) -> Reply<NodeGroupTemplateNodeInfoResponse> {
        Ok(Response::new(self.0.template.clone()))
    }

    async fn node_group_get_options(
        &self,
        _: Request<NodeGroupAutoscalingOptionsRequest>,
    ) -> Reply<NodeGroupAutoscalingOptionsResponse> {
        Ok(Response::new(self.0.options))
    }

    async fn pricing_node_price(
        &self,
        _: Request<PricingNodePriceRequest>,
    ) -> Reply<PricingNodePriceResponse> {
        Ok(Response::new(self.0.node_price))
    }

    async fn pricing_pod_price(&self, _: Request<PricingPodPriceRequest>) -> Reply<PricingPodPriceResponse> {
        Ok(Response::new(self.0.pod_price))
    }

    async fn gpu_label(&self, _: Request<GpuLabelRequest>) -> Reply<GpuLabelResponse> {
        not_measured()
    }

    async fn get_available_gpu_types(
        &self,
        _: Request<GetAvailableGpuTypesRequest>,
    ) -> Reply<GetAvailableGpuTypesResponse> {
        not_measured()
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Reply<CleanupResponse> {
        not_measured()
    }

    async fn node_group_increase_size(
        &self,
        _: Request<NodeGroupIncreaseSizeRequest>,
    ) -> Reply<NodeGroupIncreaseSizeResponse> {
        not_measured()
    }

    async fn node_group_delete_nodes(
        &self,
        _: Request<NodeGroupDeleteNodesRequest>,
    ) -> Reply<NodeGroupDeleteNodesResponse> {
        not_measured()
    }

    async fn node_group_decrease_target_size(
        &self,
        _: Request<NodeGroupDecreaseTargetSizeRequest>,
    ) -> Reply<NodeGroupDecreaseTargetSizeResponse> {
        not_measured()
    }
}

fn not_measured<T>() -> Reply<T> {
    Err(Status::unimplemented("not part of the benchmark"))
}
