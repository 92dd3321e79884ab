//! Metrics of interruptions.

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use crate::fleet::Notice;
use crate::telemetry::Registry;

/// Upper bounds of the buckets, seconds.
const BUCKETS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0];

/// Metrics of interruptions. Clones share their counts.
#[derive(Clone, Debug)]
pub struct InterruptionMetrics {
    drains: Family<ReplacementLabel, Counter>,
    until_stage: Family<StageLabel, Histogram>,
}

/// A stage of the interruption of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum InterruptionStage {
    ReplacementRecorded,
    ReplacementReady,
    DrainBegun,
    Drained,
}

impl InterruptionStage {
    fn name(self) -> &'static str {
        match self {
            Self::ReplacementRecorded => "replacement_recorded",
            Self::ReplacementReady => "replacement_ready",
            Self::DrainBegun => "drain_begun",
            Self::Drained => "drained",
        }
    }
}

/// The replacement of a machine when its drain begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrainReplacement {
    Ready,
    NotNeeded,
    Missing,
}

impl DrainReplacement {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotNeeded => "not_needed",
            Self::Missing => "missing",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplacementLabel {
    replacement: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

impl Default for InterruptionMetrics {
    fn default() -> Self {
        Self {
            drains: Family::default(),
            until_stage: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }
}

impl InterruptionMetrics {
    /// Registers `interruption_drains_total{replacement="ready|not_needed|missing"}` and
    /// `interruption_stage_duration_seconds{stage="replacement_recorded|replacement_ready|drain_begun|drained"}`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Drains begun because of a notice, by replacement: ready, not_needed (no pod to move), missing (none was \
                    ready in time)";
        registry.register("interruption_drains", help, None, &self.drains);
        let help = "Time from a notice until replacement_recorded (its replacement was recorded), replacement_ready (the Node \
                    of the replacement was Ready), drain_begun (the drain began) or drained (the drain ended)";
        registry.register("interruption_stage_duration", help, Some(Unit::Seconds), &self.until_stage);
    }

    pub(super) fn observe(&self, stage: InterruptionStage, notice: &Notice, now: Timestamp) {
        let elapsed = now.duration_since(notice.received_at).as_secs_f64().max(0.0);
        self.until_stage.get_or_create(&StageLabel { stage: stage.name() }).observe(elapsed);
    }

    pub(super) fn count_drain(&self, replacement: DrainReplacement) {
        self.drains.get_or_create(&ReplacementLabel { replacement: replacement.name() }).inc();
    }
}
