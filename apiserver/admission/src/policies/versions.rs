//! Objects of built-in kinds in other versions, and what is equivalent to what: resources that are stored in the same place.

use keelson_registry::kinds;
use serde_json::Value;

use crate::request::{Kind, Resource};

/// The resources under which the same objects are served, apart from `resource` itself, with their kinds.
pub(super) fn equivalents(resource: &Resource) -> impl Iterator<Item = (Resource, Kind)> {
    let own = kinds::find(&resource.group, &resource.version, &resource.resource)
        .filter(|own| own.is_stored());
    own.into_iter().flat_map(|own| {
        kinds::ALL
            .iter()
            .filter(move |other| other.prefix == own.prefix && !std::ptr::eq(*other, own))
            .map(|other| {
                let resource = Resource {
                    group: other.group.to_string(),
                    version: other.version.to_string(),
                    resource: other.plural.to_string(),
                };
                let kind = Kind {
                    group: other.group.to_string(),
                    version: other.version.to_string(),
                    kind: other.kind.to_string(),
                };
                (resource, kind)
            })
    })
}

/// An object in another version of its kind.
pub(super) fn convert(object: &Value, from: &Kind, to: &Kind) -> Value {
    let mut converted = object.clone();
    let find = |kind: &Kind| kinds::find_kind(&kind.group, &kind.version, &kind.kind);
    if let (Some(from), Some(to)) = (find(from), find(to)) {
        from.strategy.to_storage(&mut converted);
        to.strategy.from_storage(&mut converted);
        if let Some(fields) = converted.as_object_mut() {
            fields.insert("apiVersion".into(), to.api_version().into());
            fields.insert("kind".into(), to.kind.to_string().into());
        }
    }
    converted
}
