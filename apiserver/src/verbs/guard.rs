//! Writes that depend on the caller's rights or on other objects: nobody grants what they do not hold, and claims on
//! devices are bound by those who may.

use keelson_auth::rbac::escalation::{self, Write};
use serde_json::Value;

use crate::request::Request;
use crate::resources::Resource;
use crate::response::ApiResult;
use crate::server::Server;
use crate::verbs::{device_claims, policy_params};

/// Checks a write of a role or binding, of a claim on devices, or of an admission policy; other resources pass.
pub fn rights(
    server: &Server,
    request: &Request,
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
) -> ApiResult<()> {
    match &*resource.kind.group {
        "rbac.authorization.k8s.io" => {}
        "admissionregistration.k8s.io" => {
            return policy_params::rights(server, request, resource, object, old);
        }
        "resource.k8s.io" => return device_claims::rights(server, request, resource, object, old),
        _ => return Ok(()),
    }
    let write = Write {
        user: &request.user,
        resource: &resource.kind.plural,
        namespace: &request.info.namespace,
        request_name: request.info.path_name(),
        object,
        old,
    };
    escalation::check(&server.rbac, server.authorizer.as_ref(), &write)
}
