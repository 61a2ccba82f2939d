//! Tests of the worker with the fake runtime, under tokio's paused clock.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use keelson_runtime::recorder::{Recorded, Recorder};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};

use super::resources::Settings;
use super::status_manager::Statuses;
use super::worker::{self, Desired, Handle};
use crate::clock::Clock;
use crate::config::KubeletConfiguration;
use crate::host::Host;
use crate::objects::Objects;
use crate::pods::downward::Capacity;
use crate::runtime::fake::{Behaviour, Fake};
use crate::runtime::{ContainerRef, ContainerRuntime, RuntimeError, RuntimeEvent};
use crate::volumes::Volumes;
use crate::volumes::token::Tokens;

struct Bench {
    fake: Arc<Fake>,
    host: Arc<Host>,
    events: Recorded,
    dir: PathBuf,
    network: watch::Sender<bool>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn bench(name: &str) -> Bench {
    let clock = Clock::tokio();
    let fake = Fake::new(&["app:1", "tool:1"]);
    fake.set_clock(clock);
    let dir = std::env::temp_dir().join(format!("keelson-worker-{name}-{}", std::process::id()));
    let config = KubeletConfiguration {
        pod_logs_dir: dir.join("logs"),
        ..KubeletConfiguration::default()
    };
    let runtime = ContainerRuntime {
        runtime: fake.clone(),
        images: fake.clone(),
    };
    let objects = Arc::new(Objects::new(None));
    let (recorder, events) = Recorder::fake();
    let network = watch::Sender::new(true);
    let volumes = Volumes {
        root_dir: dir.clone(),
        objects: objects.clone(),
        tokens: Tokens::new(None, clock),
        images: fake.clone(),
        client: None,
        capacity: Capacity::default(),
    };
    let host = Host {
        node_name: "n".into(),
        node_ips: vec!["192.0.2.1".parse().unwrap()],
        config: Arc::new(config),
        root_dir: dir.clone(),
        runtime,
        clock,
        recorder,
        objects,
        volumes: Arc::new(volumes),
        statuses: Statuses::new(None),
        network_ready: network.subscribe(),
        node: watch::channel(None).1,
        node_changed: Arc::new(Notify::new()),
        pressure: watch::channel(crate::eviction::Pressure::default()).1,
        allotments: Arc::default(),
        limits: Settings {
            cfs_quota: true,
            cfs_period: Duration::from_millis(100),
            node_memory: 1 << 30,
            pids: -1,
        },
        pulls: Semaphore::new(1),
        resolv_conf: "/etc/resolv.conf".into(),
        log_links: dir.join("links"),
    };
    Bench {
        fake,
        host: Arc::new(host),
        events,
        dir,
        network,
    }
}

fn pod(spec: Value) -> Arc<Pod> {
    Arc::new(serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1}, "spec": spec})).unwrap())
}

impl Bench {
    fn start(&self, pod: Arc<Pod>) -> (Arc<Handle>, tokio::task::JoinHandle<()>) {
        self.host.statuses.observe("u", Some(&pod));
        let (worker, handle) = worker::new(
            self.host.clone(),
            Desired {
                pod,
                gone: false,
                verdict: None,
            },
            false,
        );
        let handle = Arc::new(handle);
        let (poke, mut events) = (handle.clone(), self.fake.clone_events());
        tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                let _: RuntimeEvent = event;
                poke.poke.notify_one();
            }
        });
        (handle, tokio::spawn(worker.run()))
    }

    fn status(&self) -> PodStatus {
        self.host.statuses.get("u").unwrap_or_default()
    }

    fn summary(&self) -> Value {
        let status = serde_json::to_value(self.status()).unwrap();
        let list = |key: &str| -> Vec<Value> {
            status[key]
                .as_array()
                .into_iter()
                .flatten()
                .map(|c| {
                    let state =
                        c["state"].as_object().unwrap().iter().next().map(|(k, v)| {
                            match v.get("reason") {
                                Some(reason) => format!("{k}:{}", reason.as_str().unwrap()),
                                None => k.clone(),
                            }
                        });
                    json!([c["name"], state, c["ready"], c["restartCount"]])
                })
                .collect()
        };
        json!({"phase": status["phase"], "init": list("initContainerStatuses"), "apps": list("containerStatuses")})
    }

    async fn settle(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_millis(seconds * 1000 + 100)).await;
    }
}

