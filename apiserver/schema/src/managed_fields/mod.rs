//! Field ownership on every write: which manager owns which fields, server-side apply and its conflicts.
//!
//! [`update`] stands behind create, update and the other patches, [`apply`] behind server-side apply. Who the manager
//! is, which fields a strategy resets, and storing the result are the server's business.

mod compare;
mod element;
mod entries;
mod merge;
mod set;
mod typed;

use jiff::Timestamp;
use serde_json::{Map, Value};

pub use set::Set;

use crate::normalise::normalise;
use crate::types::Type;
use compare::{Comparison, compare};
use element::{PathElement, path_text};
use entries::{ManagerId, Managers, Operation, Owned};
use typed::Node;

/// kubectl's record of what it applied from the client's side.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The bound on an object's annotations together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Converts an object to another version, for managers that wrote through one; none where the version is gone.
pub type Convert<'a> = &'a dyn Fn(&Value, &str) -> Option<(Value, Type)>;

/// What both kinds of write have in common.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// The field manager; empty means unknown.
    pub manager: &'a str,
    /// The version of the request, as `apps/v1`.
    pub api_version: &'a str,
    /// The subresource, or nothing.
    pub subresource: &'a str,
    /// The time of an entry that changes.
    pub now: Timestamp,
    /// The object's type in that version.
    pub ty: &'a Type,
    /// The fields that this write doesn't own whatever it sends, as `status` on the main resource.
    pub reset: &'a Set,
    /// Conversion to the versions of other managers.
    pub convert: Convert<'a>,
}

/// A field that somebody else owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The owner, as `"kubectl" using apps/v1`.
    pub manager: String,
    /// The field, as `.spec.replicas`.
    pub path: String,
    element: Vec<PathElement>,
}

impl Conflict {
    /// The message of this conflict's cause in the Status, whose reason is `FieldManagerConflict`.
    pub fn message(&self) -> String {
        format!("conflict with {}", self.manager)
    }
}

/// Why a configuration can't be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own some of its fields: 409.
    #[error("{}", conflict_message(.0))]
    Conflict(Vec<Conflict>),
    /// The request makes no sense: 400.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration doesn't fit its type, which upstream answers with 500.
    #[error("{0}")]
    Internal(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            only.manager, only.path
        );
    }
    let mut lines: Vec<String> = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.path));
    }
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        lines.join("\n")
    )
}

/// Brings `new` into canonical form and records who owns what in it, on every write that isn't an apply.
///
/// `old` is the stored object, none on create.
pub fn update(write: &Write<'_>, old: Option<&Value>, new: &mut Value) {
    let sent = take_entries(new);
    normalise(new, write.ty);
    let stored = || old.and_then(stored_managers).unwrap_or_default();
    let mut managers = if !write.subresource.is_empty() {
        stored()
    } else {
        match sent.as_deref() {
            None => stored(),
            Some(entries) if is_reset(entries) => Managers::new(),
            Some(entries) => match entries::decode(entries) {
                Ok(managers) if !managers.is_empty() => managers,
                _ => stored(),
            },
        }
    };
    // an object that nobody's fields are known of isn't tracked before it is applied to
    let tracked = !managers.is_empty() || old.is_none_or(|old| uid(old).is_empty());
    if tracked {
        let empty;
        let old = match old {
            Some(old) => without_entries(old),
            None => {
                empty = empty_object(write.ty);
                empty
            }
        };
        record_update(write, &old, new, &mut managers, write.manager);
        entries::cap(&mut managers);
    }
    put_entries(new, &managers);
}

/// Lays a configuration over the live object (none where it is to be created) and records who owns what.
///
/// The result isn't decoded yet: it may hold nulls where fields were removed, and the configuration's spelling of
/// quantities and times. The server decodes, defaults and normalises it, and then calls [`keep_times`].
pub fn apply(
    write: &Write<'_>,
    live: Option<&Value>,
    config: &Value,
    force: bool,
) -> Result<Value, ApplyError> {
    if config
        .pointer("/metadata/managedFields")
        .is_some_and(|value| !value.is_null())
    {
        return Err(ApplyError::BadRequest(
            "metadata.managedFields must be nil".to_owned(),
        ));
    }
    let version = config
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if version != write.api_version {
        return Err(ApplyError::BadRequest(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            write.api_version
        )));
    }
    let mut managers = match live.map(stored_entries) {
        Some(Some(entries)) => entries::decode(entries).map_err(|error| {
            ApplyError::Internal(format!("failed to decode managed fields: {error}"))
        })?,
        _ => Managers::new(),
    };
    let is_new = live.is_none();
    let live = match live {
        Some(live) => without_entries(live),
        None => empty_object(write.ty),
    };
    if managers.is_empty() && !is_new {
        record_update(
            write,
            &empty_object(write.ty),
            &live,
            &mut managers,
            BEFORE_FIRST_APPLY,
        );
    }
    let outcome = apply_once(write, &live, config, managers.clone(), force);
    let outcome = match outcome {
        Err(ApplyError::Conflict(conflicts)) if write.manager == "kubectl" => {
            // what kubectl applied from the client's side before is its own
            match own_by_last_applied(write, &live) {
                None => Err(ApplyError::Conflict(conflicts)),
                Some(own) => {
                    let others: Vec<Conflict> = conflicts
                        .into_iter()
                        .filter(|conflict| !own.has(&conflict.element))
                        .collect();
                    if others.is_empty() {
                        apply_once(write, &live, config, managers, true)
                    } else {
                        Err(ApplyError::Conflict(others))
                    }
                }
            }
        }
        other => other,
    };
    let (mut object, managers) = outcome?;
    if write.manager == "kubectl" {
        renew_last_applied(&mut object, config);
    }
    put_entries(&mut object, &managers);
    Ok(object)
}

