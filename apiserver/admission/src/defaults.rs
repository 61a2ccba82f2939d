//! Default classes: which of several that are marked is the one.

use std::sync::Arc;

use keelson_registry::access::Access;
use serde_json::Value;

use crate::pod::annotation;

/// Of the classes that one of the annotations marks as default the newest, and of equally new ones the first by name.
pub fn newest(classes: Vec<Arc<Value>>, annotations: &[&str]) -> Option<Arc<Value>> {
    let marked = classes
        .into_iter()
        .filter(|c| annotations.iter().any(|a| annotation(c, a) == Some("true")));
    marked.max_by(|a, b| {
        // RFC 3339 in UTC sorts as text.
        let created = a
            .text("metadata.creationTimestamp")
            .cmp(b.text("metadata.creationTimestamp"));
        created.then_with(|| b.text("metadata.name").cmp(a.text("metadata.name")))
    })
}
