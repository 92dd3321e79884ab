//! Reads replies: the envelope in all its forms (docs/reference/vpsie-api.md#envelope), and failures.

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::error::{ApiError, ErrorKind, clean_message, status_line};
use crate::retry_after::RetryAfter;

/// A reply to a successful call.
#[derive(Debug)]
pub(super) struct Reply(Value);

/// Payload of a reply.
#[derive(Debug, PartialEq)]
pub(super) enum Payload {
    /// `null`, or an empty body.
    Nothing,
    /// `false`: the requested object does not exist (docs/reference/vpsie-api.md#envelope).
    False,
    /// `true`, or another bare value: accepted.
    Accepted,
    /// One object.
    Object(Map<String, Value>),
    /// A list, with the total number of rows if the reply has it.
    List { rows: Vec<Value>, total: Option<u64> },
}

/// The part of a reply without JSON that its error shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Its first bytes.
    Excerpt,
    /// Nothing, because it may have secrets.
    Nothing,
}

impl Reply {
    /// Reads a reply, and recognizes failures in all their forms. Error messages do not show `secrets`.
    pub(super) fn read(
        reply: &Response<Bytes>,
        now: Timestamp,
        secrets: &[&str],
        shown: Shown,
    ) -> Result<Self, ApiError> {
        let status = reply.status();
        let body = reply.body();
        let parsed = match serde_json::from_slice::<Value>(body) {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => Some(with_trimmed_keys(value)),
            _ if status.is_success() && body.trim_ascii().is_empty() => Some(Value::Null),
            _ => None,
        };
        let error = match parsed {
            None => error_without_json(status, body, secrets, shown),
            Some(value) => match find_failure(status, &value) {
                None => return Ok(Self(value)),
                Some((code, message)) => {
                    let kind = match code {
                        500.. => {
                            ErrorKind::classify_server_error(code, &message, is_deliberate(&value, &message))
                        }
                        _ => ErrorKind::classify(code, &message),
                    };
                    let message = match clean_message(&message, secrets) {
                        nothing if nothing.is_empty() => status_line(status),
                        message => message,
                    };
                    ApiError::new(kind, message)
                }
            },
        };
        Err(ApiError { retry_after: RetryAfter::read(reply.headers(), now), ..error })
    }

    /// The whole body; replies to logins have no `data`.
    pub(super) fn root(&self) -> &Value {
        &self.0
    }

    /// The payload, in or out of an envelope.
    pub(super) fn payload(self) -> Payload {
        let (data, total) = match self.0 {
            Value::Object(mut root) => {
                let total = total(&root);
                (root.remove("data").unwrap_or(Value::Null), total)
            }
            bare => (bare, None),
        };
        match data {
            Value::Null => Payload::Nothing,
            Value::Bool(false) => Payload::False,
            Value::Array(rows) => Payload::List { rows, total },
            Value::Object(mut object) => match object.remove("rows") {
                Some(Value::Array(rows)) => Payload::List { rows, total: self::total(&object).or(total) },
                Some(Value::Null) => Payload::List { rows: Vec::new(), total: None },
                Some(other) => {
                    object.insert("rows".to_owned(), other);
                    Payload::Object(object)
                }
                None => Payload::Object(object),
            },
            _ => Payload::Accepted,
        }
    }
}

/// Some replies spell `total` with a space behind (docs/reference/vpsie-api.md#envelope).
fn with_trimmed_keys(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (key.trim().to_owned(), value)).collect())
        }
        other => other,
    }
}

fn total(object: &Map<String, Value>) -> Option<u64> {
    let direct = ["total", "count"].iter().find_map(|key| object.get(*key)?.as_u64());
    direct.or_else(|| object.get("pagination")?.get("total")?.as_u64())
}

