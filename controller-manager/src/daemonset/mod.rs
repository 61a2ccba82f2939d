//! DaemonSets: one pod on every node that allows it.

mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use keelson_api::selector::Selector;
use keelson_runtime::expectations::Expectations;
use keelson_runtime::recorder::{Kind, reference};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, owners, write};
use kube::{Api, Error, ResourceExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::adoption;
use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::node::taints;
use crate::pod;
use crate::pod_control::{PodControl, all_at_once, from_template, slow_start};
use crate::pod_index::Pods;
use crate::revision::{self, History, RevisionError, Subject};
use plan::{Plan, Snapshot};

/// The first pause before a daemon that ended is replaced again, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(900);
/// Pods created or deleted in one go at most.
const BURST: usize = 250;

struct Controller {
    context: Context,
    sets: Informer<DaemonSet>,
    revisions: Informer<ControllerRevision>,
    nodes: Informer<Node>,
    pods: Pods,
    queue: Arc<Queue<Key>>,
    expectations: Expectations,
    control: PodControl,
    /// How often daemons of a set ended on a node, and when the last was deleted.
    ended: Mutex<HashMap<(Key, String), (u32, Instant)>>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let controller = Arc::new(Controller {
        sets: context.informers.get(),
        revisions: revision::informer(&context.informers),
        nodes: context.informers.get(),
        pods: Pods::of(&context.informers),
        queue: Queue::new("daemonset"),
        expectations: Expectations::default(),
        control: PodControl::new(context.client.clone(), context.recorder.clone()),
        ended: Mutex::new(HashMap::new()),
        context,
    });
    controller.listen();
    let workers = controller.context.options.workers.daemon_set;
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, workers, reconcile).boxed())
}

