//! A container runtime for tests: containers are rows in a table that tests move along.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{broadcast, oneshot};

use super::{
    ContainerRef, ContainerSpec, ContainerState, ContainerStatus, ExecRequest, Image, Images,
    RegistryAuth, Resources, Result, Runtime, RuntimeError, RuntimeEvent, SandboxSpec,
    SandboxStatus, Session, Usage,
};

/// How a started container behaves.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Ends by itself after that long with this code.
    pub exits: Option<(Duration, i32)>,
    /// Ignores the stop signal.
    pub stubborn: bool,
    /// What `exec` prints and returns.
    pub exec: (String, i32),
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, SandboxStatus>,
    specs: HashMap<ContainerRef, ContainerSpec>,
    behaviour: HashMap<String, Behaviour>,
    images: BTreeMap<String, Image>,
    calls: Vec<String>,
    fail_pull: HashMap<String, RuntimeError>,
    next_ip: u8,
    now: Option<crate::clock::Clock>,
}

/// The fake; both halves of a [`super::ContainerRuntime`].
pub struct Fake {
    state: Mutex<State>,
    events: broadcast::Sender<RuntimeEvent>,
    this: std::sync::Weak<Fake>,
}

impl Fake {
    /// With these images present.
    pub fn new(images: &[&str]) -> std::sync::Arc<Self> {
        let images = images.iter().map(|i| ((*i).to_owned(), image(i))).collect();
        std::sync::Arc::new_cyclic(|this| Self {
            state: Mutex::new(State {
                images,
                ..State::default()
            }),
            events: broadcast::channel(256).0,
            this: this.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what time it is.
    pub fn set_clock(&self, clock: crate::clock::Clock) {
        self.lock().now = Some(clock);
    }

    /// Says how containers of a name behave.
    pub fn behave(&self, container: &str, behaviour: Behaviour) {
        self.lock()
            .behaviour
            .insert(container.to_owned(), behaviour);
    }

    /// Makes pulls of an image fail; `None` lets them succeed.
    pub fn fail_pull(&self, reference: &str, error: Option<RuntimeError>) {
        match error {
            Some(error) => self.lock().fail_pull.insert(reference.to_owned(), error),
            None => self.lock().fail_pull.remove(reference),
        };
    }

    /// The calls so far, and forgets them.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().calls)
    }

    /// The spec a container was made from.
    pub fn spec(&self, container: &ContainerRef) -> Option<ContainerSpec> {
        self.lock().specs.get(container).cloned()
    }

    /// What the fake tells, for tests that stand in for the manager.
    pub fn clone_events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    /// Ends a container.
    pub fn exit(&self, container: &ContainerRef, code: i32) {
        let mut state = self.lock();
        let now = state.now.map_or_else(Timestamp::now, |c| c.now());
        if let Some(status) = find(&mut state, container)
            && let ContainerState::Running { started_at, .. } = status.state
        {
            status.state = ContainerState::Exited {
                exit_code: code,
                oom_killed: false,
                started_at: Some(started_at),
                finished_at: now,
                message: String::new(),
            };
            drop(state);
            let _ = self
                .events
                .send(RuntimeEvent::ContainerChanged(container.clone()));
        }
    }

    /// Kills a sandbox's shim with all it holds.
    pub fn kill_sandbox(&self, uid: &str) {
        let found = {
            let mut state = self.lock();
            state.sandboxes.get_mut(uid).map(|s| {
                s.ready = false;
                s.containers.clear();
                s.pod.clone()
            })
        };
        if let Some(pod) = found {
            let _ = self.events.send(RuntimeEvent::SandboxDied(pod));
        }
    }
}

fn image(reference: &str) -> Image {
    Image {
        id: format!("sha256:{reference}"),
        tags: vec![reference.to_owned()],
        digests: vec![],
        size: 1000,
        uid: Some(0),
        user: None,
    }
}

fn find<'a>(state: &'a mut State, container: &ContainerRef) -> Option<&'a mut ContainerStatus> {
    state
        .sandboxes
        .get_mut(&container.pod_uid)?
        .containers
        .iter_mut()
        .find(|c| c.container == *container)
}

