//! `/metrics` under upstream's names: requests by verb and resource, what is in flight, and the process itself.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::aggregation::registration::Condition;
use crate::request_info::RequestInfo;

/// Upper bounds of the duration histogram, in seconds.
const BUCKETS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 5.0, 10.0, 30.0, 60.0,
];
/// Series kept at most, so that odd requests can't fill the memory.
const MAX_SERIES: usize = 20_000;

/// What a request is counted under. Cheap to make: `&'static str` or shared strings only where the resource is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    dry_run: bool,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

/// A gauge that counts while its guard lives.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// Holds a [`Gauge`] up by one.
#[derive(Debug)]
pub struct Held(Arc<Gauge>);

impl Gauge {
    /// Counts one more until the guard is dropped.
    pub fn hold(self: &Arc<Self>) -> Held {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(self.clone())
    }

    fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether aggregated servers can be used, and how often that changed for the worse.
#[derive(Debug, Default)]
pub struct Availability {
    unavailable: RwLock<BTreeMap<String, bool>>,
    times: RwLock<BTreeMap<(String, String), u64>>,
}

impl Availability {
    /// How things are.
    pub fn unavailable(&self, name: &str, is_so: bool) {
        let mut map = self
            .unavailable
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        map.insert(name.to_owned(), is_so);
    }

    /// An APIService is gone.
    pub fn forget(&self, name: &str) {
        let mut map = self
            .unavailable
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        map.remove(name);
    }

    /// A condition has changed.
    pub fn changed(&self, name: &str, condition: &Condition) {
        if condition.is_true() {
            return;
        }
        let mut map = self.times.write().unwrap_or_else(PoisonError::into_inner);
        if map.len() < MAX_SERIES {
            let key = (name.to_owned(), condition.reason.clone());
            *map.entry(key).or_default() += 1;
        }
    }

    fn render(&self, out: &mut String) {
        let gauge = "aggregator_unavailable_apiservice";
        header(out, gauge, "gauge", "APIServices that can't be used.");
        let map = self.unavailable.read();
        for (name, is_so) in map.unwrap_or_else(PoisonError::into_inner).iter() {
            let value = u8::from(*is_so);
            line(out, format_args!("{gauge}{{name=\"{name}\"}} {value}"));
        }
        let counter = "aggregator_unavailable_apiservice_total";
        let help = "How often APIServices became unavailable, by reason.";
        header(out, counter, "counter", help);
        let map = self.times.read();
        for ((name, reason), times) in map.unwrap_or_else(PoisonError::into_inner).iter() {
            line(
                out,
                format_args!("{counter}{{name=\"{name}\",reason=\"{reason}\"}} {times}"),
            );
        }
    }
}

/// The registry of this process.
#[derive(Debug)]
pub struct Metrics {
    requests: RwLock<HashMap<(Labels, u16), Arc<AtomicU64>>>,
    durations: RwLock<HashMap<Labels, Arc<Histogram>>>,
    /// Requests that change nothing, being worked on.
    pub reading: Arc<Gauge>,
    /// Requests that change something, being worked on.
    pub mutating: Arc<Gauge>,
    /// Open watches.
    pub watches: Arc<Gauge>,
    /// Whether aggregated servers can be used.
    pub aggregation: Availability,
    known: fn(&str, &str) -> bool,
    started: SystemTime,
}

impl Metrics {
    /// An empty registry; `known` says whether a group has a resource, as only those become labels.
    pub fn new(known: fn(&str, &str) -> bool) -> Self {
        Metrics {
            requests: RwLock::default(),
            durations: RwLock::default(),
            reading: Arc::default(),
            mutating: Arc::default(),
            watches: Arc::default(),
            aggregation: Availability::default(),
            known,
            started: SystemTime::now(),
        }
    }

    /// The labels of a request.
    pub fn labels(&self, info: &RequestInfo, apply: bool, dry_run: bool) -> Labels {
        let verb = match info.verb.as_str() {
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" | "post" => "POST",
            "update" | "put" => "PUT",
            "patch" if apply => "APPLY",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            "head" => "HEAD",
            _ => "other",
        };
        let known = info.is_resource && (self.known)(&info.group, &info.resource);
        let of = |s: &str| if known { s.to_owned() } else { String::new() };
        Labels {
            verb,
            group: of(&info.group),
            version: of(&info.version),
            resource: of(&info.resource),
            subresource: of(&info.subresource),
            scope: if known { info.scope() } else { "" },
            dry_run,
        }
    }

