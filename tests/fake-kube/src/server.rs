//! Handling of one request.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tower::{BoxError, Service};

use crate::FakeKube;
use crate::faults::FaultEffect;
use crate::objects::{Edit, Part};
use crate::request::{ApiRequest, RequestTarget, Verb};
use crate::status_error::StatusError;
use crate::watch::Watch;

/// Body of a reply.
pub type Answer = UnsyncBoxBody<Bytes, BoxError>;

/// Connection of a client to the server.
#[derive(Clone)]
pub struct Connection {
    pub(crate) kube: FakeKube,
    pub(crate) client: String,
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Answer>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let connection = self.clone();
        Box::pin(async move { connection.deliver(request).await })
    }
}

fn connection_reset() -> BoxError {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "connection reset by peer").into()
}

impl Connection {
    /// Delivers a request and its reply, with faults.
    async fn deliver(&self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        let target = RequestTarget::parse(request.uri());
        let record = self.describe(&request, target.as_ref().ok());
        let (latency, fault) = self.kube.select_fault(&record);
        self.kube.log(record);
        for delay in [latency, fault.delay] {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
        }
        self.wait_for_network().await?;
        match fault.effect {
            FaultEffect::Done => {}
            FaultEffect::Refused(error) => return Ok(error_response(&error)),
            FaultEffect::RequestLost => return Err(connection_reset()),
            FaultEffect::Hangs => return std::future::pending().await,
            FaultEffect::ReplyLost => {
                self.serve(request, target).await?;
                return Err(connection_reset());
            }
            FaultEffect::DoneAndHangs => {
                self.serve(request, target).await?;
                return std::future::pending().await;
            }
        }
        self.serve(request, target).await
    }

    /// Waits while the client is partitioned. Its requests are lost afterwards.
    async fn wait_for_network(&self) -> Result<(), BoxError> {
        let mut changes = self.kube.changes();
        let mut waited = false;
        while self.kube.state().faults.partitioned.contains(&self.client) {
            waited = true;
            let _ = changes.changed().await;
        }
        if waited { Err(connection_reset()) } else { Ok(()) }
    }

    fn describe(&self, request: &Request<Body>, target: Option<&RequestTarget>) -> ApiRequest {
        let text = |part: Option<&Option<String>>| part.cloned().flatten().unwrap_or_default();
        ApiRequest {
            client: self.client.clone(),
            verb: target.map_or(Verb::Get, |target| target.verb(request.method())),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            plural: target.map(|target| target.kind.plural.to_owned()).unwrap_or_default(),
            namespace: text(target.map(|target| &target.namespace)),
            name: text(target.map(|target| &target.name)),
            subresource: text(target.map(|target| &target.subresource)),
            query: target.map(|target| target.query.clone()).unwrap_or_default(),
        }
    }

