//! DELETE of one object: at once, gracefully, or when its finalizers are gone.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use keelson_admission::Operation;
use keelson_api::field::ErrorList;
use keelson_api::status::{Qualified, Status};
use keelson_registry::Context;
use keelson_registry::rest::{self, DeleteOptions, Deletion};
use keelson_schema::{FieldValidation, MediaType, Schema};
use serde_json::{Value, json};

use crate::context;
use crate::negotiate::{Encoding, Negotiated, Offers, body_encoding};
use crate::objects::{self, Change, Changed, Current, Step, text};
use crate::request::Request;
use crate::resources::Resource;
use crate::response::{self, ApiResult, Response};
use crate::server::Server;
use crate::verbs::admission::Write;
use crate::verbs::body::{Expected, decode_body, not_registered};
use crate::verbs::get::namespace_of;
use crate::verbs::{options, view};

/// Resources whose deletion answers the object itself.
const ANSWER_OBJECT: [&str; 12] = [
    "pods",
    "podtemplates",
    "services",
    "serviceaccounts",
    "resourcequotas",
    "persistentvolumes",
    "persistentvolumeclaims",
    "storageclasses.storage.k8s.io",
    "csinodes.storage.k8s.io",
    "csidrivers.storage.k8s.io",
    "volumeattachments.storage.k8s.io",
    "volumeattributesclasses.storage.k8s.io",
];

/// The options of a deletion.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the registry decides by.
    pub delete: DeleteOptions,
    /// Nothing is to be removed.
    pub dry_run: bool,
}

impl Options {
    /// Reads them from the body, or where there is none from the query.
    pub async fn read(request: &mut Request) -> ApiResult<Self> {
        let encoding = body_encoding(&request.headers)?;
        let body = request.read_body().await?;
        let mut errors = ErrorList::new();
        let options = if body.is_empty() {
            Self::of_query(request, &mut errors)?
        } else {
            request.audit.request_body(&body);
            Self::of_body(&body, encoding, &mut errors)?
        };
        if !errors.is_empty() {
            return Err(Status::invalid(
                Qualified::new("meta.k8s.io", "DeleteOptions"),
                "",
                &errors,
            ));
        }
        Ok(options)
    }

    fn of_query(request: &Request, errors: &mut ErrorList) -> ApiResult<Self> {
        let query = &request.query;
        Ok(Options {
            delete: DeleteOptions {
                grace_period: query.int("gracePeriodSeconds")?,
                propagation: query.non_empty("propagationPolicy").map(str::to_owned),
                orphan_dependents: query.optional_flag("orphanDependents"),
                uid: None,
                resource_version: None,
            },
            dry_run: options::dry_run(query.all("dryRun"), errors),
        })
    }

