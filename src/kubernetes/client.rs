//! The client for the API server. It repeats nothing by itself and waits for nothing without end: who asks
//! decides what to do about an answer, or about none.

use std::path::Path;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::{Body, ClientBuilder};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tower::BoxError;

use crate::config::KubernetesAccess;

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
}

/// A client that is ready to ask. Nothing is asked yet.
pub async fn connect(access: &KubernetesAccess) -> Result<Client, ConnectError> {
    let mut config = match access {
        KubernetesAccess::InCluster => kube::Config::incluster().map_err(ConnectError::InCluster)?,
        KubernetesAccess::Kubeconfig(path) => from_file(path).await.map_err(|problem| {
            ConnectError::Kubeconfig { path: path.display().to_string(), problem: Box::new(problem) }
        })?,
    };
    // kube would repeat what is answered with 429, 503 or 504, for minutes: an eviction that a budget refuses, or
    // the renewal of a lease.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Idle connections and watches are silent for longer: what is asked is bounded one by one.
    config.read_timeout = None;
    let client = Client::try_from(config)
        .map_err(|problem| ConnectError::Client { given: access.to_string(), problem: Box::new(problem) })?;
    Ok(bounded(&client))
}

async fn from_file(path: &Path) -> Result<kube::Config, KubeconfigError> {
    let file = Kubeconfig::read_from(path)?;
    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
}

/// The same client with [`REQUEST_TIMEOUT`] on each request.
pub fn bounded(client: &Client) -> Client {
    let inner = client.clone();
    let service = tower::service_fn(move |request| bound(inner.clone(), request));
    ClientBuilder::new(service, client.default_namespace()).with_valid_until(*client.valid_until()).build()
}

/// No reply in time. Whether the API server did what was asked is not known.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {REQUEST_TIMEOUT:?}")]
struct TimedOut;

async fn bound(client: Client, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let watch = is_watch(&request);
    let answer = async {
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

    #[tokio::test]
    async fn what_is_wrong_with_a_kubeconfig_is_said() {
        let connected = connect(&KubernetesAccess::Kubeconfig("no/such".into())).await;
        let error = connected.map(drop).unwrap_err().to_string();
        assert!(error.starts_with("--kubeconfig no/such: cannot be used: "), "{error}");
    }
}
