//! `/metrics/resource`, `/metrics/cadvisor` and `/metrics/probes` in Prometheus' text form.

use std::fmt::Write;

use http::Response;

use super::answer::{self, Body};
use super::{Server, stats};
use crate::pods::containers;
use crate::probes::counts;
use crate::runtime::{ContainerState, ContainerStatus, PodRef, Usage};

/// A metric with its samples.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    samples: Vec<(String, f64)>,
}

impl Family {
    fn new(name: &'static str, kind: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            kind,
            samples: Vec::new(),
        }
    }

    fn write(&self, out: &mut String) {
        if self.samples.is_empty() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "# HELP {} {}\n# TYPE {} {}",
            self.name, self.help, self.name, self.kind
        );
        for (labels, value) in &self.samples {
            let labels = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{labels}}}")
            };
            let _ = writeln!(out, "{}{labels} {value}", self.name);
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn labels(pairs: &[(&str, &str)]) -> String {
    pairs
        .iter()
        .map(|(k, v)| format!("{k}=\"{}\"", escape(v)))
        .collect::<Vec<_>>()
        .join(",")
}

struct Measured {
    pod: PodRef,
    status: ContainerStatus,
    usage: Usage,
}

async fn measure(server: &Server) -> Result<(Vec<Measured>, Vec<(PodRef, Usage)>), String> {
    let runtime = &server.host.runtime.runtime;
    let (mut list, mut pods) = (Vec::new(), Vec::new());
    for sandbox in runtime
        .list()
        .await
        .map_err(|e| e.to_string())?
        .into_iter()
        .filter(|s| s.ready)
    {
        if let Ok(usage) = runtime.pod_usage(&sandbox.pod.uid).await {
            pods.push((sandbox.pod.clone(), usage));
        }
        for status in sandbox.containers.into_iter().filter(containers::running) {
            // What ended since the listing is left out.
            if let Ok(usage) = runtime.usage(&status.container).await {
                list.push(Measured {
                    pod: sandbox.pod.clone(),
                    status,
                    usage,
                });
            }
        }
    }
    Ok((list, pods))
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn write(families: &[Family]) -> String {
    let mut out = String::new();
    families.iter().for_each(|f| f.write(&mut out));
    out
}

fn resource(containers: &[Measured], pods: &[(PodRef, Usage)], node: &Usage) -> String {
    let mut cpu = Family::new(
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    let mut memory = Family::new(
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
    );
    let mut start = Family::new(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    for item in containers {
        let labels = labels(&[
            ("container", &item.status.container.name),
            ("namespace", &item.pod.namespace),
            ("pod", &item.pod.name),
        ]);
        cpu.samples
            .push((labels.clone(), seconds(item.usage.cpu_nanos)));
        memory
            .samples
            .push((labels.clone(), item.usage.memory_working_set as f64));
        if let ContainerState::Running { started_at, .. } = item.status.state {
            start
                .samples
                .push((labels, started_at.as_millisecond() as f64 / 1e3));
        }
    }
    let mut pod_cpu = Family::new(
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    let mut pod_memory = Family::new(
        "pod_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the pod in bytes",
    );
    for (pod, usage) in pods {
        let labels = labels(&[("namespace", &pod.namespace), ("pod", &pod.name)]);
        pod_cpu
            .samples
            .push((labels.clone(), seconds(usage.cpu_nanos)));
        pod_memory
            .samples
            .push((labels, usage.memory_working_set as f64));
    }
    let mut node_cpu = Family::new(
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    node_cpu
        .samples
        .push((String::new(), seconds(node.cpu_nanos)));
    let mut node_memory = Family::new(
        "node_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the node in bytes",
    );
    node_memory
        .samples
        .push((String::new(), node.memory_working_set as f64));
    let mut error = Family::new(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    error.samples.push((String::new(), 0.0));
    write(&[
        cpu,
        memory,
        start,
        node_cpu,
        node_memory,
        pod_cpu,
        pod_memory,
        error,
    ])
}

fn cadvisor(
    containers: &[Measured],
    pods: &[(PodRef, Usage)],
    node: &Usage,
    machine: &crate::node::machine::Machine,
) -> String {
    let mut cpu = Family::new(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
    );
    let mut usage_bytes = Family::new(
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
    );
    let mut working = Family::new(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
    );
    let mut rss = Family::new("container_memory_rss", "gauge", "Size of RSS in bytes.");
    let mut processes = Family::new(
        "container_processes",
        "gauge",
        "Number of processes running inside the container.",
    );
    let mut start = Family::new(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
    );
    let mut put = |labels: &str, usage: &Usage| {
        cpu.samples
            .push((format!("{labels},cpu=\"total\""), seconds(usage.cpu_nanos)));
        usage_bytes
            .samples
            .push((labels.to_owned(), usage.memory_usage as f64));
        working
            .samples
            .push((labels.to_owned(), usage.memory_working_set as f64));
        rss.samples
            .push((labels.to_owned(), usage.memory_rss as f64));
        processes
            .samples
            .push((labels.to_owned(), usage.pids as f64));
    };
    put(
        &labels(&[
            ("container", ""),
            ("id", "/"),
            ("image", ""),
            ("name", ""),
            ("namespace", ""),
            ("pod", ""),
        ]),
        node,
    );
    for (pod, usage) in pods {
        let id = format!("/pod{}", pod.uid);
        put(
            &labels(&[
                ("container", ""),
                ("id", &id),
                ("image", ""),
                ("name", ""),
                ("namespace", &pod.namespace),
                ("pod", &pod.name),
            ]),
            usage,
        );
    }
    for item in containers {
        let name = item.status.id.rsplit('/').next().unwrap_or_default();
        let id = format!("/pod{}/{name}", item.pod.uid);
        let labels = labels(&[
            ("container", &item.status.container.name),
            ("id", &id),
            ("image", &item.status.image),
            ("name", name),
            ("namespace", &item.pod.namespace),
            ("pod", &item.pod.name),
        ]);
        put(&labels, &item.usage);
        if let ContainerState::Running { started_at, .. } = item.status.state {
            start.samples.push((labels, started_at.as_second() as f64));
        }
    }
    let mut cores = Family::new("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    cores.samples.push((String::new(), machine.cpus as f64));
    let mut memory = Family::new(
        "machine_memory_bytes",
        "gauge",
        "Amount of memory installed on the machine.",
    );
    memory.samples.push((String::new(), machine.memory as f64));
    write(&[
        cpu,
        usage_bytes,
        working,
        rss,
        processes,
        start,
        cores,
        memory,
    ])
}

fn probes() -> String {
    let mut family = Family::new(
        "prober_probe_total",
        "counter",
        "[ALPHA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
    );
    for (key, count) in counts::all() {
        let labels = labels(&[
            ("container", &key.container),
            ("namespace", &key.namespace),
            ("pod", &key.pod),
            ("pod_uid", &key.pod_uid),
            ("probe_type", key.kind),
            ("result", key.result),
        ]);
        family.samples.push((labels, count as f64));
    }
    write(&[family])
}

/// One of the three.
pub async fn answer(server: &Server, which: &str) -> Response<Body> {
    let measured = |error: String| answer::text(http::StatusCode::INTERNAL_SERVER_ERROR, error);
    match which {
        "resource" => match measure(server).await {
            Ok((containers, pods)) => {
                answer::prometheus(resource(&containers, &pods, &stats::node_usage()))
            }
            Err(error) => measured(error),
        },
        "cadvisor" => match measure(server).await {
            Ok((containers, pods)) => {
                let machine = crate::node::machine::Machine::read(&server.host.root_dir);
                answer::prometheus(cadvisor(&containers, &pods, &stats::node_usage(), &machine))
            }
            Err(error) => measured(error),
        },
        "probes" => answer::prometheus(probes()),
        _ => answer::not_found(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let pod = PodRef {
            uid: "u".into(),
            namespace: "n".into(),
            name: "p\"".into(),
        };
        let text = resource(
            &[],
            &[(
                pod,
                Usage {
                    cpu_nanos: 1_500_000_000,
                    ..Usage::default()
                },
            )],
            &Usage::default(),
        );
        assert!(
            text.contains("pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\\\"\"} 1.5\n"),
            "{text}"
        );
        assert!(text.contains("# TYPE node_memory_working_set_bytes gauge\n"));
    }
}