    async fn serve(
        &self,
        request: Request<Body>,
        target: Result<RequestTarget, StatusError>,
    ) -> Result<Response<Answer>, BoxError> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if parts.uri.path() == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" {
            return Ok(self.review(&bytes).unwrap_or_else(|error| error_response(&error)));
        }
        let answer = target.and_then(|target| {
            if parts.method == Method::GET && target.watches() {
                let lines = Watch::new(&self.kube, &self.client, &target)?.stream();
                return Ok(response(
                    StatusCode::OK,
                    StreamBody::new(lines.map_ok(Frame::data)).boxed_unsync(),
                ));
            }
            let (code, value) = self.handle(&parts.method, &target, kind.unwrap_or_default(), &bytes)?;
            Ok(json_response(code, &value))
        });
        Ok(answer.unwrap_or_else(|error| error_response(&error)))
    }

    fn handle(
        &self,
        method: &Method,
        target: &RequestTarget,
        content: &str,
        bytes: &[u8],
    ) -> Result<(StatusCode, Value), StatusError> {
        let now = self.kube.now();
        let kind = target.kind;
        let namespace = target.namespace.as_deref().unwrap_or_default();
        let part = match target.subresource.as_deref() {
            None => Part::Object,
            Some("status") if kind.status => Part::Status,
            Some("eviction") if kind.plural == "pods" && *method == Method::POST => {
                let name = target.name.as_deref().unwrap_or_default();
                let options = json(bytes)?["deleteOptions"].take();
                self.kube.change(|objects| {
                    objects.delete(kind, namespace, name, &options["preconditions"], now)
                })?;
                return Ok((StatusCode::CREATED, success()));
            }
            Some(_) => return Err(StatusError::new(404, "the server could not find the requested resource")),
        };
        let object = |object: &Value| Ok((StatusCode::OK, object.clone()));
        match (method, target.name.as_deref()) {
            (&Method::GET, Some(name)) => {
                let missing = || StatusError::not_found(kind.plural, name);
                object(self.kube.state().objects.get(kind, namespace, name).ok_or_else(missing)?)
            }
            (&Method::GET, None) => self.list(target),
            (&Method::POST, None) if target.namespace.is_some() == kind.namespaced => {
                let new = json(bytes)?;
                let made = self.kube.change(|objects| objects.create(kind, namespace, new, part, now))?;
                Ok((StatusCode::CREATED, Value::clone(&made)))
            }
            (&Method::PUT, Some(name)) => {
                let edit = Edit::Replace(json(bytes)?);
                object(&*self.kube.change(|objects| objects.update(kind, namespace, name, part, edit))?)
            }
            (&Method::PATCH, Some(name)) => {
                // Lists with merge keys are replaced, not merged: no client needs more.
                if !["application/merge-patch+json", "application/strategic-merge-patch+json"]
                    .contains(&content)
                {
                    return Err(StatusError::new(415, format!("patches of type {content:?} are not served")));
                }
                let edit = Edit::Merge(json(bytes)?);
                object(&*self.kube.change(|objects| objects.update(kind, namespace, name, part, edit))?)
            }
            (&Method::DELETE, Some(name)) if part == Part::Object => {
                let options = if bytes.is_empty() { Value::Null } else { json(bytes)? };
                let left = self.kube.change(|objects| {
                    objects.delete(kind, namespace, name, &options["preconditions"], now)
                })?;
                Ok((StatusCode::OK, left.map_or_else(success, |left| Value::clone(&left))))
            }
            _ => Err(StatusError::new(405, format!("{method} is not served here"))),
        }
    }

    fn list(&self, target: &RequestTarget) -> Result<(StatusCode, Value), StatusError> {
        let selector = target.selector()?;
        let limit = target.param("limit").and_then(|limit| limit.parse().ok()).unwrap_or(0);
        let mut state = self.kube.state();
        let (items, version) = if let Some(token) = target.param("continue") {
            state.objects.rest(token)?
        } else {
            let all = state.objects.all(target.kind, target.namespace.as_deref());
            let items: VecDeque<_> = all.filter(|object| selector.fits(object)).cloned().collect();
            (items, state.objects.version())
        };
        let left = items.len();
        let (items, rest) = state.objects.page(items, version, limit);
        let mut meta = json!({"resourceVersion": version.to_string()});
        if let Some(token) = rest {
            meta["continue"] = token.to_string().into();
            meta["remainingItemCount"] = (left - items.len()).into();
        }
        let kind = target.kind;
        let list = json!({
            "apiVersion": kind.api_version(), "kind": format!("{}List", kind.word), "metadata": meta,
            "items": items.iter().map(|item| Value::clone(item)).collect::<Vec<_>>(),
        });
        Ok((StatusCode::OK, list))
    }

    /// Reply to a `SelfSubjectAccessReview`: allowed unless forbidden.
    fn review(&self, bytes: &[u8]) -> Result<Response<Answer>, StatusError> {
        let mut review = json(bytes)?;
        let asks = &review["spec"]["resourceAttributes"];
        let text = |key: &str| asks[key].as_str().unwrap_or_default().to_owned();
        let mut resource = text("resource");
        if !text("subresource").is_empty() {
            resource = format!("{resource}/{}", text("subresource"));
        }
        let allowed = !self.kube.state().forbidden.contains(&(text("verb"), resource));
        review["status"] = json!({"allowed": allowed});
        Ok(json_response(StatusCode::CREATED, &review))
    }
}

fn json(bytes: &[u8]) -> Result<Value, StatusError> {
    serde_json::from_slice(bytes)
        .map_err(|error| StatusError::new(400, format!("the body must be JSON: {error}")))
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 200})
}

fn response(code: StatusCode, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn json_response(code: StatusCode, value: &Value) -> Response<Answer> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {});
    response(code, body.boxed_unsync())
}

fn error_response(error: &StatusError) -> Response<Answer> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(code, &error.status());
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