/// Code and message of a failure, which may have HTTP status 200 (docs/reference/vpsie-api.md#refusals).
fn find_failure(status: StatusCode, root: &Value) -> Option<(u16, String)> {
    let text = |key| root.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let (failed, in_error) = match root.get("error") {
        None | Some(Value::Null) => (false, None),
        Some(Value::Bool(flag)) => (*flag, None),
        Some(Value::Number(number)) => (number.as_f64() != Some(0.0), None),
        Some(Value::String(text)) => match text.trim().to_lowercase().as_str() {
            "" | "false" | "0" | "null" => (false, None),
            "true" | "1" => (true, None),
            _ => (true, Some(text.as_str())),
        },
        Some(Value::Object(inner)) => (true, inner.get("message").and_then(Value::as_str)),
        Some(Value::Array(inner)) => (!inner.is_empty(), inner.first().and_then(Value::as_str)),
    };
    if status.is_success() && !failed {
        return None;
    }
    let envelope_code = root.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let code = if status.is_success() {
        envelope_code.filter(|code| (400..600).contains(code)).unwrap_or(0)
    } else {
        status.as_u16()
    };
    Some((code, text("message").or(in_error).unwrap_or_default().to_owned()))
}

/// Whether VPSie's own checks wrote the error envelope: its quota refusals have `type: false` and no stack
/// trace.
fn is_deliberate(root: &Value, message: &str) -> bool {
    let has = |key| root.get(key).is_some_and(|value| !value.is_null());
    root.get("type") == Some(&Value::Bool(false)) && !has("stack") && !message.is_empty()
}

/// Maximum bytes of a reply without JSON in an error message.
const EXCERPT: usize = 512;

