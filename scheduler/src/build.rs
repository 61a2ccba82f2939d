//! Short ways to make pods and nodes in tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::model::PodInfo;

static UIDS: AtomicU64 = AtomicU64::new(1);

pub fn pod_from(value: Value) -> Pod {
    serde_json::from_value(value).expect("a pod")
}

#[derive(Clone)]
pub struct PodBuilder(Value);

pub fn pod(name: &str) -> PodBuilder {
    let uid = format!("uid-{}", UIDS.fetch_add(1, Ordering::Relaxed));
    PodBuilder(json!({
        "metadata": {"name": name, "namespace": "default", "uid": uid},
        "spec": {"containers": [], "schedulerName": "default-scheduler", "priority": 0},
    }))
}

impl PodBuilder {
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, last) = pointer.rsplit_once('/').expect("a pointer");
        let mut at = &mut self.0;
        for part in parent.split('/').filter(|part| !part.is_empty()) {
            if at.get(part).is_none() {
                at[part] = json!({});
            }
            at = &mut at[part];
        }
        at[last] = value;
        self
    }

    pub fn container(mut self, requests: &[(&str, &str)]) -> Self {
        let containers = self.0["spec"]["containers"].as_array_mut().expect("a list");
        let requests: Value = requests
            .iter()
            .map(|(k, v)| ((*k).to_owned(), json!(v)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let name = format!("c{}", containers.len());
        containers
            .push(json!({"name": name, "image": "busybox", "resources": {"requests": requests}}));
        self
    }

    pub fn labels(self, labels: Value) -> Self {
        self.set("/metadata/labels", labels)
    }

    pub fn priority(self, priority: i32) -> Self {
        self.set("/spec/priority", json!(priority))
    }

    pub fn on(self, node: &str) -> Self {
        self.set("/spec/nodeName", json!(node))
    }

    pub fn done(&self) -> Pod {
        pod_from(self.0.clone())
    }

    pub fn info(&self) -> Arc<PodInfo> {
        PodInfo::new(Arc::new(self.done()))
    }
}

pub struct NodeBuilder(Value);

pub fn node(name: &str) -> NodeBuilder {
    NodeBuilder(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "100Gi"}},
    }))
}

impl NodeBuilder {
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = json!(value);
        self
    }

    pub fn allocatable(mut self, name: &str, amount: &str) -> Self {
        self.0["status"]["allocatable"][name] = json!(amount);
        self
    }

    pub fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        let taint = json!({"key": key, "value": value, "effect": effect});
        match self.0["spec"]["taints"].as_array_mut() {
            Some(taints) => taints.push(taint),
            None => self.0["spec"]["taints"] = json!([taint]),
        }
        self
    }

    pub fn cordoned(mut self) -> Self {
        self.0["spec"]["unschedulable"] = json!(true);
        self
    }

    pub fn image(mut self, name: &str, size: i64) -> Self {
        self.0["status"]["images"] = json!([{"names": [name], "sizeBytes": size}]);
        self
    }

    pub fn done(&self) -> Arc<Node> {
        Arc::new(serde_json::from_value(self.0.clone()).expect("a node"))
    }
}
