//! Which part of the old object a part of the new one was: by name in maps, by key in lists that are maps.

use std::collections::HashMap;

use serde_json::Value;

use crate::schema::Schema;

/// Whether entries of an object can be found again in its old state.
pub fn map_is_granular(schema: &Schema) -> bool {
    schema.map_type.as_deref() != Some("atomic")
}

/// The old items of a list, by their keys.
pub struct Items<'o> {
    keys: Vec<String>,
    by_key: HashMap<String, Option<&'o Value>>,
}

impl<'o> Items<'o> {
    /// Indexes an old list; only lists that are maps have items that can be found.
    pub fn new(old: &'o Value, schema: &Schema) -> Items<'o> {
        let mut items = Items {
            keys: schema.map_keys.clone(),
            by_key: HashMap::new(),
        };
        if schema.list_type.as_deref() == Some("map") {
            for item in old.as_array().into_iter().flatten() {
                if let Some(key) = items.key(item) {
                    // What stands there twice can't be told apart.
                    items
                        .by_key
                        .entry(key)
                        .and_modify(|found| *found = None)
                        .or_insert(Some(item));
                }
            }
        }
        items
    }

    fn key(&self, item: &Value) -> Option<String> {
        let map = item.as_object()?;
        let values: Vec<&Value> = self
            .keys
            .iter()
            .map(|k| map.get(k).unwrap_or(&Value::Null))
            .collect();
        serde_json::to_string(&values).ok()
    }

    /// The old state of a new item.
    pub fn of(&self, item: &Value) -> Option<&'o Value> {
        if self.by_key.is_empty() {
            return None;
        }
        self.by_key.get(&self.key(item)?).copied().flatten()
    }
}