fn named(name: &str, attempt: u32) -> ContainerRef {
    ContainerRef {
        pod_uid: "u".into(),
        name: name.into(),
        attempt,
    }
}

fn delete(handle: &Handle, grace: i64) {
    handle.desired.send_modify(|desired| {
        let mut pod = (*desired.pod).clone();
        pod.metadata.deletion_timestamp = Some(
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now()),
        );
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        desired.pod = Arc::new(pod);
    });
}

#[tokio::test(start_paused = true)]
async fn init_sidecar_and_app_in_order() {
    let mut bench = bench("order");
    bench.fake.behave(
        "init",
        Behaviour {
            exits: Some((Duration::from_secs(2), 0)),
            ..Behaviour::default()
        },
    );
    let (handle, work) = bench.start(pod(json!({
        "initContainers": [{"name": "side", "image": "tool:1", "restartPolicy": "Always"}, {"name": "init", "image": "tool:1"}],
        "containers": [{"name": "a", "image": "app:1", "command": ["x", "$(V)"], "env": [{"name": "V", "value": "1"}]}, {"name": "b", "image": "app:1"}]
    })));
    bench.settle(1).await;
    assert_eq!(
        bench.summary(),
        json!({"phase": "Pending", "init": [["side", "running", true, 0], ["init", "running", false, 0]],
               "apps": [["a", "waiting:PodInitializing", false, 0], ["b", "waiting:PodInitializing", false, 0]]})
    );
    bench.settle(2).await;
    assert_eq!(
        bench.summary(),
        json!({"phase": "Running", "init": [["side", "running", true, 0], ["init", "terminated:Completed", true, 0]],
               "apps": [["a", "running", true, 0], ["b", "running", true, 0]]})
    );
    assert_eq!(bench.fake.spec(&named("a", 0)).unwrap().command, ["x", "1"]);
    let status = bench.status();
    assert_eq!(
        (status.pod_ip.as_deref(), status.host_ip.as_deref()),
        (Some("10.244.0.1"), Some("192.0.2.1"))
    );
    assert!(
        status
            .conditions
            .iter()
            .flatten()
            .all(|c| c.status == "True"),
        "{:?}",
        status.conditions
    );
    let told = bench.events.take();
    assert_eq!(
        told.iter()
            .filter(|e| *e == "Normal Started Container started")
            .count(),
        4,
        "{told:?}"
    );
    bench.fake.calls();
    delete(&handle, 30);
    bench.settle(1).await;
    let calls = bench.fake.calls();
    let at = |what: &str| {
        calls
            .iter()
            .position(|c| c.starts_with(what))
            .unwrap_or_else(|| panic!("{what} in {calls:?}"))
    };
    assert!(
        at("stop a#0") < at("stop side#0") && at("stop side#0") < at("stop_sandbox"),
        "{calls:?}"
    );
    assert_eq!(
        bench.status().phase.as_deref(),
        Some("Failed"),
        "143 is not a success"
    );
    handle.desired.send_modify(|d| d.gone = true);
    bench.settle(1).await;
    assert!(work.is_finished() && !bench.dir.join("pods/u").exists());
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_backs_off() {
    let mut bench = bench("crash");
    bench.fake.behave(
        "a",
        Behaviour {
            exits: Some((Duration::from_secs(1), 3)),
            ..Behaviour::default()
        },
    );
    let (_handle, _work) = bench.start(pod(
        json!({"containers": [{"name": "a", "image": "app:1"}]}),
    ));
    bench.settle(3).await;
    assert_eq!(
        bench.summary()["apps"],
        json!([["a", "waiting:CrashLoopBackOff", false, 1]])
    );
    assert_eq!(bench.summary()["phase"], "Running");
    let status = serde_json::to_value(bench.status()).unwrap();
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=a pod=p_ns(u)"
    );
    assert_eq!(
        status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        3
    );
    let told = bench.events.take();
    assert!(
        told.contains(
            &"Warning BackOff Back-off restarting failed container a in pod p_ns(u)".to_owned()
        ),
        "{told:?}"
    );
    bench.settle(10).await;
    assert_eq!(bench.summary()["apps"][0][3], 2);
}

