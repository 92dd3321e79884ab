//! A call of the API, before it is sent.

use bytes::Bytes;
use http::Method;
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
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Empty,
    Json(Value),
    Form(String),
}

impl Body {
    pub(super) fn content_type(&self) -> Option<&'static str> {
        match self {
            Self::Empty => None,
            Self::Json(_) => Some("application/json"),
            Self::Form(_) => Some("application/x-www-form-urlencoded"),
        }
    }

    pub(super) fn bytes(&self) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::Json(value) => value.to_string().into(),
            Self::Form(form) => form.clone().into(),
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
        }
    }

    pub(super) fn post(endpoint: &'static str, path: impl Into<String>, body: Body) -> Self {
        Self { method: Method::POST, body, ..Self::get(endpoint, path) }
    }

    pub(super) fn delete(endpoint: &'static str, path: impl Into<String>, body: Value) -> Self {
        let body = Body::Json(body);
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
}
