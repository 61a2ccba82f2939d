//! ResourceQuota: what is created is charged to the namespace's quotas, and refused where one would be exceeded.
//!
//! A charge is a conditional write of the quota's status before the object is stored. If the object is not stored after all, the
//! charge stays until the quota controller recounts: a quota may be too strict for a moment, never too lax.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::pod::ResourceList;
use keelson_api::quantity::Quantity;
use keelson_api::quota::{Counted, is_bounded};
use keelson_auth::Status;
use keelson_registry::access::Access;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::chain::{Environment, Plugin};
use crate::live::LiveLists;
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "ResourceQuota";
/// How often a charge is tried again when somebody else wrote the quota meanwhile.
const ATTEMPTS: usize = 8;
/// Namespaces whose locks are kept while nobody holds them.
const KEPT: usize = 1024;

/// What was last written to the quotas of a namespace: the cache may not have it yet.
type Written = HashMap<String, Arc<Value>>;

/// The plugin. Charges to one namespace are made one after the other, so that they do not lose against each other.
#[derive(Default)]
pub struct ResourceQuota {
    quotas: LiveLists,
    namespaces: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Written>>>>,
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        if request.namespace.is_empty()
            || request.object.is_none()
            || request.concerns("", "namespaces")
        {
            return false;
        }
        match (request.operation, request.subresource.as_str()) {
            (Operation::Create, "") => true,
            (Operation::Update, "") if request.is("", "pods") => {
                let bounded = |o: Option<&Value>| o.is_some_and(is_bounded);
                bounded(request.object.as_ref()) != bounded(request.old_object.as_deref())
            }
            (Operation::Update, "") => {
                request.is("", "services") || request.is("", "persistentvolumeclaims")
            }
            (Operation::Update, "resize") => request.concerns("", "pods"),
            _ => false,
        }
    }

    async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        let lookup = environment.lookup.as_ref();
        if self
            .quotas
            .list(lookup, "resourcequotas", &request.namespace)
            .await?
            .is_empty()
        {
            return Ok(());
        }
        let lock = self.lock(&request.namespace);
        let mut written = lock.lock().await;
        let mut live = false;
        let mut charged: Vec<String> = Vec::new();
        let mut lost = None;
        for _ in 0..ATTEMPTS {
            let quotas = quotas(request, environment, &written, live).await?;
            let charges = check(request, &quotas)?;
            if request.dry_run {
                return Ok(());
            }
            match charge(charges, &mut charged, &mut written, environment).await {
                Ok(()) => return Ok(()),
                Err(status) if status.is_conflict() => {
                    // Somebody else wrote: what the store has now decides.
                    lost = Some(status);
                    live = true;
                }
                // The quota went: it no longer limits anything.
                Err(status) if status.is_not_found() => live = true,
                Err(status) => return Err(status),
            }
        }
        Err(lost.unwrap_or_else(|| Status::internal("the quotas of the namespace change too fast")))
    }
}

