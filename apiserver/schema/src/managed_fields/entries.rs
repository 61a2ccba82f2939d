//! `metadata.managedFields`: who manages which paths, read and written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::set::Set;
use crate::time;

/// More update managers than these are merged into one.
const MAX_UPDATE_MANAGERS: usize = 10;
const OLD_UPDATES: &str = "ancient-changes";

/// What a manager did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// Who an entry belongs to. An applier keeps its entry when it changes the version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ManagerId {
    pub(super) manager: String,
    pub(super) operation: Operation,
    /// Empty for appliers.
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl ManagerId {
    pub(super) fn new(
        manager: &str,
        operation: Operation,
        api_version: &str,
        subresource: &str,
    ) -> ManagerId {
        ManagerId {
            manager: if manager.is_empty() {
                "unknown".to_owned()
            } else {
                manager.to_owned()
            },
            operation,
            api_version: match operation {
                Operation::Apply => String::new(),
                Operation::Update => api_version.to_owned(),
            },
            subresource: subresource.to_owned(),
        }
    }

    /// The manager as conflicts name it.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text += &format!(" using {}", self.api_version);
        }
        text
    }
}

/// What a manager owns.
#[derive(Clone, Debug)]
pub(super) struct Owned {
    pub(super) set: Set,
    pub(super) api_version: String,
    pub(super) time: Option<Timestamp>,
}

/// All managers of an object.
pub(super) type Managers = BTreeMap<ManagerId, Owned>;

/// Reads `metadata.managedFields`.
pub(super) fn decode(entries: &[Value]) -> Result<Managers, String> {
    let mut managers = Managers::new();
    for (at, entry) in entries.iter().enumerate() {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
            other => {
                return Err(format!(
                    "invalid fieldsType {other:?} in managed fields entry {at}"
                ));
            }
        }
        let id = ManagerId {
            manager: text("manager").to_owned(),
            operation,
            api_version: match operation {
                Operation::Apply => String::new(),
                Operation::Update => api_version.to_owned(),
            },
            subresource: text("subresource").to_owned(),
        };
        let set = Set::decode(entry.get("fieldsV1").unwrap_or(&Value::Null))
            .map_err(|error| format!("error decoding set: {error}"))?;
        let time = entry
            .get("time")
            .and_then(Value::as_str)
            .and_then(|text| time::parse(text, time::RFC3339).ok());
        let api_version = api_version.to_owned();
        managers.insert(
            id,
            Owned {
                set,
                api_version,
                time,
            },
        );
    }
    Ok(managers)
}

/// Writes `metadata.managedFields`; none where nobody manages anything.
pub(super) fn encode(managers: &Managers) -> Option<Value> {
    if managers.is_empty() {
        return None;
    }
    let mut sorted: Vec<(&ManagerId, &Owned)> = managers.iter().collect();
    sorted.sort_by(|(a, owned_a), (b, owned_b)| {
        let seconds = |owned: &Owned| owned.time.map_or(0, |time| time.as_second());
        (a.operation, seconds(owned_a), &a.manager)
            .cmp(&(b.operation, seconds(owned_b), &b.manager))
            .then_with(|| owned_a.api_version.cmp(&owned_b.api_version))
            .then_with(|| a.subresource.cmp(&b.subresource))
    });
    let entries = sorted.into_iter().map(|(id, owned)| {
        let mut entry = Map::new();
        let mut put = |name: &str, value: Value| entry.insert(name.to_owned(), value);
        put("manager", Value::from(id.manager.as_str()));
        put(
            "operation",
            Value::from(match id.operation {
                Operation::Apply => "Apply",
                Operation::Update => "Update",
            }),
        );
        put("apiVersion", Value::from(owned.api_version.as_str()));
        if let Some(time) = owned.time {
            put("time", Value::from(time::format(time)));
        }
        put("fieldsType", Value::from("FieldsV1"));
        put("fieldsV1", owned.set.encode());
        if !id.subresource.is_empty() {
            put("subresource", Value::from(id.subresource.as_str()));
        }
        Value::Object(entry)
    });
    Some(Value::Array(entries.collect()))
}

/// Merges the oldest update managers of a version where there are too many.
pub(super) fn cap(managers: &mut Managers) {
    let mut updaters: Vec<(i64, ManagerId)> = managers
        .iter()
        .filter(|(id, _)| id.operation == Operation::Update)
        .map(|(id, owned)| (owned.time.map_or(0, |time| time.as_second()), id.clone()))
        .collect();
    let mut count = updaters.len();
    if count <= MAX_UPDATE_MANAGERS {
        return;
    }
    updaters.sort();
    let mut first_of: BTreeMap<String, ManagerId> = BTreeMap::new();
    for (_, id) in updaters {
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        let version = id.api_version.clone();
        let Some(first) = first_of.get(&version) else {
            first_of.insert(version, id);
            continue;
        };
        let bucket = ManagerId::new(OLD_UPDATES, Operation::Update, &version, "");
        if !managers.contains_key(&bucket)
            && let Some(owned) = managers.remove(first)
        {
            managers.insert(bucket.clone(), owned);
        }
        if id != bucket
            && let Some(owned) = managers.remove(&id)
        {
            if let Some(gathered) = managers.get_mut(&bucket) {
                gathered.set.add(&owned.set);
                gathered.time = owned.time;
            }
            count -= 1;
        }
    }
}
