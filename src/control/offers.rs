//! The endpoint for offers and prices.

use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::handle::FleetHandle;
use crate::cost::PriceList;
use crate::fleet::Fleet;

/// `/debug/offers`: a [`PriceList`] as JSON, as last read from VPSie and with the operator's own prices.
pub fn offer_routes(fleet: Arc<OnceLock<FleetHandle>>) -> Router {
    Router::new().route("/debug/offers", get(show_offers)).with_state(fleet)
}

async fn show_offers(State(fleet): State<Arc<OnceLock<FleetHandle>>>) -> Response {
    let unavailable = |why: &'static str| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    let Some(handle) = fleet.get() else {
        return unavailable("this replica does not lead; send the request to the leader\n");
    };
    match handle.read(price_list) {
        Some(list) => Json(list).into_response(),
        None => unavailable("VPSie's offers have not been read yet; see the log for the cause\n"),
    }
}

fn price_list(fleet: &Fleet) -> Option<PriceList> {
    fleet.catalog().map(|catalog| fleet.prices().list(catalog))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::control::priced_fleet;
    use crate::cost::UsdPerHour;

    async fn get_offers(fleet: Option<Fleet>) -> (StatusCode, String) {
        let known = OnceLock::new();
        if let Some(fleet) = fleet {
            assert!(known.set(FleetHandle::fixed(fleet)).is_ok());
        }
        let request = Request::get("/debug/offers").body(Body::empty()).unwrap();
        let reply = offer_routes(Arc::new(known)).oneshot(request).await.unwrap();
        let status = reply.status();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_offers_are_shown_with_the_prices_that_hold() {
        let (status, text) = get_offers(Some(priced_fleet())).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let list: PriceList = serde_json::from_str(&text).unwrap();
        let prices: Vec<_> =
            list.offers.iter().map(|priced| (priced.offer.name.as_str(), priced.price)).collect();
        let rate = |price: &str| Some(UsdPerHour(price.parse().unwrap()));
        assert_eq!(
            prices,
            [("small", rate("0.1")), ("unpriced", None), ("small", rate("0.027397260273"))],
            "the last one is spot"
        );
    }

    #[tokio::test]
    async fn an_endpoint_without_offers_returns_the_reason() {
        for (fleet, why) in [(None, "does not lead"), (Some(Fleet::default()), "not been read yet")] {
            let (status, text) = get_offers(fleet).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(text.contains(why), "{text}");
        }
    }
}