#[tokio::test(start_paused = true)]
async fn never_restarted_means_over() {
    let bench = bench("never");
    bench.fake.behave(
        "a",
        Behaviour {
            exits: Some((Duration::from_secs(1), 0)),
            ..Behaviour::default()
        },
    );
    let (_handle, _work) = bench.start(pod(
        json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "app:1"}]}),
    ));
    bench.settle(2).await;
    assert_eq!(
        bench.summary(),
        json!({"phase": "Succeeded", "init": [], "apps": [["a", "terminated:Completed", false, 0]]})
    );
    let calls = bench.fake.calls();
    assert!(
        calls.contains(&"stop_sandbox".to_owned()) && !calls.contains(&"remove_sandbox".to_owned()),
        "logs stay: {calls:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn images_that_cannot_be_had() {
    let mut bench = bench("image");
    bench
        .fake
        .fail_pull("gone:1", Some(RuntimeError::Pull("not found".into())));
    let (_handle, _work) = bench.start(pod(
        json!({"containers": [{"name": "a", "image": "gone:1"}]}),
    ));
    bench.settle(1).await;
    assert_eq!(
        bench.summary()["apps"],
        json!([["a", "waiting:ErrImagePull", false, 0]])
    );
    bench.settle(4).await;
    assert_eq!(
        bench.summary()["apps"],
        json!([["a", "waiting:ImagePullBackOff", false, 0]])
    );
    let told = bench.events.take();
    for event in [
        "Warning Failed Failed to pull image \"gone:1\": not found",
        "Warning Failed Error: ErrImagePull",
        "Normal BackOff Back-off pulling image \"gone:1\"",
    ] {
        assert!(told.iter().any(|t| t == event), "{event} in {told:?}");
    }
    bench.fake.fail_pull("gone:1", None);
    bench.settle(10).await;
    assert_eq!(bench.summary()["apps"], json!([["a", "running", true, 0]]));
}

#[tokio::test(start_paused = true)]
async fn a_stubborn_container_gets_its_grace() {
    let bench = bench("stubborn");
    bench.fake.behave(
        "a",
        Behaviour {
            stubborn: true,
            ..Behaviour::default()
        },
    );
    let (handle, _work) = bench.start(pod(
        json!({"containers": [{"name": "a", "image": "app:1"}]}),
    ));
    bench.settle(1).await;
    delete(&handle, 7);
    bench.settle(5).await;
    assert_eq!(bench.summary()["apps"][0][1], "running");
    bench.settle(3).await;
    assert_eq!(
        bench.status().container_statuses.unwrap()[0]
            .state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap()
            .exit_code,
        137
    );
}

#[tokio::test(start_paused = true)]
async fn probes_decide_readiness_and_restarts() {
    let mut bench = bench("probes");
    bench.fake.behave(
        "a",
        Behaviour {
            exec: ("bad".into(), 1),
            ..Behaviour::default()
        },
    );
    let probe = json!({"exec": {"command": ["t"]}, "periodSeconds": 1, "failureThreshold": 3});
    let (_handle, _work) = bench.start(pod(
        json!({"containers": [{"name": "a", "image": "app:1", "readinessProbe": probe}]}),
    ));
    bench.settle(2).await;
    assert_eq!(bench.summary()["apps"], json!([["a", "running", false, 0]]));
    assert!(
        bench
            .events
            .take()
            .iter()
            .any(|e| e == "Warning Unhealthy Readiness probe failed: bad")
    );
    bench.fake.behave(
        "a",
        Behaviour {
            exec: (String::new(), 0),
            ..Behaviour::default()
        },
    );
    bench.settle(2).await;
    assert_eq!(bench.summary()["apps"], json!([["a", "running", true, 0]]));
}