fn selector_of(set: &DaemonSet) -> Option<Selector> {
    Selector::from_label_selector(set.spec.as_ref().map(|spec| &spec.selector)).ok()
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let this = self.clone();
        self.sets.handle(move |event| {
            let Some(set) = event.object() else { return };
            if matches!(event, Event::Deleted(_)) {
                this.expectations.forget(&Key::of(&**set));
                let key = Key::of(&**set);
                this.ended.lock().retain(|(owner, _), _| *owner != key);
            }
            this.queue.add(Key::of(&**set));
        });
        let this = self.clone();
        self.pods.handle(move |event| match event {
            Event::Added(pod) if !pod::is_deleting(pod) => match this.owner_key(pod) {
                Some(key) => {
                    this.expectations.created(&key);
                    this.queue.add(key);
                }
                None => this.wake_matching(pod),
            },
            Event::Updated { new, .. } if !pod::is_deleting(new) => match this.owner_key(new) {
                Some(key) => this.queue.add(key),
                None => this.wake_matching(new),
            },
            Event::Added(pod) | Event::Deleted(pod) | Event::Updated { new: pod, .. } => {
                if let Some(key) = this.owner_key(pod) {
                    this.expectations.deleted(&key, pod::uid(pod));
                    this.queue.add(key);
                }
            }
            Event::Resync => {}
        });
        let this = self.clone();
        self.nodes.handle(move |event| {
            let nodes = match event {
                Event::Added(node) | Event::Deleted(node) => vec![node],
                Event::Updated { old, new }
                    if old.labels() != new.labels()
                        || taints::taints(old) != taints::taints(new) =>
                {
                    vec![old, new]
                }
                _ => return,
            };
            for set in this.sets.list() {
                let Some(spec) = set
                    .spec
                    .as_ref()
                    .and_then(|spec| plan::tolerant(&spec.template).spec)
                else {
                    continue;
                };
                let verdicts: Vec<_> = nodes
                    .iter()
                    .map(|node| plan::belongs(&spec, node))
                    .collect();
                let matters = match verdicts[..] {
                    [one] => one != (false, false),
                    _ => verdicts.windows(2).any(|pair| pair[0] != pair[1]),
                };
                if matters {
                    this.queue.add(Key::of(&*set));
                }
            }
        });
    }

    fn owner_key(&self, pod: &Pod) -> Option<Key> {
        let owner =
            owners::controller_of(&pod.metadata).filter(|owner| owner.kind == "DaemonSet")?;
        let key = Key::new(pod.metadata.namespace.clone()?, owner.name.clone());
        let set = self.sets.get(&key)?;
        (set.metadata.uid.as_deref() == Some(&owner.uid)).then_some(key)
    }

    fn wake_matching(&self, pod: &Pod) {
        if owners::controller_of(&pod.metadata).is_some() {
            return;
        }
        for set in self
            .sets
            .list_namespace(pod.metadata.namespace.as_deref().unwrap_or_default())
        {
            if selector_of(&set).is_some_and(|selector| selector.matches(pod.labels())) {
                self.queue.add(Key::of(&*set));
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, RevisionError> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(Outcome::Done);
        };
        let Some(selector) = selector_of(&set).filter(|selector| !selector.is_empty()) else {
            let message =
                "This daemon set is selecting all pods. A non-empty selector is required.";
            self.context
                .recorder
                .event(&reference(&*set), Kind::Warning, "SelectingAll", message);
            return Ok(Outcome::Done);
        };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let client = &self.context.client;
        let history = match self.history(&set, &selector).await {
            Err(RevisionError::Collision) => {
                self.count_collision(&set).await?;
                return Err(RevisionError::Collision);
            }
            other => other?,
        };
        let hash = history
            .current
            .labels()
            .get(revision::HASH)
            .cloned()
            .unwrap_or_default();
        let sync = self.expectations.satisfied(key);
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let candidates = self
            .pods
            .owned_by(uid)
            .into_iter()
            .chain(self.pods.orphans(&key.namespace));
        let pods = adoption::claim(client, &*set, &selector, candidates, pod::is_active).await?;
        let nodes = self.nodes.list();
        let snapshot = Snapshot {
            set: &set,
            nodes: &nodes,
            pods: &pods,
            hash: &hash,
            now: now(),
        };
        let mut plan = if sync {
            plan::plan(&snapshot)
        } else {
            Plan::default()
        };
        let pause = self.hold_back(key, &mut plan);
        let result = self.carry_out(key, &set, &hash, plan).await;
        if sync && result.is_ok() {
            let live: HashSet<_> = pods
                .iter()
                .filter_map(|pod| pod.labels().get(revision::HASH).cloned())
                .collect();
            let limit = set
                .spec
                .as_ref()
                .and_then(|spec| spec.revision_history_limit)
                .unwrap_or(10);
            revision::clean_up(client, &history, limit, |hash| live.contains(hash)).await?;
        }
        let status = plan::status(&snapshot);
        let api = Api::<DaemonSet>::namespaced(client.clone(), &key.namespace);
        write::update_status(&api, &*set, |set| {
            let changed = set.status.as_ref() != Some(&status);
            set.status = Some(status.clone());
            changed
        })
        .await?;
        result?;
        let seconds = set
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0);
        let waiting = seconds > 0 && status.number_ready != status.number_available.unwrap_or(0);
        let available = waiting.then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
        Ok([pause, available]
            .into_iter()
            .flatten()
            .min()
            .map_or(Outcome::Done, Outcome::After))
    }

    /// A daemon that ends as soon as it starts is replaced ever more slowly; says when the next may be.
    fn hold_back(&self, key: &Key, plan: &mut Plan) -> Option<Duration> {
        let mut ended = self.ended.lock();
        ended.retain(|_, (_, last)| last.elapsed() < LONGEST_PAUSE * 2);
        let mut next: Option<Duration> = None;
        let (delete, now) = (&mut plan.delete, Instant::now());
        plan.ended.retain(|pod| {
            let entry = ended
                .entry((key.clone(), pod::node(pod).to_owned()))
                .or_insert((0, now));
            let pause = FIRST_PAUSE
                .saturating_mul(2u32.saturating_pow(entry.0.min(16)))
                .min(LONGEST_PAUSE);
            let left = if entry.0 == 0 {
                Duration::ZERO
            } else {
                pause.saturating_sub(entry.1.elapsed())
            };
            if left.is_zero() {
                *entry = (entry.0.saturating_add(1), now);
                return true;
            }
            delete.retain(|other| other.metadata.uid != pod.metadata.uid);
            next = Some(next.map_or(left, |next| next.min(left)));
            false
        });
        next
    }

    async fn history(
        &self,
        set: &DaemonSet,
        selector: &Selector,
    ) -> Result<History, RevisionError> {
        let template = set.spec.clone().unwrap_or_default().template;
        let subject = Subject {
            owner: set,
            selector,
            template: &template,
            collisions: set
                .status
                .as_ref()
                .and_then(|status| status.collision_count),
        };
        revision::history(&self.context.client, &self.revisions, &subject).await
    }

    async fn count_collision(&self, set: &DaemonSet) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<DaemonSet>::namespaced(self.context.client.clone(), namespace);
        let count = |set: &mut DaemonSet| {
            let status = set.status.get_or_insert_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            true
        };
        write::update_status(&api, set, count).await.map(drop)
    }

    async fn carry_out(
        &self,
        key: &Key,
        set: &DaemonSet,
        hash: &str,
        plan: Plan,
    ) -> Result<(), Error> {
        let about = Arc::new(reference(set));
        for pod in &plan.ended {
            let (reason, word) = if pod::phase(pod) == "Failed" {
                ("FailedDaemonPod", "failed")
            } else {
                ("SucceededDaemonPod", "succeeded")
            };
            let message = format!(
                "Found {word} daemon pod {}/{} on node {}, will try to kill it",
                key.namespace,
                pod.name_any(),
                pod::node(pod)
            );
            let kind = if word == "failed" {
                Kind::Warning
            } else {
                Kind::Normal
            };
            self.context.recorder.event(&about, kind, reason, message);
        }
        let mut create = plan.create;
        create.truncate(BURST);
        let mut delete = plan.delete;
        delete.truncate(BURST);
        if create.is_empty() && delete.is_empty() {
            return Ok(());
        }
        let count = create.len();
        self.expectations.expect(
            key,
            count,
            delete.iter().map(|pod| pod::uid(pod).to_owned()),
        );
        let mut template = plan::tolerant(&set.spec.clone().unwrap_or_default().template);
        let labels = template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default();
        labels.insert(revision::HASH.into(), hash.to_owned());
        if let Some(generation) = set
            .annotations()
            .get("deprecated.daemonset.template.generation")
        {
            labels.insert("pod-template-generation".into(), generation.clone());
        }
        let pod = Arc::new(from_template(
            &template,
            &key.namespace,
            &key.name,
            owners::controller_ref(set),
        ));
        let create = Arc::new(create);
        let (control, subject) = (self.control.clone(), about.clone());
        let (done, failed) = slow_start(count, move |index| {
            let mut pod = (*pod).clone();
            plan::pin(pod.spec.get_or_insert_default(), &create[index]);
            let (control, subject) = (control.clone(), subject.clone());
            async move { control.create(&subject, &pod).await.map(drop) }
        })
        .await;
        self.expectations.created_many(key, count - done);
        let control = self.control.clone();
        let undeleted = all_at_once(delete, move |pod| {
            let (control, about) = (control.clone(), about.clone());
            async move {
                control
                    .delete(&about, &pod)
                    .await
                    .map_err(|error| (pod, error))
            }
        })
        .await;
        for (pod, _) in &undeleted {
            self.expectations.deleted(key, pod::uid(pod));
        }
        match failed
            .filter(|error| !write::is_namespace_terminating(error))
            .or(undeleted.into_iter().next().map(|(_, error)| error))
        {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
