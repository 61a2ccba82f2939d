//! Who may do what to claims on devices: administrators' access needs a label on the namespace, binding a claim and
//! reporting on its devices need rights of their own, whichever client writes the status.

use std::collections::BTreeSet;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::status::{Qualified, Status};
use keelson_auth::Attributes;
use keelson_registry::access::{Access, same};
use serde_json::Value;

use crate::request::Request;
use crate::resources::Resource;
use crate::response::ApiResult;
use crate::server::Server;

/// The label of namespaces whose claims may ask for administrators' access.
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";
/// Where a service account's token says on which node its pod is.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Checks a write of a claim, its template or its status; other resources of the group pass.
pub fn rights(
    server: &Server,
    request: &Request,
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
) -> ApiResult<()> {
    let mut errors = ErrorList::new();
    let namespace = object.text("metadata.namespace");
    match (&*resource.kind.plural, old) {
        ("resourceclaims", Some(old)) if request.info.subresource == "status" => {
            let path = "allocation.devices.results";
            let asked = admin_result(object.part("status").items(path));
            if admin_result(old.part("status").items(path)).is_none()
                && let Some(index) = asked
            {
                let list = Path::new("status.allocation.devices.results");
                let at = list.index(index);
                administered(server, namespace, &mut errors, &at.child("adminAccess"));
            }
            binding(server, request, &mut errors, object, old);
            if object.has("status.allocation") {
                devices(server, request, &mut errors, object, old);
            }
        }
        ("resourceclaims", None) => admin(server, namespace, &mut errors, object.part("spec")),
        ("resourceclaimtemplates", None) => {
            admin(server, namespace, &mut errors, object.part("spec.spec"));
        }
        _ => {}
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(
        Qualified::new(&resource.kind.group, &resource.kind.kind),
        object.text("metadata.name"),
        &errors,
    ))
}

fn admin_result(results: &[Value]) -> Option<usize> {
    results.iter().position(|r| r.flag("adminAccess"))
}

fn admin(server: &Server, namespace: &str, errors: &mut ErrorList, spec: &Value) {
    let requests = spec.items("devices.requests");
    if let Some(index) = requests.iter().position(|r| r.flag("exactly.adminAccess")) {
        let list = Path::new("spec.devices.requests");
        let at = list.index(index);
        administered(server, namespace, errors, &at.child("adminAccess"));
    }
}

fn administered(server: &Server, namespace: &str, errors: &mut ErrorList, path: &Path<'_>) {
    let labelled = server
        .cache
        .get("namespaces", "", namespace)
        .map(|entry| entry.is_some_and(|e| e.labels().get(ADMIN_LABEL) == Some("true")));
    match labelled {
        Ok(true) => {}
        Ok(false) => errors.push(Error::forbidden(
            path,
            format!(
                "admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"
            ),
        )),
        Err(error) => errors.push(Error::internal(
            path,
            format!("could not retrieve namespace to verify admin access: {error}"),
        )),
    }
}