#[tokio::test(start_paused = true)]
async fn a_failing_liveness_probe_restarts() {
    let mut bench = bench("liveness");
    bench.fake.behave(
        "a",
        Behaviour {
            exec: ("bad".into(), 1),
            ..Behaviour::default()
        },
    );
    let probe = json!({"exec": {"command": ["t"]}, "periodSeconds": 1, "failureThreshold": 2});
    let (_handle, _work) = bench.start(pod(
        json!({"containers": [{"name": "a", "image": "app:1", "livenessProbe": probe}]}),
    ));
    bench.settle(4).await;
    assert_eq!(bench.summary()["apps"][0][3], 1);
    let told = bench.events.take();
    assert!(
        told.contains(
            &"Normal Killing Container a failed liveness probe, will be restarted".to_owned()
        ),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_network_comes_late() {
    let mut bench = bench("network");
    bench.network.send_replace(false);
    let (_handle, _work) = bench.start(pod(
        json!({"containers": [{"name": "a", "image": "app:1"}]}),
    ));
    bench.settle(1).await;
    assert!(bench.fake.calls().is_empty());
    assert!(bench.events.take()[0].starts_with("Warning NetworkNotReady"));
    bench.network.send_replace(true);
    bench.settle(1).await;
    assert_eq!(bench.summary()["phase"], "Running");
}

#[tokio::test(start_paused = true)]
async fn a_lost_sandbox_is_made_again() {
    let bench = bench("lost");
    let (handle, _work) = bench.start(pod(
        json!({"containers": [{"name": "a", "image": "app:1"}]}),
    ));
    bench.settle(1).await;
    bench.fake.kill_sandbox("u");
    handle.poke.notify_one();
    bench.settle(1).await;
    assert_eq!(bench.summary()["apps"], json!([["a", "running", true, 1]]));
    let last = bench.status().container_statuses.unwrap()[0]
        .last_state
        .clone()
        .unwrap()
        .terminated
        .unwrap();
    assert_eq!(
        (last.exit_code, last.reason.as_deref()),
        (137, Some("ContainerStatusUnknown"))
    );
}

#[tokio::test(start_paused = true)]
async fn deadline_and_missing_config() {
    let mut bench = bench("deadline");
    let (_handle, _work) = bench.start(pod(json!({"activeDeadlineSeconds": 5, "containers": [
        {"name": "a", "image": "app:1"}, {"name": "b", "image": "app:1", "envFrom": [{"configMapRef": {"name": "gone"}}]}]})));
    bench.settle(1).await;
    assert_eq!(
        bench.summary()["apps"][1],
        json!(["b", "waiting:CreateContainerConfigError", false, 0])
    );
    bench.settle(5).await;
    let status = bench.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
    assert!(
        bench
            .events
            .take()
            .iter()
            .any(|e| e.starts_with("Normal DeadlineExceeded"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_resize_is_done_in_place_or_by_a_restart() {
    let bench = bench("resize");
    let spec = |cpu: &str, memory: &str| {
        json!({"restartPolicy": "OnFailure", "containers": [
            {"name": "a", "image": "app:1", "resources": {"limits": {"memory": memory}}},
            {"name": "b", "image": "app:1", "resources": {"requests": {"cpu": cpu}}, "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}
        ]})
    };
    let (handle, work) = bench.start(pod(spec("100m", "64Mi")));
    bench.settle(1).await;
    bench.fake.calls();
    let mut changed = (*pod(spec("200m", "128Mi"))).clone();
    changed.metadata.generation = Some(2);
    handle
        .desired
        .send_modify(|desired| desired.pod = Arc::new(changed.clone()));
    bench.settle(5).await;
    let calls = bench.fake.calls();
    assert!(calls.iter().any(|c| c == "update a"), "{calls:?}");
    assert!(!calls.iter().any(|c| c == "update b"), "{calls:?}");
    let status = bench.status();
    let restarts: Vec<i32> = status
        .container_statuses
        .iter()
        .flatten()
        .map(|c| c.restart_count)
        .collect();
    assert_eq!(restarts, [0, 1]);
    assert_eq!(status.observed_generation, Some(2));
    let shown = status.container_statuses.unwrap()[0].resources.clone();
    assert_eq!(shown.unwrap().limits.unwrap()["memory"].0, "128Mi");
    let still = status.conditions.unwrap();
    assert!(still.iter().all(|c| !c.type_.starts_with("PodResize")));
    work.abort();
}