fn missing(container: &ContainerRef) -> RuntimeError {
    RuntimeError::NotFound(format!(
        "container {}/{}",
        container.pod_uid, container.name
    ))
}

#[async_trait]
impl Runtime for Fake {
    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxStatus> {
        let mut state = self.lock();
        state.calls.push(format!("run_sandbox {}", spec.pod.name));
        state.next_ip += 1;
        let now = state.now.map_or_else(Timestamp::now, |c| c.now());
        let ips = if spec.namespaces.host_network {
            vec![]
        } else {
            vec![IpAddr::from([10, 244, 0, state.next_ip])]
        };
        let status = SandboxStatus {
            pod: spec.pod.clone(),
            ips,
            ready: true,
            created_at: now,
            netns: None,
            containers: vec![],
        };
        Ok(state
            .sandboxes
            .entry(spec.pod.uid.clone())
            .or_insert(status)
            .clone())
    }

    async fn stop_sandbox(&self, pod_uid: &str) -> Result<()> {
        let mut state = self.lock();
        state.calls.push("stop_sandbox".into());
        if let Some(sandbox) = state.sandboxes.get_mut(pod_uid) {
            sandbox.ready = false;
        }
        Ok(())
    }

    async fn remove_sandbox(&self, pod_uid: &str) -> Result<()> {
        let mut state = self.lock();
        state.calls.push("remove_sandbox".into());
        state.sandboxes.remove(pod_uid);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>> {
        Ok(self.lock().sandboxes.values().cloned().collect())
    }

    async fn sandbox(&self, pod_uid: &str) -> Result<Option<SandboxStatus>> {
        Ok(self.lock().sandboxes.get(pod_uid).cloned())
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<ContainerStatus> {
        let mut state = self.lock();
        state.calls.push(format!(
            "create {}#{}",
            spec.container.name, spec.container.attempt
        ));
        let status = ContainerStatus {
            container: spec.container.clone(),
            id: format!("keelson://{:0>64}", format!("{:x}", state.specs.len() + 1)),
            image: spec.image.clone(),
            image_id: spec.image_id.clone(),
            state: ContainerState::Created,
            log_path: spec.log_path.clone(),
        };
        state.specs.insert(spec.container.clone(), spec.clone());
        let sandbox = state
            .sandboxes
            .get_mut(&spec.container.pod_uid)
            .ok_or_else(|| missing(&spec.container))?;
        sandbox.containers.retain(|c| c.container != spec.container);
        sandbox.containers.push(status.clone());
        Ok(status)
    }

    async fn start_container(&self, container: &ContainerRef) -> Result<ContainerStatus> {
        let mut state = self.lock();
        state
            .calls
            .push(format!("start {}#{}", container.name, container.attempt));
        let now = state.now.map_or_else(Timestamp::now, |c| c.now());
        let behaviour = state
            .behaviour
            .get(&container.name)
            .cloned()
            .unwrap_or_default();
        let status = find(&mut state, container).ok_or_else(|| missing(container))?;
        status.state = ContainerState::Running {
            pid: 4242,
            started_at: now,
        };
        let status = status.clone();
        drop(state);
        if let (Some((after, code)), Some(this)) = (behaviour.exits, self.this.upgrade()) {
            let container = container.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                this.exit(&container, code);
            });
        }
        let _ = self
            .events
            .send(RuntimeEvent::ContainerChanged(container.clone()));
        Ok(status)
    }

