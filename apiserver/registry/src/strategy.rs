//! What a kind must say about itself so that the generic machinery can create, change, delete and show its objects.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use keelson_api::field::ErrorList;
use keelson_api::names::NameRule;
use serde_json::Value;

use crate::access::Access;
use crate::columns::{self, Column};

/// Who sends a request, as far as an object records it.
#[derive(Clone, Copy, Debug)]
pub struct UserInfo<'a> {
    /// The user's name.
    pub name: &'a str,
    /// The user's UID.
    pub uid: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
    /// What else the authenticator knows.
    pub extra: &'a BTreeMap<String, Vec<String>>,
}

static NO_EXTRA: BTreeMap<String, Vec<String>> = BTreeMap::new();

impl Default for UserInfo<'_> {
    fn default() -> Self {
        UserInfo {
            name: "",
            uid: "",
            groups: &[],
            extra: &NO_EXTRA,
        }
    }
}

/// A family of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// As Services name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// What a strategy may know of the request and the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time of the request.
    pub now: Timestamp,
    /// Who sends it.
    pub user: UserInfo<'a>,
    /// The families of the cluster's Service ranges, the preferred one first.
    pub families: &'a [Family],
}

impl Context<'_> {
    /// A context at `now`, with an anonymous user, in an IPv4 cluster.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Context {
            now,
            user: UserInfo::default(),
            families: &[Family::V4],
        }
    }
}

/// What deleting an object without a word on dependents does to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The garbage collector deletes them afterwards.
    Background,
    /// They are left alone, as the oldest workload APIs have it.
    Orphan,
    /// The kind has no dependents to speak of.
    Unsupported,
}

/// A kind's rules. Every method works on objects as JSON in the kind's served version.
///
/// The order is upstream's: a body is decoded and [`default`](Strategy::default)ed; admission changes it;
/// [`prepare_for_create`](Strategy::prepare_for_create) or [`prepare_for_update`](Strategy::prepare_for_update) removes
/// what a client may not set; validation looks at the outcome. Metadata is checked by [`crate::rest`].
pub trait Strategy: Sync {
    /// Whether objects may be created and changed. What is not writable can be read, listed, watched.
    fn writable(&self) -> bool {
        true
    }

    /// The strategy of writes to a subresource that takes the kind itself: `status`, `resize`, `approval`…
    fn subresource(&self, _name: &str) -> Option<&dyn Strategy> {
        None
    }

    /// How the object's name is checked.
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    /// Fills in what was left out. Applied to every body and to every object read from the store.
    fn default(&self, _object: &mut Value) {}

    /// Brings a new object into its initial state.
    fn prepare_for_create(&self, _object: &mut Value, _context: &Context<'_>) {}

    /// Everything wrong with a new object, its metadata aside.
    fn validate(&self, _object: &Value, _context: &Context<'_>) -> ErrorList {
        ErrorList::new()
    }

    /// Undoes changes that an update may not make silently, and counts generations.
    fn prepare_for_update(&self, _new: &mut Value, _old: &Value, _context: &Context<'_>) {}

    /// Undoes what an update of the status leaves behind; the rest of the object is already as it was.
    fn prepare_status(&self, _new: &mut Value, _old: &Value) {}

    /// Everything wrong with a changed object, its metadata aside.
    fn validate_update(&self, new: &Value, _old: &Value, context: &Context<'_>) -> ErrorList {
        self.validate(new, context)
    }

    /// What the client should be warned of; `old` is there on updates.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Whether a PUT of a name that does not exist creates it.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether an update may leave out the resource version.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// How long a deletion must wait for a graceful end: `None` where the kind knows no such thing.
    fn grace_period(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// For kinds whose deletion has stages of its own: moves the object to the next stage and says what to do, or
    /// `None` where the ordinary course applies.
    fn delete_in_stages(
        &self,
        _object: &mut Value,
        _context: &Context<'_>,
    ) -> Option<crate::rest::Deletion> {
        None
    }

    /// Whether an object that is being deleted and has no metadata finalizers left may be removed.
    fn may_disappear(&self, _object: &Value) -> bool {
        true
    }

    /// What becomes of dependents if the client says nothing.
    fn default_propagation(&self) -> Propagation {
        Propagation::Background
    }

    /// Paths that writes through this endpoint do not own, whoever sends them.
    fn reset_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// The columns of the kind's table.
    fn columns(&self) -> &'static [Column] {
        columns::DEFAULT
    }

    /// The column definitions of a custom resource's table, as JSON; empty where [`columns`](Strategy::columns) has them.
    fn custom_columns(&self) -> &[Value] {
        &[]
    }

    /// The cells of an object's row, one a column.
    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        vec![
            object.text("metadata.name").into(),
            object.part("metadata.creationTimestamp").clone(),
        ]
    }

    /// The labels of fields the kind can be selected by, beside name and namespace.
    fn field_labels(&self) -> &'static [&'static str] {
        &[]
    }

    /// The same for custom resources, whose fields are known at run time only.
    fn custom_field_labels(&self) -> &[String] {
        &[]
    }

    /// The value of a selectable field; absent ones are empty.
    fn field<'o>(&self, object: &'o Value, label: &str) -> Cow<'o, str> {
        path_field(object, label)
    }

    /// Turns a valid object in the served version into the form that is stored.
    fn to_storage(&self, _object: &mut Value) {}

    /// Turns a stored object into the served version.
    #[expect(
        clippy::wrong_self_convention,
        reason = "the counterpart of `to_storage`"
    )]
    fn from_storage(&self, _object: &mut Value) {}
}