/// Lays a configuration over the live object without taking ownership of anything, as policies do. What can only be replaced as
/// a whole is refused, since the fields that the configuration leaves out would be lost.
///
/// The result isn't decoded yet, as that of [`apply`].
pub fn overlay(live: &Value, config: &Value, ty: &Type) -> Result<Value, String> {
    typed::validate(config, ty)
        .map_err(|error| format!("failed to convert patch object to typed object: {error}"))?;
    let node = Node::new(ty);
    let atomic = typed::atomics(config, node);
    if !atomic.is_empty() {
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomic.join(", ")
        ));
    }
    Ok(merge::merge(live, config, node))
}

/// Keeps the old times of managed fields where nothing else changed, so that a write without effect writes nothing.
pub fn keep_times(old: &Value, new: &mut Value) {
    let (Some(before), Some(after)) = (stored_entries(old), stored_entries(new)) else {
        return;
    };
    let timeless = |entries: &[Value]| -> Vec<Value> {
        let mut entries = entries.to_vec();
        for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
            entry.remove("time");
        }
        entries.sort_by_key(|entry| entry.to_string());
        entries
    };
    if timeless(before) == timeless(after) && without_entries(old) == without_entries(new) {
        let before = Value::Array(before.to_vec());
        if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("managedFields".to_owned(), before);
        }
    }
}

/// Takes from all managers what the write changed, and gives it to the one that wrote.
fn record_update(
    write: &Write<'_>,
    old: &Value,
    new: &Value,
    managers: &mut Managers,
    manager: &str,
) {
    let change = compare(old, new, Node::new(write.ty)).without(write.reset);
    take_over(write, old, new, &change, managers, None);
    let mut taken = change.modified.union(&change.added);
    taken = taken.difference(&identity_fields());
    if taken.is_empty() {
        return;
    }
    let id = ManagerId::new(
        manager,
        Operation::Update,
        write.api_version,
        write.subresource,
    );
    let owned = managers.entry(id).or_insert_with(|| Owned {
        set: Set::default(),
        api_version: write.api_version.to_owned(),
        time: None,
    });
    owned.set.add(&taken);
    owned.time = Some(write.now);
}

/// The paths that managers other than `applier` own and the write changed.
fn contested(
    write: &Write<'_>,
    old: &Value,
    new: &Value,
    change: &Comparison,
    managers: &mut Managers,
    applier: Option<&ManagerId>,
) -> Vec<(ManagerId, Set, Set)> {
    let mut contested = Vec::new();
    let mut gone = Vec::new();
    for (id, owned) in managers.iter() {
        if Some(id) == applier {
            continue;
        }
        let converted;
        let change = if owned.api_version == write.api_version {
            change
        } else {
            let versions = (write.convert)(old, &owned.api_version)
                .zip((write.convert)(new, &owned.api_version));
            let Some(((old, ty), (new, _))) = versions else {
                gone.push(id.clone()); // that version isn't served any more
                continue;
            };
            converted = compare(&old, &new, Node::new(&ty));
            &converted
        };
        let taken = owned
            .set
            .intersection(&change.modified.union(&change.added));
        contested.push((id.clone(), taken, change.removed.clone()));
    }
    for id in gone {
        managers.remove(&id);
    }
    contested
}

fn take_over(
    write: &Write<'_>,
    old: &Value,
    new: &Value,
    change: &Comparison,
    managers: &mut Managers,
    applier: Option<&ManagerId>,
) {
    for (id, taken, removed) in contested(write, old, new, change, managers, applier) {
        if let Some(owned) = managers.get_mut(&id) {
            owned.set = owned.set.difference(&taken).difference(&removed);
        }
    }
    managers.retain(|_, owned| !owned.set.is_empty());
}

