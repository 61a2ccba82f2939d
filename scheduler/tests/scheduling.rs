//! The whole scheduler against an API server of paper.

mod api;

use api::Api;
use keelson_runtime::Recorder;
use kube_scheduler::config::Configuration;
use kube_scheduler::{daemon, intake};
use serde_json::{Value, json};

fn node(name: &str, cpu: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}},
    })
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {
            "schedulerName": "default-scheduler", "priority": 0,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}],
        },
        "status": {"phase": "Pending"},
    })
}

fn path(pod: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{pod}")
}

fn node_path(node: &str) -> String {
    format!("/api/v1/nodes/{node}")
}

fn is_on<'a>(node: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |pod| pod["spec"]["nodeName"] == node
}

async fn start(api: &Api) {
    let client = api.client();
    let recorder = Recorder::series(client.clone(), "default-scheduler", "test");
    let scheduler =
        daemon::build(&Configuration::default(), client, recorder).expect("a scheduler");
    intake::follow(&scheduler);
    scheduler.handle.informers.synced().await;
    tokio::spawn(scheduler.run());
}

async fn told(api: &Api, event: &str) {
    for _ in 0..100 {
        if api.events().iter().any(|told| told == event) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{event:?} is not among {:?}", api.events());
}

#[tokio::test]
async fn pods_get_nodes() {
    let api = Api::new();
    api.put(&node_path("n1"), node("n1", "1"));
    api.put(&path("early"), pod("early", "100m"));
    start(&api).await;
    api.wait(&path("early"), is_on("n1")).await;
    told(
        &api,
        "Normal Scheduled: Successfully assigned default/early to n1",
    )
    .await;
    // What others are to place, and what must not be placed yet, is left alone.
    let mut others = pod("others", "100m");
    others["spec"]["schedulerName"] = json!("another");
    api.put(&path("others"), others);
    let mut gated = pod("gated", "100m");
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    api.put(&path("gated"), gated.clone());
    api.put(&path("late"), pod("late", "100m"));
    api.wait(&path("late"), is_on("n1")).await;
    assert!(api.get(&path("others")).unwrap()["spec"]["nodeName"].is_null());
    assert!(api.get(&path("gated")).unwrap()["spec"]["nodeName"].is_null());
    gated["spec"]["schedulingGates"] = json!([]);
    api.put(&path("gated"), gated);
    api.wait(&path("gated"), is_on("n1")).await;
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_is_told_why_and_gets_the_next_node() {
    let api = Api::new();
    api.put(&node_path("n1"), node("n1", "1"));
    start(&api).await;
    api.put(&path("large"), pod("large", "3"));
    let why = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    told(&api, &format!("Warning FailedScheduling: {why}")).await;
    let large = api
        .wait(&path("large"), |pod| pod["status"]["conditions"].is_array())
        .await;
    let condition = &large["status"]["conditions"][0];
    assert_eq!(condition["type"], "PodScheduled");
    assert_eq!(condition["status"], "False");
    assert_eq!(condition["reason"], "Unschedulable");
    assert_eq!(condition["message"], why);
    api.put(&node_path("n2"), node("n2", "4"));
    api.wait(&path("large"), is_on("n2")).await;
}

#[tokio::test]
async fn a_pod_of_higher_priority_takes_the_place_of_a_lower_one() {
    let api = Api::new();
    api.put(&node_path("n1"), node("n1", "1"));
    start(&api).await;
    api.put(&path("low"), pod("low", "800m"));
    api.wait(&path("low"), is_on("n1")).await;
    let mut high = pod("high", "800m");
    high["spec"]["priority"] = json!(1_000);
    api.put(&path("high"), high);
    let high = api.wait(&path("high"), is_on("n1")).await;
    assert_eq!(high["status"]["nominatedNodeName"], "n1");
    assert!(api.get(&path("low")).is_none());
    told(
        &api,
        "Normal Preempted: Preempted by pod uid-high on node n1",
    )
    .await;
    // The lower one, made again, says that nobody goes for it.
    api.put(&path("low"), pod("low", "800m"));
    let why = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    told(&api, &format!("Warning FailedScheduling: {why}")).await;
}

#[tokio::test]
async fn a_refused_binding_is_tried_again() {
    let api = Api::new();
    api.put(&node_path("n1"), node("n1", "1"));
    api.refuse_bindings(1);
    start(&api).await;
    // It takes the whole node: what was assumed must have been given back.
    api.put(&path("p"), pod("p", "1"));
    api.wait(&path("p"), is_on("n1")).await;
    told(
        &api,
        "Warning FailedScheduling: binding rejected: running Bind plugin \"DefaultBinder\": InternalError",
    )
    .await;
}

#[tokio::test]
async fn a_missing_claim_is_named() {
    let api = Api::new();
    api.put(&node_path("n1"), node("n1", "1"));
    start(&api).await;
    let mut claims = pod("p", "100m");
    claims["spec"]["volumes"] =
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    api.put(&path("p"), claims);
    let why = "0/1 nodes are available: persistentvolumeclaim \"data\" not found. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    told(&api, &format!("Warning FailedScheduling: {why}")).await;
}

#[tokio::test]
async fn a_bound_claim_leads_to_its_volumes_node_and_may_be_one_pods_only() {
    let api = Api::new();
    api.put(&node_path("n1"), node("n1", "1"));
    api.put(&node_path("n2"), node("n2", "1"));
    let terms = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]}]);
    api.put(
        "/api/v1/persistentvolumes/disk",
        json!({
            "metadata": {"name": "disk", "uid": "disk"},
            "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}},
        }),
    );
    api.put(
        "/api/v1/namespaces/default/persistentvolumeclaims/data",
        json!({
            "metadata": {
                "name": "data", "namespace": "default", "uid": "data",
                "annotations": {"pv.kubernetes.io/bind-completed": "yes"},
            },
            "spec": {"volumeName": "disk", "accessModes": ["ReadWriteOncePod"]},
        }),
    );
    start(&api).await;
    let with_claim = |name| {
        let mut pod = pod(name, "100m");
        pod["spec"]["volumes"] =
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
        pod
    };
    api.put(&path("first"), with_claim("first"));
    api.wait(&path("first"), is_on("n2")).await;
    api.put(&path("second"), with_claim("second"));
    let why = "0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    told(&api, &format!("Warning FailedScheduling: {why}")).await;
    api.delete(&path("first"));
    api.wait(&path("second"), is_on("n2")).await;
}
