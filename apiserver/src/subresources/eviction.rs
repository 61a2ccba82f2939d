//! `pods/<name>/eviction`: deletes a pod if its disruption budget allows that.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use keelson_admission::Operation;
use keelson_api::field::{self, Path};
use keelson_api::selector::Selector;
use keelson_api::status::{Qualified, Status};
use keelson_registry::access::{Access, set, slot};
use keelson_registry::rest::{DeleteOptions, timestamp};
use keelson_schema::Schema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::negotiate::Offers;
use crate::objects::{self, Change, Current, Step, text};
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};
use crate::server::Server;
use crate::verbs::admission::Write;
use crate::verbs::body::{self, Expected};
use crate::verbs::delete::{Options, delete_one};
use crate::verbs::options::WriteOptions;

const BUDGETS: &str = "poddisruptionbudgets.policy";
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// How often the deletion of a pod that keeps changing is tried, and how long after another.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);
/// Pods that a budget may remember as being evicted.
const MAX_DISRUPTED: usize = 2000;

/// Answers POST of an Eviction.
pub async fn evict(
    server: &Arc<Server>,
    mut request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Objects)?;
    let mut write_options = WriteOptions::of(&request, false)?;
    let ty = Schema::builtin()
        .kind("policy", "v1", "Eviction")
        .ok_or_else(|| Status::internal("no type for Eviction"))?;
    let eviction = body::read(
        &mut request,
        &Expected {
            group: "policy",
            version: "v1",
            kind: "Eviction",
            ty,
            custom: None,
        },
    )
    .await?;
    let (namespace, name) = (
        request.info.namespace.clone(),
        request.info.path_name().to_owned(),
    );
    if text(&eviction, "name") != name {
        return Err(Status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    if eviction
        .part("deleteOptions.ignoreStoreReadErrorWithClusterBreakingPotential")
        .as_bool()
        == Some(true)
    {
        let root = Path::new("deleteOptions");
        let path = root.child("ignoreStoreReadErrorWithClusterBreakingPotential");
        let why = "can not be set for pod eviction, try after removing the option";
        let errors = [field::Error::invalid(&path, true, why)];
        let kind = Qualified::new("policy", "Eviction");
        return Err(Status::invalid(kind, &name, &errors));
    }
    write_options.dry_run |= eviction
        .items("deleteOptions.dryRun")
        .iter()
        .any(|v| v == "All");
    let write = Write {
        server,
        request: &request,
        resource,
        kind: Some(("policy", "v1", "Eviction")),
        namespace: &namespace,
        name: &name,
        options: write_options.to_value("CreateOptions"),
        dry_run: write_options.dry_run,
    };
    let mut admitted = write.admission(Operation::Create, Some(eviction.clone()), None);
    write.admit(&mut admitted).await?;
    write.validate(&mut admitted).await?;

    let evicting = Evicting {
        server,
        request: &request,
        resource,
        namespace: &namespace,
        name: &name,
        options: Options {
            delete: delete_options(&eviction),
            dry_run: write_options.dry_run,
        },
    };
    if let Some(pod) = evicting.delete_uncounted().await? {
        evicting.delete_counted(&pod).await?;
    }
    let done = serde_json::to_value(Status::success(201)).map_err(Status::internal)?;
    Ok(response::object(&agreed, 201, &done))
}

/// One eviction, admitted.
struct Evicting<'a> {
    server: &'a Arc<Server>,
    request: &'a Request,
    resource: &'a Arc<Resource>,
    namespace: &'a str,
    name: &'a str,
    options: Options,
}

