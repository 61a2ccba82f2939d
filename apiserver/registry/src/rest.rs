//! The course of a write, the same for every kind: what happens to an object before it is stored or deleted.
//!
//! Decoding, admission and storing stand around these steps and belong to the API server.

use jiff::{SignedDuration, Timestamp};
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::NameRule;
use keelson_api::status::{Qualified, Status};
use rand::RngExt as _;
use serde_json::Value;

use crate::access::{Access, copy, remove, set, set_default};
use crate::kinds::Kind;
use crate::meta;
use crate::repeats;
use crate::strategy::{Context, Propagation, Strategy};

/// Letters of generated names: no vowels and nothing that looks alike, so that they spell no words.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest prefix of a generated name; five letters follow.
const PREFIX_MAX: usize = 58;

/// `prefix`, cut where it is too long, with five random letters.
#[must_use]
pub fn generate_name(prefix: &str) -> String {
    let mut end = prefix.len().min(PREFIX_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_string();
    let mut rng = rand::rng();
    for _ in 0..5 {
        name.push(char::from(LETTERS[rng.random_range(0..LETTERS.len())]));
    }
    name
}

/// Times are written to the second.
#[must_use]
pub fn timestamp(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second())
        .unwrap_or(now)
        .to_string()
}

/// Gives a new object what the server alone decides: UID, creation time, a generated name; and takes away a deletion's traces.
/// Done before admission, so that plugins see the name.
pub fn fill_metadata(object: &mut Value, context: &Context<'_>) {
    set(object, "metadata.uid", uuid::Uuid::new_v4().to_string());
    set(object, "metadata.creationTimestamp", timestamp(context.now));
    for field in [
        "metadata.deletionTimestamp",
        "metadata.deletionGracePeriodSeconds",
        "metadata.selfLink",
        "metadata.resourceVersion",
    ] {
        remove(object, field);
    }
    if object.text("metadata.name").is_empty() && !object.text("metadata.generateName").is_empty() {
        let name = generate_name(object.text("metadata.generateName"));
        set(object, "metadata.name", name);
    }
}

/// The last steps before a new object is stored: its initial state, and whether it is valid. Answers the warnings.
pub fn before_create(
    kind: &Kind,
    object: &mut Value,
    context: &Context<'_>,
) -> Result<Vec<String>, Status> {
    for field in [
        "metadata.deletionTimestamp",
        "metadata.deletionGracePeriodSeconds",
    ] {
        remove(object, field);
    }
    kind.strategy.prepare_for_create(object, context);
    let mut errors = meta::validate(object, kind.strategy.name_rule(), kind.namespaced);
    errors.extend(kind.strategy.validate(object, context));
    invalid(kind, object, &errors)?;
    Ok(kind.strategy.warnings(object, None))
}

/// The last steps before a changed object is stored; `strategy` is the kind's or that of the subresource. Answers the warnings.
pub fn before_update(
    kind: &Kind,
    strategy: &dyn Strategy,
    new: &mut Value,
    old: &Value,
    context: &Context<'_>,
) -> Result<Vec<String>, Status> {
    copy(new, old, "metadata.generation");
    remove(new, "metadata.selfLink");
    strategy.prepare_for_update(new, old, context);
    if new.is_blank("metadata.uid") {
        copy(new, old, "metadata.uid");
    }
    copy(new, old, "metadata.creationTimestamp");
    for field in [
        "metadata.deletionTimestamp",
        "metadata.deletionGracePeriodSeconds",
    ] {
        // An update can neither end a deletion nor forget how long it may take.
        if old.has(field) && (field == "metadata.deletionTimestamp" || !new.has(field)) {
            copy(new, old, field);
        }
    }
    let mut errors = meta::validate(new, NameRule::PathSegment, kind.namespaced);
    errors.extend(meta::validate_update(new, old));
    errors.extend(repeats::update(kind, new, old));
    errors.extend(strategy.validate_update(new, old, context));
    invalid(kind, new, &errors)?;
    Ok(strategy.warnings(new, Some(old)))
}

fn invalid(kind: &Kind, object: &Value, errors: &ErrorList) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(
        Qualified::new(&kind.group, &kind.kind),
        object.text("metadata.name"),
        errors,
    ))
}

/// The error of an update without a resource version where the kind asks for one.
#[must_use]
pub fn resource_version_required(kind: &Kind, name: &str) -> Status {
    let meta = Path::new("metadata");
    let error = Error::invalid(
        &meta.child("resourceVersion"),
        0,
        "must be specified for an update",
    );
    // Upstream names the resource here, not the kind.
    Status::invalid(Qualified::new(&kind.group, &kind.plural), name, &[error])
}

/// What a client asks of a deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds that the object may take to end.
    pub grace_period: Option<i64>,
    /// What becomes of dependents: `Background`, `Foreground` or `Orphan`.
    pub propagation: Option<String>,
    /// The old form of `Orphan` and `Background`.
    pub orphan_dependents: Option<bool>,
    /// The UID the object must have.
    pub uid: Option<String>,
    /// The resource version the object must have.
    pub resource_version: Option<String>,
}

