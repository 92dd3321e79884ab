//! Values and envelopes of replies, in the selected shapes.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};

use super::operations::ApiError;
use super::shapes::{
    EmptyList, ErrorFlag, ErrorStatus, Flags, Hostnames, Ids, ListShape, Money, NotFound, Paging, Project,
    RetryAfter, Rows, Shapes, Sizes, Times, Total, UnknownRoute, number,
};

/// Content of a successful reply, before the shapes are applied.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// Rows, and additional fields of the envelope.
    List { rows: Vec<Value>, beside: Map<String, Value> },
    /// One object.
    Object(Value),
    /// `data: true`.
    Accepted,
    /// No `data`.
    Done,
    /// The whole body.
    Whole(Value),
}

impl Content {
    pub(super) fn list(rows: impl IntoIterator<Item = Value>) -> Self {
        Self::List { rows: rows.into_iter().collect(), beside: Map::new() }
    }
}

/// `offset` and `limit`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Page {
    pub offset: usize,
    pub limit: usize,
}

/// Format of the times of an endpoint if the shape `times` is `mixed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeStyle {
    Rfc3339,
    Plain,
}

impl Shapes {
    pub(super) fn id(&self, id: u64) -> Value {
        match self.ids {
            Ids::Number => json!(id),
            Ids::Text => json!(id.to_string()),
        }
    }

    pub(super) fn flag(&self, on: bool) -> Value {
        match self.flags {
            Flags::Number => json!(u8::from(on)),
            Flags::Text => json!(u8::from(on).to_string()),
            Flags::Bool => json!(on),
        }
    }

    /// A price.
    pub(super) fn usd(&self, money: Decimal) -> Value {
        match self.money {
            Money::Mixed | Money::Number => json!(number(money)),
            Money::Text => json!(money.to_string()),
        }
    }

    /// An amount on the bill.
    pub(super) fn usd_billed(&self, money: Decimal) -> Value {
        match self.money {
            Money::Number => json!(number(money)),
            Money::Mixed | Money::Text => json!(money.to_string()),
        }
    }

    pub(super) fn time(&self, style: TimeStyle, time: Timestamp) -> Value {
        let rfc3339 = || json!(format!("{time:.3}"));
        let sql = || json!(time.strftime("%Y-%m-%d %H:%M:%S").to_string());
        match (self.times, style) {
            (Times::Mixed, TimeStyle::Rfc3339) | (Times::Rfc3339, _) => rfc3339(),
            (Times::Mixed, TimeStyle::Plain) | (Times::Sql, _) => sql(),
            (Times::Empty, _) => json!(""),
            (Times::Null, _) => Value::Null,
        }
    }

    pub(super) fn hostname(&self, hostname: &str, in_storage_list: bool) -> Value {
        match self.hostnames {
            Hostnames::Mixed => json!(hostname),
            Hostnames::Differing if !in_storage_list => json!(hostname),
            Hostnames::Lower | Hostnames::Differing => json!(hostname.to_lowercase()),
        }
    }

    /// Key of a disk size; `own` is the endpoint's own.
    pub(super) fn disk_key(&self, own: &'static str) -> &'static str {
        self.size_key(own, "disk", "ssd")
    }

    /// Key of an offer's name; `own` is the endpoint's own.
    pub(super) fn name_key(&self, own: &'static str) -> &'static str {
        self.size_key(own, "name", "nickname")
    }

    pub(super) fn traffic_key(&self) -> &'static str {
        self.size_key("traffic", "bandwidth", "traffic")
    }

    fn size_key(&self, own: &'static str, disk: &'static str, ssd: &'static str) -> &'static str {
        match self.sizes {
            Sizes::Own => own,
            Sizes::Disk => disk,
            Sizes::Ssd => ssd,
        }
    }

    /// Key of the project of a group.
    pub(super) fn group_project_key(&self) -> &'static str {
        match self.project {
            Project::Snake | Project::Mixed => "project_id",
            Project::Camel => "projectId",
        }
    }

    /// Key of the project of a VM.
    pub(super) fn vm_project_key(&self) -> &'static str {
        match self.project {
            Project::Snake => "project_id",
            Project::Camel | Project::Mixed => "projectId",
        }
    }

    /// Adds unknown fields and a malformed row if the shape `rows` is `odd`.
    pub(super) fn add_odd_rows(&self, mut rows: Vec<Value>) -> Vec<Value> {
        if self.rows == Rows::Odd {
            for row in rows.iter_mut().filter_map(Value::as_object_mut) {
                row.insert("zz_new_field".to_owned(), json!({ "of": ["another", "time"] }));
            }
            rows.push(json!({ "id": { "not": "a number" }, "hostname": 7, "identifier": [] }));
        }
        rows
    }

    pub(super) fn render(&self, result: Result<Content, ApiError>, page: Page) -> Response<Body> {
        match result {
            Ok(content) => reply(200, &self.success(content, page)),
            Err(refusal) if refusal.is_not_found() => self.not_found(&refusal),
            Err(refusal) => {
                let (status, code) = match self.error_status {
                    _ if [401, 429].contains(&refusal.status) => (refusal.status, refusal.status),
                    ErrorStatus::Status => (refusal.status, refusal.status),
                    ErrorStatus::Ok => (200, refusal.status),
                    ErrorStatus::Internal => (500, 500),
                };
                let mut error = self.error(code, &refusal.message);
                if self.error_status == ErrorStatus::Internal {
                    error["type"] = Value::Bool(false);
                }
                reply(status, &error)
            }
        }
    }