impl Evicting<'_> {
    /// Deletes the pod if no budget has a say about it; answers the pod if one has.
    async fn delete_uncounted(&self) -> ApiResult<Option<Current>> {
        let mut tries = TRIES;
        loop {
            let pod = objects::live(self.server, self.resource, self.namespace, self.name)
                .await?
                .ok_or_else(|| Status::not_found(self.resource.qualified(), self.name))?;
            if !needs_no_budget(&pod.object) {
                return Ok(Some(pod));
            }
            let mut options = self.options.clone();
            // A pod that hasn't begun may begin meanwhile, and fall under a budget.
            let begins = pod.object.text("status.phase") == "Pending"
                && !pod.object.has("metadata.deletionTimestamp");
            if begins {
                options
                    .delete
                    .resource_version
                    .get_or_insert_with(|| pod.revision.to_string());
            }
            match self.mark_and_delete(options).await {
                Err(status)
                    if status.is_conflict()
                        && tries > 0
                        && self.options.delete.resource_version.is_none() =>
                {
                    tries -= 1;
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other.map(|()| None),
            }
        }
    }

    /// Takes a disruption from the pod's budget, if it falls under one, and deletes it.
    async fn delete_counted(&self, pod: &Current) -> ApiResult<()> {
        let mut options = self.options.clone();
        let budget = budget_of(self.server, self.namespace, &pod.object)?;
        let free = budget
            .as_ref()
            .is_some_and(|budget| disrupts_nothing(&pod.object, budget));
        if free {
            // It must not have become ready since.
            options.delete.resource_version = Some(pod.revision.to_string());
        } else if let Some(budget) = &budget {
            let budgets = self
                .server
                .resources
                .cached_as(BUDGETS)
                .ok_or_else(|| Status::internal("no budgets"))?;
            let mut charge = Charging { pod: self.name };
            objects::modify(
                self.server,
                &budgets,
                self.namespace,
                text(budget, "name"),
                options.dry_run,
                &mut charge,
            )
            .await?;
        }
        match self.mark_and_delete(options).await {
            Err(status)
                if status.is_conflict()
                    && free
                    && self.options.delete.resource_version.is_none() =>
            {
                let name = budget.as_ref().map_or("", |budget| text(budget, "name"));
                Err(still_processed(name))
            }
            other => other,
        }
    }

    /// Says in the pod's status that it is evicted, so that its owner can tell that from a failure of its own, and deletes it.
    async fn mark_and_delete(&self, mut options: Options) -> ApiResult<()> {
        if !options.dry_run {
            let mut mark = Marking {
                uid: options.delete.uid.clone(),
                version: options.delete.resource_version.clone(),
            };
            let marked = objects::modify(
                self.server,
                self.resource,
                self.namespace,
                self.name,
                false,
                &mut mark,
            )
            .await?;
            // Who named a state meant the one before the mark.
            if options.delete.resource_version.is_some() {
                options.delete.resource_version =
                    Some(text(&marked.object, "resourceVersion").to_owned());
            }
        }
        delete_one(
            self.server,
            self.request,
            self.resource,
            self.namespace,
            self.name,
            &options,
        )
        .await
        .map(drop)
    }
}

fn delete_options(eviction: &Value) -> DeleteOptions {
    let options = eviction.part("deleteOptions");
    let text = |path: &str| Some(options.text(path).to_owned()).filter(|t| !t.is_empty());
    DeleteOptions {
        grace_period: options.int("gracePeriodSeconds"),
        propagation: text("propagationPolicy"),
        orphan_dependents: options.get("orphanDependents").and_then(Value::as_bool),
        uid: text("preconditions.uid"),
        resource_version: text("preconditions.resourceVersion"),
    }
}

/// Pods that have ended, haven't begun or are going anyway don't count.
fn needs_no_budget(pod: &Value) -> bool {
    matches!(pod.text("status.phase"), "Succeeded" | "Failed" | "Pending")
        || pod.has("metadata.deletionTimestamp")
}

/// The budget that a pod falls under.
fn budget_of(server: &Server, namespace: &str, pod: &Value) -> ApiResult<Option<Arc<Value>>> {
    let labels = pod.part("metadata.labels");
    let mut matching = server
        .lookup
        .list(BUDGETS, namespace)
        .into_iter()
        .filter(|budget| {
            LabelSelector::deserialize(budget.part("spec.selector"))
                .ok()
                .filter(|_| budget.has("spec.selector"))
                .and_then(|s| Selector::from_label_selector(Some(&s)).ok())
                .is_some_and(|s| s.matches(labels))
        });
    let first = matching.next();
    if matching.next().is_some() {
        let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Status::failure(500, "", why));
    }
    Ok(first)
}

fn is_ready(pod: &Value) -> bool {
    pod.items("status.conditions")
        .iter()
        .any(|condition| condition.text("type") == "Ready" && condition.text("status") == "True")
}

/// Whether the pod, being ill, isn't among those that its budget counts as healthy, and may go without being counted.
fn disrupts_nothing(pod: &Value, budget: &Value) -> bool {
    let (needs, has) = (
        budget.number("status.desiredHealthy"),
        budget.number("status.currentHealthy"),
    );
    !is_ready(pod)
        && (budget.text("spec.unhealthyPodEvictionPolicy") == "AlwaysAllow"
            || (has >= needs && needs > 0))
}

