//! Client of a gRPC service, over a channel or in process.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, uri::PathAndQuery};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::{Body as HttpBody, Service, StdError};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

type Transport = BoxCloneSyncService<Request<Body>, Response<Body>, StdError>;

/// A service and the timeout of its calls.
pub struct Link {
    grpc: Grpc<Transport>,
    timeout: Duration,
}

impl Link {
    /// Uses a `tonic::transport::Channel`, or a generated server of tonic in process. Calls that take longer
    /// than `timeout` (tokio's time) fail.
    pub fn new<S, B>(timeout: Duration, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<StdError>,
        S::Future: Send + 'static,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        let service =
            service.map_err(Into::<StdError>::into).map_response(|response| response.map(Body::new));
        Self { grpc: Grpc::new(BoxCloneSyncService::new(service)), timeout }
    }

    /// Calls the method of a path such as `/grpcplugin.Expander/BestOptions`.
    pub(crate) async fn unary<Q, R>(&self, path: &str, request: Q) -> Result<R, Status>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        tokio::time::timeout(self.timeout, self.call(path, request))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("context deadline exceeded")))
    }

    async fn call<Q, R>(&self, path: &str, request: Q) -> Result<R, Status>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(path).map_err(|error| Status::internal(error.to_string()))?;
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = tonic_prost::ProstCodec::<Q, R>::default();
        Ok(grpc.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }
}
