//! Defaults of what mutations brought into an object.

use keelson_registry::kinds;
use serde_json::Value;

use crate::request::Request;

/// Fills in the defaults of the request's kind.
pub fn fill(request: &Request, object: &mut Value) {
    let kind = &request.kind;
    let own = kinds::find(
        &request.resource.group,
        &request.resource.version,
        &request.resource.resource,
    );
    // The bodies of some subresources are of another kind, with defaults of its own.
    if let Some(own) = own.filter(|own| own.kind == kind.kind && own.group == kind.group) {
        own.strategy.default(object);
    }
}