fn refused(message: String, retry_after: u16) -> Status {
    Status::too_many_requests(REFUSED, retry_after).with_cause("DisruptionBudget", message, "")
}

fn still_processed(budget: &str) -> Status {
    let message = format!("The disruption budget {budget} is still being processed by the server.");
    refused(message, 10)
}

/// Puts the condition into the pod's status.
struct Marking {
    /// The UID that the pod has to have.
    uid: Option<String>,
    /// The state that it has to be in.
    version: Option<String>,
}

#[async_trait]
impl Step for Marking {
    async fn next(&mut self, current: &Current) -> ApiResult<Change> {
        let mut pod = Value::clone(&current.object);
        let name = text(&pod, "name");
        let conflict = |why: String| Err(Status::conflict(Qualified::new("", "Pod"), name, why));
        let uid = text(&pod, "uid");
        if let Some(asked) = self
            .uid
            .as_deref()
            .filter(|asked| !asked.is_empty() && *asked != uid)
        {
            return conflict(format!(
                "the UID in the precondition ({asked}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
            ));
        }
        let version = current.revision.to_string();
        if let Some(asked) = self
            .version
            .as_deref()
            .filter(|asked| !asked.is_empty() && *asked != version)
        {
            return conflict(format!(
                "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record ({version}). The object might have been modified"
            ));
        }
        let mark = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        });
        Ok(match set_condition(&mut pod, "status.conditions", mark) {
            true => Change::Write(pod),
            false => Change::Keep(pod),
        })
    }
}

/// Sets a condition, and when it last changed; whether that is anything new.
fn set_condition(object: &mut Value, path: &str, mut condition: Value) -> bool {
    let list = slot(object, path);
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let Some(list) = list.as_array_mut() else {
        return false;
    };
    let own = list
        .iter_mut()
        .find(|own| own.text("type") == condition.text("type"));
    let Some(own) = own else {
        condition["lastTransitionTime"] = timestamp(Timestamp::now()).into();
        list.push(condition);
        return true;
    };
    let same = ["status", "reason", "message"]
        .iter()
        .all(|field| own.text(field) == condition.text(field));
    let since = match own.text("status") == condition.text("status") {
        true => own["lastTransitionTime"].take(),
        false => timestamp(Timestamp::now()).into(),
    };
    condition["lastTransitionTime"] = since;
    *own = condition;
    !same
}

/// Takes one disruption from a budget.
struct Charging<'a> {
    pod: &'a str,
}

#[async_trait]
impl Step for Charging<'_> {
    async fn next(&mut self, current: &Current) -> ApiResult<Change> {
        let mut budget = Value::clone(&current.object);
        let name = text(&budget, "name").to_owned();
        if budget.number("status.observedGeneration") < budget.number("metadata.generation") {
            return Err(still_processed(&name));
        }
        let forbidden = |why| {
            Err(Status::forbidden(
                Qualified::new("policy", "poddisruptionbudget"),
                &name,
                why,
            ))
        };
        let allowed = budget.number("status.disruptionsAllowed");
        if allowed < 0 {
            return forbidden("pdb disruptions allowed is negative");
        }
        let disrupted = slot(&mut budget, "status.disruptedPods");
        if disrupted
            .as_object()
            .is_some_and(|d| d.len() > MAX_DISRUPTED)
        {
            return forbidden(
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            );
        }
        if allowed == 0 {
            return Err(refused(why_none(&budget, &name), 0));
        }
        disrupted[self.pod] = timestamp(Timestamp::now()).into();
        set(&mut budget, "status.disruptionsAllowed", allowed - 1);
        if allowed == 1 {
            let none_left = json!({
                "type": "DisruptionAllowed",
                "status": "False",
                "reason": "InsufficientPods",
                "message": "",
                "observedGeneration": budget.number("status.observedGeneration"),
            });
            set_condition(&mut budget, "status.conditions", none_left);
        }
        Ok(Change::Write(budget))
    }
}

