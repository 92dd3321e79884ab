//! Metrics, logs, and the HTTP port that shows them.

mod http;
mod logs;
mod registry;
mod repeated_warning;

pub use http::{Readiness, Unready, serve_http};
pub use logs::{LogArgs, LogError, LogFormat, chain, check_filter, init_logs};
pub use registry::{Measure, Registry};
pub use repeated_warning::RepeatedWarning;
