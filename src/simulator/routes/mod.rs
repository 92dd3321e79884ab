//! The HTTP API: each endpoint is a plain function of the state.

#![allow(clippy::unnecessary_wraps, reason = "every endpoint has the signature of `Endpoint`")]

mod account;
mod billing;
mod catalog;
mod control;
mod kubernetes;
mod login;
mod network;
mod scripts;
mod vm;
mod vm_actions;
mod vm_fields;

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::{Query, RawPathParams};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use serde_json::Value;

use super::handle::Simulator;
use super::operations::ApiError;
use super::shapes::{AuthHeader, DeleteBody, Prefix, Shapes};
use super::state::{Context, State};
use super::wire::{Content, Page};

#[cfg(test)]
pub(super) use catalog::mapping_identifier;

/// The parameters of a request.
pub(super) struct Call {
    params: HashMap<String, String>,
    query: HashMap<String, String>,
    body: Value,
    form: bool,
}

type Endpoint = fn(&mut State, &mut Context<'_>, &Call) -> Result<Content, ApiError>;

/// The path prefixes of all clients. The shape `prefix` selects the served ones.
const PREFIXES: [&str; 3] = ["/apps/v2", "/api/v2", "/v2"];

/// All routes. A request carries its [`Simulator`] as an extension, so that all simulators share one router,
/// which is slow to create.
pub(super) static ROUTER: LazyLock<Router> = LazyLock::new(|| {
    let mut router = Router::new().merge(control::router());
    for prefix in PREFIXES {
        router = router.nest(prefix, api());
    }
    router.fallback(unknown).method_not_allowed_fallback(unknown)
});

fn api() -> Router {
    Router::new()
        .route("/auth/from/api", post(public(login::login)))
        .route("/datacenter", get(authenticated(catalog::datacenters)))
        .route("/plans/category", get(authenticated(catalog::categories)))
        .route("/resources", post(authenticated(catalog::resources)))
        .route("/k8s/offers", post(authenticated(catalog::kubernetes_offers)))
        .route("/k8s/cluster/all", get(authenticated(kubernetes::clusters)))
        .route("/k8s/cluster/byId/{cluster}", get(authenticated(kubernetes::cluster)))
        .route("/k8s/node/groups/byClusterId/{cluster}", get(authenticated(kubernetes::groups)))
        .route("/k8s/cluster/add/group", post(authenticated(kubernetes::add_group)))
        .route("/k8s/cluster/delete/group/{group}", delete(authenticated(kubernetes::delete_group)))
        .route("/k8s/cluster/byId/{cluster}/add/slave", post(authenticated(kubernetes::add_slave)))
        .route(
            "/k8s/cluster/byId/{cluster}/add/slave/group/{group}",
            post(authenticated(kubernetes::add_slave)),
        )
        .route("/k8s/cluster/byId/{cluster}/delete/slave", delete(authenticated(kubernetes::delete_slave)))
        .route("/k8s/cluster/byId/{cluster}/reduce", delete(authenticated(kubernetes::reduce)))
        .route("/k8s/cluster/byId/{cluster}/reduce/slave", delete(authenticated(kubernetes::reduce)))
        .route("/storages/vms", get(authenticated(vm::storage_list)))
        .route("/vm", vms())
        .route("/vm/pending", get(authenticated(vm::pending)))
        .route("/vm/{vm}", get(authenticated(vm::get)))
        .route("/billing/estimated/usages", get(authenticated(billing::usages)))
        .merge(vm_actions::router())
        .merge(scripts::router())
        .merge(network::router())
        .merge(account::router())
}

fn vms() -> MethodRouter {
    get(authenticated(vm::list)).post(authenticated(vm::create)).delete(authenticated(vm::delete))
}

async fn unknown(Extension(simulator): Extension<Simulator>) -> Response<Body> {
    simulator.shapes().unknown_route()
}

type Queried = Query<HashMap<String, String>>;

/// A handler for an endpoint that requires a token.
fn authenticated(
    endpoint: Endpoint,
) -> impl Fn(Extension<Simulator>, RawPathParams, Queried, HeaderMap, Bytes) -> Ready<Response<Body>> + Clone
{
    move |simulator, params, query, headers, body| {
        ready(serve(&simulator, endpoint, Authentication::Token, &params, &query, &headers, &body))
    }
}

/// A handler for an endpoint that requires no token.
fn public(
    endpoint: Endpoint,
) -> impl Fn(Extension<Simulator>, RawPathParams, Queried, HeaderMap, Bytes) -> Ready<Response<Body>> + Clone
{
    move |simulator, params, query, headers, body| {
        ready(serve(&simulator, endpoint, Authentication::None, &params, &query, &headers, &body))
    }
}

/// The authentication of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Authentication {
    None,
    Token,
}

fn serve(
    simulator: &Simulator,
    endpoint: Endpoint,
    authentication: Authentication,
    params: &RawPathParams,
    query: &HashMap<String, String>,
    headers: &HeaderMap,
    body: &[u8],
) -> Response<Body> {
    simulator.with_state(|state, cx, rate| {
        let shapes = cx.config.shapes;
        if let Some(limit) = cx.config.rate_limit
            && let Err(seconds) = rate.admit(limit, cx.now)
        {
            return shapes.too_many(seconds, cx.now);
        }
        if authentication == Authentication::Token
            && !tokens(&shapes, headers).any(|token| state.accepts_token(cx, token))
        {
            return shapes.render(Err(ApiError::new(401, "Please authenticate")), Page::default());
        }
        let page = Page {
            offset: query.get("offset").and_then(|n| n.parse().ok()).unwrap_or_default(),
            limit: query.get("limit").and_then(|n| n.parse().ok()).unwrap_or(cx.config.anomalies.page_rows),
        };
        let result = Call::read(params, query, headers, body).and_then(|call| endpoint(state, cx, &call));
        shapes.render(result, page)
    })
}