impl ResourceQuota {
    fn lock(&self, namespace: &str) -> Arc<tokio::sync::Mutex<Written>> {
        let mut namespaces = self.namespaces.lock();
        if namespaces.len() > KEPT {
            namespaces.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        namespaces.entry(namespace.to_owned()).or_default().clone()
    }
}

/// Writes what is charged to each quota that was not charged in an earlier attempt.
async fn charge(
    charges: Vec<Value>,
    charged: &mut Vec<String>,
    written: &mut Written,
    environment: &Environment,
) -> Result<(), Status> {
    for quota in charges {
        let name = quota.text("metadata.name").to_owned();
        if charged.contains(&name) {
            continue;
        }
        let stored = environment
            .writer
            .update_status("resourcequotas", quota)
            .await?;
        written.insert(name.clone(), Arc::new(stored));
        charged.push(name);
    }
    Ok(())
}

/// The namespace's quotas, each in the newest form that is known.
async fn quotas(
    request: &Request,
    environment: &Environment,
    written: &Written,
    live: bool,
) -> Result<Vec<Arc<Value>>, Status> {
    let cached = environment
        .lookup
        .list("resourcequotas", &request.namespace);
    if live || cached.is_empty() {
        return Ok(environment
            .lookup
            .live_list("resourcequotas", &request.namespace)
            .await?);
    }
    let version = |o: &Value| {
        o.text("metadata.resourceVersion")
            .parse::<u64>()
            .unwrap_or_default()
    };
    Ok(cached
        .into_iter()
        .map(|quota| match written.get(quota.text("metadata.name")) {
            Some(newer)
                if newer.part("metadata.uid") == quota.part("metadata.uid")
                    && version(newer) > version(&quota) =>
            {
                newer.clone()
            }
            _ => quota,
        })
        .collect())
}

/// The quotas as they are to be after the charge; 403 if one would be exceeded.
fn check(request: &Request, quotas: &[Arc<Value>]) -> Result<Vec<Value>, Status> {
    let Some(object) = request.object.as_ref() else {
        return Ok(vec![]);
    };
    let counted = Counted {
        group: &request.resource.group,
        resource: &request.resource.resource,
    };
    let mut interesting = Vec::new();
    for quota in quotas {
        let name = quota.text("metadata.name");
        let hard = amounts(quota.part("status.hard"));
        let mine: Vec<&str> = hard
            .keys()
            .map(String::as_str)
            .filter(|n| counted.uses(n))
            .collect();
        // What the controller has not taken over into the status yet limits nothing.
        if mine.is_empty() || !counted.in_scope(quota, object) {
            continue;
        }
        if let Some(missing) = counted.missing(mine.iter().copied(), object) {
            return Err(request.forbidden(format!("failed quota: {name}: {missing}")));
        }
        let used = amounts(quota.part("status.used"));
        if mine.iter().any(|n| !used.contains_key(*n)) {
            return Err(request.forbidden(format!(
                "status unknown for quota: {name}, resources: {}",
                mine.join(",")
            )));
        }
        interesting.push((quota, hard, used));
    }
    if interesting.is_empty() {
        return Ok(vec![]);
    }
    let delta = delta(request, &counted, object);
    let mut charges = Vec::new();
    for (quota, hard, used) in interesting {
        let requested: ResourceList = delta
            .iter()
            .filter(|(n, _)| hard.contains_key(*n))
            .map(|(n, q)| (n.clone(), *q))
            .collect();
        if requested.is_empty() {
            continue;
        }
        let mut after = used.clone();
        keelson_api::pod::add(&mut after, &requested);
        let exceeded: Vec<&String> = requested.keys().filter(|n| after[*n] > hard[*n]).collect();
        if !exceeded.is_empty() {
            let show = |list: &ResourceList| {
                let parts: Vec<String> = exceeded
                    .iter()
                    .map(|n| format!("{n}={}", list.get(*n).copied().unwrap_or(Quantity::ZERO)))
                    .collect();
                parts.join(",")
            };
            return Err(request.forbidden(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                quota.text("metadata.name"),
                show(&requested),
                show(&used),
                show(&hard)
            )));
        }
        let mut charged = (**quota).clone();
        for name in requested.keys() {
            charged["status"]["used"][name] = json!(after[name].to_string());
        }
        charges.push(charged);
    }
    Ok(charges)
}

/// What the request adds: the object's usage, less what the old one used already.
fn delta(request: &Request, counted: &Counted<'_>, object: &Value) -> ResourceList {
    let mut delta = counted.usage(object);
    if request.operation == Operation::Update
        && let Some(old) = request
            .old_object
            .as_deref()
            .filter(|o| !o.is_blank("metadata.resourceVersion"))
    {
        for (name, amount) in counted.usage(old) {
            *delta.entry(name).or_insert(Quantity::ZERO) -= amount;
        }
    }
    delta.retain(|_, amount| !amount.is_zero());
    delta
}

