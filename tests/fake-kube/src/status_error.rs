//! Errors as `Status` objects of Kubernetes.

use serde_json::{Value, json};

/// An error reply: a `Status` object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({code}): {message}")]
pub struct StatusError {
    /// The HTTP status.
    pub code: u16,
    /// The reason, such as `Conflict`.
    pub reason: &'static str,
    /// The message.
    pub message: String,
    /// `retryAfterSeconds`.
    pub retry_after: Option<u32>,
    /// A cause: reason and message.
    pub cause: Option<(String, String)>,
}

impl StatusError {
    /// An error with the reason of this HTTP status.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            405 => "MethodNotAllowed",
            409 => "Conflict",
            410 => "Expired",
            415 => "UnsupportedMediaType",
            422 => "Invalid",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        Self { code, reason, message: message.into(), retry_after: None, cause: None }
    }

    /// Adds a cause.
    pub fn with_cause(self, reason: &str, message: &str) -> Self {
        Self { cause: Some((reason.to_owned(), message.to_owned())), ..self }
    }

    /// An object of this name and kind exists already.
    pub(crate) fn exists(plural: &str, name: &str) -> Self {
        let error = Self::new(409, format!("{plural} {name:?} already exists"));
        Self { reason: "AlreadyExists", ..error }
    }

    pub(crate) fn not_found(plural: &str, name: &str) -> Self {
        Self::new(404, format!("{plural} {name:?} not found"))
    }

    pub(crate) fn modified(plural: &str, name: &str) -> Self {
        Self::new(
            409,
            format!(
                "Operation cannot be fulfilled on {plural} {name:?}: the object has been modified; please apply \
                 your changes to the latest version and try again"
            ),
        )
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(seconds) = self.retry_after {
            status["details"] = json!({"retryAfterSeconds": seconds});
        }
        if let Some((reason, message)) = &self.cause {
            status["details"]["causes"] = json!([{"reason": reason, "message": message}]);
        }
        status
    }
}
