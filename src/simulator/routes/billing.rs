//! The bill (docs/reference/vpsie-api.md#billing).

use rust_decimal::Decimal;
use serde_json::{Map, Value, json};

use super::Call;
use super::vm_fields::USER;
use crate::simulator::operations::ApiError;
use crate::simulator::state::{Context, State};
use crate::simulator::vm::{VmKind, price};
use crate::simulator::wire::{Content, TimeStyle};

pub(super) fn usages(state: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    let shapes = &cx.config.shapes;
    let mut spent = Decimal::ZERO;
    let mut a_month = Decimal::ZERO;
    let mut rows = Vec::new();
    for vm in state.gone.iter().chain(state.vms.values()) {
        let Some(price) = price(cx.config, vm, cx.now) else { continue };
        let hours = vm.hours_billed(cx.now);
        let cost = price.hourly * Decimal::from(hours);
        let ended = vm.end.map(|end| end.stops_at).filter(|at| *at <= cx.now);
        spent += cost;
        a_month += if ended.is_none() { price.monthly } else { Decimal::ZERO };
        rows.push(json!({
            "id": shapes.id(vm.id),
            "product_id": shapes.id(vm.size),
            "entity_type": if vm.kind == VmKind::Plain { "vm" } else { "k8s" },
            "entity_id": shapes.id(vm.id),
            "user_id": shapes.id(USER),
            "start_date": shapes.time(TimeStyle::Rfc3339, vm.created_at),
            "end_date": ended.map(|at| shapes.time(TimeStyle::Rfc3339, at)),
            "type_of_trigger": "create",
            "created_on": shapes.time(TimeStyle::Rfc3339, vm.created_at),
            "updated_at": shapes.time(TimeStyle::Rfc3339, cx.now),
            "identifier": vm.uuid,
            "quantity": hours,
            "unit": "hour",
            "price": shapes.usd_billed(price.hourly),
            "cost_value": shapes.usd_billed(cost),
            "cost_value_month": shapes.usd_billed(price.monthly),
            "entity_name": shapes.hostname(&vm.hostname, false),
            "description": cx.config.offer(vm.size).map(|offer| offer.name.clone()),
        }));
    }
    let balance = json!({
        "current_balance": shapes.usd(cx.config.account.balance - spent),
        "balance_charged": 0,
        "monthly_charge": shapes.usd_billed(a_month),
        "actual_monthly_charge": shapes.usd_billed(spent),
        "added_with_cc": 0,
        "added_with_cc_or_pp": 0,
        "bill_city": null,
        "bill_country": null,
        "is_post_paid": shapes.flag(false),
    });
    let beside: Map<String, Value> = [("balanceData".to_owned(), balance)].into_iter().collect();
    Ok(Content::List { rows, beside })
}
