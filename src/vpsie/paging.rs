//! Reads listings that may have pages. VPSie documents no paging, and its clients disagree about it
//! (docs/reference/vpsie-api.md#paging): the total may be absent, `offset` may count rows or pages, `limit`
//! may be ignored.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Map, Value};

use super::call::Call;
use super::client::Client;
use super::error::{ApiError, ErrorKind};
use super::reply::Payload;
use super::wire::Row;

/// Readable rows of a listing.
#[derive(Debug)]
pub(super) struct Listed<T> {
    pub(super) rows: Vec<T>,
    /// Whether the listing is complete. Otherwise the absence of a row does not prove that its object is
    /// gone.
    pub(super) whole: bool,
    /// Whether VPSie replied with a list that is empty or has readable rows: `null` does not prove that there
    /// are none.
    pub(super) is_list: bool,
}

/// Rows requested at once.
const MOST_ROWS: usize = 10_000;
/// Rows of a page, if VPSie returns fewer rows than requested.
const PAGE: usize = 100;
/// Maximum number of pages.
const MOST_PAGES: usize = 100;
/// A listing with fewer rows is not a full page: all known clients use larger pages.
const SMALLEST_PAGE: usize = 10;
/// Time that a complete listing without a total counts as complete while its length does not change.
const WHOLE_FOR: Duration = Duration::from_mins(2);

/// A page of a listing.
struct Page {
    rows: Vec<Value>,
    total: Option<u64>,
    is_list: bool,
}

/// A listing while its pages are being read.
struct Reading<'a> {
    client: &'a Client,
    call: &'a Call,
    rows: Vec<Value>,
    seen: HashSet<String>,
    total: Option<usize>,
    is_list: bool,
}

impl Reading<'_> {
    /// Reads a page. Returns the number of new rows. All rows of the first page are new.
    async fn read_page(&mut self, call: &Call) -> Result<usize, ApiError> {
        let Page { rows: page, total, is_list } = self.client.fetch_page(call).await?;
        self.is_list |= is_list;
        let total = total.and_then(|total| usize::try_from(total).ok()).filter(|total| *total > 0);
        self.total = self.total.or(total);
        let before = self.rows.len();
        let is_first = self.seen.is_empty();
        for row in page {
            if self.seen.insert(key(&row)) || is_first {
                self.rows.push(row);
            }
        }
        Ok(self.rows.len() - before)
    }

    fn is_missing_rows(&self) -> bool {
        self.total.is_some_and(|total| self.rows.len() < total)
    }

    /// Requests all rows at once, which works whether `offset` counts rows or pages; then pages, until one
    /// has no new rows. Returns whether all requests succeeded.
    async fn read_rest(&mut self, has_requested_all: bool) -> Result<bool, ApiError> {
        let first = self.rows.len().max(1);
        if !has_requested_all {
            let all = self.call.for_page(0, self.total.unwrap_or(MOST_ROWS).min(MOST_ROWS));
            if !self.read_page_if_any(&all).await?.1 {
                return Ok(false);
            }
        }
        for _ in 0..MOST_PAGES {
            if self.total.is_some() && !self.is_missing_rows() {
                break;
            }
            let by_rows = self.call.for_page(self.rows.len(), PAGE);
            let by_pages = self.call.for_page((self.rows.len() / first).max(1), first);
            let mut more = 0;
            for page in [by_rows, by_pages] {
                let (new, succeeded) = self.read_page_if_any(&page).await?;
                if !succeeded {
                    return Ok(false);
                }
                more = new;
                if more > 0 {
                    break;
                }
            }
            if more == 0 {
                break;
            }
        }
        Ok(true)
    }

    /// Reads a page that may not exist. If no total shows that rows are missing, an error only means that the
    /// listing may be incomplete.
    async fn read_page_if_any(&mut self, call: &Call) -> Result<(usize, bool), ApiError> {
        match self.read_page(call).await {
            Ok(new) => Ok((new, true)),
            Err(error) if self.is_missing_rows() => Err(error),
            Err(error) => {
                tracing::debug!(
                    endpoint = call.endpoint,
                    error = error.message,
                    "cannot read further pages of a listing"
                );
                Ok((0, false))
            }
        }
    }
}

impl Client {
    /// Reads all rows of a listing, over all its pages, with `read`. Unreadable rows are skipped and counted.
    /// Rows that VPSie announces, but does not return, are counted and logged.
    pub(super) async fn read_rows<T>(
        &self,
        call: Call,
        read: impl Fn(Row<'_>) -> Option<T>,
    ) -> Result<Listed<T>, ApiError> {
        let list = format!("{} {:?}", call.path, call.body);
        let known = self.lists().get(&list);
        let is_cut = known.is_some_and(|known| known.cut);
        let mut reading = Reading {
            client: self,
            call: &call,
            rows: Vec::new(),
            seen: HashSet::new(),
            total: None,
            is_list: false,
        };
        let first = if is_cut { call.for_page(0, MOST_ROWS) } else { call.clone() };
        let before = reading.read_page(&first).await?;
        let is_proven = match reading.total {
            Some(_) => !reading.is_missing_rows(),
            None => {
                before < SMALLEST_PAGE
                    || known.is_some_and(|known| {
                        before < known.rows || before == known.rows && known.at.elapsed() < WHOLE_FOR
                    })
            }
        };
        let mut whole = true;
        if !is_proven {
            whole = reading.read_rest(is_cut).await? && !reading.is_missing_rows();
            if whole {
                self.lists().set(&list, reading.rows.len(), is_cut || reading.rows.len() > before);
            }
        }
        let missing = reading.total.unwrap_or(0).saturating_sub(reading.rows.len());
        if self.metrics().set_missing_rows(call.endpoint, missing) && missing > 0 {
            tracing::warn!(
                endpoint = call.endpoint,
                rows = reading.rows.len(),
                missing,
                "VPSie returned fewer rows than it announced; missing rows count as unknown, not as deleted"
            );
        }
        let read = |row: &Value| {
            let read = row.as_object().and_then(|row| read(Row(row)));
            if read.is_none() {
                self.metrics().count_skipped_row(call.endpoint);
            }
            read
        };
        let rows: Vec<T> = reading.rows.iter().filter_map(read).collect();
        let is_list = reading.is_list && (!rows.is_empty() || reading.rows.is_empty());
        Ok(Listed { rows, whole, is_list })
    }

    async fn fetch_page(&self, call: &Call) -> Result<Page, ApiError> {
        match self.send(call).await?.payload() {
            Payload::List { rows, total } => Ok(Page { rows, total, is_list: true }),
            Payload::Nothing | Payload::False => Ok(Page { rows: Vec::new(), total: None, is_list: false }),
            Payload::Accepted | Payload::Object(_) => {
                let message = format!("VPSie replied to {} without a list", call.endpoint);
                Err(ApiError::new(ErrorKind::Unclear, message))
            }
        }
    }
}

/// Key by which duplicate rows are recognized.
fn key(row: &Value) -> String {
    let named = |name| row.as_object().and_then(|row: &Map<String, Value>| Row(row).text(&[name]));
    named("identifier").or_else(|| named("id")).unwrap_or_else(|| row.to_string())
}
