//! The client for the API server. It repeats nothing by itself and waits for nothing without end: who asks
//! decides what to do about an answer, or about none.

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

/// To connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One request, from its first byte to the last of its reply. A watch: until its reply begins.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The pod has no service account that can be used.
    #[error(
        "--kubeconfig in-cluster: {0}; it works only in a pod with a service account (automountServiceAccountToken)"
    )]
    InCluster(InClusterError),
    /// The file is not there, or does not say what is needed.
    #[error(
        "--kubeconfig {path}: cannot be used: {problem}; name a kubeconfig whose current context works with kubectl"
    )]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: Box<KubeconfigError>,
    },
    /// What the file says of certificates or credentials cannot be used.
    #[error("--kubeconfig {given}: no client can be made of it: {problem}")]
    Client {
        /// The flag's value.
        given: String,
        /// What is wrong.
        problem: Box<kube::Error>,
    },
    /// The token file that it names cannot be used.
    #[error("--kubeconfig {given}: {problem}{}", causes(problem))]
    Token {
        /// The flag's value.
        given: String,
        /// What is wrong.
        #[source]
        problem: TokenFileError,
    },
    /// The proxy that the cluster of the kubeconfig names is no URL.
    #[error(
        "--kubeconfig {given}: proxy-url {url:?} is no URL; want something like http://proxy.example:3128"
    )]
    Proxy {
        /// The flag's value.
        given: String,
        /// What is given.
        url: String,
    },
}

fn causes(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, |cause| format!(": {cause}"))
}

/// A client that is ready to ask. Nothing is asked yet.
pub async fn connect(access: &KubernetesAccess) -> Result<Client, ConnectError> {
    let mut config = match access {
        KubernetesAccess::InCluster => kube::Config::incluster().map_err(ConnectError::InCluster)?,
        KubernetesAccess::Kubeconfig(path) => from_file(path).await?,
    };
    // kube would repeat what is answered with 429, 503 or 504, for minutes: an eviction that a budget refuses, or
    // the renewal of a lease.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Idle connections and watches are silent for longer: what is asked is bounded one by one.
    config.read_timeout = None;
    let token = token_file(&mut config.auth_info);
    if let Some(token) = &token {
        let read = token.authorization().await;
        read.map_err(|problem| ConnectError::Token { given: access.to_string(), problem })?;
    }
    let client = Client::try_from(config)
        .map_err(|problem| ConnectError::Client { given: access.to_string(), problem: Box::new(problem) })?;
    Ok(bound_with(&client, token))
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
        // That of kube still has the user and password that the variable may hold.
        None => proxy_of(&Matcher::from_env(), &config.cluster_url)
            .map(|proxy| config.proxy_url.take_if(|known| known.host() == proxy.host()).unwrap_or(proxy)),
    };
    Ok(config)
}

/// The proxy that the current context's cluster names.
fn own_proxy(file: &Kubeconfig) -> Option<String> {
    let current = file.current_context.as_ref()?;
    let context = file.contexts.iter().find(|known| known.name == *current)?;
    let name = &context.context.as_ref()?.cluster;
    let cluster = file.clusters.iter().find(|known| known.name == *name)?;
    cluster.cluster.as_ref()?.proxy_url.clone().filter(|url| !url.trim().is_empty())
}

/// `NO_PROXY=*`: the matcher takes that for host names only.
fn no_proxy_at_all() -> bool {
    ["NO_PROXY", "no_proxy"].iter().any(|name| std::env::var(name).is_ok_and(|hosts| hosts.trim() == "*"))
}

/// The proxy that `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` name for the API server. kube would look for the proxy's own
/// host in `NO_PROXY`.
fn proxy_of(environment: &Matcher, server: &Uri) -> Option<Uri> {
    let proxy = environment.intercept(server)?.uri().clone();
    // kube has no SOCKS here, and never looked at ALL_PROXY.
    proxy.scheme_str().is_none_or(|scheme| !scheme.starts_with("socks")).then_some(proxy)
}

/// Takes the token file over from kube, which sends it as it is, line break and all. A token has precedence.
fn token_file(auth: &mut kube::config::AuthInfo) -> Option<Arc<TokenFile>> {
    let file = auth.token_file.take()?;
    auth.token.is_none().then(|| Arc::new(TokenFile::new(PathBuf::from(file))))
}

/// The same client with [`REQUEST_TIMEOUT`] on each request.
pub fn bounded(client: &Client) -> Client {
    bound_with(client, None)
}

fn bound_with(client: &Client, token: Option<Arc<TokenFile>>) -> Client {
    let inner = client.clone();
    let service = tower::service_fn(move |request| bound(inner.clone(), token.clone(), request));
    ClientBuilder::new(service, client.default_namespace()).with_valid_until(*client.valid_until()).build()
}

/// No reply in time. Whether the API server did what was asked is not known.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {REQUEST_TIMEOUT:?}")]
struct TimedOut;

async fn bound(
    client: Client,
    token: Option<Arc<TokenFile>>,
    mut request: Request<Body>,
) -> Result<Response<Body>, BoxError> {
    let watch = is_watch(&request);
    let answer = async {
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
    tokio::time::timeout(REQUEST_TIMEOUT, answer).await.map_err(|_| TimedOut)?
}

/// Its reply goes on for as long as the server likes.
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

    /// Answers with the start of a reply and then with nothing more.
    fn stalling() -> Client {
        let service = tower::service_fn(|_: Request<Body>| async {
            let start = futures::stream::iter([Ok::<_, BoxError>("{")]);
            let body = axum::body::Body::from_stream(start.chain(futures::stream::pending()));
            Ok::<_, BoxError>(Response::new(body))
        });
        bounded(&Client::new(service, "default"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_whose_reply_never_ends_is_given_up() {
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
    async fn an_answer_passes_as_it_is() {
        let service = tower::service_fn(|_: Request<Body>| async {
            let mut reply = Response::new(Body::from(br#"{"code":429,"message":"later"}"#.to_vec()));
            *reply.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            Ok::<_, BoxError>(reply)
        });
        let api: Api<ConfigMap> = Api::default_namespaced(bounded(&Client::new(service, "default")));
        let error = api.get("a").await.unwrap_err();
        assert!(matches!(&error, kube::Error::Api(status) if status.code == 429), "{error}");
    }

    #[test]
    fn no_proxy_is_about_the_api_server() {
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
        let client = bound_with(&Client::new(service, "default"), token_file(&mut auth));
        client.request_text(Request::get("/version").body(Vec::new()).unwrap()).await.unwrap();
        assert_eq!(seen.lock().unwrap()[..], ["Bearer abc.def"]);
        assert_eq!(auth.token_file, None);
    }

    #[tokio::test]
    async fn a_token_file_that_holds_none_stops_the_start() {
        let token = tempfile::NamedTempFile::new().unwrap();
        let file = kubeconfig("", &format!("tokenFile: '{}'", token.path().display()));
        let connected = connect(&KubernetesAccess::Kubeconfig(file.path().into())).await;
        let error = connected.map(drop).unwrap_err().to_string();
        assert!(error.contains("holds no token"), "{error}");
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_kubeconfig_is_said() {
        let connected = connect(&KubernetesAccess::Kubeconfig("no/such".into())).await;
        let error = connected.map(drop).unwrap_err().to_string();
        assert!(error.starts_with("--kubeconfig no/such: cannot be used: "), "{error}");
    }
}
