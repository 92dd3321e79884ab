//! Metrics, logs, and the HTTP port that shows them.

mod http;
mod logs;
mod metrics;

pub use http::{Readiness, Registries, Unready, serve_http};
pub use logs::{LogError, chain, check_filter, init_logs};
pub use metrics::registry;
