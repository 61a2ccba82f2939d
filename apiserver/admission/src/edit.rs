//! Small changes to JSON objects, beside those of `keelson_registry::access`.

use serde_json::{Value, json};

/// Appends items to a list, making the list where there is none.
pub fn extend(list: &mut Value, items: Vec<Value>) {
    match list.as_array_mut() {
        Some(existing) => existing.extend(items),
        None => *list = json!(items),
    }
}
