//! Projects, limits, tags and custom images (docs/reference/vpsie-api.md#projects).

use axum::Router;
use axum::routing::{delete, get, post};
use serde_json::{Map, Value, json};

use super::vm_fields::USER;
use super::{Call, authenticated};
use crate::simulator::account::{DEFAULT_PROJECT, Image, Project};
use crate::simulator::operations::ApiError;
use crate::simulator::state::{Context, State};
use crate::simulator::wire::{Content, TimeStyle};

pub(super) fn router() -> Router {
    Router::new()
        .route("/projects", get(authenticated(projects)))
        .route("/projects/add", post(authenticated(add_project)))
        .route("/projects/vm", post(authenticated(assign)))
        .route("/projects/move/vms", post(authenticated(assign_many)))
        .route("/projects/{project}", get(authenticated(project)).delete(authenticated(delete_project)))
        .route("/profile/product/limits", get(authenticated(limits)))
        .route("/tags", get(authenticated(tags)))
        .route("/tags/add", post(authenticated(add_tags)))
        .route("/tags/delete", post(authenticated(delete_tags)))
        .route("/custom/images", get(authenticated(images)).post(authenticated(add_image)))
        .route("/custom/images/", get(authenticated(images)))
        .route("/custom/images/{image}", delete(authenticated(delete_image)))
        .route("/custom/vm", post(authenticated(super::vm::create_from_image)))
}

/// `GET /projects`: always `{rows, count}`.
fn projects(state: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    let rows: Vec<Value> =
        state.account.projects.iter().map(|(id, project)| project_row(cx, *id, project)).collect();
    Ok(Content::Object(json!({ "count": rows.len(), "rows": rows })))
}

/// `GET /projects/{uuid}`: an object, or `false`.
fn project(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let found = state.account.project(call.param("project"));
    Ok(Content::Object(found.map_or(json!(false), |(id, project)| project_row(cx, id, project))))
}

fn project_row(cx: &Context<'_>, id: u64, project: &Project) -> Value {
    let shapes = &cx.config.shapes;
    let created_on = shapes.time(TimeStyle::Plain, project.created_at);
    json!({
        "id": shapes.id(id),
        "name": project.name,
        "description": project.description,
        "created_on": created_on,
        "updated_at": created_on,
        "identifier": project.identifier,
        "created_by": shapes.id(USER),
        "is_default": shapes.flag(id == DEFAULT_PROJECT),
    })
}

fn add_project(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.add_project(cx, call.text("name")?, call.optional("description").unwrap_or_default());
    Ok(Content::Accepted)
}

fn delete_project(state: &mut State, _: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.delete_project(call.param("project"))?;
    Ok(Content::Accepted)
}

fn assign(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    move_vms(state, cx, call, &[call.text("vmIdentifier")?])
}

fn assign_many(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    move_vms(state, cx, call, &call.texts("vmsIdentifiers"))
}

fn move_vms(
    state: &mut State,
    cx: &mut Context<'_>,
    call: &Call,
    vms: &[String],
) -> Result<Content, ApiError> {
    let (project, _) = state.account.project(&call.text("projectId")?).ok_or_else(ApiError::not_found)?;
    for vm in vms {
        state.change_plain(cx, vm, |plain| {
            plain.request.project = project;
            Ok(())
        })?;
    }
    Ok(Content::Accepted)
}

fn limits(_: &mut State, _: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    Ok(Content::Object(json!({
        "backups_Limit": 100,
        "snapshot_Limit": 100,
        "firewall_Limit": 100,
        "buckets_Limit": 100,
        "certificates_Limit": 100,
        "dns_domains_Limit": 100,
    })))
}

/// `GET /tags?entity=…&identifier=…`: the tags by kind of object.
fn tags(state: &mut State, _: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let parameter = |name: &str| call.query.get(name).cloned().unwrap_or_default();
    let (entity, identifier) = (parameter("entity"), parameter("identifier"));
    let tags = json!(state.tags(&entity, &identifier));
    Ok(Content::Object(Value::Object([(entity, tags)].into_iter().collect::<Map<_, _>>())))
}

fn add_tags(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let (entity, identifier) = (call.text("entity")?, call.text("identifier")?);
    let mut tags = state.tags(&entity, &identifier);
    tags.extend(call.texts("tags"));
    tags.sort();
    tags.dedup();
    state.set_tags(cx, &entity, &identifier, tags)?;
    Ok(Content::Accepted)
}

fn delete_tags(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let (entity, identifier) = (call.text("entity")?, call.text("identifier")?);
    let removed = call.texts("tags");
    let mut tags = state.tags(&entity, &identifier);
    tags.retain(|tag| !removed.contains(tag));
    state.set_tags(cx, &entity, &identifier, tags)?;
    Ok(Content::Accepted)
}

/// `GET /custom/images`, and with `?imageIdentifier=` only that image.
fn images(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let wanted = call.query.get("imageIdentifier");
    let images = state.account.images.iter();
    let images = images.filter(|(_, image)| wanted.is_none_or(|wanted| image.identifier == *wanted));
    Ok(Content::list(images.map(|(id, image)| image_row(cx, *id, image))))
}

fn image_row(cx: &Context<'_>, id: u64, image: &Image) -> Value {
    let shapes = &cx.config.shapes;
    let datacenter = cx.config.datacenter(&image.datacenter);
    json!({
        "id": shapes.id(id),
        "user_id": shapes.id(USER),
        "datacenter_id": shapes.id(datacenter.map_or(0, |(number, _)| number)),
        "image_size": 0,
        "original_name": image.name,
        "fetched_from_url": image.url,
        "changed_name": image.name,
        "image_hash": "",
        "image_label": image.name,
        "created_on": shapes.time(TimeStyle::Rfc3339, image.created_at),
        "deleted": shapes.flag(false),
        "identifier": image.identifier,
        "storage": "local",
        "dc_name": datacenter.map(|(_, d)| d.name.clone()).unwrap_or_default(),
        "dcIdentifier": image.datacenter,
        "created_by": "simulator",
    })
}

fn add_image(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let url = call.text("imageUrl")?;
    state.add_image(cx, call.text("dcIdentifier")?, call.text("imageName")?, url)?;
    Ok(Content::Accepted)
}

fn delete_image(state: &mut State, _: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.delete_image(call.param("image"))?;
    Ok(Content::Accepted)
}
