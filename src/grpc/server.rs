//! The gRPC server: transport, health, reflection, and shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _, future, stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::server::HealthReporter;

use super::expander::ExpanderService;
use super::limited::Limited;
use super::metrics::GrpcMetrics;
use super::proto::DESCRIPTORS;
use super::proto::cloud_provider_server::CloudProviderServer;
use super::proto::grpcplugin::expander_server::ExpanderServer;
use super::service::CloudProviderService;
use super::tls::{Tls, TlsError, TlsFiles};

/// Maximum size of a request to the expander. Cluster Autoscaler sends the templates of all pools and all
/// pending pods in one request, and treats a refusal as an absent expander
/// (docs/reference/cluster-autoscaler.md#grpc-expander).
const MAX_RECEIVE: usize = 128 << 20;

/// Cluster Autoscaler sends no keepalives. Without these the server would never notice a dead client
/// (docs/reference/cluster-autoscaler.md#transport).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of a request to the expander. Cluster Autoscaler waits for 5 s.
const EXPANDER_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of a TLS handshake, and the maximum number of concurrent handshakes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HANDSHAKES: usize = 256;

/// Time for connections to end at shutdown.
const DRAIN: Duration = Duration::from_secs(10);

/// The configuration of the gRPC server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcConfig {
    /// Files for mTLS. None for plaintext.
    pub tls: Option<TlsFiles>,
    /// Whether plaintext is allowed on addresses other than loopback.
    pub allow_plaintext: bool,
}

/// An invalid [`GrpcConfig`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrpcConfigError {
    /// Plaintext on an address other than loopback that was not allowed.
    #[error(
        "plaintext gRPC on {0} is open to every host that can connect; configure TLS, listen on a loopback \
         address, or allow plaintext explicitly"
    )]
    Plaintext(SocketAddr),
}

impl GrpcConfig {
    /// Checks the configuration for a server that listens on `address`.
    pub fn check(&self, address: SocketAddr) -> Result<(), GrpcConfigError> {
        if self.tls.is_none() && !self.allow_plaintext && !address.ip().is_loopback() {
            return Err(GrpcConfigError::Plaintext(address));
        }
        Ok(())
    }
}

/// The services of a port.
#[derive(Clone)]
pub struct Services {
    /// The cloud provider. None on ports where Cluster Autoscaler shows no certificate.
    pub provider: Option<CloudProviderService>,
    /// The expander.
    pub expander: ExpanderService,
}

/// The gRPC server could not start, or failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] GrpcConfigError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address of the listener is unknown.
    #[error("cannot listen: {0}")]
    Listen(#[from] std::io::Error),
    /// The compiled schema cannot be served.
    #[error("cannot set up reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until `shutdown`, then sends GOAWAY, completes requests in flight, and returns.
///
/// The caller passes the listener, whose backlog holds connections while the fleet is loaded: an early reply
/// would be an empty list of pools, which is worse than a waiting connection
/// (docs/reference/cluster-autoscaler.md#nodegroups). The listener may be shared: later connections wait for
/// the next accept.
pub async fn serve(
    config: GrpcConfig,
    services: Services,
    metrics: GrpcMetrics,
    listener: Arc<TcpListener>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    config.check(listener.local_addr()?)?;
    match config.tls {
        Some(files) => {
            let port = if services.provider.is_some() { "grpc" } else { "expander" };
            let tls = Arc::new(Tls::load(files, metrics.expiry(port)).await?);
            let incoming = handshakes(accepted(listener), tls.clone());
            tokio::select! {
                ended = run(services, metrics, incoming, &shutdown) => ended,
                () = tls.watch() => Ok(()),
            }
        }
        None => run(services, metrics, connections(accepted(listener)), &shutdown).await,
    }
}

async fn run<IO>(
    services: Services,
    metrics: GrpcMetrics,
    incoming: impl Stream<Item = Result<IO, Infallible>>,
    shutdown: &CancellationToken,
) -> Result<(), ServeError>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (health, health_service) = tonic_health::server::health_reporter();
    let Services { provider, expander } = services;
    if provider.is_some() {
        health.set_serving::<CloudProviderServer<CloudProviderService>>().await;
    }
    health.set_serving::<ExpanderServer<ExpanderService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let permits = expander.permits();
    let expander_server = ExpanderServer::new(expander).max_decoding_message_size(MAX_RECEIVE);
    let mut server = Server::builder();
    if provider.is_none() {
        // Clients are not authenticated here: a timeout keeps them from holding a permit.
        server = server.timeout(EXPANDER_TIMEOUT);
    }
    let serving = server
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(metrics)
        .add_service(health_service)
        .add_service(reflection)
        .add_optional_service(provider.map(CloudProviderServer::new))
        .add_service(Limited::new(expander_server, permits))
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled());
    tokio::select! {
        ended = serving => Ok(ended?),
        () = drained(&health, shutdown) => {
            tracing::warn!(seconds = DRAIN.as_secs(), "gRPC connections did not end in time; closing them");
            Ok(())
        }
    }
}