fn asked(
    request: &Request,
    verb: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Attributes {
    let info = &request.info;
    Attributes {
        user: request.user.clone(),
        verb: verb.into(),
        api_group: info.group.clone(),
        api_version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        path: info.path.clone(),
        resource_request: true,
        ..Attributes::default()
    }
}

/// Why the caller may not, in the words of a refusal.
fn refusal(server: &Server, attributes: &Attributes) -> Option<String> {
    let answer = server.authorizer.authorize(attributes);
    (!answer.allowed()).then(|| {
        Status::forbidden(
            Qualified::new(&attributes.api_group, &attributes.resource),
            &attributes.name,
            attributes.forbidden_sentence(&answer.reason),
        )
        .message
        .clone()
    })
}

/// Allocating and reserving a claim is the scheduler's business, or that of who has its right.
fn binding(server: &Server, request: &Request, errors: &mut ErrorList, new: &Value, old: &Value) {
    let unchanged = ["status.allocation", "status.reservedFor"]
        .iter()
        .all(|path| same(new.part(path), old.part(path)));
    if unchanged {
        return;
    }
    let verb = &request.info.verb;
    if let Some(why) = refusal(server, &asked(request, verb, "binding", "", "")) {
        let path = Path::new("status.allocation");
        errors.push(Error::forbidden(
            &path,
            format!(
                "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {why}"
            ),
        ));
    }
}

/// A driver reports on its own devices, on its node or on any.
fn devices(server: &Server, request: &Request, errors: &mut ErrorList, new: &Value, old: &Value) {
    let drivers = changed_drivers(new.items("status.devices"), old.items("status.devices"));
    if drivers.is_empty() {
        return;
    }
    let verb = &request.info.verb;
    let mut verbs = vec![format!("arbitrary-node:{verb}")];
    if on_node(request, allocated_node(new)) {
        verbs.insert(0, format!("associated-node:{verb}"));
    }
    let namespace = new.text("metadata.namespace");
    for driver in drivers {
        let mut first = None;
        let allowed = verbs.iter().any(|verb| {
            let refused = refusal(server, &asked(request, verb, "driver", namespace, driver));
            let allowed = refused.is_none();
            first = first.take().or(refused);
            allowed
        });
        if !allowed {
            let path = Path::new("status.devices");
            errors.push(Error::forbidden(
                &path,
                format!(
                    "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {}",
                    verbs.join(" "),
                    first.unwrap_or_default()
                ),
            ));
        }
    }
}

/// The drivers of devices that came, went or changed.
fn changed_drivers<'v>(new: &'v [Value], old: &'v [Value]) -> BTreeSet<&'v str> {
    let id = |device: &'v Value| ["driver", "pool", "device", "shareID"].map(|k| device.text(k));
    let other = |device: &'v Value, list: &'v [Value]| list.iter().find(|d| id(d) == id(device));
    let changed = new
        .iter()
        .filter(|device| other(device, old).is_none_or(|before| !same(before, device)));
    let gone = old.iter().filter(|device| other(device, new).is_none());
    changed.chain(gone).map(|d| d.text("driver")).collect()
}

/// The node that a claim is allocated for, if it is one alone.
fn allocated_node(claim: &Value) -> Option<&str> {
    let terms = claim.items("status.allocation.nodeSelector.nodeSelectorTerms");
    let [term] = terms else { return None };
    let ([], [field]) = (term.items("matchExpressions"), term.items("matchFields")) else {
        return None;
    };
    match (
        field.text("key"),
        field.text("operator"),
        field.items("values"),
    ) {
        ("metadata.name", "In", [node]) => node.as_str(),
        _ => None,
    }
}

/// Whether the caller is a service account whose pod is on the node.
fn on_node(request: &Request, node: Option<&str>) -> bool {
    let user = &request.user;
    let named = user.extra.get(NODE_NAME).map(Vec::as_slice);
    match (node, named) {
        (Some(node), Some([name])) => {
            user.name.starts_with("system:serviceaccount:") && node == name && !node.is_empty()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn drivers_whose_devices_changed_are_found() {
        let device = |driver: &str, data: i64| json!({"driver": driver, "pool": "p", "device": "x", "data": {"n": data}});
        let old = [device("a", 1), device("b", 1), device("c", 1)];
        let new = [device("a", 1), device("b", 2), device("d", 1)];
        let drivers: Vec<&str> = changed_drivers(&new, &old).into_iter().collect();
        assert_eq!(drivers, ["b", "c", "d"]);
    }

    #[test]
    fn a_claim_for_one_node_is_told_from_others() {
        let claim = |selector: Value| json!({"status": {"allocation": {"nodeSelector": selector}}});
        let one = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]});
        assert_eq!(allocated_node(&claim(one)), Some("n"));
        let many = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n", "m"]}]}]});
        assert_eq!(allocated_node(&claim(many)), None);
        assert_eq!(allocated_node(&json!({})), None);
    }
}
