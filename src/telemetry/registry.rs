use std::fmt;
use std::hash::Hash;
use std::sync::atomic::AtomicU64;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{self, Metric, Unit};

/// The registry of all metrics. `/metrics` shows only metrics that are registered here, so
/// docs/reference/metrics.md, which is generated from it, names every metric.
pub struct Registry {
    prefixed: registry::Registry,
    unprefixed: registry::Registry,
    #[cfg(test)]
    begin: Vec<Box<dyn Fn() + Send + Sync>>,
}

impl Default for Registry {
    /// A registry with `vpsie_autoscaler_build_info`.
    fn default() -> Self {
        let mut registry = Self {
            prefixed: registry::Registry::with_prefix("vpsie_autoscaler"),
            unprefixed: registry::Registry::default(),
            #[cfg(test)]
            begin: Vec::new(),
        };
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.prefixed.register("build", "Version of the program", version);
        registry
    }
}

impl Registry {
    /// Registers a metric, as `vpsie_autoscaler_<name>[_<unit>]`, and `_total` if it is a counter.
    pub fn register<M: Measure>(&mut self, name: &str, help: &str, unit: Option<Unit>, metric: &M) {
        #[cfg(test)]
        self.begin.push(Box::new({
            let metric = metric.clone();
            move || metric.begin()
        }));
        match unit {
            Some(unit) => self.prefixed.register_with_unit(name, help, unit, metric.clone()),
            None => self.prefixed.register(name, help, metric.clone()),
        }
    }

    /// Registers metrics that are read at each scrape, as `vpsie_autoscaler_…`.
    pub fn collect(&mut self, collector: impl Collector) {
        self.prefixed.register_collector(Box::new(collector));
    }

    /// Registers metrics that are read at each scrape, under names of other projects.
    pub fn collect_unprefixed(&mut self, collector: impl Collector) {
        self.unprefixed.register_collector(Box::new(collector));
    }

    /// A scrape, in the text format of OpenMetrics.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.prefixed)?;
        encode_registry(&mut text, &self.unprefixed)?;
        encode_eof(&mut text)?;
        Ok(text)
    }

    /// Begins a series of each metric: a scrape omits metrics without one.
    #[cfg(test)]
    pub(crate) fn begin(&self) {
        self.begin.iter().for_each(|begin| begin());
    }
}

/// A metric that can be registered. Clones share their values.
pub trait Measure: Metric + Clone {
    /// Begins a series, for metrics without one before the first measurement.
    fn begin(&self) {}
}

impl Measure for Counter {}
impl Measure for Counter<f64, AtomicU64> {}
impl Measure for Gauge {}
impl Measure for Gauge<f64, AtomicU64> {}
impl Measure for Histogram {}

impl<S, M, C> Measure for Family<S, M, C>
where
    S: EncodeLabelSet + Default + Clone + Hash + Eq + fmt::Debug + Send + Sync + 'static,
    M: Metric + TypedMetric,
    C: MetricConstructor<M> + Clone + Send + Sync + 'static,
{
    fn begin(&self) {
        drop(self.get_or_create(&S::default()));
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}
