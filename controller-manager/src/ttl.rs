//! The annotation that tells kubelets how long Secrets and ConfigMaps may be cached, by the size of the cluster.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Node;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::{Api, Error};
use parking_lot::Mutex;
use serde_json::json;

use crate::context::{Context, StartError};
use crate::controllers::Task;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// A size of cluster: it is left for the next smaller one below `least`, for the next bigger one above `most`.
struct Size {
    least: usize,
    most: usize,
    seconds: u32,
}

const SIZES: [Size; 5] = [
    Size {
        least: 0,
        most: 100,
        seconds: 0,
    },
    Size {
        least: 90,
        most: 500,
        seconds: 15,
    },
    Size {
        least: 450,
        most: 1000,
        seconds: 30,
    },
    Size {
        least: 900,
        most: 2000,
        seconds: 60,
    },
    Size {
        least: 1800,
        most: usize::MAX,
        seconds: 300,
    },
];

/// The size after the number of nodes changed; sizes overlap, so that a cluster at a boundary does not flap.
fn step(mut size: usize, nodes: usize) -> usize {
    while nodes > SIZES[size].most {
        size += 1;
    }
    while nodes < SIZES[size].least {
        size -= 1;
    }
    size
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    size: Mutex<usize>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue: Arc<Queue<Key>> = Queue::new("ttlcontroller");
    let controller = Arc::new(Controller {
        nodes: context.informers.get(),
        size: Mutex::new(0),
        context,
    });
    let (wake, this) = (queue.clone(), controller.clone());
    controller.nodes.handle(move |event| {
        let counts = matches!(event, Event::Added(_) | Event::Deleted(_));
        if counts && this.counted() {
            for key in this.nodes.keys() {
                wake.add(key);
            }
        }
        if let Event::Added(node) | Event::Updated { new: node, .. } = event
            && written(node).is_none_or(|seconds| seconds != this.seconds())
        {
            wake.add(Key::of(&**node));
        }
    });
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, 2, reconcile).boxed())
}

fn written(node: &Node) -> Option<u32> {
    node.metadata
        .annotations
        .as_ref()?
        .get(ANNOTATION)?
        .parse()
        .ok()
}

impl Controller {
    fn seconds(&self) -> u32 {
        SIZES[*self.size.lock()].seconds
    }

    /// Whether the cluster has another size now.
    fn counted(&self) -> bool {
        let mut size = self.size.lock();
        let next = step(*size, self.nodes.len());
        std::mem::replace(&mut *size, next) != next
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let seconds = self.seconds();
        let Some(node) = self.nodes.get(key) else {
            return Ok(Outcome::Done);
        };
        if written(&node) == Some(seconds) {
            return Ok(Outcome::Done);
        }
        let api = Api::<Node>::all(self.context.client.clone());
        let patch = json!({"metadata": {"annotations": {ANNOTATION: seconds.to_string()}}});
        write::optional(write::patch_strategic(&api, &key.name, &patch).await)?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_overlap() {
        let mut size = 0;
        for (nodes, seconds) in [
            (100, 0),
            (101, 15),
            (95, 15),
            (89, 0),
            (5000, 300),
            (1799, 60),
            (0, 0),
        ] {
            size = step(size, nodes);
            assert_eq!(SIZES[size].seconds, seconds, "{nodes}");
        }
    }
}
