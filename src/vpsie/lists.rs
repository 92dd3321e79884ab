//! Findings of earlier reads of each list, so that a whole list takes one request.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Findings about lists, by path.
#[derive(Default)]
pub(super) struct Lists(Mutex<HashMap<String, List>>);

#[derive(Clone, Copy)]
pub(super) struct List {
    /// Number of rows when the list was last complete, and the time of that read.
    pub(super) rows: usize,
    pub(super) at: Instant,
    /// Whether VPSie truncates it without a `limit`.
    pub(super) cut: bool,
}

impl Lists {
    pub(super) fn get(&self, path: &str) -> Option<List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied()
    }

    pub(super) fn set(&self, path: &str, rows: usize, cut: bool) {
        let list = List { rows, at: Instant::now(), cut };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), list);
    }
}