/// What a deletion comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Deletion {
    /// The object is to be removed from the store.
    Remove,
    /// The object is to be stored as it is now: it waits for its end or its finalizers.
    Mark,
    /// The object is already ending; nothing changes.
    Pending,
}

/// Decides what deleting `object` does, and marks it accordingly. The object must carry its resource version if that is a precondition.
pub fn before_delete(
    kind: &Kind,
    object: &mut Value,
    options: &DeleteOptions,
    context: &Context<'_>,
) -> Result<Deletion, Status> {
    check_options(options)?;
    check_preconditions(kind, object, options)?;
    if let Some(staged) = kind.strategy.delete_in_stages(object, context) {
        set_propagation_finalizers(kind, object, options);
        return Ok(staged);
    }
    // Pods wait for the kubelet, everything else (and a pod without grace) for its finalizers only.
    let graceful = mark_graceful(kind, object, options, context);
    if graceful == Graceful::Pending {
        return Ok(Deletion::Pending);
    }
    let finalizers_changed = set_propagation_finalizers(kind, object, options);
    let waits = !object.is_blank("metadata.finalizers");
    match graceful {
        Graceful::Marked(period) if period > 0 || waits => Ok(Deletion::Mark),
        Graceful::Not if waits => {
            let first = mark_deleting(object, context);
            Ok(if first || finalizers_changed {
                Deletion::Mark
            } else {
                Deletion::Pending
            })
        }
        _ => Ok(Deletion::Remove),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Graceful {
    /// The kind or the object knows no grace.
    Not,
    /// Newly marked, or its time shortened, with this period.
    Marked(i64),
    /// Marked before; nothing changes.
    Pending,
}

fn check_options(options: &DeleteOptions) -> Result<(), Status> {
    const POLICIES: [&str; 4] = ["Foreground", "Background", "Orphan", "nil"];
    let path = Path::new("propagationPolicy");
    let mut errors = ErrorList::new();
    if let Some(policy) = &options.propagation {
        if options.orphan_dependents.is_some() {
            errors.push(Error::invalid(
                &path,
                policy,
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        if !POLICIES[..3].contains(&policy.as_str()) {
            errors.push(Error::not_supported(&path, policy, &POLICIES));
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(
            Qualified::new("meta.k8s.io", "DeleteOptions"),
            "",
            &errors,
        ))
    }
}

fn check_preconditions(kind: &Kind, object: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let what = Qualified::new(&kind.group, &kind.kind);
    let (uid, version) = (
        object.text("metadata.uid"),
        object.text("metadata.resourceVersion"),
    );
    if let Some(wanted) = options.uid.as_deref().filter(|w| *w != uid) {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(what, object.text("metadata.name"), why));
    }
    if let Some(wanted) = options
        .resource_version
        .as_deref()
        .filter(|w| *w != version)
    {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        );
        return Err(Status::conflict(what, object.text("metadata.name"), why));
    }
    Ok(())
}

/// Sets deletion time and grace period if the kind ends gracefully.
fn mark_graceful(
    kind: &Kind,
    object: &mut Value,
    options: &DeleteOptions,
    context: &Context<'_>,
) -> Graceful {
    const DELETED: &str = "metadata.deletionTimestamp";
    const GRACE: &str = "metadata.deletionGracePeriodSeconds";
    // A negative period is as good as a second.
    let requested = options.grace_period.map(|s| if s < 0 { 1 } else { s });
    let Some(period) = kind.strategy.grace_period(object, requested) else {
        return Graceful::Not;
    };
    if let Some(deleted) = crate::print::time(object, DELETED) {
        // Already ending: the time left may only be shortened, and a period of nought recovers a deletion that got stuck.
        let current = object.number(GRACE);
        if current == 0 {
            return Graceful::Not;
        }
        return match requested {
            Some(shorter) if shorter < current => {
                let moved = deleted
                    .saturating_sub(SignedDuration::from_secs(current - shorter))
                    .unwrap_or(deleted);
                set(object, DELETED, timestamp(moved));
                set(object, GRACE, shorter);
                Graceful::Marked(shorter)
            }
            _ => Graceful::Pending,
        };
    }
    let until = context
        .now
        .saturating_add(SignedDuration::from_secs(period))
        .unwrap_or(context.now);
    set(object, DELETED, timestamp(until));
    set(object, GRACE, period);
    count_if_counted(object);
    Graceful::Marked(period)
}

fn count_if_counted(object: &mut Value) {
    let generation = object.number("metadata.generation");
    if generation > 0 {
        set(object, "metadata.generation", generation + 1);
    }
}

/// Marks an object that waits for finalizers as being deleted; says whether it was not yet.
fn mark_deleting(object: &mut Value, context: &Context<'_>) -> bool {
    if object.has("metadata.deletionTimestamp") {
        set_default(object, "metadata.deletionGracePeriodSeconds", 0);
        return false;
    }
    set(object, "metadata.deletionTimestamp", timestamp(context.now));
    set(object, "metadata.deletionGracePeriodSeconds", 0);
    count_if_counted(object);
    true
}

/// Adds or removes the garbage collector's finalizers according to what the client wants of dependents; says whether that changed anything.
fn set_propagation_finalizers(kind: &Kind, object: &mut Value, options: &DeleteOptions) -> bool {
    const ORPHAN: &str = "orphan";
    const FOREGROUND: &str = "foregroundDeletion";
    let default = kind.strategy.default_propagation();
    if default == Propagation::Unsupported {
        return false;
    }
    let old: Vec<String> = object
        .items("metadata.finalizers")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_string)
        .collect();
    let has = |name: &str| old.iter().any(|f| f == name);
    let wanted = match (options.propagation.as_deref(), options.orphan_dependents) {
        (Some("Orphan"), _) | (None, Some(true)) => Some(ORPHAN),
        (Some("Foreground"), _) => Some(FOREGROUND),
        (Some(_), _) | (None, Some(false)) => None,
        // Nothing was asked for: a finalizer that is there already says what to do.
        (None, None) if has(ORPHAN) => Some(ORPHAN),
        (None, None) if has(FOREGROUND) => Some(FOREGROUND),
        (None, None) if default == Propagation::Orphan => Some(ORPHAN),
        (None, None) => None,
    };
    let mut new: Vec<String> = old
        .iter()
        .filter(|f| *f != ORPHAN && *f != FOREGROUND)
        .cloned()
        .collect();
    if let Some(wanted) = wanted {
        new.push(wanted.into());
    }
    let changed = new.len() != old.len() || !new.iter().all(|f| old.contains(f));
    if changed {
        if new.is_empty() {
            remove(object, "metadata.finalizers");
        } else {
            set(object, "metadata.finalizers", new);
        }
    }
    changed
}

/// Whether a changed object that is being deleted has nothing left to wait for, and so is to be removed instead of stored.
#[must_use]
pub fn deletion_complete(kind: &Kind, new: &Value, old: &Value) -> bool {
    old.has("metadata.deletionTimestamp")
        && new.is_blank("metadata.finalizers")
        && kind.strategy.may_disappear(new)
        // A pod that ends gracefully is removed by the kubelet's own deletion.
        && old.number("metadata.deletionGracePeriodSeconds") == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use serde_json::json;

    fn now() -> Context<'static> {
        Context::at(Timestamp::from_second(1_700_000_000).unwrap())
    }

    #[test]
    fn generated_names_fit() {
        let name = generate_name(&"a".repeat(80));
        assert_eq!(name.len(), 63);
        assert!(generate_name("web-").starts_with("web-"));
    }

    #[test]
    fn a_plain_object_is_removed_at_once() {
        let kind = kinds::find("", "v1", "configmaps").unwrap();
        let mut object = json!({"metadata": {"name": "a", "uid": "1"}});
        assert_eq!(
            before_delete(kind, &mut object, &DeleteOptions::default(), &now()).unwrap(),
            Deletion::Remove
        );
    }

    #[test]
    fn finalizers_hold_an_object() {
        let kind = kinds::find("", "v1", "configmaps").unwrap();
        let mut object =
            json!({"metadata": {"name": "a", "uid": "1", "finalizers": ["a/b"], "generation": 2}});
        assert_eq!(
            before_delete(kind, &mut object, &DeleteOptions::default(), &now()).unwrap(),
            Deletion::Mark
        );
        assert_eq!(
            object.text("metadata.deletionTimestamp"),
            "2023-11-14T22:13:20Z"
        );
        assert_eq!(
            (
                object.number("metadata.generation"),
                object.number("metadata.deletionGracePeriodSeconds")
            ),
            (3, 0)
        );
        assert_eq!(
            before_delete(kind, &mut object, &DeleteOptions::default(), &now()).unwrap(),
            Deletion::Pending
        );
        let mut freed = object.clone();
        remove(&mut freed, "metadata.finalizers");
        assert!(deletion_complete(kind, &freed, &object));
    }

    #[test]
    fn propagation_becomes_finalizers() {
        let kind = kinds::find("", "v1", "configmaps").unwrap();
        let mut object = json!({"metadata": {"name": "a", "uid": "1"}});
        let options = DeleteOptions {
            propagation: Some("Foreground".into()),
            ..Default::default()
        };
        assert_eq!(
            before_delete(kind, &mut object, &options, &now()).unwrap(),
            Deletion::Mark
        );
        assert_eq!(
            object.part("metadata.finalizers"),
            &json!(["foregroundDeletion"])
        );
    }

    #[test]
    fn preconditions_are_checked() {
        let kind = kinds::find("", "v1", "configmaps").unwrap();
        let mut object = json!({"metadata": {"name": "a", "uid": "1"}});
        let options = DeleteOptions {
            uid: Some("2".into()),
            ..Default::default()
        };
        assert_eq!(
            before_delete(kind, &mut object, &options, &now())
                .unwrap_err()
                .message,
            "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (2) does not match the UID in record (1). The object might have been deleted and then recreated"
        );
    }
}