/// Why a budget allows no disruption.
fn why_none(budget: &Value, name: &str) -> String {
    let (needs, has) = (
        budget.number("status.desiredHealthy"),
        budget.number("status.currentHealthy"),
    );
    let said = budget.items("status.conditions").iter().find(|condition| {
        condition.text("type") == "DisruptionAllowed"
            && condition.text("status") == "False"
            && !condition.text("message").is_empty()
    });
    match said {
        // What the numbers say can't be trusted then.
        Some(said) if said.text("reason") == "SyncFailed" => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            said.text("message")
        ),
        _ if has <= needs => {
            format!(
                "The disruption budget {name} needs {needs} healthy pods and has {has} currently"
            )
        }
        Some(said) => format!(
            "The disruption budget {name} does not allow evicting pods currently ({}): {}",
            said.text("reason"),
            said.text("message")
        ),
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(policy: Value, status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "spec": {"unhealthyPodEvictionPolicy": policy}, "status": status})
    }

    fn pod(ready: &str) -> Value {
        json!({"metadata": {"name": "p", "uid": "u"}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})
    }

    async fn charge(budget: &Value) -> Result<Value, Status> {
        let current = Current {
            object: Arc::new(budget.clone()),
            revision: 1,
            stale: false,
        };
        match (Charging { pod: "p" }).next(&current).await? {
            Change::Write(object) => Ok(object),
            _ => Err(Status::internal("nothing to write")),
        }
    }

    #[test]
    fn ill_pods_go_for_nothing_while_the_budget_is_kept_or_allows_it() {
        let kept = json!({"desiredHealthy": 2, "currentHealthy": 2});
        let broken = json!({"desiredHealthy": 2, "currentHealthy": 1});
        assert!(disrupts_nothing(
            &pod("False"),
            &budget(Value::Null, kept.clone())
        ));
        assert!(!disrupts_nothing(&pod("True"), &budget(Value::Null, kept)));
        assert!(!disrupts_nothing(
            &pod("False"),
            &budget(Value::Null, broken.clone())
        ));
        assert!(disrupts_nothing(
            &pod("False"),
            &budget("AlwaysAllow".into(), broken)
        ));
    }

    #[tokio::test]
    async fn the_last_disruption_is_taken_once() {
        let first = budget(
            Value::Null,
            json!({"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 1, "currentHealthy": 2}),
        );
        let charged = charge(&first).await.unwrap();
        assert!(charged.part("status.disruptedPods.p").is_string());
        assert_eq!(
            charged["status"]["conditions"][0]["reason"],
            "InsufficientPods"
        );
        let refused = charge(&charged).await.unwrap_err();
        let cause = &refused.details.as_ref().unwrap().causes[0];
        assert_eq!(
            cause.message,
            "The disruption budget b does not allow evicting pods currently"
        );
        let mut failing = charged;
        failing["status"]["conditions"][0]["reason"] = "SyncFailed".into();
        failing["status"]["conditions"][0]["message"] = "no scale".into();
        let refused = charge(&failing).await.unwrap_err();
        let cause = &refused.details.as_ref().unwrap().causes[0];
        assert_eq!(
            cause.message,
            "The disruption budget b does not allow evicting pods currently because it failed sync: no scale"
        );
        let mut young = failing;
        young["metadata"]["generation"] = 2.into();
        let refused = charge(&young).await.unwrap_err();
        assert_eq!(refused.details.as_ref().unwrap().retry_after_seconds, 10);
    }

    #[tokio::test]
    async fn pods_are_marked_once_and_only_in_the_state_meant() {
        let mut current = Current {
            object: Arc::new(pod("True")),
            revision: 7,
            stale: false,
        };
        let mut mark = Marking {
            uid: None,
            version: Some("7".to_owned()),
        };
        let Change::Write(marked) = mark.next(&current).await.unwrap() else {
            panic!("nothing written");
        };
        let condition = &marked["status"]["conditions"][1];
        assert_eq!(condition["type"], "DisruptionTarget");
        assert_eq!(condition["message"], "Eviction API: evicting");
        current.object = Arc::new(marked);
        assert!(matches!(mark.next(&current).await, Ok(Change::Keep(_))));
        current.revision = 8;
        let refused = mark.next(&current).await.err().unwrap();
        assert!(refused.is_conflict());
        assert_eq!(
            refused.message,
            "Operation cannot be fulfilled on Pod \"p\": the ResourceVersion in the precondition (7) does not match the ResourceVersion in record (8). The object might have been modified"
        );
    }
}