fn apply_once(
    write: &Write<'_>,
    live: &Value,
    config: &Value,
    mut managers: Managers,
    force: bool,
) -> Result<(Value, Managers), ApplyError> {
    let node = Node::new(write.ty);
    typed::validate(config, write.ty).map_err(|error| {
        ApplyError::Internal(format!(
            "failed to create typed patch object ({}): {error}",
            describe(config)
        ))
    })?;
    let merged = merge::merge(live, config, node);
    let id = ManagerId::new(
        write.manager,
        Operation::Apply,
        write.api_version,
        write.subresource,
    );
    let last = managers.remove(&id);
    let applied = typed::field_set(config, node).recursive_difference(write.reset);
    managers.insert(
        id.clone(),
        Owned {
            set: applied,
            api_version: write.api_version.to_owned(),
            time: last.as_ref().and_then(|last| last.time),
        },
    );
    let merged = match &last {
        Some(last) if last.api_version == write.api_version => {
            prune(merged, &managers, &last.set, node)
        }
        _ => merged,
    };
    let change = compare(live, &merged, node).without(write.reset);
    if !force {
        let mut conflicts = Vec::new();
        for (owner, taken, _) in contested(write, live, &merged, &change, &mut managers, Some(&id))
        {
            taken.walk(&mut |path| {
                conflicts.push(Conflict {
                    manager: owner.describe(),
                    path: path_text(path),
                    element: path.to_vec(),
                });
            });
        }
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflict(conflicts));
        }
    }
    take_over(write, live, &merged, &change, &mut managers, Some(&id));
    if let Some(owned) = managers.get_mut(&id) {
        owned.set = owned.set.difference(&identity_fields());
        if merged != *live {
            owned.time = Some(write.now);
        }
    }
    managers.retain(|_, owned| !owned.set.is_empty());
    Ok((merged, managers))
}

/// Removes what the manager applied last time, doesn't apply now, and nobody else owns.
fn prune(merged: Value, managers: &Managers, last: &Set, node: Node<'_>) -> Value {
    if last.is_empty() {
        return merged;
    }
    let last = last.with_named_fields(node);
    let pruned = merge::remove(&merged, &last, node);
    let all = typed::field_set(&merged, node).with_named_fields(node);
    let mut claimed = Set::default();
    for owned in managers.values() {
        claimed.add(&owned.set);
    }
    let kept = typed::field_set(&pruned, node)
        .with_named_fields(node)
        .union(&claimed.with_named_fields(node));
    let pruned = merge::remove(&merged, &all.difference(&kept), node);
    // what nobody owns stays, unless the manager had it
    let left = typed::field_set(&pruned, node).with_named_fields(node);
    merge::remove(&merged, &all.difference(&left).intersection(&last), node)
}

/// The fields that kubectl's annotation says it applied and that still have that value.
fn own_by_last_applied(write: &Write<'_>, live: &Value) -> Option<Set> {
    let text = live
        .get("metadata")?
        .get("annotations")?
        .get(LAST_APPLIED)?
        .as_str()?;
    let last: Value = serde_json::from_str(text).ok()?;
    if last.get("apiVersion")?.as_str()? != write.api_version {
        return None;
    }
    typed::validate(&last, write.ty).ok()?;
    let node = Node::new(write.ty);
    let change = compare(&last, live, node);
    Some(
        typed::field_set(&last, node)
            .difference(&change.modified)
            .difference(&change.added)
            .difference(&change.removed),
    )
}

/// Writes kubectl's annotation anew where it's there, for older kubectls that read it.
fn renew_last_applied(object: &mut Value, config: &Value) {
    let Some(annotations) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let last = annotations.get(LAST_APPLIED).and_then(Value::as_str);
    if last.is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(own) = config
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        own.remove(LAST_APPLIED);
    }
    annotations.insert(
        LAST_APPLIED.to_owned(),
        Value::String(format!("{config}\n")),
    );
    let size: usize = annotations
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > MAX_ANNOTATIONS {
        annotations.remove(LAST_APPLIED);
    }
}

/// The fields that identify an object, which nobody owns.
fn identity_fields() -> Set {
    Set::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
}

/// `namespace/name; group/version, Kind=kind`, as upstream's messages have it.
fn describe(object: &Value) -> String {
    let text = |path: &str| {
        object
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    format!(
        "{}/{}; {}, Kind={}",
        text("/metadata/namespace"),
        text("/metadata/name"),
        match text("/apiVersion") {
            core if !core.contains('/') => format!("/{core}"),
            group => group.to_owned(),
        },
        text("/kind")
    )
}

fn uid(object: &Value) -> &str {
    object
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn empty_object(ty: &Type) -> Value {
    let mut empty = Value::Object(Map::new());
    normalise(&mut empty, ty);
    empty
}

fn is_reset(entries: &[Value]) -> bool {
    match entries {
        [] => true,
        [only] => only.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

fn stored_entries(object: &Value) -> Option<&[Value]> {
    object
        .pointer("/metadata/managedFields")?
        .as_array()
        .map(Vec::as_slice)
}

fn stored_managers(object: &Value) -> Option<Managers> {
    // an object with entries that can't be read counts as one without
    entries::decode(stored_entries(object)?).ok()
}

fn take_entries(object: &mut Value) -> Option<Vec<Value>> {
    match object
        .get_mut("metadata")?
        .as_object_mut()?
        .remove("managedFields")?
    {
        Value::Array(entries) => Some(entries),
        _ => None,
    }
}

fn without_entries(object: &Value) -> Value {
    let mut object = object.clone();
    take_entries(&mut object);
    object
}

fn put_entries(object: &mut Value, managers: &Managers) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    match entries::encode(managers) {
        Some(entries) => metadata.insert("managedFields".to_owned(), entries),
        None => metadata.remove("managedFields"),
    };
}

#[cfg(test)]
mod tests;
