//! Event, in the core form and in that of events.k8s.io: both share their storage, which has the core form.

use std::borrow::Cow;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::access::{Access, remove, set};
use crate::columns::{Column, NAME, text, wide};
use crate::meta::{faults, immutable};
use crate::print;
use crate::strategy::{Context, Propagation, Strategy, path_field};

/// The rules of the core Event.
pub struct Rules;

/// The rules of the Event of events.k8s.io.
pub struct NewRules;

const LABELS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const NEW_LABELS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

/// Fields by their names in events.k8s.io and in the core group.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

const COLUMNS: &[Column] = &[
    text("Last Seen", "When it happened last."),
    text("Type", "Normal or Warning."),
    text("Reason", "Why it was written, in a word."),
    text("Object", "What it is about."),
    wide("Subobject", "The part of the object it is about."),
    wide("Source", "Who wrote it."),
    text("Message", "What happened."),
    wide("First Seen", "When it happened first."),
    wide("Count", "How often it happened."),
    Column {
        priority: 1,
        ..NAME
    },
];

impl Strategy for Rules {
    fn name_rule(&self) -> names::NameRule {
        names::NameRule::PathSegment
    }

    fn validate(&self, event: &Value, _context: &Context<'_>) -> ErrorList {
        legacy(event, "reportingComponent")
    }

    fn validate_update(&self, new: &Value, _old: &Value, _context: &Context<'_>) -> ErrorList {
        legacy(new, "reportingComponent")
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn default_propagation(&self) -> Propagation {
        Propagation::Unsupported
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, event: &Value, now: Timestamp) -> Vec<Value> {
        row(event, now)
    }

    fn field_labels(&self) -> &'static [&'static str] {
        LABELS
    }

    fn field<'o>(&self, event: &'o Value, label: &str) -> Cow<'o, str> {
        match label {
            "source" => Cow::Borrowed(print::or(
                event.text("source.component"),
                event.text("reportingComponent"),
            )),
            _ => path_field(event, label),
        }
    }
}

