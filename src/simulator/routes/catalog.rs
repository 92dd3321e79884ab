//! Datacenters, plans and offers (docs/reference/vpsie-api.md#datacenters).

use serde_json::{Map, Value, json};

use super::Call;
use crate::simulator::config::{DatacenterConfig, OfferConfig, SimulatorConfig};
use crate::simulator::operations::ApiError;
use crate::simulator::shapes::Hourly;
use crate::simulator::state::{Context, State};
use crate::simulator::wire::Content;

pub(super) fn datacenters(_: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    let shapes = &cx.config.shapes;
    Ok(Content::list(cx.config.datacenters.iter().enumerate().map(|(i, datacenter)| {
        json!({
            "dc_name": datacenter.name,
            "dc_image": format!("{}.svg", datacenter.name.to_lowercase()),
            "state": datacenter.state,
            "country": datacenter.country,
            "is_active": shapes.flag(!datacenter.faults.inactive),
            "identifier": datacenter.identifier,
            "default_selected": shapes.flag(i == 0),
            "is_deleted": shapes.flag(false),
            "is_fip_available": shapes.flag(true),
            "is_bucket_available": shapes.flag(true),
            "is_private": shapes.flag(false),
        })
    })))
}

pub(super) fn categories(_: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    let mut names: Vec<&str> = cx.config.offers.iter().map(|offer| offer.category.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let rows = names.into_iter().map(|name| json!({ "identifier": category_identifier(name), "name": name }));
    Ok(Content::list(rows))
}

pub(super) fn kubernetes_offers(
    _: &mut State,
    cx: &mut Context<'_>,
    call: &Call,
) -> Result<Content, ApiError> {
    let (_, datacenter) =
        cx.config.datacenter(&call.text("dcIdentifier")?).ok_or_else(ApiError::not_found)?;
    let shapes = &cx.config.shapes;
    Ok(Content::list(offers_at(cx.config, datacenter).map(|offer| {
        let mut row = size(cx, offer, "name", "disk");
        row.insert("id".to_owned(), shapes.id(offer.id));
        row.insert("price".to_owned(), shapes.usd(SimulatorConfig::monthly(datacenter, offer)));
        if let Some(monthly) = cx.config.spot_monthly(datacenter, offer, cx.now) {
            row.insert("spot_price".to_owned(), shapes.usd(monthly));
        }
        match shapes.hourly {
            Hourly::Given => {
                let hourly = cx.config.hourly(datacenter, offer);
                row.insert("hourly_price".to_owned(), shapes.usd(hourly));
            }
            Hourly::Zero => {
                row.insert("hourly_price".to_owned(), json!(0));
            }
            Hourly::Absent => {}
        }
        Value::Object(row)
    })))
}

pub(super) fn resources(_: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let (number, datacenter) =
        cx.config.datacenter(&call.text("dcIdentifier")?).ok_or_else(ApiError::not_found)?;
    let wanted = call.text("planCatIdentifier")?;
    let os = call.text("osIdentifier")?;
    let has_os = datacenter.images.as_ref().is_none_or(|images| images.contains(&os));
    let shapes = &cx.config.shapes;
    let offers = offers_at(cx.config, datacenter);
    let offers = offers.filter(|offer| has_os && category_identifier(&offer.category) == wanted);
    Ok(Content::list(offers.map(|offer| {
        let mut row = size(cx, offer, "nickname", "ssd");
        row.insert("identifier".to_owned(), json!(mapping_identifier(number, offer)));
        row.insert(shapes.traffic_key().to_owned(), json!(offer.traffic));
        row.insert("price".to_owned(), shapes.usd(SimulatorConfig::monthly(datacenter, offer)));
        row.insert("net_speed".to_owned(), json!(1000));
        Value::Object(row)
    })))
}

fn size(cx: &Context<'_>, offer: &OfferConfig, name: &'static str, disk: &'static str) -> Map<String, Value> {
    let shapes = &cx.config.shapes;
    let fields = [
        (shapes.name_key(name), json!(offer.name)),
        ("cpu", json!(offer.cpu)),
        ("ram", json!(offer.ram)),
        (shapes.disk_key(disk), json!(offer.disk)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The offers of a datacenter.
pub(super) fn offers_at<'a>(
    config: &'a SimulatorConfig,
    datacenter: &'a DatacenterConfig,
) -> impl Iterator<Item = &'a OfferConfig> {
    let names = datacenter.offers.as_ref();
    config.offers.iter().filter(move |offer| names.is_none_or(|names| names.contains(&offer.name)))
}

fn category_identifier(name: &str) -> String {
    let code: u32 = name.bytes().fold(0, |code, b| (code << 8) | u32::from(b));
    format!("{code:08x}-7ca9-11ee-8bba-0050569c68dc")
}

/// The `resourceIdentifier` of an offer in the datacenter of that number
/// (docs/reference/vpsie-api.md#identifiers).
pub(in crate::simulator) fn mapping_identifier(datacenter: u64, offer: &OfferConfig) -> String {
    format!("{:04x}{:04x}-c469-11eb-8ef8-0050569c68dc", datacenter, offer.id)
}
