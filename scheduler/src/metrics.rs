//! The scheduler's metrics, under upstream's names.

use std::sync::{Arc, LazyLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::framework::Handle;
use crate::queue::Queue;

/// How an attempt ended, and under which profile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Attempt {
    /// `scheduled`, `unschedulable` or `error`.
    pub result: &'static str,
    /// The scheduler's name.
    pub profile: String,
}

/// How often a pod was tried until it was scheduled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Attempts {
    /// The number.
    pub attempts: String,
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// All of them.
pub struct Metrics {
    /// Attempts.
    pub attempts: Family<Attempt, Counter>,
    /// How long attempts took.
    pub attempt_duration: Durations<Attempt>,
    /// How long finding a node took.
    pub algorithm_duration: Histogram,
    /// From the first attempt to the binding.
    pub sli_duration: Durations<Attempts>,
    /// How often pods were tried until they were scheduled.
    pub pod_attempts: Histogram,
    /// Attempts to make room.
    pub preemption_attempts: Counter,
    /// Pods that had to go at a time.
    pub preemption_victims: Histogram,
}

fn milliseconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// The one instance.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    attempts: Family::default(),
    attempt_duration: Family::new_with_constructor(milliseconds),
    algorithm_duration: milliseconds(),
    sli_duration: Family::new_with_constructor(|| {
        Histogram::new(exponential_buckets(0.01, 2.0, 20))
    }),
    pod_attempts: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
    preemption_attempts: Counter::default(),
    preemption_victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
});

/// Adds the metrics to the daemon's registry.
pub fn register(registry: &mut Registry, queue: Arc<Queue>, handle: &Handle) {
    let m = &*METRICS;
    registry.register(
        "scheduler_schedule_attempts",
        "Number of attempts to schedule pods, by the result",
        m.attempts.clone(),
    );
    registry.register(
        "scheduler_scheduling_attempt_duration_seconds",
        "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
        m.attempt_duration.clone(),
    );
    registry.register(
        "scheduler_scheduling_algorithm_duration_seconds",
        "Scheduling algorithm latency in seconds",
        m.algorithm_duration.clone(),
    );
    registry.register(
        "scheduler_pod_scheduling_sli_duration_seconds",
        "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue",
        m.sli_duration.clone(),
    );
    registry.register(
        "scheduler_pod_scheduling_attempts",
        "Number of attempts to successfully schedule a pod",
        m.pod_attempts.clone(),
    );
    registry.register(
        "scheduler_preemption_attempts",
        "Total preemption attempts in the cluster till now",
        m.preemption_attempts.clone(),
    );
    registry.register(
        "scheduler_preemption_victims",
        "Number of selected preemption victims",
        m.preemption_victims.clone(),
    );
    registry.register_collector(Box::new(Sizes {
        queue,
        handle: handle.clone(),
    }));
}

/// Sizes that are read when they are asked for.
struct Sizes {
    queue: Arc<Queue>,
    handle: Handle,
}

impl std::fmt::Debug for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sizes")
    }
}

impl Sizes {
    fn gauges(
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        label: &str,
        values: &[(&str, usize)],
    ) -> Result<(), std::fmt::Error> {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value, count) in values {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            let labels = [(label, *value)];
            ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Sizes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.queue.counts();
        Self::gauges(
            &mut encoder,
            "scheduler_pending_pods",
            "Number of pending pods, by the queue type",
            "queue",
            &[
                ("active", counts.active),
                ("backoff", counts.backoff),
                ("unschedulable", counts.unschedulable),
                ("gated", counts.gated),
            ],
        )?;
        let (nodes, pods, assumed) = self.handle.cache.lock().sizes();
        Self::gauges(
            &mut encoder,
            "scheduler_cache_size",
            "Number of nodes, pods, and assumed (bound) pods in the scheduler cache",
            "type",
            &[("nodes", nodes), ("pods", pods), ("assumed_pods", assumed)],
        )
    }
}
