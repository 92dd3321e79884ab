//! The client for the API server. It does not retry, and each request has a timeout: retries are up to the
//! caller.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Uri, header};
use http_body_util::BodyExt as _;
use hyper_util::client::proxy::matcher::Matcher;
use kube::Client;
use kube::client::{Body, ClientBuilder};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tower::BoxError;

use super::access::KubernetesAccess;
use super::token_file::{TokenFile, TokenFileError};

/// Timeout of a connection, including TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of one request, until its reply is complete. For a watch: until its reply begins.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A client cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The pod has no usable service account.
    #[error(
        "--kubeconfig in-cluster: {0}; it works only in a pod with a service account (automountServiceAccountToken)"
    )]
    InCluster(InClusterError),
    /// The kubeconfig is missing or incomplete.
    #[error(
        "--kubeconfig {path}: cannot be used: {problem}; name a kubeconfig whose current context works with kubectl"
    )]
    Kubeconfig {
        /// The file.
        path: String,
        /// The problem.
        problem: Box<KubeconfigError>,
    },
    /// The certificates or credentials of the kubeconfig cannot be used.
    #[error("--kubeconfig {given}: cannot create a client: {problem}")]
    Client {
        /// The flag's value.
        given: String,
        /// The problem.
        problem: Box<kube::Error>,
    },
    /// The token file of the kubeconfig cannot be used.
    #[error("--kubeconfig {given}: {problem}{}", causes(problem))]
    Token {
        /// The flag's value.
        given: String,
        /// The problem.
        #[source]
        problem: TokenFileError,
    },
    /// The `proxy-url` of the kubeconfig is invalid.
    #[error(
        "--kubeconfig {given}: proxy-url {url:?} is not a URL; use a URL such as http://proxy.example:3128"
    )]
    Proxy {
        /// The flag's value.
        given: String,
        /// The invalid value.
        url: String,
    },
}

fn causes(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, |cause| format!(": {cause}"))
}

/// Creates a client. Makes no request yet.
pub async fn connect(access: &KubernetesAccess) -> Result<Client, ConnectError> {
    let mut config = match access {
        KubernetesAccess::InCluster => kube::Config::incluster().map_err(ConnectError::InCluster)?,
        KubernetesAccess::Kubeconfig(path) => from_file(path).await?,
    };
    // kube would retry HTTP 429, 503 and 504 for minutes, also for evictions that a budget refuses and for
    // renewals of the Lease.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Watches may be silent for longer. `send_in_time` limits each request instead.
    config.read_timeout = None;
    let token = token_file(&mut config.auth_info);
    if let Some(token) = &token {
        let read = token.authorization().await;
        read.map_err(|problem| ConnectError::Token { given: access.to_string(), problem })?;
    }
    let client = Client::try_from(config)
        .map_err(|problem| ConnectError::Client { given: access.to_string(), problem: Box::new(problem) })?;
    Ok(with_timeout_and_token(&client, token))
}

async fn from_file(path: &Path) -> Result<kube::Config, ConnectError> {
    let given = path.display().to_string();
    let wrong = |problem| ConnectError::Kubeconfig { path: given.clone(), problem: Box::new(problem) };
    let file = Kubeconfig::read_from(path).map_err(wrong)?;
    let own_proxy = own_proxy(&file);
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?;
    config.proxy_url = match own_proxy {
        Some(url) => Some(url.parse().map_err(|_| ConnectError::Proxy { given, url })?),
        None if no_proxy_at_all() => None,
        // kube's URL includes the user and password of the variable.
        None => proxy_of(&Matcher::from_env(), &config.cluster_url)
            .map(|proxy| config.proxy_url.take_if(|known| known.host() == proxy.host()).unwrap_or(proxy)),
    };
    Ok(config)
}