    async fn stop_container(&self, container: &ContainerRef, grace: Duration) -> Result<()> {
        let stubborn = {
            let mut state = self.lock();
            state.calls.push(format!(
                "stop {}#{} {}s",
                container.name,
                container.attempt,
                grace.as_secs()
            ));
            state
                .behaviour
                .get(&container.name)
                .is_some_and(|b| b.stubborn)
        };
        if stubborn {
            tokio::time::sleep(grace).await;
        }
        self.exit(container, if stubborn { 137 } else { 143 });
        Ok(())
    }

    async fn remove_container(&self, container: &ContainerRef) -> Result<()> {
        let mut state = self.lock();
        state
            .calls
            .push(format!("remove {}#{}", container.name, container.attempt));
        if let Some(sandbox) = state.sandboxes.get_mut(&container.pod_uid) {
            sandbox.containers.retain(|c| c.container != *container);
        }
        Ok(())
    }

    async fn update_resources(&self, container: &ContainerRef, _: &Resources) -> Result<()> {
        self.lock().calls.push(format!("update {}", container.name));
        Ok(())
    }

    async fn update_pod_resources(&self, _: &str, resources: &Resources) -> Result<()> {
        let limit = resources.memory_limit.unwrap_or(-1);
        self.lock().calls.push(format!("update pod {limit}"));
        Ok(())
    }

    async fn exec(&self, container: &ContainerRef, request: &ExecRequest) -> Result<Session> {
        use std::io::Write;
        let (output, code) = {
            let mut state = self.lock();
            state.calls.push(format!(
                "exec {} {}",
                container.name,
                request.command.join(" ")
            ));
            state
                .behaviour
                .get(&container.name)
                .cloned()
                .unwrap_or_default()
                .exec
        };
        let (exit, wait) = oneshot::channel();
        let _ = exit.send(code);
        let (read, write) = std::io::pipe().map_err(|e| RuntimeError::Other(e.to_string()))?;
        let mut write = write;
        write
            .write_all(output.as_bytes())
            .map_err(|e| RuntimeError::Other(e.to_string()))?;
        Ok(Session {
            stdin: None,
            stdout: Some(OwnedFd::from(read)),
            stderr: None,
            pty: None,
            exit: wait,
        })
    }

    async fn attach(&self, container: &ContainerRef, _: bool, _: bool, _: bool) -> Result<Session> {
        self.exec(container, &ExecRequest::default()).await
    }

    async fn dial(&self, _: &str, port: u16) -> Result<tokio::net::TcpStream> {
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|e| RuntimeError::Other(e.to_string()))
    }

    async fn reopen_log(&self, _: &ContainerRef) -> Result<()> {
        Ok(())
    }

    async fn usage(&self, _: &ContainerRef) -> Result<Usage> {
        Ok(Usage::default())
    }

    async fn disk_usage(&self, _: &ContainerRef) -> Result<u64> {
        Ok(0)
    }

    async fn pod_usage(&self, _: &str) -> Result<Usage> {
        Ok(Usage::default())
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }
}

#[async_trait]
impl Images for Fake {
    async fn status(&self, reference: &str) -> Result<Option<Image>> {
        if reference.contains(' ') {
            return Err(RuntimeError::InvalidImageName {
                image: reference.into(),
                message: "invalid reference format".into(),
            });
        }
        Ok(self.lock().images.get(reference).cloned())
    }

    async fn pull(&self, reference: &str, _: &[RegistryAuth]) -> Result<Image> {
        let mut state = self.lock();
        state.calls.push(format!("pull {reference}"));
        if let Some(error) = state.fail_pull.get(reference) {
            return Err(error.clone());
        }
        let image = image(reference);
        state.images.insert(reference.to_owned(), image.clone());
        Ok(image)
    }

    async fn list(&self) -> Result<Vec<Image>> {
        Ok(self.lock().images.values().cloned().collect())
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let mut state = self.lock();
        state.calls.push(format!("remove_image {id}"));
        state.images.retain(|_, i| i.id != id);
        Ok(())
    }

    async fn mount(&self, _: &str, _: &std::path::Path) -> Result<()> {
        Ok(())
    }
}