    /// Counts an answered request.
    pub fn observe(&self, labels: &Labels, code: u16, took: Duration) {
        if let Some(counter) = entry(&self.requests, &(labels.clone(), code)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if labels.verb == "WATCH" {
            return;
        }
        if let Some(histogram) = entry(&self.durations, labels) {
            let seconds = took.as_secs_f64();
            if let Some(at) = BUCKETS.iter().position(|bound| seconds <= *bound) {
                histogram.buckets[at].fetch_add(1, Ordering::Relaxed);
            }
            histogram.count.fetch_add(1, Ordering::Relaxed);
            histogram
                .micros
                .fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        }
    }

    /// The text of `/metrics`.
    pub fn render(&self, objects: &[(String, usize)]) -> String {
        let mut out = String::new();
        self.render_requests(&mut out);
        header(
            &mut out,
            "apiserver_current_inflight_requests",
            "gauge",
            "Requests being worked on, by kind.",
        );
        for (kind, gauge) in [("mutating", &self.mutating), ("readOnly", &self.reading)] {
            line(
                &mut out,
                format_args!(
                    "apiserver_current_inflight_requests{{request_kind=\"{kind}\"}} {}",
                    gauge.value()
                ),
            );
        }
        header(
            &mut out,
            "apiserver_longrunning_requests",
            "gauge",
            "Open watches.",
        );
        line(
            &mut out,
            format_args!(
                "apiserver_longrunning_requests{{verb=\"WATCH\"}} {}",
                self.watches.value()
            ),
        );
        header(
            &mut out,
            "apiserver_storage_objects",
            "gauge",
            "Stored objects by resource.",
        );
        for (resource, count) in objects {
            line(
                &mut out,
                format_args!("apiserver_storage_objects{{resource=\"{resource}\"}} {count}"),
            );
        }
        self.aggregation.render(&mut out);
        self.render_process(&mut out);
        out
    }

    fn render_requests(&self, out: &mut String) {
        header(
            out,
            "apiserver_request_total",
            "counter",
            "Requests by verb, resource and answer.",
        );
        let mut rows: Vec<String> = Vec::new();
        for ((labels, code), counter) in self
            .requests
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            let count = counter.load(Ordering::Relaxed);
            rows.push(format!(
                "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",{}}} {count}\n",
                labels.text(true)
            ));
        }
        rows.sort();
        out.extend(rows);
        header(
            out,
            "apiserver_request_duration_seconds",
            "histogram",
            "How long requests took.",
        );
        let mut rows: Vec<(String, Arc<Histogram>)> = self
            .durations
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(labels, histogram)| (labels.text(true), histogram.clone()))
            .collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        for (labels, histogram) in rows {
            let mut sum = 0;
            for (bound, bucket) in BUCKETS.iter().zip(&histogram.buckets) {
                sum += bucket.load(Ordering::Relaxed);
                line(
                    out,
                    format_args!(
                        "apiserver_request_duration_seconds_bucket{{component=\"apiserver\",{labels},le=\"{bound}\"}} {sum}"
                    ),
                );
            }
            let count = histogram.count.load(Ordering::Relaxed);
            line(
                out,
                format_args!(
                    "apiserver_request_duration_seconds_bucket{{component=\"apiserver\",{labels},le=\"+Inf\"}} {count}"
                ),
            );
            let seconds = histogram.micros.load(Ordering::Relaxed) as f64 / 1e6;
            line(
                out,
                format_args!(
                    "apiserver_request_duration_seconds_sum{{component=\"apiserver\",{labels}}} {seconds}"
                ),
            );
            line(
                out,
                format_args!(
                    "apiserver_request_duration_seconds_count{{component=\"apiserver\",{labels}}} {count}"
                ),
            );
        }
    }

    /// What Linux knows of this process; lines that can't be read are left out.
    fn render_process(&self, out: &mut String) {
        let started = self
            .started
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        header(
            out,
            "process_start_time_seconds",
            "gauge",
            "Start of the process since the epoch.",
        );
        line(out, format_args!("process_start_time_seconds {started}"));
        if let Some(kb) = std::fs::read_to_string("/proc/self/status")
            .ok()
            .as_deref()
            .and_then(resident_kb)
        {
            header(
                out,
                "process_resident_memory_bytes",
                "gauge",
                "Resident memory.",
            );
            line(
                out,
                format_args!("process_resident_memory_bytes {}", kb * 1024),
            );
        }
        if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
            header(out, "process_open_fds", "gauge", "Open file descriptors.");
            line(out, format_args!("process_open_fds {}", fds.count()));
        }
    }
}

impl Labels {
    fn text(&self, with_dry_run: bool) -> String {
        let mut text = String::new();
        if with_dry_run {
            text.push_str(if self.dry_run {
                "dry_run=\"All\","
            } else {
                "dry_run=\"\","
            });
        }
        let Labels {
            verb,
            group,
            version,
            resource,
            subresource,
            scope,
            ..
        } = self;
        let escaped: String = subresource
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
            .collect();
        let _ = write!(
            text,
            "group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{escaped}\",verb=\"{verb}\",version=\"{version}\""
        );
        text
    }
}

fn entry<K: Clone + Eq + std::hash::Hash, V: Default>(
    map: &RwLock<HashMap<K, Arc<V>>>,
    key: &K,
) -> Option<Arc<V>> {
    if let Some(found) = map.read().unwrap_or_else(PoisonError::into_inner).get(key) {
        return Some(found.clone());
    }
    let mut map = map.write().unwrap_or_else(PoisonError::into_inner);
    if map.len() >= MAX_SERIES {
        return None;
    }
    Some(map.entry(key.clone()).or_default().clone())
}

fn header(out: &mut String, name: &str, kind: &str, help: &str) {
    line(
        out,
        format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"),
    );
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = writeln!(out, "{text}");
}

fn resident_kb(status: &str) -> Option<u64> {
    status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;
    use http::Method;

    #[test]
    fn requests_are_counted_and_unknown_resources_share_a_series() {
        let metrics = Metrics::new(|_, resource| resource == "pods");
        for path in ["/api/v1/pods", "/api/v1/x1", "/api/v1/x2"] {
            let info = RequestInfo::parse(&Method::GET, path, &Query::default());
            metrics.observe(
                &metrics.labels(&info, false, false),
                200,
                Duration::from_millis(7),
            );
        }
        let text = metrics.render(&[("pods".into(), 3)]);
        assert!(
            text.contains(
                r#"resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 1"#
            ),
            "{text}"
        );
        assert!(
            text.contains(
                r#"group="",resource="",scope="",subresource="",verb="LIST",version=""} 2"#
            ),
            "{text}"
        );
        assert!(text.contains(r#"le="0.01"} 1"#));
        assert!(text.contains("apiserver_storage_objects{resource=\"pods\"} 3"));
    }
}
