//! What is counted of priority and fairness, under upstream's names.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::Fairness;
use super::level::Refused;

const WAITING: [f64; 13] = [
    0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0,
];
const SERVING: [f64; 13] = [
    0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0,
];

/// Counters of a FlowSchema at its level.
#[derive(Default)]
pub struct Counts {
    dispatched: AtomicU64,
    rejected: [AtomicU64; 3],
    waiting: AtomicI64,
    serving: AtomicI64,
    seats: AtomicI64,
    waits: [Histogram; 2],
    execution: Histogram,
}

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; 13],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    fn observe(&self, bounds: &[f64; 13], took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(at) = bounds.iter().position(|bound| seconds <= *bound) {
            self.buckets[at].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn render(&self, out: &mut String, name: &str, labels: &str, bounds: &[f64; 13]) {
        let mut sum = 0;
        for (bound, bucket) in bounds.iter().zip(&self.buckets) {
            sum += bucket.load(Ordering::Relaxed);
            line(
                out,
                &format!("{name}_bucket{{{labels},le=\"{bound}\"}}"),
                sum,
            );
        }
        let count = self.count.load(Ordering::Relaxed);
        line(
            out,
            &format!("{name}_bucket{{{labels},le=\"+Inf\"}}"),
            count,
        );
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        line(out, &format!("{name}_sum{{{labels}}}"), seconds);
        line(out, &format!("{name}_count{{{labels}}}"), count);
    }
}

impl Counts {
    /// A request has asked for seats.
    pub fn asks(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that asked has been answered, or has gone away.
    pub fn asked(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// A request is turned away.
    pub fn refused(&self, why: Refused, waited: Duration) {
        let at = match why {
            Refused::ConcurrencyLimit => 0,
            Refused::QueueFull => 1,
            Refused::TimeOut => 2,
        };
        self.rejected[at].fetch_add(1, Ordering::Relaxed);
        if why == Refused::TimeOut {
            self.waits[0].observe(&WAITING, waited);
        }
    }

    /// A request is served.
    pub fn begins(&self, seats: u64, waited: Option<Duration>) {
        self.dispatched.fetch_add(1, Ordering::Relaxed);
        self.serving.fetch_add(1, Ordering::Relaxed);
        let seats = i64::try_from(seats).unwrap_or(i64::MAX);
        self.seats.fetch_add(seats, Ordering::Relaxed);
        self.waits[1].observe(&WAITING, waited.unwrap_or_default());
    }

    /// A request has been served.
    pub fn ends(&self, seats: u64, took: Duration) {
        self.serving.fetch_sub(1, Ordering::Relaxed);
        let seats = i64::try_from(seats).unwrap_or(i64::MAX);
        self.seats.fetch_sub(seats, Ordering::Relaxed);
        self.execution.observe(&SERVING, took);
    }
}

/// The text of these metrics.
pub fn render(fairness: &Fairness, out: &mut String) {
    let config = fairness.config();
    let name = |short: &str| format!("apiserver_flowcontrol_{short}");
    type Gauge = (&'static str, &'static str, fn(&Counts) -> i64);
    const GAUGES: [Gauge; 3] = [
        (
            "current_inqueue_requests",
            "Requests waiting for a seat.",
            |c| c.waiting.load(Ordering::Relaxed),
        ),
        (
            "current_executing_requests",
            "Requests being served.",
            |c| c.serving.load(Ordering::Relaxed),
        ),
        (
            "current_executing_seats",
            "Seats of the requests being served.",
            |c| c.seats.load(Ordering::Relaxed),
        ),
    ];
    let labels: Vec<(String, &Counts)> = config
        .schemas
        .iter()
        .map(|s| {
            let text = format!(
                "flow_schema=\"{}\",priority_level=\"{}\"",
                s.name, s.level.name
            );
            (text, &*s.counts)
        })
        .collect();
    for (short, help, value) in GAUGES {
        header(out, &name(short), "gauge", help);
        for (labels, counts) in &labels {
            line(out, &format!("{}{{{labels}}}", name(short)), value(counts));
        }
    }
    let dispatched = name("dispatched_requests_total");
    header(out, &dispatched, "counter", "Requests that got a seat.");
    let rejected = name("rejected_requests_total");
    for (labels, counts) in &labels {
        let value = counts.dispatched.load(Ordering::Relaxed);
        line(out, &format!("{dispatched}{{{labels}}}"), value);
    }
    header(out, &rejected, "counter", "Requests that were turned away.");
    for (labels, counts) in &labels {
        let reasons = [
            Refused::ConcurrencyLimit,
            Refused::QueueFull,
            Refused::TimeOut,
        ];
        for (why, count) in reasons.into_iter().zip(&counts.rejected) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let text = format!("{rejected}{{{labels},reason=\"{}\"}}", why.reason());
                line(out, &text, count);
            }
        }
    }
    let waits = name("request_wait_duration_seconds");
    header(out, &waits, "histogram", "How long requests waited.");
    for (labels, counts) in &labels {
        for (executed, histogram) in ["false", "true"].into_iter().zip(&counts.waits) {
            if histogram.count.load(Ordering::Relaxed) > 0 {
                let labels = format!("execute=\"{executed}\",{labels}");
                histogram.render(out, &waits, &labels, &WAITING);
            }
        }
    }
    let execution = name("request_execution_seconds");
    header(out, &execution, "histogram", "How long requests took.");
    for (labels, counts) in &labels {
        if counts.execution.count.load(Ordering::Relaxed) > 0 {
            counts.execution.render(out, &execution, labels, &SERVING);
        }
    }
    render_levels(fairness, out);
}

fn render_levels(fairness: &Fairness, out: &mut String) {
    let config = fairness.config();
    let rows: Vec<(String, [f64; 6])> = config
        .levels
        .values()
        .map(|level| {
            let now = level.level.snapshot();
            let (_, smoothed) = *level.need.lock();
            let values = [
                level.nominal as f64,
                level.least as f64,
                level.most as f64,
                now.limit as f64,
                now.peak as f64,
                smoothed,
            ];
            (format!("priority_level=\"{}\"", level.name), values)
        })
        .collect();
    const NAMES: [(&str, &str); 6] = [
        ("nominal_limit_seats", "Seats of a level by its share."),
        ("lower_limit_seats", "Seats that a level never lends."),
        ("upper_limit_seats", "Seats that a level may have at most."),
        ("current_limit_seats", "Seats of a level at the moment."),
        (
            "demand_seats_high_watermark",
            "The most seats that a level could have used of late.",
        ),
        (
            "demand_seats_smoothed",
            "Seats that a level could use, smoothed.",
        ),
    ];
    for (at, (short, help)) in NAMES.into_iter().enumerate() {
        let name = format!("apiserver_flowcontrol_{short}");
        header(out, &name, "gauge", help);
        for (labels, values) in &rows {
            line(out, &format!("{name}{{{labels}}}"), values[at]);
        }
    }
}

fn header(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String can't fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, series: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "{series} {value}");
}
