//! The provider's connection to the API server. It observes each write, may crash the process before and
//! after it, and has the planted bugs.

use std::task::{Context, Poll};

use bytes::Bytes;
use fake_kube::{Answer, Connection};
use futures::future::BoxFuture;
use http::request::Parts;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use serde_json::Value;
use tower::{BoxError, Service};

use super::observer::{Observer, Target};
use super::planted_bugs::Bug;
use crate::cluster::workload::{name, node_of};
use crate::network::CrashCountdown;

/// The connection of one process.
#[derive(Clone)]
pub(super) struct ProviderConnection {
    pub(super) inner: Connection,
    pub(super) observer: Observer,
    pub(super) countdown: CrashCountdown,
    pub(super) bug: Option<Bug>,
}

impl Service<Request<Body>> for ProviderConnection {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Answer>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut connection = self.clone();
        Box::pin(async move {
            if request.method() == Method::GET {
                connection.read(request).await
            } else {
                connection.write(request).await
            }
        })
    }
}

impl ProviderConnection {
    async fn read(&mut self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        let target = Target::parse(request.uri().path());
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch="));
        let reply = self.inner.call(request).await?;
        let is_changed =
            self.bug.is_some_and(Bug::hides_replaced) && target.plural == "vpsienodes" && !is_watch;
        if !is_changed {
            return Ok(reply);
        }
        let (parts, body) = reply.into_parts();
        let mut list: Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
        for record in list["items"].as_array_mut().into_iter().flatten() {
            if let Some(spec) = record["spec"].as_object_mut() {
                spec.remove("replaces");
            }
        }
        let body = Full::new(Bytes::from(list.to_string())).map_err(|never| match never {});
        Ok(Response::from_parts(parts, body.boxed_unsync()))
    }

    async fn write(&mut self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        self.countdown.count_down().await;
        let (mut parts, body) = request.into_parts();
        let mut body = body.collect_bytes().await?;
        if let Some(bug) = self.bug {
            if bug == Bug::WrongPodEvicted {
                self.redirect_eviction(&mut parts)?;
            }
            body = bug.change_body(&parts.method, &Target::parse(parts.uri.path()), body);
        }
        let target = Target::parse(parts.uri.path());
        let second = self.bug.and_then(|bug| bug.second_write(&parts.method, &target, &body));
        let reply = self.send(parts.clone(), body).await;
        if let Some(second) = second {
            drop(self.send(parts, second).await);
        }
        self.countdown.count_down().await;
        reply
    }

    async fn send(&mut self, parts: Parts, body: Bytes) -> Result<Response<Answer>, BoxError> {
        let target = Target::parse(parts.uri.path());
        self.observer.check(&parts.method, &target, &body);
        let is_new_machine = parts.method == Method::POST && target.plural == "vpsienodes";
        let share_check = is_new_machine.then(|| self.observer.begin_share_check(&body)).flatten();
        let reply = self.inner.call(Request::from_parts(parts, Body::from(body))).await;
        if let Some(check) = share_check {
            tokio::spawn(self.observer.clone().check_share(check));
        }
        reply
    }

    /// Lets an eviction name a pod on another Node, if there is one.
    fn redirect_eviction(&self, parts: &mut Parts) -> Result<(), BoxError> {
        let target = Target::parse(parts.uri.path());
        if target.subresource != "eviction" {
            return Ok(());
        }
        let pods = self.observer.kube.list("pods");
        let node = pods.iter().find(|pod| name(pod) == target.name).and_then(node_of);
        let other = pods.iter().find(|pod| node_of(pod).is_some() && node_of(pod) != node);
        if let Some(other) = other {
            parts.uri = parts.uri.to_string().replace(&target.name, &name(other)).parse::<Uri>()?;
        }
        Ok(())
    }
}
