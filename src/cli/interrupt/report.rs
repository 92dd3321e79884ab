//! The report of a dry run.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::cli::table::write_table;
use crate::fleet::InterruptionPreview;

/// The effect of a notice.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InterruptReport {
    #[serde(flatten)]
    preview: InterruptionPreview,
    notice_seconds: u64,
    /// Time before the interruption at which the drain begins at the latest.
    drain_seconds: u64,
    /// Whether the replacement is expected to be Ready when the drain begins at the latest. None if that is unknown.
    is_ready_in_time: Option<bool>,
    pods: Vec<PodReport>,
}

/// A pod that must move.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodReport {
    pub(super) pod: String,
    pub(super) grace_seconds: u64,
    /// Disruption budgets that allow no disruption now.
    pub(super) blocking: Vec<String>,
    /// Number of disruption budgets that select the pod.
    pub(super) budgets: usize,
}

impl InterruptReport {
    pub(super) fn new(
        preview: InterruptionPreview,
        notice: Duration,
        drain: Duration,
        pods: Vec<PodReport>,
    ) -> Self {
        let ready_at = preview.startup.map(|startup| Duration::from_secs(startup.median_seconds));
        Self {
            is_ready_in_time: ready_at.map(|ready_at| ready_at + drain <= notice),
            notice_seconds: notice.as_secs(),
            drain_seconds: drain.as_secs(),
            preview,
            pods,
        }
    }

    pub(super) fn to_table(&self) -> String {
        let mut text = String::new();
        let InterruptionPreview { machine, pool, deadline, replacement, usd_per_hour, startup } =
            &self.preview;
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{:<12} {value}", format!("{name}:"));
        };
        line("machine", format!("{machine} of pool {pool}"));
        if let Some(deadline) = deadline {
            line("notice", format!("it has one already, with the deadline {deadline}"));
        }
        line(
            "replacement",
            match (replacement, self.pods.is_empty()) {
                (Some(pool), _) => {
                    let price = usd_per_hour
                        .map_or_else(|| "unknown price".to_owned(), |usd| format!("{usd} USD per hour"));
                    format!("one machine of pool {pool}, {price}")
                }
                (None, true) => "none: no pod must move".to_owned(),
                (None, false) => "none: no other pool of the NodeGroup can grow".to_owned(),
            },
        );
        if replacement.is_some() {
            line(
                "ready",
                match startup {
                    Some(startup) => format!(
                        "about {} s after the notice (median of {} machines)",
                        startup.median_seconds, startup.machines
                    ),
                    None => "unknown: no machine of the NodeGroup has started yet".to_owned(),
                },
            );
        }
        line("drain", self.describe_drain());
        if !self.pods.is_empty() {
            let rows: Vec<Vec<String>> = self.pods.iter().map(PodReport::to_row).collect();
            text.push('\n');
            write_table(&mut text, 1, &["POD", "GRACE", "EVICTION"], &rows);
        }
        text
    }

    fn describe_drain(&self) -> String {
        let latest = self.notice_seconds.saturating_sub(self.drain_seconds);
        match (self.pods.is_empty(), self.is_ready_in_time) {
            (true, _) => "at once".to_owned(),
            (false, Some(true)) => {
                format!(
                    "when the Node of the replacement is Ready, at the latest {latest} s after the notice"
                )
            }
            (false, Some(false)) => format!(
                "{latest} s after the notice, before the replacement is Ready: pods are pending until then"
            ),
            (false, None) => format!(
                "when a replacement is Ready, at the latest {latest} s after the notice; then pods may be pending"
            ),
        }
    }
}

impl PodReport {
    fn to_row(&self) -> Vec<String> {
        let eviction = match (self.budgets, self.blocking.as_slice()) {
            (2.., _) => "refused by the API server: several disruption budgets select the pod".to_owned(),
            (_, []) => "allowed".to_owned(),
            (_, blocking) => format!("blocked by disruption budget {}", blocking.join(", ")),
        };
        let deleted = if self.budgets > 1 || !self.blocking.is_empty() {
            "; deleted in time before the interruption, unless --spot-delete-pods=false"
        } else {
            ""
        };
        vec![self.pod.clone(), format!("{} s", self.grace_seconds), eviction + deleted]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::StartupTime;

    fn report(startup: Option<u64>, notice: u64, pods: Vec<PodReport>) -> String {
        let preview = InterruptionPreview {
            machine: "web-1".into(),
            pool: "web/ams1/small/spot".parse().unwrap(),
            deadline: None,
            replacement: (!pods.is_empty()).then(|| "web/ams1/small/on-demand".parse().unwrap()),
            usd_per_hour: None,
            startup: startup.map(|median_seconds| StartupTime { median_seconds, machines: 7 }),
        };
        InterruptReport::new(preview, Duration::from_secs(notice), Duration::from_secs(45), pods).to_table()
    }

    fn pod(budgets: usize, blocking: &[&str]) -> PodReport {
        let blocking = blocking.iter().map(|&name| name.to_owned()).collect();
        PodReport { pod: "default/web".to_owned(), grace_seconds: 30, blocking, budgets }
    }

    #[test]
    fn a_report_shows_replacement_time_pods_and_budgets() {
        let reports = [
            report(Some(60), 120, vec![pod(0, &[]), pod(1, &["web"]), pod(2, &[])]),
            report(Some(100), 120, vec![pod(1, &[])]),
            report(None, 120, Vec::new()),
        ];
        insta::assert_snapshot!(reports.join("\n"));
    }
}
