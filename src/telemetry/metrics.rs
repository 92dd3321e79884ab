use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// A registry whose names start with `vpsie_autoscaler_`, with `vpsie_autoscaler_build_info` in it.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("vpsie_autoscaler");
    let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "What runs", version);
    registry
}
