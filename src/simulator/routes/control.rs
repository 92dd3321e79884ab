//! The control endpoint, `/_simulator/...`. Faults, tokens and the rate limit do not apply to it.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Json, Router};
use http::StatusCode;
use jiff::SignedDuration;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::json;

use crate::catalog::CapacityType;
use crate::simulator::config::TimesConfig;
use crate::simulator::control::ControlError;
use crate::simulator::datacenter_faults::DatacenterFaults;
use crate::simulator::fault::FaultRule;
use crate::simulator::handle::Simulator;
use crate::simulator::market::Storm;
use crate::simulator::shapes::Shapes;

type Sim = Extension<Simulator>;

pub(super) fn router() -> Router {
    let api = Router::new()
        .route("/state", get(async |Extension(sim): Sim| Json(sim.overview())))
        .route("/vms", get(async |Extension(sim): Sim| Json(sim.vms())))
        .route("/gone", get(async |Extension(sim): Sim| Json(sim.gone())))
        .route("/vms/{vm}", delete(delete_vm))
        .route("/vms/{vm}/interrupt", post(interrupt).delete(withdraw_interruption))
        .route("/storm", post(interrupt_share))
        .route("/vms/{vm}/suspend", post(suspend))
        .route("/vms/{vm}/resume", post(resume))
        .route("/workers", post(add_worker))
        .route(
            "/faults",
            get(async |Extension(sim): Sim| Json(sim.faults())).post(add_fault).delete(clear_faults),
        )
        .route("/faults/{id}", delete(remove_fault))
        .route("/calls", get(async |Extension(sim): Sim| Json(sim.calls())).delete(reset_calls))
        .route("/capacity", put(set_capacity))
        .route("/quota", put(set_quota))
        .route("/rate-limit", put(set_rate_limit))
        .route("/price", put(set_price))
        .route("/times", put(set_times))
        .route("/shapes", put(set_shapes))
        .route("/datacenters", get(async |Extension(sim): Sim| Json(sim.datacenter_faults())))
        .route("/datacenters/{datacenter}", put(set_datacenter_faults))
        .route("/outage", put(set_outage))
        .route("/token", put(set_token))
        .route("/tokens", delete(revoke_tokens));
    Router::new().nest("/_simulator", api)
}

/// The reply of a control operation.
struct ControlReply(Result<serde_json::Value, (StatusCode, String)>);

impl IntoResponse for ControlReply {
    fn into_response(self) -> Response {
        match self.0 {
            Ok(value) => Json(value).into_response(),
            Err((status, error)) => (status, Json(json!({ "error": error }))).into_response(),
        }
    }
}

fn control_reply(result: Result<(), ControlError>) -> ControlReply {
    ControlReply(match result {
        Ok(()) => Ok(json!({ "done": true })),
        Err(error) => Err((StatusCode::NOT_FOUND, error.to_string())),
    })
}

fn done() -> ControlReply {
    control_reply(Ok(()))
}

async fn delete_vm(Extension(sim): Sim, Path(vm): Path<String>) -> ControlReply {
    control_reply(sim.delete_vm(&vm))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Notice {
    notice: SignedDuration,
}

async fn interrupt(Extension(sim): Sim, Path(vm): Path<String>, Json(body): Json<Notice>) -> ControlReply {
    control_reply(sim.interrupt(&vm, body.notice.abs()))
}

async fn withdraw_interruption(Extension(sim): Sim, Path(vm): Path<String>) -> ControlReply {
    control_reply(sim.withdraw_interruption(&vm))
}

async fn interrupt_share(Extension(sim): Sim, Json(storm): Json<Storm>) -> ControlReply {
    ControlReply(Ok(json!({ "vms": sim.interrupt_share(&storm) })))
}

async fn suspend(Extension(sim): Sim, Path(vm): Path<String>) -> ControlReply {
    control_reply(sim.set_suspended(&vm, true))
}

async fn resume(Extension(sim): Sim, Path(vm): Path<String>) -> ControlReply {
    control_reply(sim.set_suspended(&vm, false))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewWorker {
    cluster: String,
    group: Option<u64>,
}

async fn add_worker(Extension(sim): Sim, Json(body): Json<NewWorker>) -> ControlReply {
    ControlReply(match sim.add_foreign_worker(&body.cluster, body.group) {
        Ok(uuid) => Ok(json!({ "uuid": uuid })),
        Err(error) => Err((StatusCode::NOT_FOUND, error.to_string())),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFault {
    rule: String,
}

async fn add_fault(Extension(sim): Sim, Json(body): Json<NewFault>) -> ControlReply {
    ControlReply(match body.rule.parse::<FaultRule>() {
        Ok(rule) => Ok(json!({ "id": sim.add_fault(rule) })),
        Err(error) => Err((StatusCode::BAD_REQUEST, error.to_string())),
    })
}

async fn remove_fault(Extension(sim): Sim, Path(id): Path<u64>) -> ControlReply {
    let existed = sim.remove_fault(id);
    control_reply(existed.then_some(()).ok_or_else(|| ControlError(format!("fault {id} does not exist"))))
}

async fn clear_faults(Extension(sim): Sim) -> ControlReply {
    sim.clear_faults();
    done()
}

async fn reset_calls(Extension(sim): Sim) -> ControlReply {
    sim.reset_calls();
    done()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewCapacity {
    datacenter: Option<String>,
    offer: String,
    capacity_type: Option<CapacityType>,
    limit: Option<u32>,
}

async fn set_capacity(Extension(sim): Sim, Json(body): Json<NewCapacity>) -> ControlReply {
    let NewCapacity { datacenter, offer, capacity_type, limit } = body;
    control_reply(sim.set_capacity_of_type(datacenter.as_deref(), &offer, capacity_type, limit))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewQuota {
    workers: Option<u32>,
    vms: Option<u32>,
}

async fn set_quota(Extension(sim): Sim, Json(body): Json<NewQuota>) -> ControlReply {
    sim.set_worker_quota(body.workers);
    sim.set_vm_quota(body.vms);
    done()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewRateLimit {
    per_minute: Option<u32>,
}

async fn set_rate_limit(Extension(sim): Sim, Json(body): Json<NewRateLimit>) -> ControlReply {
    sim.set_rate_limit(body.per_minute);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPrice {
    offer: String,
    monthly: Decimal,
    hourly: Option<Decimal>,
}

async fn set_price(Extension(sim): Sim, Json(body): Json<NewPrice>) -> ControlReply {
    control_reply(sim.set_price(&body.offer, body.monthly, body.hourly))
}

async fn set_times(Extension(sim): Sim, Json(body): Json<TimesConfig>) -> ControlReply {
    sim.set_times(body);
    done()
}

async fn set_shapes(Extension(sim): Sim, Json(body): Json<Shapes>) -> ControlReply {
    sim.set_shapes(body);
    done()
}

async fn set_datacenter_faults(
    Extension(sim): Sim,
    Path(datacenter): Path<String>,
    Json(body): Json<DatacenterFaults>,
) -> ControlReply {
    control_reply(sim.set_datacenter_faults(&datacenter, body))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outage {
    on: bool,
}

async fn set_outage(Extension(sim): Sim, Json(body): Json<Outage>) -> ControlReply {
    sim.set_outage(body.on);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    token: String,
}

async fn set_token(Extension(sim): Sim, Json(body): Json<NewToken>) -> ControlReply {
    sim.set_token(body.token.into());
    done()
}

async fn revoke_tokens(Extension(sim): Sim) -> ControlReply {
    sim.revoke_tokens();
    done()
}
