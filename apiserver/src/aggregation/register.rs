//! Registers what this server serves itself: an APIService for every built-in group version when it starts, and one for
//! every group version of custom resources for as long as there is one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use keelson_api::status::Status;
use keelson_registry::access::Access;
use keelson_storage::StoreError;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{SERVICES, priorities};
use crate::error::from_store;
use crate::response::ApiResult;
use crate::server::Server;
use crate::startup::own;

/// Says that an APIService is this server's own, and how it keeps it.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// A pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// How an APIService is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Made right once, when the server starts.
    OnStart,
    /// Always kept right.
    Always,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    mode: Mode,
    spec: Value,
}

/// What to do about an APIService.
#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    Create,
    Update,
    Delete,
}

/// Who keeps the APIServices of this server.
#[derive(Default)]
pub struct Registrar {
    wanted: Mutex<BTreeMap<String, Wanted>>,
    queue: Mutex<BTreeSet<String>>,
    more: Notify,
}

impl Registrar {
    /// Has a name looked at.
    pub fn look_at(&self, name: &str) {
        self.queue.lock().insert(name.to_owned());
        self.more.notify_one();
    }

    /// Says which group versions custom resources have now.
    pub fn set_custom(&self, served: &BTreeSet<(String, String)>) {
        let mut wanted = self.wanted.lock();
        let names: BTreeSet<String> = served.iter().map(|(g, v)| name(g, v)).collect();
        let gone: Vec<String> = wanted
            .iter()
            .filter(|(n, w)| w.mode == Mode::Always && !names.contains(*n))
            .map(|(n, _)| n.clone())
            .collect();
        for name in gone {
            wanted.remove(&name);
            self.look_at(&name);
        }
        for (group, version) in served {
            let name = name(group, version);
            if !wanted.contains_key(&name) {
                wanted.insert(name.clone(), make(group, version, Mode::Always));
                self.look_at(&name);
            }
        }
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.queue.lock())
    }
}

