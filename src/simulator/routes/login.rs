//! Client credentials (docs/reference/vpsie-api.md#login).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Call;
use crate::simulator::operations::ApiError;
use crate::simulator::shapes::{LoginExpiry, LoginRequest, LoginResponse, Shapes};
use crate::simulator::state::{Context, State};
use crate::simulator::wire::{Content, rfc2822};

pub(super) fn login(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let shapes = &cx.config.shapes;
    let is_accepted = match shapes.login_request {
        LoginRequest::Any => true,
        LoginRequest::Json => !call.form,
        LoginRequest::Form => call.form,
    };
    if !is_accepted {
        return Err(ApiError::new(400, "clientId is required"));
    }
    let token = state.login(cx, &call.text("clientId")?, &call.text("clientSecret")?)?;
    let access = token_object(shapes, &token.text, token.expires_at);
    let refresh = token_object(shapes, &format!("refresh-{}", token.text), token.expires_at);
    let mut body = Map::new();
    body.insert("error".to_owned(), shapes.error_field(None));
    match shapes.login_response {
        LoginResponse::TokenAccess => {
            body.insert("token".to_owned(), json!({ "access": access, "refresh": refresh }));
        }
        LoginResponse::AccessToken => {
            body.insert("accessToken".to_owned(), access);
            body.insert("refreshToken".to_owned(), refresh);
        }
        LoginResponse::Text => {
            body.extend(access.as_object().cloned().unwrap_or_default());
        }
        LoginResponse::Data => {
            body.insert("data".to_owned(), json!({ "accessToken": access, "refreshToken": refresh }));
        }
    }
    Ok(Content::Whole(Value::Object(body)))
}

fn token_object(shapes: &Shapes, token: &str, expires_at: Timestamp) -> Value {
    let expires = match shapes.login_expiry {
        LoginExpiry::Rfc3339 => json!(expires_at.to_string()),
        LoginExpiry::Rfc2822 => json!(rfc2822(expires_at)),
        LoginExpiry::Seconds => json!(expires_at.as_second()),
        LoginExpiry::Millis => json!(expires_at.as_millisecond()),
        LoginExpiry::Absent => return json!({ "token": token }),
    };
    json!({ "token": token, "expires": expires })
}