/// The `proxy-url` of the current context's cluster.
fn own_proxy(file: &Kubeconfig) -> Option<String> {
    let current = file.current_context.as_ref()?;
    let context = file.contexts.iter().find(|known| known.name == *current)?;
    let name = &context.context.as_ref()?.cluster;
    let cluster = file.clusters.iter().find(|known| known.name == *name)?;
    cluster.cluster.as_ref()?.proxy_url.clone().filter(|url| !url.trim().is_empty())
}

/// Returns true iff `NO_PROXY=*`. The matcher applies `*` to host names only.
fn no_proxy_at_all() -> bool {
    ["NO_PROXY", "no_proxy"].iter().any(|name| std::env::var(name).is_ok_and(|hosts| hosts.trim() == "*"))
}

/// The proxy for the API server by `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`. kube would match `NO_PROXY`
/// with the host of the proxy itself.
fn proxy_of(environment: &Matcher, server: &Uri) -> Option<Uri> {
    let proxy = environment.intercept(server)?.uri().clone();
    // kube is built without SOCKS and ignores ALL_PROXY.
    proxy.scheme_str().is_none_or(|scheme| !scheme.starts_with("socks")).then_some(proxy)
}

/// Takes the token file over from kube, which would send a trailing line break. A token has precedence.
fn token_file(auth: &mut kube::config::AuthInfo) -> Option<Arc<TokenFile>> {
    let file = auth.token_file.take()?;
    auth.token.is_none().then(|| Arc::new(TokenFile::new(PathBuf::from(file))))
}

/// Wraps a client with [`REQUEST_TIMEOUT`] for each request.
pub fn with_request_timeout(client: &Client) -> Client {
    with_timeout_and_token(client, None)
}

fn with_timeout_and_token(client: &Client, token: Option<Arc<TokenFile>>) -> Client {
    let inner = client.clone();
    let service = tower::service_fn(move |request| send_in_time(inner.clone(), token.clone(), request));
    ClientBuilder::new(service, client.default_namespace()).with_valid_until(*client.valid_until()).build()
}

/// No reply in time. The API server may or may not have done the request.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {REQUEST_TIMEOUT:?}")]
struct TimedOut;

async fn send_in_time(
    client: Client,
    token: Option<Arc<TokenFile>>,
    mut request: Request<Body>,
) -> Result<Response<Body>, BoxError> {
    let watch = is_watch(&request);
    let reply = async {
        if let Some(token) = token {
            request.headers_mut().insert(header::AUTHORIZATION, token.authorization().await?);
        }
        let reply = client.send(request).await?;
        if watch {
            return Ok(reply);
        }
        let (parts, body) = reply.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Response::from_parts(parts, Body::from(body)))
    };
    tokio::time::timeout(REQUEST_TIMEOUT, reply).await.map_err(|_| TimedOut)?
}

