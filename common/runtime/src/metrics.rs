//! The metrics of queues, reconcilers, leader election and event recording, under upstream's names.
//!
//! They are process-wide; a daemon adds them to its registry once with [`register`].

use std::sync::LazyLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The label that tells queues and leases apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Name {
    /// The name of the queue or lease.
    pub name: String,
}

type Durations = Family<Name, Histogram, fn() -> Histogram>;

fn durations() -> Durations {
    // 10 ns to 1000 s by tens: upstream's workqueue buckets.
    Family::new_with_constructor(|| Histogram::new(exponential_buckets(10e-9, 10.0, 12)))
}

/// All metrics of this crate.
pub struct Metrics {
    /// Keys waiting in a queue.
    pub depth: Family<Name, Gauge>,
    /// Keys ever added to a queue.
    pub adds: Family<Name, Counter>,
    /// Keys ever added again after a failure.
    pub retries: Family<Name, Counter>,
    /// How long keys waited.
    pub queue_duration: Durations,
    /// How long keys were worked on.
    pub work_duration: Durations,
    /// 1 while this process leads.
    pub leader: Family<Name, Gauge>,
    /// Events dropped because the recorder's queue was full or its spam filter closed.
    pub events_dropped: Counter,
}

/// The one instance.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    depth: Family::default(),
    adds: Family::default(),
    retries: Family::default(),
    queue_duration: durations(),
    work_duration: durations(),
    leader: Family::default(),
    events_dropped: Counter::default(),
});

/// Adds the metrics to a daemon's registry.
pub fn register(registry: &mut Registry) {
    let m = &*METRICS;
    registry.register(
        "workqueue_depth",
        "Current depth of workqueue",
        m.depth.clone(),
    );
    registry.register(
        "workqueue_adds",
        "Total number of adds handled by workqueue",
        m.adds.clone(),
    );
    registry.register(
        "workqueue_retries",
        "Total number of retries handled by workqueue",
        m.retries.clone(),
    );
    registry.register(
        "workqueue_queue_duration_seconds",
        "How long in seconds an item stays in workqueue before being requested",
        m.queue_duration.clone(),
    );
    registry.register(
        "workqueue_work_duration_seconds",
        "How long in seconds processing an item from workqueue takes",
        m.work_duration.clone(),
    );
    registry.register(
        "leader_election_master_status",
        "Gauge of if the reporting system is master of the relevant lease",
        m.leader.clone(),
    );
    registry.register(
        "keelson_events_dropped",
        "Events dropped because the recorder was full or the source too talkative",
        m.events_dropped.clone(),
    );
}