    fn success(&self, content: Content, page: Page) -> Value {
        let mut body = Map::new();
        body.insert("error".to_owned(), self.error_field(None));
        match content {
            Content::Whole(whole) => return whole,
            Content::Done => {}
            Content::Accepted => {
                body.insert("data".to_owned(), Value::Bool(true));
            }
            Content::Object(object) => {
                body.insert("data".to_owned(), object);
            }
            Content::List { rows, beside } => {
                let rows = self.add_odd_rows(rows);
                let total = rows.len();
                let rows = self.select_page(rows, page);
                if self.list == ListShape::Bare {
                    return Value::Array(rows);
                }
                self.insert_total(&mut body, total, rows.len());
                if let Some(data) = self.list_data(rows, total) {
                    body.insert("data".to_owned(), data);
                }
                body.extend(beside);
            }
        }
        Value::Object(body)
    }

    fn list_data(&self, rows: Vec<Value>, total: usize) -> Option<Value> {
        match (rows.is_empty(), self.empty_list) {
            (true, EmptyList::False) => return Some(Value::Bool(false)),
            (true, EmptyList::Null) => return Some(Value::Null),
            (true, EmptyList::Absent) => return None,
            _ => {}
        }
        Some(match self.list {
            ListShape::Array | ListShape::Bare => Value::Array(rows),
            ListShape::RowsCount => json!({ "rows": rows, "count": total }),
            ListShape::RowsTotal => json!({ "rows": rows, "total": total }),
        })
    }

    fn insert_total(&self, body: &mut Map<String, Value>, total: usize, count: usize) {
        let (key, value) = match self.total {
            Total::Total => ("total", json!(total)),
            Total::Space => ("total ", json!(total)),
            Total::Count => ("count", json!(total)),
            Total::Pagination => ("pagination", json!({ "total": total, "count": count })),
            Total::Absent => return,
        };
        body.insert(key.to_owned(), value);
    }

    fn select_page(&self, rows: Vec<Value>, page: Page) -> Vec<Value> {
        let limit = page.limit.max(1);
        let start = match self.paging {
            Paging::Whole => return rows,
            Paging::Rows => page.offset,
            Paging::Pages => page.offset.saturating_mul(limit),
        };
        rows.into_iter().skip(start).take(limit).collect()
    }

    fn not_found(&self, refusal: &ApiError) -> Response<Body> {
        let with_data = |data| reply(200, &json!({ "error": self.error_field(None), "data": data }));
        match (self.not_found, self.error_status) {
            (NotFound::Status, ErrorStatus::Status | ErrorStatus::Internal) => {
                reply(404, &self.error(404, &refusal.message))
            }
            (NotFound::Error, _) | (NotFound::Status, ErrorStatus::Ok) => {
                reply(200, &self.error(404, &refusal.message))
            }
            (NotFound::False, _) => with_data(Value::Bool(false)),
            (NotFound::Null, _) => with_data(Value::Null),
        }
    }

    /// Reply to a refused request.
    pub(super) fn refusal(&self, status: u16, message: &str) -> Response<Body> {
        self.render(Err(ApiError::new(status, message)), Page::default())
    }

    /// Reply for an unknown route.
    pub(super) fn unknown_route(&self) -> Response<Body> {
        match self.unknown_route {
            UnknownRoute::Json => reply(404, &self.error(404, "Not found")),
            UnknownRoute::Html => html(404),
        }
    }

    pub(super) fn error(&self, code: u16, message: &str) -> Value {
        json!({ "error": self.error_field(Some(message)), "code": code, "message": message })
    }

    pub(super) fn error_field(&self, message: Option<&str>) -> Value {
        match self.error_flag {
            ErrorFlag::Bool => Value::Bool(message.is_some()),
            ErrorFlag::Text => json!(message.unwrap_or("false")),
        }
    }

    /// Reply to a request above the rate limit.
    pub(super) fn too_many(&self, seconds: u32, now: Timestamp) -> Response<Body> {
        let mut response = reply(429, &self.error(429, "Too many requests"));
        let value = match self.retry_after {
            RetryAfter::Absent => None,
            RetryAfter::Seconds => Some(seconds.to_string()),
            RetryAfter::Date => http_date(super::span::later(now, seconds_of(seconds))),
        };
        if let Some(value) = value.and_then(|text| HeaderValue::from_str(&text).ok()) {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}

fn seconds_of(seconds: u32) -> jiff::SignedDuration {
    jiff::SignedDuration::from_secs(i64::from(seconds))
}

fn http_date(time: Timestamp) -> Option<String> {
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()
}

/// A time in RFC 2822, which some of VPSie's clients parse.
pub(super) fn rfc2822(time: Timestamp) -> String {
    jiff::fmt::rfc2822::to_string(&time.to_zoned(TimeZone::UTC)).unwrap_or_default()
}

/// A JSON reply.
pub(super) fn reply(status: u16, body: &Value) -> Response<Body> {
    respond(status, "application/json; charset=utf-8", body.to_string())
}

/// HTML error page of a gateway.
pub(super) fn html(status: u16) -> Response<Body> {
    let reason = StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error");
    let page = format!(
        "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n<center><h1>{status} \
         {reason}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    );
    respond(status, "text/html", page)
}

fn respond(status: u16, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