fn error_without_json(status: StatusCode, body: &Bytes, secrets: &[&str], shown: Shown) -> ApiError {
    let excerpt = String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]);
    let kind = match status.as_u16() {
        // Another server replied with success. The API behind it may have executed the request.
        200..300 => ErrorKind::Unclear,
        300..400 | 404 | 405 | 410 => ErrorKind::WrongServer,
        code => ErrorKind::classify(code, &excerpt),
    };
    let advice = if matches!(kind, ErrorKind::WrongServer) || status.is_success() {
        ", so this may not be the VPSie API: check host and prefix of --vpsie-api-url"
    } else {
        ""
    };
    let shown = match shown {
        Shown::Excerpt => &*excerpt,
        Shown::Nothing => "",
    };
    let message = format!("{} without JSON{advice}: {shown}", status_line(status));
    ApiError::new(kind, clean_message(&message, secrets).trim_end_matches([':', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> Result<Reply, ApiError> {
        let reply = Response::builder().status(status).body(Bytes::from(body.to_owned())).unwrap();
        Reply::read(&reply, Timestamp::UNIX_EPOCH, &["s3cret"], Shown::Excerpt)
    }

    fn payload(body: &str) -> Payload {
        read(200, body).unwrap().payload()
    }

    fn list(rows: &str, total: Option<u64>) -> Payload {
        Payload::List { rows: serde_json::from_str(rows).unwrap(), total }
    }

    #[test]
    fn every_form_of_data_is_read() {
        for (body, want) in [
            (r#"{"error":false,"data":[1,2],"total":5}"#, list("[1,2]", Some(5))),
            (r#"{"error":false,"data":[1],"total ":5}"#, list("[1]", Some(5))),
            (r#"{"data":[1],"count":3}"#, list("[1]", Some(3))),
            (r#"{"data":[1],"pagination":{"total":9}}"#, list("[1]", Some(9))),
            (r#"{"data":{"rows":[1],"count":7}}"#, list("[1]", Some(7))),
            (r#"{"data":{"rows":[1],"total":7}}"#, list("[1]", Some(7))),
            (r#"{"data":{"rows":null}}"#, list("[]", None)),
            (r"[1]", list("[1]", None)),
            (r#"{"error":false,"data":true}"#, Payload::Accepted),
            (r#"{"error":false,"data":false}"#, Payload::False),
            (r#"{"error":false,"data":null}"#, Payload::Nothing),
            (r#"{"error":false}"#, Payload::Nothing),
            ("", Payload::Nothing),
        ] {
            assert_eq!(payload(body), want, "{body}");
        }
        assert!(matches!(payload(r#"{"data":{"id":1}}"#), Payload::Object(_)));
        assert_eq!(read(204, "").unwrap().payload(), Payload::Nothing);
    }

    #[test]
    fn a_failure_is_a_failure_also_with_http_200() {
        for (body, message) in [
            (r#"{"error":true,"message":"quota exceeded"}"#, "quota exceeded"),
            (r#"{"error":"quota exceeded"}"#, "quota exceeded"),
            (r#"{"error":"true","message":"quota exceeded"}"#, "quota exceeded"),
            (r#"{"error":1,"message":"quota exceeded"}"#, "quota exceeded"),
            (r#"{"error":{"message":"quota exceeded"}}"#, "quota exceeded"),
            (r#"{"error":["quota exceeded"]}"#, "quota exceeded"),
        ] {
            let error = read(200, body).unwrap_err();
            assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Quota, message), "{body}");
        }
        for fine in
            [r#"{"error":"false"}"#, r#"{"error":""}"#, r#"{"error":0}"#, r#"{"error":null,"code":500}"#]
        {
            assert!(read(200, fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn uses_the_code_of_the_envelope_with_http_200() {
        assert_eq!(read(200, r#"{"error":true,"code":401}"#).unwrap_err().kind, ErrorKind::Unauthenticated);
        assert_eq!(read(200, r#"{"error":true,"code":500}"#).unwrap_err().kind, ErrorKind::Unclear);
        assert_eq!(read(200, r#"{"error":true,"code":7}"#).unwrap_err().kind, ErrorKind::Refused);
    }

    #[test]
    fn distinguishes_refusals_with_http_500_from_failures() {
        for (body, kind) in [
            (
                r#"{"error":true,"type":false,"message":"Worker nodes count exceeds the allowed limit of 5"}"#,
                ErrorKind::Quota,
            ),
            (r#"{"error":true,"type":false,"message":"Cluster is being upgraded"}"#, ErrorKind::Refused),
            (r#"{"error":true,"message":"Cluster is being upgraded"}"#, ErrorKind::Unclear),
            (
                r#"{"error":true,"type":false,"message":"Cluster is being upgraded","stack":"at x.js:1"}"#,
                ErrorKind::Unclear,
            ),
            (r#"{"error":true,"type":false}"#, ErrorKind::Unclear),
            (r#"{"error":true,"message":"Internal Server Error"}"#, ErrorKind::Unclear),
        ] {
            assert_eq!(read(500, body).unwrap_err().kind, kind, "{body}");
        }
        assert_eq!(read(502, "<html>group not found</html>").unwrap_err().kind, ErrorKind::Unclear);
    }

    #[test]
    fn html_from_a_gateway_is_unclear() {
        let error = read(502, "<html><h1>502 Bad Gateway</h1></html>").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unclear);
        assert_eq!(error.message, "HTTP 502 Bad Gateway without JSON: 502 Bad Gateway");
        assert_eq!(read(503, "").unwrap_err().message, "HTTP 503 Service Unavailable without JSON");
    }

    #[test]
    fn a_404_without_json_is_a_wrong_server() {
        for status in [301, 404, 405] {
            let error = read(status, "<html>nginx</html>").unwrap_err();
            assert_eq!(error.kind, ErrorKind::WrongServer);
            assert!(error.message.contains("check host and prefix"), "{}", error.message);
        }
        assert!(read(200, "<html>Welcome</html>").unwrap_err().message.contains("check host and prefix"));
    }

    #[test]
    fn a_refusal_without_words_shows_its_status() {
        assert_eq!(read(403, "{}").unwrap_err().message, "HTTP 403 Forbidden");
    }

    #[test]
    fn secrets_are_kept_out() {
        assert_eq!(read(400, r#"{"message":"bad s3cret"}"#).unwrap_err().message, "bad ***");
        assert!(!read(500, "dump: s3cret").unwrap_err().message.contains("s3cret"));
    }
    #[test]
    fn a_reply_with_secrets_has_no_excerpt() {
        let reply =
            Response::builder().status(503).body(Bytes::from("out of stock, s3cret in a row")).unwrap();
        let error = Reply::read(&reply, Timestamp::UNIX_EPOCH, &[], Shown::Nothing).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Shortage);
        assert_eq!(error.message, "HTTP 503 Service Unavailable without JSON");
    }
}
