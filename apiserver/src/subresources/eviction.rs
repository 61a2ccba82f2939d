//! `pods/<name>/eviction`: deletes a pod if its disruption budget allows that.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use keelson_admission::Operation;
use keelson_api::selector::Selector;
use keelson_api::status::Status;
use keelson_registry::access::Access;
use keelson_registry::rest::{DeleteOptions, timestamp};
use keelson_schema::Schema;
use serde::Deserialize;
use serde_json::Value;

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
    if !text(&eviction, "name").is_empty() && text(&eviction, "name") != name {
        return Err(Status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
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

    let pod = objects::live(server, resource, &namespace, &name)
        .await?
        .ok_or_else(|| Status::not_found(resource.qualified(), &name))?;
    let mut options = Options {
        delete: delete_options(&eviction),
        dry_run: write_options.dry_run,
    };
    if !needs_no_budget(&pod.object) {
        if let Some(budget) = budget_of(server, &namespace, &pod.object)? {
            let budgets = server
                .resources
                .cached_as(BUDGETS)
                .ok_or_else(|| Status::internal("no budgets"))?;
            let mut charge = Charging { pod: &name };
            objects::modify(
                server,
                &budgets,
                &namespace,
                text(&budget, "name"),
                options.dry_run,
                &mut charge,
            )
            .await?;
        }
        // What was charged for is this state of the pod.
        options
            .delete
            .resource_version
            .get_or_insert_with(|| pod.revision.to_string());
    }
    delete_one(server, &request, resource, &namespace, &name, &options).await?;
    let done = serde_json::to_value(Status::success(201)).map_err(Status::internal)?;
    Ok(response::object(&agreed, 201, &done))
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
        return Err(Status::failure(500, "InternalError", why));
    }
    Ok(first)
}

/// Takes one disruption from a budget.
struct Charging<'a> {
    pod: &'a str,
}

#[async_trait]
impl Step for Charging<'_> {
    async fn next(&mut self, current: &Current) -> ApiResult<Change> {
        let mut budget = Value::clone(&current.object);
        let refuse = |message: String| {
            Status::too_many_requests(REFUSED, 10).with_cause("DisruptionBudget", message, "")
        };
        let name = text(&budget, "name").to_owned();
        if budget.number("status.observedGeneration") < budget.number("metadata.generation") {
            return Err(refuse(format!(
                "The disruption budget {name} is still being processed by the server."
            )));
        }
        let allowed = budget.number("status.disruptionsAllowed");
        if allowed <= 0 {
            let (needs, has) = (
                budget.number("status.desiredHealthy"),
                budget.number("status.currentHealthy"),
            );
            return Err(refuse(format!(
                "The disruption budget {name} needs {needs} healthy pods and has {has} currently"
            )));
        }
        let disrupted = keelson_registry::access::slot(&mut budget, "status.disruptedPods");
        if disrupted
            .as_object()
            .is_some_and(|d| d.len() > MAX_DISRUPTED)
        {
            return Err(refuse(
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
                    .to_owned(),
            ));
        }
        disrupted[self.pod] = timestamp(Timestamp::now()).into();
        keelson_registry::access::set(&mut budget, "status.disruptionsAllowed", allowed - 1);
        Ok(Change::Write(budget))
    }
}
