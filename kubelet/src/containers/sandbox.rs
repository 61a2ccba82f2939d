//! A sandbox as the kubelet keeps it: the connection to its shim, and the news from there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use keelson_shim::{Event, Failure, FailureKind, Outcome, Request};
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc, watch};

use super::cgroup::Hierarchies;
use super::client::{Answer, Client};
use super::layout::{Layout, SandboxFile, parse_shim_id};
use crate::runtime::{ContainerRef, ContainerState, Result, RuntimeError, RuntimeEvent};

/// A sandbox whose shim was found.
pub struct Sandbox {
    file: Mutex<SandboxFile>,
    client: Mutex<Arc<Client>>,
    alive: AtomicBool,
    /// Counts events, so that one can wait for the next.
    changes: watch::Sender<u64>,
}

type Events = mpsc::UnboundedReceiver<Event>;

async fn subscribe(layout: &Layout, uid: &str) -> std::io::Result<(Client, Events)> {
    let (sender, events) = mpsc::unbounded_channel();
    let client = Client::connect(&layout.pod(uid), sender)?;
    let subscribed = client.call(Request::Subscribe).await;
    subscribed.map_err(std::io::Error::other)?;
    Ok((client, events))
}

impl Sandbox {
    /// Connects to the shim and follows its events.
    pub async fn connect(
        layout: Layout,
        hierarchies: Hierarchies,
        file: SandboxFile,
        news: broadcast::Sender<RuntimeEvent>,
    ) -> std::io::Result<Arc<Self>> {
        let (client, events) = subscribe(&layout, &file.uid).await?;
        let sandbox = Arc::new(Self {
            file: Mutex::new(file),
            client: Mutex::new(Arc::new(client)),
            alive: AtomicBool::new(true),
            changes: watch::Sender::new(0),
        });
        tokio::spawn(Self::follow(
            Arc::downgrade(&sandbox),
            layout,
            hierarchies,
            news,
            events,
        ));
        Ok(sandbox)
    }

    /// Passes events on until the shim is dead. Weak: when the kubelet lets go of a sandbox, its shim is well.
    async fn follow(
        weak: Weak<Self>,
        layout: Layout,
        hierarchies: Hierarchies,
        news: broadcast::Sender<RuntimeEvent>,
        mut events: Events,
    ) {
        loop {
            while let Some(event) = events.recv().await {
                let Some(sandbox) = weak.upgrade() else {
                    return;
                };
                if let Event::Started { container } | Event::Exited { container } = &event {
                    sandbox.tell(&news, parse_shim_id(&sandbox.file.lock().uid, container));
                }
            }
            let Some(sandbox) = weak.upgrade() else {
                return;
            };
            let file = sandbox.file();
            // A shim cuts off who does not read; that it is dead shows only when it does not answer.
            match subscribe(&layout, &file.uid).await {
                Ok((client, fresh)) => {
                    *sandbox.client.lock() = Arc::new(client);
                    events = fresh;
                    for container in layout.containers(&file.uid).unwrap_or_default() {
                        let reference = ContainerRef {
                            pod_uid: file.uid.clone(),
                            name: container.name,
                            attempt: container.attempt,
                        };
                        sandbox.tell(&news, Some(reference));
                    }
                }
                Err(_) => return sandbox.died(&layout, &hierarchies, &news),
            }
        }
    }

    fn tell(&self, news: &broadcast::Sender<RuntimeEvent>, container: Option<ContainerRef>) {
        self.changes.send_modify(|count| *count += 1);
        if let Some(container) = container {
            // Nobody may listen.
            let _ = news.send(RuntimeEvent::ContainerChanged(container));
        }
    }

    fn died(
        &self,
        layout: &Layout,
        hierarchies: &Hierarchies,
        news: &broadcast::Sender<RuntimeEvent>,
    ) {
        self.alive.store(false, Ordering::SeqCst);
        let file = self.file();
        if !file.stopped {
            tracing::warn!(pod = %file.name, namespace = %file.namespace, "the pod's shim died");
            if let Err(error) = bury(layout, hierarchies, &file) {
                tracing::warn!(%error, pod = %file.name, "containers of a dead shim");
            }
            let _ = news.send(RuntimeEvent::SandboxDied(file.pod()));
        }
        self.changes.send_modify(|count| *count += 1);
    }

    /// What is on disk of it.
    pub fn file(&self) -> SandboxFile {
        self.file.lock().clone()
    }

    /// Changes what is kept of it; writing it is the caller's.
    pub fn update(&self, change: impl FnOnce(&mut SandboxFile)) -> SandboxFile {
        let mut file = self.file.lock();
        change(&mut file);
        file.clone()
    }

    /// Whether the shim is there and not told to stop.
    pub fn ready(&self) -> bool {
        self.alive.load(Ordering::SeqCst) && !self.file.lock().stopped
    }

    /// Whether the shim is there.
    pub fn alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    /// Asks the shim.
    pub async fn call(&self, request: Request) -> std::result::Result<Answer, Failure> {
        let client = Arc::clone(&self.client.lock());
        client.call(request).await
    }

    /// The first process of the pause, with a shared PID namespace.
    pub async fn pause_pid(&self) -> std::result::Result<Option<i32>, Failure> {
        match self.call(Request::State).await?.outcome {
            Outcome::State { pause_pid, .. } => Ok(pause_pid),
            _ => Ok(None),
        }
    }

    /// A receiver of the event counter, to be taken before looking at the state.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until the container has ended; false when time is up.
    pub async fn wait_for_end(
        &self,
        layout: &Layout,
        container: &ContainerRef,
        limit: Option<Duration>,
    ) -> Result<bool> {
        let deadline = limit.map(|limit| tokio::time::Instant::now() + limit);
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            let Some(file) = layout.read_container(container).map_err(other)? else {
                return Ok(true);
            };
            let status = layout.status(&container.pod_uid, &file).map_err(other)?;
            if !matches!(status.state, ContainerState::Running { .. }) || !self.alive() {
                return Ok(true);
            }
            let changed = changes.changed();
            match deadline {
                None => drop(changed.await),
                Some(deadline) => {
                    if tokio::time::timeout_at(deadline, changed).await.is_err() {
                        return Ok(false);
                    }
                }
            }
        }
    }
}

/// Ends what a dead shim left: kills its containers and records that they ended.
pub fn bury(layout: &Layout, hierarchies: &Hierarchies, file: &SandboxFile) -> std::io::Result<()> {
    hierarchies.kill(&file.cgroup)?;
    for container in layout.containers(&file.uid)? {
        let reference = ContainerRef {
            pod_uid: file.uid.clone(),
            name: container.name.clone(),
            attempt: container.attempt,
        };
        let mut record = layout.read_record(&reference)?;
        if record.exit.is_none() && record.started_at.is_some() {
            record.exit = Some(keelson_shim::Exit {
                code: 137,
                oom_killed: false,
                finished_at: jiff::Timestamp::now().to_string(),
                message: String::new(),
            });
            layout.write_record(&reference, &record)?;
        }
    }
    Ok(())
}

/// A shim's refusal in the runtime's words.
pub fn refused(failure: Failure) -> RuntimeError {
    match failure.kind {
        FailureKind::NotFound => {
            RuntimeError::NotFound(failure.message.trim_end_matches(" not found").to_owned())
        }
        FailureKind::Start => RuntimeError::Start(failure.message),
        FailureKind::Exists | FailureKind::Other => RuntimeError::Other(failure.message),
    }
}

/// Anything else in the runtime's words.
pub fn other(error: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Other(error.to_string())
}
