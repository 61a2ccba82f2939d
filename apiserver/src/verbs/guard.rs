//! Nobody grants what they do not hold: writes of roles and bindings are held against the caller's own rights.

use keelson_auth::rbac::escalation::{self, Write};
use serde_json::Value;

use crate::request::Request;
use crate::resources::Resource;
use crate::response::ApiResult;
use crate::server::Server;

/// Checks a write of a role or binding; other resources pass.
pub fn rights(
    server: &Server,
    request: &Request,
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
) -> ApiResult<()> {
    if resource.kind.group != "rbac.authorization.k8s.io" {
        return Ok(());
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