/// Returns when the time for connections to end is over.
async fn drained(health: &HealthReporter, shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    health.set_not_serving::<CloudProviderServer<CloudProviderService>>().await;
    health.set_not_serving::<ExpanderServer<ExpanderService>>().await;
    tokio::time::sleep(DRAIN).await;
}

fn accepted(listener: Arc<TcpListener>) -> impl Stream<Item = std::io::Result<TcpStream>> {
    stream::poll_fn(move |context| listener.poll_accept(context).map_ok(|(stream, _)| stream).map(Some))
}

fn connections(
    accepted: impl Stream<Item = std::io::Result<TcpStream>>,
) -> impl Stream<Item = Result<TcpStream, Infallible>> {
    accepted.filter_map(async |accepted| Some(Ok(set_up(accepted).await?)))
}

fn handshakes(
    accepted: impl Stream<Item = std::io::Result<TcpStream>>,
    tls: Arc<Tls>,
) -> impl Stream<Item = Result<TlsStream<TcpStream>, Infallible>> {
    accepted
        .map(move |accepted| handshake(accepted, tls.clone()))
        .buffer_unordered(HANDSHAKES)
        .filter_map(|stream| future::ready(stream.map(Ok)))
}

async fn handshake(accepted: std::io::Result<TcpStream>, tls: Arc<Tls>) -> Option<TlsStream<TcpStream>> {
    let stream = set_up(accepted).await?;
    let peer = stream.peer_addr().ok();
    let error = match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => {
            tls.record_client(stream.get_ref().1.peer_certificates());
            return Some(stream);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("timed out after {} s", HANDSHAKE_TIMEOUT.as_secs()),
    };
    tracing::warn!(peer = ?peer, error, "TLS handshake failed");
    None
}