/// Returns true iff the reply of a request is a stream without end.
fn is_watch(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|part| matches!(part, "watch=true" | "watch=1" | "follow=true"))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use http::StatusCode;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::{ListParams, WatchParams};
    use tokio::time::Instant;

    use super::*;

    /// A server whose replies stop after the first byte.
    fn stalling() -> Client {
        let service = tower::service_fn(|_: Request<Body>| async {
            let start = futures::stream::iter([Ok::<_, BoxError>("{")]);
            let body = axum::body::Body::from_stream(start.chain(futures::stream::pending()));
            Ok::<_, BoxError>(Response::new(body))
        });
        with_request_timeout(&Client::new(service, "default"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_times_out_during_its_reply() {
        let started = Instant::now();
        let api: Api<ConfigMap> = Api::default_namespaced(stalling());
        let error = api.list(&ListParams::default()).await.unwrap_err();
        assert!(error.to_string().contains("did not answer within 10s"), "{error}");
        assert_eq!(started.elapsed(), REQUEST_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_may_be_silent() {
        let api: Api<ConfigMap> = Api::default_namespaced(stalling());
        let events = api.watch(&WatchParams::default(), "0").await.unwrap();
        let mut events = std::pin::pin!(events);
        assert!(tokio::time::timeout(REQUEST_TIMEOUT * 30, events.next()).await.is_err());
    }

    #[tokio::test]
    async fn an_error_reply_is_returned_unchanged() {
        let service = tower::service_fn(|_: Request<Body>| async {
            let mut reply = Response::new(Body::from(br#"{"code":429,"message":"later"}"#.to_vec()));
            *reply.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            Ok::<_, BoxError>(reply)
        });
        let api: Api<ConfigMap> =
            Api::default_namespaced(with_request_timeout(&Client::new(service, "default")));
        let error = api.get("a").await.unwrap_err();
        assert!(matches!(&error, kube::Error::Api(status) if status.code == 429), "{error}");
    }

    #[test]
    fn no_proxy_matches_the_api_server() {
        let proxy = |no: &str, server: &'static str| {
            let environment = Matcher::builder().https("http://proxy.test:3128").no(no).build();
            proxy_of(&environment, &Uri::from_static(server)).map(|uri| uri.to_string())
        };
        let server = "https://127.0.0.1:6443/";
        assert_eq!(proxy("localhost", server).as_deref(), Some("http://proxy.test:3128/"));
        for no in ["127.0.0.1", "localhost, 127.0.0.0/8,"] {
            assert_eq!(proxy(no, server), None, "{no}");
        }
        assert_eq!(proxy("proxy.test", server).as_deref(), Some("http://proxy.test:3128/"));
        assert_eq!(proxy(".svc", "https://kubernetes.default.svc/"), None);
        assert_eq!(proxy("", "http://127.0.0.1:8001/"), None);
    }

    fn kubeconfig(cluster: &str, user: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:6443'{cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        );
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[tokio::test]
    async fn a_kubeconfig_may_name_its_own_proxy() {
        let file = kubeconfig(", proxy-url: 'http://own.test:3128'", "token: t");
        let config = from_file(file.path()).await.unwrap();
        assert_eq!(config.proxy_url.unwrap().to_string(), "http://own.test:3128/");
        connect(&KubernetesAccess::Kubeconfig(file.path().into())).await.map(drop).unwrap();
        let file = kubeconfig("", "token: t");
        assert_eq!(from_file(file.path()).await.unwrap().proxy_url, None);
    }

    #[tokio::test]
    async fn a_token_file_is_sent_without_its_line_break() {
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "abc.def\n").unwrap();
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let service = tower::service_fn({
            let seen = Arc::clone(&seen);
            move |request: Request<Body>| {
                seen.lock().unwrap().push(request.headers()[header::AUTHORIZATION].clone());
                async { Ok::<_, BoxError>(Response::new(Body::from(b"{}".to_vec()))) }
            }
        });
        let mut auth = kube::config::AuthInfo {
            token_file: Some(token.path().display().to_string()),
            ..Default::default()
        };
        let client = with_timeout_and_token(&Client::new(service, "default"), token_file(&mut auth));
        client.request_text(Request::get("/version").body(Vec::new()).unwrap()).await.unwrap();
        assert_eq!(seen.lock().unwrap()[..], ["Bearer abc.def"]);
        assert_eq!(auth.token_file, None);
    }

    #[tokio::test]
    async fn an_empty_token_file_fails_at_start() {
        let token = tempfile::NamedTempFile::new().unwrap();
        let file = kubeconfig("", &format!("tokenFile: '{}'", token.path().display()));
        let connected = connect(&KubernetesAccess::Kubeconfig(file.path().into())).await;
        let error = connected.map(drop).unwrap_err().to_string();
        assert!(error.contains("contains no valid token"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_an_error() {
        let connected = connect(&KubernetesAccess::Kubeconfig("no/such".into())).await;
        let error = connected.map(drop).unwrap_err().to_string();
        assert!(error.starts_with("--kubeconfig no/such: cannot be used: "), "{error}");
    }
}