    fn of_body(body: &[u8], encoding: Encoding, errors: &mut ErrorList) -> ApiResult<Self> {
        let ty = Schema::builtin()
            .named("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
            .ok_or_else(|| Status::internal("no type for DeleteOptions"))?;
        let found = match encoding {
            Encoding::Json => keelson_schema::type_meta(body, MediaType::Json),
            Encoding::Yaml => keelson_schema::type_meta(body, MediaType::Yaml),
            Encoding::Protobuf => keelson_schema::protobuf::type_meta(body),
        }
        .map_err(|e| Status::bad_request(e.to_string()))?;
        if !matches!(found.kind.as_str(), "" | "DeleteOptions") {
            return Err(Status::bad_request(not_registered(
                &found.kind,
                &found.api_version,
            )));
        }
        let (group, version) = found
            .api_version
            .split_once('/')
            .unwrap_or(("", &found.api_version));
        let version = if version.is_empty() { "v1" } else { version };
        let expected = Expected {
            group,
            version,
            kind: "DeleteOptions",
            ty,
            custom: None,
        };
        let object = decode_body(body, encoding, &expected, FieldValidation::Ignore)
            .map_err(|mut e| {
                // Options are read by another codec than objects: its errors name no kind.
                let prefix =
                    r#"DeleteOptions in version "v1" cannot be handled as a DeleteOptions: "#;
                if let Some(bare) = e.message.strip_prefix(prefix) {
                    e.message = bare.to_owned();
                }
                e
            })?
            .object;
        let string = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let dry_run: Vec<&str> = object["dryRun"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        Ok(Options {
            delete: DeleteOptions {
                grace_period: object["gracePeriodSeconds"].as_i64(),
                propagation: string("/propagationPolicy"),
                orphan_dependents: object["orphanDependents"].as_bool(),
                uid: string("/preconditions/uid"),
                resource_version: string("/preconditions/resourceVersion"),
            },
            dry_run: options::dry_run(dry_run.into_iter(), errors),
        })
    }

    fn to_value(&self) -> Value {
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": self.delete.grace_period, "propagationPolicy": self.delete.propagation})
    }
}

/// Jobs leave their pods behind unless told otherwise, which surprises people.
pub fn warn_of_orphans(request: &Request, resource: &Resource, options: &Options) {
    let said = options.delete.propagation.is_some() || options.delete.orphan_dependents.is_some();
    if resource.kind.group == "batch" && resource.kind.plural == "jobs" && !said {
        request.warnings.extend(["child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning".to_owned()]);
    }
}

/// Answers DELETE.
pub async fn delete(
    server: &Arc<Server>,
    mut request: Request,
    resource: &Arc<Resource>,
) -> ApiResult<Response> {
    let agreed = request.negotiate(Offers::Views)?;
    let options = Options::read(&mut request).await?;
    warn_of_orphans(&request, resource, &options);
    let namespace = namespace_of(resource, &request.info.namespace).to_owned();
    let name = request.info.path_name().to_owned();
    let changed = delete_one(server, &request, resource, &namespace, &name, &options).await?;
    answer(resource, &agreed, &request, &options, &changed)
}

fn answer(
    resource: &Resource,
    agreed: &Negotiated,
    request: &Request,
    options: &Options,
    changed: &Changed,
) -> ApiResult<Response> {
    if !changed.removed || ANSWER_OBJECT.contains(&resource.id.as_str()) {
        let code = if !changed.removed && options.delete.orphan_dependents == Some(false) {
            202
        } else {
            200
        };
        return view::answer(resource, agreed, &request.query, code, &changed.object);
    }
    let status = Status::deleted(
        resource.qualified(),
        text(&changed.object, "name"),
        text(&changed.object, "uid"),
    );
    let value = serde_json::to_value(&status).map_err(Status::internal)?;
    Ok(response::object(
        &Negotiated {
            view: crate::negotiate::View::Object,
            ..*agreed
        },
        200,
        &value,
    ))
}

/// Deletes one object, or marks it as being deleted.
pub async fn delete_one(
    server: &Arc<Server>,
    request: &Request,
    resource: &Resource,
    namespace: &str,
    name: &str,
    options: &Options,
) -> ApiResult<Changed> {
    let mut step = Deleting {
        server,
        request,
        resource,
        namespace,
        name,
        options,
    };
    let changed = objects::modify(
        server,
        resource,
        namespace,
        name,
        options.dry_run,
        &mut step,
    )
    .await?;
    if changed.removed && !options.dry_run {
        server.addresses.removed(resource, &changed.object).await;
    }
    Ok(changed)
}

struct Deleting<'a> {
    server: &'a Arc<Server>,
    request: &'a Request,
    resource: &'a Resource,
    namespace: &'a str,
    name: &'a str,
    options: &'a Options,
}

#[async_trait]
impl Step for Deleting<'_> {
    async fn next(&mut self, current: &Current) -> ApiResult<Change> {
        let Deleting {
            server,
            request,
            resource,
            options,
            ..
        } = *self;
        let write = Write {
            server,
            request,
            resource,
            kind: None,
            namespace: if resource.kind.is_namespace() {
                self.name
            } else {
                self.namespace
            },
            name: self.name,
            options: options.to_value(),
            dry_run: options.dry_run,
        };
        let mut admitted = write.admission(Operation::Delete, None, Some(current.object.clone()));
        write.admit(&mut admitted).await?;
        write.validate(&mut admitted).await?;
        let context = Context {
            now: Timestamp::now(),
            user: context::user(&request.user),
            families: &server.options.service_families,
        };
        let mut object = Value::clone(&current.object);
        let decided = rest::before_delete(&resource.kind, &mut object, &options.delete, &context)?;
        Ok(match decided {
            _ if resource.kind.is_namespace() => namespace_deletion(object, decided, &context),
            Deletion::Remove => Change::Remove(object),
            Deletion::Mark => Change::Write(object),
            Deletion::Pending => Change::Keep(object),
        })
    }
}

/// A namespace goes only when its own finalizers, kept in its spec, are gone; until then it is terminating.
fn namespace_deletion(mut object: Value, decided: Deletion, context: &Context<'_>) -> Change {
    let empty = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
    };
    let was_marked = object.pointer("/status/phase").and_then(Value::as_str) == Some("Terminating")
        && !text(&object, "deletionTimestamp").is_empty();
    if was_marked && empty("/spec/finalizers") && empty("/metadata/finalizers") {
        return Change::Remove(object);
    }
    if was_marked && decided != Deletion::Mark {
        return Change::Keep(object);
    }
    if text(&object, "deletionTimestamp").is_empty() {
        object["metadata"]["deletionTimestamp"] = rest::timestamp(context.now).into();
    }
    object["status"]["phase"] = "Terminating".into();
    Change::Write(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_terminates_before_it_goes() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let fresh = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Change::Write(marked) = namespace_deletion(fresh, Deletion::Remove, &context) else {
            panic!("not marked")
        };
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert!(matches!(
            namespace_deletion(marked.clone(), Deletion::Remove, &context),
            Change::Keep(_)
        ));
        let mut emptied = marked;
        emptied["spec"]["finalizers"] = json!([]);
        assert!(matches!(
            namespace_deletion(emptied, Deletion::Remove, &context),
            Change::Remove(_)
        ));
    }
}