impl Strategy for NewRules {
    fn validate(&self, event: &Value, _context: &Context<'_>) -> ErrorList {
        let mut core = event.clone();
        to_core(&mut core);
        let mut errors = legacy(&core, "reportingController");
        errors.extend(series(event));
        if !event.has("eventTime") {
            errors.push(Error::required(&Path::new("eventTime"), ""));
        }
        let kind = event.text("type");
        if !matches!(kind, "Normal" | "Warning") {
            errors.push(Error::invalid(
                &Path::new("type"),
                "",
                format!("has invalid value: {kind}"),
            ));
        }
        for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
            let value = core.part(field);
            if !value.is_null() && value != 0 && !crate::access::blank(value) {
                errors.push(Error::invalid(&Path::new(field), "", "needs to be unset"));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let (mut new_core, mut old_core) = (new.clone(), old.clone());
        to_core(&mut new_core);
        to_core(&mut old_core);
        let mut errors = legacy(&new_core, "reportingController");
        if new.part("series") != old.part("series") {
            errors.extend(series(new));
        }
        for field in [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "type",
            "eventTime",
            "action",
            "related",
        ] {
            immutable(
                &mut errors,
                new_core.part(field),
                old_core.part(field),
                &Path::new(field),
            );
        }
        immutable(
            &mut errors,
            new.part("reportingController"),
            old.part("reportingController"),
            &Path::new("reportingController"),
        );
        immutable(
            &mut errors,
            new.part("reportingInstance"),
            old.part("reportingInstance"),
            &Path::new("reportingInstance"),
        );
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn default_propagation(&self) -> Propagation {
        Propagation::Unsupported
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, event: &Value, now: Timestamp) -> Vec<Value> {
        let mut core = event.clone();
        to_core(&mut core);
        row(&core, now)
    }

    fn field_labels(&self) -> &'static [&'static str] {
        NEW_LABELS
    }

    fn to_storage(&self, event: &mut Value) {
        to_core(event);
        set(event, "apiVersion", "v1");
    }

    fn from_storage(&self, event: &mut Value) {
        rename(event, |(new, core)| (core, new));
        set(event, "apiVersion", "events.k8s.io/v1");
    }
}

fn to_core(event: &mut Value) {
    rename(event, |(new, core)| (new, core));
}

fn rename(
    event: &mut Value,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    for pair in NAMES {
        let (from, to) = direction(*pair);
        if let Some(value) = remove(event, from) {
            set(event, to, value);
        }
    }
}

fn series(event: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if event.has("series") {
        if event.number("series.count") < 2 {
            errors.push(Error::invalid(
                &Path::new("series.count"),
                "",
                "should be at least 2",
            ));
        }
        if !event.has("series.lastObservedTime") {
            errors.push(Error::required(&Path::new("series.lastObservedTime"), ""));
        }
    }
    errors
}

/// The rules of the old form, which hold for both.
fn legacy(event: &Value, controller_field: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let (namespace, involved) = (
        event.text("metadata.namespace"),
        event.text("involvedObject.namespace"),
    );
    let object = Path::new("involvedObject");
    let mut mismatch = || {
        errors.push(Error::invalid(
            &object.child("namespace"),
            involved,
            "does not match event.namespace",
        ))
    };
    let old_style = !event.has("eventTime");
    match (old_style, involved.is_empty()) {
        (true, true) if !matches!(namespace, "" | "default") => mismatch(),
        (true, false) if namespace != involved => mismatch(),
        (false, true) if !matches!(namespace, "default" | "kube-system") => mismatch(),
        _ => {}
    }
    if !old_style {
        let path = Path::new(controller_field);
        let controller = event.text("reportingComponent");
        if controller.is_empty() {
            errors.push(Error::required(&path, ""));
        }
        faults(
            &mut errors,
            &path,
            controller,
            names::qualified_name(controller),
        );
        for (field, max, required) in [
            ("reportingInstance", 128, true),
            ("action", 128, true),
            ("reason", 128, true),
            ("message", 1024, false),
        ] {
            let (value, path) = (event.text(field), Path::new(field));
            if required && value.is_empty() {
                errors.push(Error::required(&path, ""));
            }
            if value.len() > max {
                errors.push(Error::invalid(
                    &path,
                    "",
                    format!("can have at most {max} characters"),
                ));
            }
        }
    }
    faults(
        &mut errors,
        &Path::new("namespace"),
        namespace,
        names::dns1123_subdomain(namespace),
    );
    errors
}

fn row(event: &Value, now: Timestamp) -> Vec<Value> {
    let ago = |path: &str| print::since(event, path, now);
    let first = if event.has("firstTimestamp") {
        ago("firstTimestamp")
    } else {
        ago("eventTime")
    };
    let mut last = if event.has("lastTimestamp") {
        ago("lastTimestamp")
    } else {
        first.clone()
    };
    let mut count = event.number("count");
    if event.has("series") {
        last = ago("series.lastObservedTime");
        count = event.number("series.count");
    } else if count == 0 {
        count = 1;
    }
    let kind = event.text("involvedObject.kind").to_lowercase();
    let name = event.text("involvedObject.name");
    let target = if name.is_empty() {
        kind
    } else {
        format!("{kind}/{name}")
    };
    vec![
        last.into(),
        event.text("type").into(),
        event.text("reason").into(),
        target.into(),
        event.text("involvedObject.fieldPath").into(),
        source(event).into(),
        event.text("message").trim().into(),
        first.into(),
        count.into(),
        print::name(event),
    ]
}

fn source(event: &Value) -> String {
    let component = print::or(
        event.text("source.component"),
        event.text("reportingComponent"),
    );
    let host = print::or(event.text("source.host"), event.text("reportingInstance"));
    if host.is_empty() {
        component.into()
    } else {
        format!("{component}, {host}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_are_one_object() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"kind": "Pod", "name": "p"}, "message": "m", "count": 2,
                          "reportingComponent": "c", "source": {"component": "x"}, "reason": "R"});
        let mut new = core.clone();
        NewRules.from_storage(&mut new);
        assert_eq!(new.text("note"), "m");
        assert_eq!(new.text("regarding.name"), "p");
        assert_eq!(new.text("reportingController"), "c");
        assert!(!new.has("message"));
        NewRules.to_storage(&mut new);
        assert_eq!(new, core);
    }

    #[test]
    fn an_event_is_in_its_objects_namespace() {
        let event = json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b"}});
        let errors = Rules.validate(&event, &Context::at(Timestamp::UNIX_EPOCH));
        assert_eq!(
            errors[0].to_string(),
            "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"
        );
    }

    #[test]
    fn rows_and_source() {
        let event = json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": " hi ", "count": 3,
            "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet", "host": "n1"},
            "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": "2024-01-01T00:01:00Z"});
        let cells = row(&event, "2024-01-01T00:02:00Z".parse().unwrap());
        assert_eq!(
            cells,
            [
                json!("60s"),
                json!("Normal"),
                json!("Started"),
                json!("pod/p"),
                json!(""),
                json!("kubelet, n1"),
                json!("hi"),
                json!("2m"),
                json!(3),
                json!("e")
            ]
        );
        assert_eq!(Rules.field(&event, "source"), "kubelet");
    }
}