/// Configures an accepted connection. Waits after a failure to accept, which mostly means no free file
/// descriptors.
pub(super) async fn set_up(accepted: std::io::Result<TcpStream>) -> Option<TcpStream> {
    match accepted {
        // A failure means that the peer has gone.
        Ok(stream) => stream.set_nodelay(true).is_ok().then_some(stream),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;
    use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

    use super::super::proto::cloud_provider_client::CloudProviderClient;
    use super::super::proto::grpcplugin::expander_client::ExpanderClient;
    use super::super::proto::grpcplugin::{BestOptionsRequest, Option as ExpanderOption};
    use super::super::proto::{NodeGroupsRequest, RefreshRequest};
    use super::super::tests::fleet;
    use super::super::tls::tests::{Authority, write};
    use super::*;
    use crate::clock::SystemClock;
    use crate::control::FleetHandle;
    use crate::telemetry::Registry;

    const SERVICE: &str = "clusterautoscaler.cloudprovider.v1.externalgrpc.CloudProvider";

    fn config(tls: Option<TlsFiles>) -> GrpcConfig {
        GrpcConfig { tls, allow_plaintext: false }
    }

    struct Running {
        port: u16,
        shutdown: CancellationToken,
        server: JoinHandle<Result<(), ServeError>>,
        registry: Registry,
    }

    async fn start(config: GrpcConfig) -> Running {
        start_with(config, false).await
    }

    async fn start_with(config: GrpcConfig, only_expander: bool) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shutdown = CancellationToken::new();
        let mut registry = Registry::default();
        let metrics = GrpcMetrics::register(&mut registry);
        let handle = FleetHandle::fixed(fleet());
        let expander = ExpanderService::new(handle.clone(), Arc::new(SystemClock), Arc::default());
        let provider = (!only_expander).then(|| CloudProviderService::new(handle));
        let services = Services { provider, expander };
        let server = tokio::spawn(serve(config, services, metrics, Arc::new(listener), shutdown.clone()));
        Running { port, shutdown, server, registry }
    }

    async fn plain(port: u16) -> Channel {
        Endpoint::try_from(format!("http://127.0.0.1:{port}")).unwrap().connect().await.unwrap()
    }

    #[test]
    fn plaintext_needs_loopback_or_permission() {
        let everywhere: SocketAddr = "0.0.0.0:8086".parse().unwrap();
        let loopback: SocketAddr = "[::1]:8086".parse().unwrap();
        assert_eq!(config(None).check(everywhere), Err(GrpcConfigError::Plaintext(everywhere)));
        assert_eq!(config(None).check(loopback), Ok(()));
        assert_eq!(GrpcConfig { allow_plaintext: true, ..config(None) }.check(everywhere), Ok(()));
    }

    #[tokio::test]
    async fn the_server_has_health_reflection_and_metrics() {
        let running = start(config(None)).await;
        let channel = plain(running.port).await;
        let mut client = CloudProviderClient::new(channel.clone());
        let groups = client.node_groups(NodeGroupsRequest {}).await.unwrap().into_inner().node_groups;
        assert_eq!(groups.len(), 2);
        client.node_group_nodes(super::super::proto::NodeGroupNodesRequest::default()).await.unwrap_err();

        for service in ["", SERVICE] {
            let request = HealthCheckRequest { service: service.to_owned() };
            let reply = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
            assert_eq!(reply.status, 1, "{service:?}");
        }

        let question = tonic_reflection::pb::v1::ServerReflectionRequest {
            message_request: Some(MessageRequest::FileContainingSymbol(SERVICE.to_owned())),
            ..Default::default()
        };
        let asked = ServerReflectionClient::new(channel)
            .server_reflection_info(futures::stream::iter([question]))
            .await
            .unwrap();
        let reply = asked.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
        assert!(format!("{reply:?}").starts_with("FileDescriptorResponse"));

        let text = running.registry.encode().unwrap();
        for line in [
            r#"vpsie_autoscaler_grpc_requests_total{method="NodeGroups",code="OK"} 1"#,
            r#"vpsie_autoscaler_grpc_requests_total{method="NodeGroupNodes",code="NotFound"} 1"#,
            r#"vpsie_autoscaler_grpc_request_duration_seconds_count{method="NodeGroups"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[tokio::test]
    async fn an_idle_client_does_not_delay_shutdown() {
        let running = start(config(None)).await;
        let mut client = CloudProviderClient::new(plain(running.port).await);
        client.refresh(RefreshRequest {}).await.unwrap();
        running.shutdown.cancel();
        running.server.await.unwrap().unwrap();
        client.refresh(RefreshRequest {}).await.unwrap_err();
    }

    #[tokio::test]
    async fn an_endless_call_delays_shutdown_up_to_the_limit() {
        let running = start(config(None)).await;
        let request = HealthCheckRequest { service: SERVICE.to_owned() };
        let mut watch =
            HealthClient::new(plain(running.port).await).watch(request).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
        tokio::time::pause();
        let before = tokio::time::Instant::now();
        running.shutdown.cancel();
        running.server.await.unwrap().unwrap();
        assert!(before.elapsed() >= DRAIN);
        assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    }

    async fn secure(
        port: u16,
        authority: &Authority,
        with_certificate: bool,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authority.pem()))
            .domain_name("localhost");
        if with_certificate {
            let (cert, key) = authority.leaf("cluster-autoscaler");
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        Endpoint::try_from(format!("https://127.0.0.1:{port}")).unwrap().tls_config(tls)?.connect().await
    }

    async fn refresh(channel: Result<Channel, tonic::transport::Error>) -> Result<(), String> {
        let mut client = CloudProviderClient::new(channel.map_err(|error| error.to_string())?);
        client.refresh(RefreshRequest {}).await.map(drop).map_err(|status| status.to_string())
    }

    #[tokio::test]
    async fn clients_need_a_certificate_of_the_authority() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let unknown = Authority::new();
        let running = start(config(Some(write(dir.path(), &authority)))).await;
        refresh(secure(running.port, &authority, true).await).await.unwrap();
        refresh(secure(running.port, &authority, false).await).await.unwrap_err();
        refresh(secure(running.port, &unknown, true).await).await.unwrap_err();
        let text = running.registry.encode().unwrap();
        for (side, until) in [("server", "2098-01-01T00:00:00Z"), ("client", "2099-01-01T00:00:00Z")] {
            let until = until.parse::<jiff::Timestamp>().unwrap().as_second();
            let line = format!("expiry_timestamp_seconds{{port=\"grpc\",side=\"{side}\"}} {until}");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        let plaintext =
            Endpoint::try_from(format!("http://127.0.0.1:{}", running.port)).unwrap().connect().await;
        refresh(plaintext).await.unwrap_err();
    }

    #[tokio::test]
    async fn the_expander_port_needs_no_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let files = TlsFiles { client_ca: None, ..write(dir.path(), &authority) };
        let running = start_with(config(Some(files)), true).await;
        let channel = secure(running.port, &authority, false).await.unwrap();
        let question = || BestOptionsRequest {
            options: vec![ExpanderOption { node_group_id: "foreign".to_owned(), ..Default::default() }],
            ..Default::default()
        };
        let mut expander = ExpanderClient::new(channel.clone());
        let best = expander.best_options(question()).await.unwrap().into_inner().options;
        assert_eq!(best[0].node_group_id, "foreign");
        let refused = CloudProviderClient::new(channel).refresh(RefreshRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unimplemented);
        let untrusted = secure(running.port, &Authority::new(), false).await;
        assert!(untrusted.is_err(), "a certificate of another authority is accepted");
        let plaintext = Endpoint::try_from(format!("http://127.0.0.1:{}", running.port)).unwrap();
        let channel = plaintext.connect().await;
        let asked = match channel {
            Ok(channel) => ExpanderClient::new(channel).best_options(question()).await.map(drop).is_ok(),
            Err(_) => false,
        };
        assert!(!asked, "plaintext is served");
    }

    #[tokio::test]
    async fn new_tls_files_apply_to_new_connections() {
        let dir = tempfile::tempdir().unwrap();
        let old = Authority::new();
        let new = Authority::new();
        let running = start(config(Some(write(dir.path(), &old)))).await;
        let open = secure(running.port, &old, true).await.unwrap();
        refresh(Ok(open.clone())).await.unwrap();
        write(dir.path(), &new);
        tokio::time::pause();
        tokio::time::sleep(2 * super::super::tls::RELOAD).await;
        tokio::time::resume();
        refresh(Ok(open)).await.unwrap();
        refresh(secure(running.port, &new, true).await).await.unwrap();
        refresh(secure(running.port, &old, true).await).await.unwrap_err();
    }
}
