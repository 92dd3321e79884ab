//! Limits the number of concurrent requests of a service.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::Semaphore;
use tonic::server::NamedService;
use tower::Service;
use tower::limit::ConcurrencyLimit;

/// A gRPC service that waits for a permit before it reads a request.
#[derive(Clone, Debug)]
pub(super) struct Limited<S>(ConcurrencyLimit<S>);

impl<S> Limited<S> {
    pub(super) fn new(service: S, permits: Arc<Semaphore>) -> Self {
        Self(ConcurrencyLimit::with_semaphore(service, permits))
    }
}

impl<S: NamedService> NamedService for Limited<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<R>, R> Service<R> for Limited<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = <ConcurrencyLimit<S> as Service<R>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.0.call(request)
    }
}