fn name(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

fn make(group: &str, version: &str, mode: Mode) -> Wanted {
    let (group_priority, version_priority) = priorities::of(group, version);
    let mut spec = json!({"version": version, "groupPriorityMinimum": group_priority, "versionPriority": version_priority});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    Wanted { mode, spec }
}

/// What is to be done about an APIService, as upstream decides it.
fn decide(
    wanted: Option<&Wanted>,
    current: Option<&Value>,
    was_right: bool,
    was_there: bool,
) -> Action {
    let once = wanted.is_some_and(|w| w.mode == Mode::OnStart);
    let Some(current) = current else {
        return match wanted {
            Some(_) if once && was_right => Action::Nothing,
            Some(_) => Action::Create,
            None => Action::Nothing,
        };
    };
    if once && was_right {
        return Action::Nothing;
    }
    let managed = current.part("metadata.labels").get(MANAGED);
    match managed.and_then(Value::as_str) {
        Some("true") => {}
        Some("onstart") if was_there && !was_right => {}
        _ => return Action::Nothing,
    }
    match wanted {
        None => Action::Delete,
        Some(wanted) if wanted.spec == *current.part("spec") => Action::Nothing,
        Some(_) => Action::Update,
    }
}

/// Registers the built-in group versions, and keeps the rest for as long as the server runs.
pub async fn start(server: &Arc<Server>) {
    let registrar = &server.aggregation.registrar;
    let mut keeper = Keeper::default();
    let names: Vec<String> = {
        let mut wanted = registrar.wanted.lock();
        for kind in keelson_registry::kinds::ALL.iter() {
            let (group, version) = (&*kind.group, &*kind.version);
            if priorities::builtin(group, version).is_some() {
                wanted
                    .entry(name(group, version))
                    .or_insert_with(|| make(group, version, Mode::OnStart));
            }
        }
        wanted.keys().cloned().collect()
    };
    for object in server.lookup.list(SERVICES, "") {
        let name = object.text("metadata.name").to_owned();
        registrar.look_at(&name);
        keeper.there.insert(name);
    }
    own::retry(server, "apiservices", async || {
        let done = names.iter().map(|name| keeper.sync(server, name));
        futures::future::try_join_all(done).await.map(|_| ())
    })
    .await;
    keeper.right.extend(names);
    tokio::spawn(keep(server.clone(), keeper));
}

async fn keep(server: Arc<Server>, mut keeper: Keeper) {
    loop {
        tokio::select! {
            () = server.stop.cancelled() => return,
            () = server.aggregation.registrar.more.notified() => {}
        }
        for name in server.aggregation.registrar.take() {
            match keeper.sync(&server, &name).await {
                Ok(()) => {
                    keeper.right.insert(name);
                }
                Err(e) => {
                    tracing::warn!(name, error = %e, "an APIService could not be written, trying again");
                    let (server, name) = (server.clone(), name);
                    tokio::spawn(async move {
                        tokio::time::sleep(PAUSE).await;
                        server.aggregation.registrar.look_at(&name);
                    });
                }
            }
        }
    }
}

#[derive(Default)]
struct Keeper {
    /// What was there when the server started.
    there: HashSet<String>,
    /// What has been made right once.
    right: HashSet<String>,
}

impl Keeper {
    async fn sync(&self, server: &Server, name: &str) -> ApiResult<()> {
        let wanted = server
            .aggregation
            .registrar
            .wanted
            .lock()
            .get(name)
            .cloned();
        let current = server.lookup.get(SERVICES, "", name);
        let (right, there) = (self.right.contains(name), self.there.contains(name));
        let done = match decide(wanted.as_ref(), current.as_deref(), right, there) {
            Action::Nothing => return Ok(()),
            Action::Create => {
                let Some(wanted) = wanted else { return Ok(()) };
                own::create(server, SERVICES, object(name, &wanted)).await
            }
            Action::Update => {
                let (Some(wanted), Some(current)) = (wanted, current) else {
                    return Ok(());
                };
                let mut new = Value::clone(&current);
                new["spec"] = wanted.spec;
                own::update(server, SERVICES, new).await
            }
            Action::Delete => return delete(server, name, current.as_deref()).await,
        };
        match done {
            Ok(_) => Ok(()),
            // The change comes by and is looked at.
            Err(e) if e.is_already_exists() || e.is_conflict() || e.is_not_found() => Ok(()),
            Err(e) => Err(e),
        }
    }
}

fn object(name: &str, wanted: &Wanted) -> Value {
    let mode = match wanted.mode {
        Mode::OnStart => "onstart",
        Mode::Always => "true",
    };
    let mut object = json!({"metadata": {"name": name, "labels": {}}, "spec": wanted.spec});
    object["metadata"]["labels"][MANAGED] = mode.into();
    object
}

async fn delete(server: &Server, name: &str, current: Option<&Value>) -> ApiResult<()> {
    let resource = server
        .resources
        .cached_as(SERVICES)
        .ok_or_else(|| Status::internal(format!("no resource {SERVICES}")))?;
    let revision = current.and_then(|c| c.text("metadata.resourceVersion").parse().ok());
    match server.store.delete(&resource.key("", name), revision).await {
        Ok(_) | Err(StoreError::NotFound | StoreError::Conflict { .. }) => Ok(()),
        Err(e) => Err(from_store(e, resource.qualified(), name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_managed_is_kept_and_the_rest_left_alone() {
        let always = make("a.example", "v1", Mode::Always);
        let once = make("apps", "v1", Mode::OnStart);
        let is = |wanted: &Wanted, label: &str| {
            let mut object = object("x", wanted);
            object["metadata"]["labels"][MANAGED] = label.into();
            object
        };
        let changed = |wanted: &Wanted, label: &str| {
            let mut object = is(wanted, label);
            object["spec"]["versionPriority"] = 7.into();
            object
        };
        // (wanted, current, made right before, there at the start)
        for (wanted, current, right, there, action) in [
            (None, None, false, false, Action::Nothing),
            (Some(&once), None, false, false, Action::Create),
            (Some(&once), None, true, false, Action::Nothing),
            (Some(&always), None, true, false, Action::Create),
            (None, Some(is(&always, "")), false, true, Action::Nothing),
            (
                Some(&always),
                Some(changed(&always, "")),
                false,
                true,
                Action::Nothing,
            ),
            (
                None,
                Some(is(&once, "onstart")),
                false,
                false,
                Action::Nothing,
            ),
            (
                None,
                Some(is(&once, "onstart")),
                false,
                true,
                Action::Delete,
            ),
            (
                Some(&once),
                Some(changed(&once, "onstart")),
                false,
                true,
                Action::Update,
            ),
            (
                Some(&once),
                Some(changed(&once, "onstart")),
                true,
                true,
                Action::Nothing,
            ),
            (None, Some(is(&always, "true")), true, false, Action::Delete),
            (
                Some(&always),
                Some(changed(&always, "true")),
                true,
                true,
                Action::Update,
            ),
            (
                Some(&always),
                Some(is(&always, "true")),
                true,
                true,
                Action::Nothing,
            ),
        ] {
            let decided = decide(wanted, current.as_ref(), right, there);
            assert_eq!(decided, action, "{wanted:?} {current:?} {right} {there}");
        }
    }
}
