//! Cluster Autoscaler's connection to the expander of the provider.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use ca_model::{Autoscaler, Config, Expander, Link, Minor};
use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::body::Body;
use tower::Service;
use vpsie_autoscaler::clock::Clock;
use vpsie_autoscaler::grpc::proto::cloud_provider_server::CloudProviderServer;
use vpsie_autoscaler::grpc::proto::grpcplugin::expander_server::ExpanderServer;
use vpsie_autoscaler::grpc::{CloudProviderService, ExpanderService};

use crate::cluster::process::ClusterProcess;
use crate::fixtures::{autoscaler_config, new_autoscaler, new_autoscaler_with};
use crate::network::CaChannel;

/// Connection to the expander. It is refused if no provider runs.
#[derive(Clone)]
pub(super) struct ExpanderChannel {
    provider: CaChannel,
    server: Arc<Mutex<Option<ExpanderServer<ExpanderService>>>>,
}

impl ExpanderChannel {
    pub(super) fn new(provider: &CaChannel) -> Self {
        Self { provider: provider.clone(), server: Arc::default() }
    }

    /// Creates a Cluster Autoscaler, which uses the expander first if `is_used`.
    pub(super) fn autoscaler(&self, minor: Minor, is_used: bool, seed: u64) -> Autoscaler {
        if !is_used {
            return new_autoscaler(minor, &self.provider, seed);
        }
        let config = autoscaler_config(seed);
        let chain = [vec![Expander::Grpc], config.expander.clone()].concat();
        let autoscaler = new_autoscaler_with(minor, &self.provider, Config { expander: chain, ..config });
        autoscaler.with_expander(Link::new(Duration::from_secs(5), self.clone()))
    }

    /// Connects Cluster Autoscaler to a process. It `hides` replacements unless a bug is planted.
    pub(super) fn connect(
        &self,
        process: &ClusterProcess,
        clock: Arc<dyn Clock>,
        is_used: bool,
        hides: bool,
    ) {
        let handle = &process.handle;
        let expander =
            ExpanderService::new(handle.clone(), clock, Arc::default()).with_assumed_usage(is_used);
        let provider = CloudProviderService::new(handle.clone());
        let provider = if hides { provider.with_expander(&expander) } else { provider };
        *self.server.lock().unwrap() = Some(ExpanderServer::new(expander));
        *self.provider.server.lock().unwrap() = Some(CloudProviderServer::new(provider));
    }
}

impl Service<Request<Body>> for ExpanderChannel {
    type Response = Response<Body>;
    type Error = tonic::Status;
    type Future = BoxFuture<'static, Result<Response<Body>, tonic::Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let is_up = self.provider.server.lock().unwrap().is_some();
        let server = self.server.lock().unwrap().clone().filter(|_| is_up);
        Box::pin(async move {
            let mut server = server.ok_or_else(|| tonic::Status::unavailable("connection refused"))?;
            let Ok::<_, std::convert::Infallible>(reply) = server.call(request).await;
            Ok(reply)
        })
    }
}