fn amounts(list: &Value) -> ResourceList {
    let entries = list.as_object().into_iter().flatten();
    entries
        .filter_map(|(k, v)| Some((k.clone(), Quantity::parse(v.as_str()?).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{create, environment, run, update};

    fn quota(hard: Value, used: Value) -> (&'static str, Value) {
        (
            "resourcequotas",
            json!({"metadata": {"namespace": "ns", "name": "q", "uid": "1", "resourceVersion": "0"},
            "spec": {"hard": hard}, "status": {"hard": hard, "used": used}}),
        )
    }

    fn used(environment: &Environment, name: &str) -> String {
        environment.lookup.get("resourcequotas", "ns", "q").unwrap()["status"]["used"][name]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn pod(name: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[tokio::test]
    async fn charges_add_up_to_the_limit() {
        let environment = environment(&[quota(
            json!({"requests.cpu": "1", "pods": "5"}),
            json!({"requests.cpu": "0", "pods": "0"}),
        )]);
        let plugin = ResourceQuota::default();
        run(
            &plugin,
            &mut create("", "pods", pod("a", "600m")),
            &environment,
        )
        .await
        .unwrap();
        assert_eq!(
            (
                used(&environment, "requests.cpu"),
                used(&environment, "pods")
            ),
            ("600m".into(), "1".into())
        );
        let refused = run(
            &plugin,
            &mut create("", "pods", pod("b", "600m")),
            &environment,
        )
        .await
        .unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"
        );
        let bare = json!({"metadata": {"name": "c"}, "spec": {"containers": [{"name": "x"}]}});
        let refused = run(&plugin, &mut create("", "pods", bare), &environment)
            .await
            .unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"c\" is forbidden: failed quota: q: must specify requests.cpu for: x"
        );
    }

    #[tokio::test]
    async fn parallel_creates_never_exceed() {
        let environment = Arc::new(environment(&[quota(
            json!({"count/configmaps": "3"}),
            json!({"count/configmaps": "0"}),
        )]));
        // Two servers: their locks do not know of each other.
        let servers = [
            Arc::new(ResourceQuota::default()),
            Arc::new(ResourceQuota::default()),
        ];
        let tasks: Vec<_> = (0..10)
            .map(|i| {
                let (plugin, environment) = (servers[i % 2].clone(), environment.clone());
                tokio::spawn(async move {
                    let mut request = create(
                        "",
                        "configmaps",
                        json!({"metadata": {"name": format!("c{i}")}}),
                    );
                    run(plugin.as_ref(), &mut request, &environment)
                        .await
                        .is_ok()
                })
            })
            .collect();
        let mut admitted = 0;
        for task in tasks {
            admitted += usize::from(task.await.unwrap());
        }
        assert_eq!(
            (admitted, used(&environment, "count/configmaps")),
            (3, "3".into())
        );
    }

    #[tokio::test]
    async fn updates_are_charged_by_the_difference() {
        let environment = environment(&[quota(
            json!({"services.nodeports": "2"}),
            json!({"services.nodeports": "0"}),
        )]);
        let service = |kind: &str| json!({"metadata": {"name": "s", "resourceVersion": "1"}, "spec": {"type": kind, "ports": [{"port": 1}]}});
        let plugin = ResourceQuota::default();
        run(
            &plugin,
            &mut update("", "services", service("ClusterIP"), service("NodePort")),
            &environment,
        )
        .await
        .unwrap();
        assert_eq!(used(&environment, "services.nodeports"), "1");
        run(
            &plugin,
            &mut update("", "services", service("NodePort"), service("ClusterIP")),
            &environment,
        )
        .await
        .unwrap();
        assert_eq!(used(&environment, "services.nodeports"), "0");
    }

    #[tokio::test]
    async fn a_quota_that_was_not_counted_yet_lets_nothing_through() {
        let fresh = quota(json!({"pods": "1"}), json!({}));
        let mut unseen = fresh.clone();
        unseen.1["status"] = json!({});
        let plugin = ResourceQuota::default();
        let create_pod = || create("", "pods", pod("a", "1"));
        let refused = run(&plugin, &mut create_pod(), &environment(&[fresh]))
            .await
            .unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"a\" is forbidden: status unknown for quota: q, resources: pods"
        );
        // Before the controller has seen the quota at all, it limits nothing, as upstream has it.
        let plugin = ResourceQuota::default();
        assert!(
            run(&plugin, &mut create_pod(), &environment(&[unseen]))
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn dry_runs_are_checked_but_not_charged() {
        let environment = environment(&[quota(json!({"pods": "1"}), json!({"pods": "0"}))]);
        let mut request = create("", "pods", pod("a", "1"));
        request.dry_run = true;
        run(&ResourceQuota::default(), &mut request, &environment)
            .await
            .unwrap();
        assert_eq!(used(&environment, "pods"), "0");
    }
}
