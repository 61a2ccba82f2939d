//! A sandbox as the kubelet keeps it: the connection to its shim, and the news from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    client: Client,
    alive: Arc<AtomicBool>,
    /// Counts events, so that one can wait for the next.
    changes: watch::Receiver<u64>,
}

impl Sandbox {
    /// Connects to the shim and follows its events.
    pub async fn connect(
        layout: Layout,
        hierarchies: Hierarchies,
        file: SandboxFile,
        news: broadcast::Sender<RuntimeEvent>,
    ) -> std::io::Result<Arc<Self>> {
        let (events, mut incoming) = mpsc::unbounded_channel();
        let client = Client::connect(&layout.pod(&file.uid), events)?;
        let (counter, changes) = watch::channel(0_u64);
        let alive = Arc::new(AtomicBool::new(true));
        let sandbox = Arc::new(Self {
            file: Mutex::new(file.clone()),
            client,
            alive: Arc::clone(&alive),
            changes,
        });
        let weak = Arc::downgrade(&sandbox);
        tokio::spawn(async move {
            while let Some(event) = incoming.recv().await {
                if let Event::Started { container } | Event::Exited { container } = &event
                    && let Some(container) = parse_shim_id(&file.uid, container)
                {
                    counter.send_modify(|count| *count += 1);
                    let _ = news.send(RuntimeEvent::ContainerChanged(container));
                }
            }
            alive.store(false, Ordering::SeqCst);
            // Dropped by a kubelet that ends: the shim is well.
            let Some(sandbox) = weak.upgrade() else {
                return;
            };
            if !sandbox.file().stopped {
                tracing::warn!(pod = %file.name, namespace = %file.namespace, "the pod's shim died");
                if let Err(error) = bury(&layout, &hierarchies, &sandbox.file()) {
                    tracing::warn!(%error, pod = %file.name, "containers of a dead shim");
                }
                let _ = news.send(RuntimeEvent::SandboxDied(file.pod()));
            }
            counter.send_modify(|count| *count += 1);
        });
        sandbox
            .client
            .call(Request::Subscribe)
            .await
            .map_err(std::io::Error::other)?;
        Ok(sandbox)
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
        self.client.call(request).await
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
        self.changes.clone()
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