/// The value of a selectable field whose label is its path.
#[must_use]
pub fn path_field<'o>(object: &'o Value, label: &str) -> Cow<'o, str> {
    match object.part(label) {
        Value::String(s) => Cow::Borrowed(s.as_str()),
        Value::Bool(b) => Cow::Borrowed(if *b { "true" } else { "false" }),
        Value::Number(n) => Cow::Owned(n.to_string()),
        _ => Cow::Borrowed(""),
    }
}

/// Makes `status` and everything else a client may not set on create disappear, and starts counting generations.
pub fn reset_new(object: &mut Value, counts_generations: bool) {
    crate::access::remove(object, "status");
    if counts_generations {
        crate::access::set(object, "metadata.generation", 1);
    }
}

/// Counts a generation if `spec` changed.
pub fn count_generation(new: &mut Value, old: &Value) {
    let generation = old.number("metadata.generation");
    if crate::access::same(new.part("spec"), old.part("spec")) {
        if generation > 0 {
            crate::access::set(new, "metadata.generation", generation);
        }
    } else {
        crate::access::set(new, "metadata.generation", generation + 1);
    }
}

/// The `status` subresource of a kind: changes the status and leaves the rest.
pub struct StatusUpdate {
    /// The kind itself, which defaults and shows the object.
    pub kind: &'static dyn Strategy,
    /// What of the metadata a status update leaves as it was.
    pub keep: Keep,
    /// What may be wrong with the new status.
    pub check: fn(new: &Value, old: &Value) -> ErrorList,
}

/// What of the metadata a status update leaves as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Labels and annotations may change.
    Nothing,
    /// Labels stay.
    Labels,
    /// All of it stays.
    Metadata,
}

/// For kinds whose status needs no checks of its own.
#[must_use]
pub fn no_check(_new: &Value, _old: &Value) -> ErrorList {
    ErrorList::new()
}

impl Strategy for StatusUpdate {
    fn writable(&self) -> bool {
        self.kind.writable()
    }

    fn name_rule(&self) -> NameRule {
        self.kind.name_rule()
    }

    fn default(&self, object: &mut Value) {
        self.kind.default(object);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        use crate::access::copy;
        for (key, value) in old.as_object().into_iter().flatten() {
            if !matches!(key.as_str(), "status" | "metadata") {
                crate::access::set(new, key, value.clone());
            }
        }
        if !old.has("spec") {
            crate::access::remove(new, "spec");
        }
        let kept: &[&str] = match self.keep {
            Keep::Nothing => &[],
            Keep::Labels => &["metadata.labels"],
            Keep::Metadata => &[
                "metadata.labels",
                "metadata.annotations",
                "metadata.finalizers",
                "metadata.ownerReferences",
                "metadata.deletionTimestamp",
                "metadata.deletionGracePeriodSeconds",
                "metadata.generateName",
            ],
        };
        for path in kept {
            copy(new, old, path);
        }
        // An annotation that upstream counts as a part of the spec.
        let counted = "deprecated.daemonset.template.generation";
        if let Some(value) = old.part("metadata.annotations").get(counted) {
            let value = value.clone();
            let annotations = crate::access::slot(new, "metadata.annotations");
            if !annotations.is_object() {
                *annotations = serde_json::json!({});
            }
            annotations[counted] = value;
        }
        copy(new, old, "metadata.generation");
        self.kind.prepare_status(new, old);
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        (self.check)(new, old)
    }

    fn allow_unconditional_update(&self) -> bool {
        self.kind.allow_unconditional_update()
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        match self.keep {
            Keep::Nothing => &["spec"],
            Keep::Labels => &["spec", "metadata.labels"],
            Keep::Metadata => &["spec", "metadata"],
        }
    }

    fn columns(&self) -> &'static [Column] {
        self.kind.columns()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.kind.row(object, now)
    }

    fn field_labels(&self) -> &'static [&'static str] {
        self.kind.field_labels()
    }

    fn field<'o>(&self, object: &'o Value, label: &str) -> Cow<'o, str> {
        self.kind.field(object, label)
    }

    fn to_storage(&self, object: &mut Value) {
        self.kind.to_storage(object);
    }

    fn from_storage(&self, object: &mut Value) {
        self.kind.from_storage(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Plain;
    impl Strategy for Plain {}

    #[test]
    fn a_status_update_leaves_the_rest() {
        let status = StatusUpdate {
            kind: &Plain,
            keep: Keep::Labels,
            check: no_check,
        };
        let old = json!({"metadata": {"name": "a", "labels": {"x": "1"}, "generation": 2}, "spec": {"r": 1}});
        let mut new = json!({"metadata": {"name": "a", "labels": {"x": "2"}, "annotations": {"n": "1"}}, "spec": {"r": 5}, "status": {"s": 1}});
        status.prepare_for_update(&mut new, &old, &Context::at(Timestamp::UNIX_EPOCH));
        assert_eq!(
            new,
            json!({"metadata": {"name": "a", "labels": {"x": "1"}, "annotations": {"n": "1"}, "generation": 2}, "spec": {"r": 1}, "status": {"s": 1}})
        );
    }

    #[test]
    fn generations_count_changes_of_the_spec() {
        let old = json!({"metadata": {"generation": 3}, "spec": {"a": 1}});
        let mut new = json!({"metadata": {}, "spec": {"a": 1, "list": []}});
        count_generation(&mut new, &old);
        assert_eq!(new.number("metadata.generation"), 3);
        let mut new = json!({"metadata": {}, "spec": {"a": 2}});
        count_generation(&mut new, &old);
        assert_eq!(new.number("metadata.generation"), 4);
    }
}
