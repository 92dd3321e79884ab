//! Counts, times and logs each gRPC request.

use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::telemetry::Registry;

/// Upper bounds of the buckets, seconds. Reads take microseconds, commands a disk write; Cluster Autoscaler
/// gives up after 5 s.
const BUCKETS: [f64; 11] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

/// Metrics of the gRPC server, and the layer that records them.
#[derive(Clone, Debug)]
pub struct GrpcMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<MethodLabels, Histogram, fn() -> Histogram>,
    certificates: Family<CertificateLabels, Gauge>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    port: &'static str,
    side: &'static str,
}

/// Records the expiry of a port's certificates.
#[derive(Clone, Debug)]
pub(super) struct Expiry {
    certificates: Family<CertificateLabels, Gauge>,
    port: &'static str,
}

impl Expiry {
    /// Records the expiry of the server's certificates, seconds since 1970.
    pub(super) fn server(&self, until: i64) {
        self.set("server", until);
    }

    /// Records the expiry of the last client's certificates.
    pub(super) fn client(&self, until: i64) {
        self.set("client", until);
    }

    fn set(&self, side: &'static str, until: i64) {
        self.certificates.get_or_create(&CertificateLabels { port: self.port, side }).set(until);
    }
}

impl GrpcMetrics {
    /// Registers `grpc_requests_total{method,code}`, `grpc_request_duration_seconds{method}` and
    /// `tls_certificate_expiry_timestamp_seconds{port,side}`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            certificates: Family::default(),
        };
        let help = "gRPC requests by method and code";
        registry.register("grpc_requests", help, None, &metrics.requests);
        let help = "Duration of gRPC requests";
        registry.register("grpc_request_duration", help, Some(Unit::Seconds), &metrics.seconds);
        let help =
            "Expiry of certificates, Unix time, by port and side: server, or the client that connected last";
        registry.register(
            "tls_certificate_expiry_timestamp",
            help,
            Some(Unit::Seconds),
            &metrics.certificates,
        );
        metrics
    }

    pub(super) fn expiry(&self, port: &'static str) -> Expiry {
        Expiry { certificates: self.certificates.clone(), port }
    }

    fn record(&self, method: &'static str, status: Option<&Status>, started: Instant) {
        let elapsed = started.elapsed();
        let code = status.map_or(Code::Ok, Status::code);
        let code = code_name(code);
        self.requests.get_or_create(&RequestLabels { method, code }).inc();
        self.seconds.get_or_create(&MethodLabels { method }).observe(elapsed.as_secs_f64());
        let micros = elapsed.as_micros() as u64;
        if let Some(status) = status {
            tracing::warn!(method, code, micros, error = status.message(), "gRPC request failed");
        } else {
            tracing::debug!(method, code, micros, "served a gRPC request");
        }
    }
}

impl<S> Layer<S> for GrpcMetrics {
    type Service = InstrumentedService<S>;

    fn layer(&self, inner: S) -> InstrumentedService<S> {
        InstrumentedService { inner, metrics: self.clone() }
    }
}

/// A service that records its requests.
#[derive(Clone, Debug)]
pub struct InstrumentedService<S> {
    inner: S,
    metrics: GrpcMetrics,
}

impl<S, B, R> Service<http::Request<B>> for InstrumentedService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    R: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = method_name(request.uri().path());
        let started = Instant::now();
        let metrics = self.metrics.clone();
        self.inner
            .call(request)
            .map(move |result| {
                if let Ok(response) = &result {
                    // The error of a unary call is in the headers.
                    metrics.record(method, failed(response.headers()).as_ref(), started);
                }
                result
            })
            .boxed()
    }
}

fn failed(headers: &http::HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

/// The label value of a method. Unknown methods share one value, which bounds the number of series.
fn method_name(path: &str) -> &'static str {
    const METHODS: [&str; 15] = [
        "NodeGroupForNode",
        "NodeGroupGetOptions",
        "NodeGroupTargetSize",
        "NodeGroupNodes",
        "NodeGroupTemplateNodeInfo",
        "NodeGroups",
        "Refresh",
        "NodeGroupIncreaseSize",
        "NodeGroupDeleteNodes",
        "NodeGroupDecreaseTargetSize",
        "PricingNodePrice",
        "PricingPodPrice",
        "GPULabel",
        "GetAvailableGPUTypes",
        "Cleanup",
    ];
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
        return "other";
    };
    match service {
        "clusterautoscaler.cloudprovider.v1.externalgrpc.CloudProvider" => {
            METHODS.iter().find(|name| **name == method).copied().unwrap_or("other")
        }
        "grpcplugin.Expander" if method == "BestOptions" => "BestOptions",
        "grpc.health.v1.Health" => "health",
        "grpc.reflection.v1.ServerReflection" => "reflection",
        _ => "other",
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_from_outside_make_no_label_values() {
        assert_eq!(
            method_name("/clusterautoscaler.cloudprovider.v1.externalgrpc.CloudProvider/Refresh"),
            "Refresh"
        );
        for path in [
            "",
            "/",
            "/x",
            "/x/Refresh",
            "/clusterautoscaler.cloudprovider.v1.externalgrpc.CloudProvider/Guess",
        ] {
            assert_eq!(method_name(path), "other", "{path:?}");
        }
    }
}