/// The tokens of a request, in the headers that the shape selects.
fn tokens<'a>(shapes: &Shapes, headers: &'a HeaderMap) -> impl Iterator<Item = &'a str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let own = text("vpsie-auth").filter(|_| shapes.auth_header != AuthHeader::Bearer);
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    own.into_iter().chain(bearer.filter(|_| shapes.auth_header != AuthHeader::VpsieAuth))
}

impl Call {
    fn read(
        params: &RawPathParams,
        query: &HashMap<String, String>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Self, ApiError> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let form = content_type.is_some_and(|t| t.starts_with("application/x-www-form-urlencoded"));
        let params = params.iter().map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        let body = if body.is_empty() {
            Value::Null
        } else if form {
            url::form_urlencoded::parse(body)
                .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
                .collect()
        } else {
            serde_json::from_slice(body).map_err(|_| ApiError::new(400, "Malformed JSON in the request"))?
        };
        Ok(Self { params, query: query.clone(), body, form })
    }

    /// A parameter of the path.
    fn param(&self, name: &str) -> &str {
        self.params.get(name).map(String::as_str).unwrap_or_default()
    }

    /// A field of the body, a text or a number, as text.
    fn text(&self, name: &str) -> Result<String, ApiError> {
        match self.body.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            _ => Err(ApiError::new(400, format!("{name} is required"))),
        }
    }

    /// An optional field of the body, a text or a number, as text.
    fn optional(&self, name: &str) -> Option<String> {
        self.text(name).ok()
    }

    /// A flag of the body: a boolean, or 0 or 1 as number or text.
    fn flag(&self, name: &str) -> bool {
        let flag = self.body.get(name);
        flag == Some(&Value::Bool(true)) || flag.is_some() && self.text(name).is_ok_and(|text| text == "1")
    }

    /// The texts of a list of the body.
    fn texts(&self, name: &str) -> Vec<String> {
        let list = self.body.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    }

    /// A numeric parameter of the path.
    fn param_number(&self, name: &str) -> Result<u64, ApiError> {
        self.param(name).parse().map_err(|_| ApiError::not_found())
    }

    /// A numeric field of the body.
    fn number(&self, name: &str) -> Result<u64, ApiError> {
        self.text(name)?.parse().map_err(|_| ApiError::new(400, format!("{name} must be a number")))
    }

    /// Checks that a deletion has a reason if the shape `delete-body` requires one.
    fn check_reason(&self, shapes: &Shapes) -> Result<(), ApiError> {
        let reason = self.body.pointer("/deleteStatistic/reason").and_then(Value::as_str);
        if shapes.delete_body == DeleteBody::Statistic && reason.is_none_or(str::is_empty) {
            return Err(ApiError::new(400, "deleteStatistic.reason is required"));
        }
        Ok(())
    }
}

/// The parts of the path and the texts in the body of a request, which may be identifiers.
pub(super) fn names_in(request: &Request<Bytes>) -> Vec<String> {
    let mut names: Vec<String> = request.uri().path().split('/').map(ToOwned::to_owned).collect();
    if let Ok(Value::Object(fields)) = serde_json::from_slice(request.body()) {
        names.extend(fields.values().filter_map(Value::as_str).map(ToOwned::to_owned));
    } else {
        let fields = url::form_urlencoded::parse(request.body());
        names.extend(fields.map(|(_, value)| value.into_owned()));
    }
    names
}

/// Returns true iff the path has a served prefix, or no known prefix.
pub(super) fn prefix_is_served(shapes: &Shapes, path: &str) -> bool {
    let served: &[&str] = match shapes.prefix {
        Prefix::AppsAndApi => &["/apps/v2", "/api/v2"],
        Prefix::Apps => &["/apps/v2"],
        Prefix::Api => &["/api/v2"],
        Prefix::Bare => &["/v2"],
    };
    PREFIXES.iter().all(|prefix| !is_under(prefix, path) || served.contains(prefix))
}

/// The name under which a request is counted: `GET /k8s/cluster/byId/*`.
pub(super) fn endpoint_name(method: &str, path: &str) -> String {
    let path = PREFIXES.iter().find(|prefix| is_under(prefix, path)).map_or(path, |p| &path[p.len()..]);
    let is_id = |part: &str| part.len() == 36 || part.bytes().all(|b| b.is_ascii_digit());
    let parts = path.split('/').map(|part| if !part.is_empty() && is_id(part) { "*" } else { part });
    format!("{method} {}", parts.collect::<Vec<_>>().join("/"))
}

fn is_under(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_counted_without_prefix_and_ids() {
        let name = endpoint_name(
            "POST",
            "/apps/v2/k8s/cluster/byId/5a1c94be-6f3d-11ef-9b52-bc24115e1e5f/add/slave/group/7",
        );
        assert_eq!(name, "POST /k8s/cluster/byId/*/add/slave/group/*");
        assert_eq!(endpoint_name("GET", "/v2/vm"), "GET /vm");
    }

    #[test]
    fn only_the_selected_prefix_is_served() {
        let shapes = Shapes { prefix: Prefix::Apps, ..Shapes::default() };
        assert!(prefix_is_served(&shapes, "/apps/v2/vm"));
        assert!(!prefix_is_served(&shapes, "/api/v2/vm"));
        assert!(prefix_is_served(&shapes, "/elsewhere"));
    }
}
