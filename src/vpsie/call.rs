//! A call of the API, before it is sent.

use bytes::Bytes;
use http::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::limiter::Purpose;

/// A call of the API.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// Its name in metrics and logs.
    pub(super) endpoint: &'static str,
    pub(super) method: Method,
    /// Path without the prefix, with its query.
    pub(super) path: String,
    pub(super) body: Body,
    /// Whether the call is idempotent, so that it may be repeated if its outcome is unknown.
    pub(super) repeatable: bool,
    pub(super) purpose: Purpose,
    /// Whether its reply may have secrets. Errors then show no reply without JSON.
    pub(super) reply_is_secret: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Empty,
    Json(Value),
    Form(String),
    Secret(SecretBody),
}

/// A JSON body with secrets. `Debug` shows neither.
#[derive(Clone, Debug)]
pub(super) struct SecretBody {
    json: SecretString,
    secrets: Vec<SecretString>,
}

impl Body {
    /// A JSON body that contains these secrets. Errors do not show them.
    pub(super) fn secret(json: &Value, secrets: Vec<SecretString>) -> Self {
        Self::Secret(SecretBody { json: json.to_string().into(), secrets })
    }

    /// The secrets that errors must not show.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        let secrets = match self {
            Self::Secret(body) => body.secrets.as_slice(),
            Self::Empty | Self::Json(_) | Self::Form(_) => &[],
        };
        secrets.iter().map(SecretString::expose_secret)
    }

    pub(super) fn content_type(&self) -> Option<&'static str> {
        match self {
            Self::Empty => None,
            Self::Json(_) | Self::Secret(_) => Some("application/json"),
            Self::Form(_) => Some("application/x-www-form-urlencoded"),
        }
    }

    pub(super) fn bytes(&self) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::Json(value) => value.to_string().into(),
            Self::Form(form) => form.clone().into(),
            Self::Secret(body) => body.json.expose_secret().to_owned().into(),
        }
    }
}

impl Call {
    pub(super) fn get(endpoint: &'static str, path: impl Into<String>) -> Self {
        Self {
            endpoint,
            method: Method::GET,
            path: path.into(),
            body: Body::Empty,
            repeatable: true,
            purpose: Purpose::Ordinary,
            reply_is_secret: false,
        }
    }

    pub(super) fn post(endpoint: &'static str, path: impl Into<String>, body: Body) -> Self {
        Self { method: Method::POST, body, ..Self::get(endpoint, path) }
    }

    pub(super) fn delete(endpoint: &'static str, path: impl Into<String>, body: Body) -> Self {
        Self { method: Method::DELETE, body, purpose: Purpose::Deletion, ..Self::get(endpoint, path) }
    }

    /// This call for one page, with the same body.
    pub(super) fn for_page(&self, offset: usize, limit: usize) -> Self {
        Self { path: format!("{}?offset={offset}&limit={limit}", self.path), ..self.clone() }
    }

    /// Marks the call as not repeatable.
    pub(super) fn without_repeats(self) -> Self {
        Self { repeatable: false, ..self }
    }

    /// Marks the reply as secret: errors and logs do not show its text.
    pub(super) fn with_secret_reply(self) -> Self {
        Self { reply_is_secret: true, ..self }
    }

    pub(super) fn with_purpose(self, purpose: Purpose) -> Self {
        Self { purpose, ..self }
    }
}

/// Replaces each `{}` of the template by an argument, encoded as one path segment.
pub(super) fn path(template: &str, args: &[&str]) -> String {
    let mut path = String::new();
    let mut args = args.iter();
    for (index, part) in template.split("{}").enumerate() {
        if index > 0 {
            args.next().into_iter().flat_map(|arg| arg.bytes()).for_each(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => path.push(byte as char),
                _ => {
                    let hex = |nibble: u8| char::from(b"0123456789ABCDEF"[usize::from(nibble)]);
                    path.extend(['%', hex(byte >> 4), hex(byte & 15)]);
                }
            });
        }
        path.push_str(part);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_cannot_leave_its_segment() {
        assert_eq!(path("a/{}/b/{}", &["u-1", "../x?y"]), "a/u-1/b/%2E%2E%2Fx%3Fy");
    }

    #[test]
    fn debug_shows_no_secret_body() {
        let body = Body::secret(&serde_json::json!({"password": "hunter2"}), vec!["hunter2".into()]);
        let call = Call::post("x", "x", body);
        assert!(!format!("{call:?}").contains("hunter2"));
        assert_eq!(call.body.bytes(), r#"{"password":"hunter2"}"#);
    }
}
