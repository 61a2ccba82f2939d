//! What plugins that look beyond the snapshot are given.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keelson_runtime::{Informers, Recorder};
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::verdict::Rejection;
use crate::model::{Cache, PodInfo};

/// The client, the informers and what the scheduler shares with its plugins.
#[derive(Clone)]
pub struct Handle {
    /// The API server.
    pub client: Client,
    /// Other kinds, as far as plugins asked for them.
    pub informers: Arc<Informers>,
    /// Events.
    pub recorder: Recorder,
    /// Nodes with their pods.
    pub cache: Arc<Mutex<Cache>>,
    /// Pods for which room is being made.
    pub nominator: Arc<Nominator>,
    /// Pods that wait for a permit.
    pub waiting: Arc<WaitingPods>,
}

/// Pods for which room is being made on a node: others must not take it.
#[derive(Default)]
pub struct Nominator {
    pods: Mutex<HashMap<String, (String, Arc<PodInfo>)>>,
}

impl Nominator {
    /// Notes the nomination that the pod's status tells, or that was just decided.
    pub fn set(&self, pod: Arc<PodInfo>, node: &str) {
        let mut pods = self.pods.lock();
        if node.is_empty() {
            pods.remove(&pod.uid);
        } else {
            pods.insert(pod.uid.clone(), (node.to_owned(), pod));
        }
    }

    /// Forgets the pod.
    pub fn remove(&self, uid: &str) {
        self.pods.lock().remove(uid);
    }

    /// The node nominated for a pod.
    pub fn node_of(&self, uid: &str) -> Option<String> {
        self.pods.lock().get(uid).map(|(node, _)| node.clone())
    }

    /// The pods nominated to a node.
    pub fn on(&self, node: &str) -> Vec<Arc<PodInfo>> {
        let pods = self.pods.lock();
        if pods.is_empty() {
            return Vec::new();
        }
        pods.values()
            .filter(|(on, _)| on == node)
            .map(|(_, pod)| pod.clone())
            .collect()
    }
}

type Answer = Result<(), Rejection>;

/// Pods whose binding waits for somebody's word.
#[derive(Default)]
pub struct WaitingPods {
    pods: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
}

impl WaitingPods {
    /// Waits for the word about a pod, for a bounded time.
    pub async fn wait(&self, uid: &str, limit: Duration, plugin: &'static str) -> Answer {
        let (sender, receiver) = oneshot::channel();
        self.pods.lock().insert(uid.to_owned(), sender);
        let answer = tokio::time::timeout(limit, receiver).await;
        self.pods.lock().remove(uid);
        match answer {
            Ok(Ok(answer)) => answer,
            _ => {
                let text =
                    format!("rejected due to timeout after waiting {limit:?} at plugin {plugin}");
                Err(Rejection::unschedulable(text).by(plugin))
            }
        }
    }

    /// Lets a waiting pod go on.
    pub fn allow(&self, uid: &str) -> bool {
        self.answer(uid, Ok(()))
    }

    /// Turns a waiting pod away.
    pub fn reject(&self, uid: &str, rejection: Rejection) -> bool {
        self.answer(uid, Err(rejection))
    }

    fn answer(&self, uid: &str, answer: Answer) -> bool {
        let sender = self.pods.lock().remove(uid);
        sender.is_some_and(|sender| sender.send(answer).is_ok())
    }
}
