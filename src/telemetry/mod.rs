//! Metrics, logs, and the HTTP port that shows them.
