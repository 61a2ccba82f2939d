//! The metrics registry of a daemon and its text form for `/metrics`.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::{Metric, Registry};

/// A shared registry. Metrics are registered at start under upstream's names (a counter's `_total` is added by the encoder).
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// A registry with nothing but the build information.
    pub fn new() -> Self {
        let metrics = Self::default();
        let info = prometheus_client::metrics::info::Info::new(vec![
            ("git_version", crate::version::GIT_VERSION),
            ("major", crate::version::MAJOR),
            ("minor", crate::version::MINOR),
        ]);
        metrics.with(|registry| {
            registry.register("kubernetes_build", "Version of this program", info)
        });
        metrics.with(|registry| registry.register_collector(Box::new(ProcessCollector)));
        metrics
    }

    /// Registers a metric and gives it back.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.with(|registry| registry.register(name, help, metric.clone()));
        metric
    }

    /// Gives the registry itself.
    pub fn with<T>(&self, f: impl FnOnce(&mut Registry) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The OpenMetrics text of all metrics.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        self.with(|registry| {
            if let Err(error) = prometheus_client::encoding::text::encode(&mut text, registry) {
                tracing::error!(%error, "could not encode metrics");
            }
        });
        text
    }
}

/// `process_*` metrics, read from `/proc/self` when asked for.
#[derive(Debug)]
struct ProcessCollector;

impl prometheus_client::collector::Collector for ProcessCollector {
    fn encode(
        &self,
        mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        use prometheus_client::encoding::EncodeMetric;
        use prometheus_client::metrics::MetricType;
        use prometheus_client::metrics::gauge::ConstGauge;
        let Some((cpu_seconds, resident, virtual_size)) = read_proc_self() else {
            return Ok(());
        };
        for (name, help, value) in [
            (
                "process_cpu_seconds",
                "User and system CPU time spent, in seconds",
                cpu_seconds,
            ),
            (
                "process_resident_memory_bytes",
                "Resident memory in bytes",
                resident,
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory in bytes",
                virtual_size,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

/// CPU seconds, resident bytes and virtual bytes of this process.
fn read_proc_self() -> Option<(f64, f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command name may hold spaces; fields are counted behind its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let virtual_size: f64 = fields.get(20)?.parse().ok()?;
    let pages: f64 = fields.get(21)?.parse().ok()?;
    // Linux reports ticks of 1/100 s to user space and 4 KiB pages on the platforms we build for.
    Some((ticks / 100.0, pages * 4096.0, virtual_size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn registered_metrics_are_encoded() {
        let metrics = Metrics::new();
        let counter = metrics.register("things", "Things", Counter::<u64>::default());
        counter.inc_by(3);
        let text = metrics.encode();
        assert!(text.contains("things_total 3"), "{text}");
        assert!(text.contains("kubernetes_build_info{"), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
    }
}
