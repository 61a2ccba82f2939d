//! APIService: who serves a version of a group, this server or a Service. What follows from that is the aggregation's.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::{self, NameRule};
use serde_json::{Value, json};

use crate::access::{Access, copy, remove, set, set_default_number};
use crate::columns::{AGE, Column, NAME, text};
use crate::print;
use crate::rest;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy};

/// The port of a Service that says none.
const PORT: i64 = 443;
const HIGHEST_GROUP: i64 = 20_000;
const HIGHEST_VERSION: i64 = 1_000;

/// The rules of APIService.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Metadata,
    check: check_status,
};

/// The condition of what this server serves itself.
#[must_use]
pub fn local_condition(now: Timestamp) -> Value {
    json!({"type": "Available", "status": "True", "lastTransitionTime": rest::timestamp(now),
        "reason": "Local", "message": "Local APIServices are always available"})
}

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }

    fn default(&self, object: &mut Value) {
        if object.has("spec.service") {
            set_default_number(object, "spec.service.port", PORT);
        }
    }

    fn prepare_for_create(&self, object: &mut Value, context: &Context<'_>) {
        remove(object, "status");
        if !object.has("spec.service") {
            set(
                object,
                "status.conditions",
                vec![local_condition(context.now)],
            );
        }
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        check_name(&mut errors, object);
        let spec = Path::new("spec");
        check_group_version(&mut errors, object, &spec);
        let has_bundle = !object.text("spec.caBundle").is_empty();
        let insecure = object.flag("spec.insecureSkipTLSVerify");
        let skips = spec.child("insecureSkipTLSVerify");
        if !object.has("spec.service") {
            if has_bundle {
                errors.push(Error::invalid(
                    &spec.child("caBundle"),
                    format!("{} bytes", decoded_length(object.text("spec.caBundle"))),
                    "local APIServices may not have a caBundle",
                ));
            }
            if insecure {
                let detail = "local APIServices may not have insecureSkipTLSVerify";
                errors.push(Error::invalid(&skips, true, detail));
            }
            return errors;
        }
        let service = spec.child("service");
        for key in ["namespace", "name"] {
            if object.part("spec.service").text(key).is_empty() {
                errors.push(Error::required(&service.child(key), ""));
            }
        }
        let port = object.number("spec.service.port");
        let faults = names::port_number(port);
        if !faults.is_empty() {
            let detail = format!("port is not valid: {}", faults.join(", "));
            errors.push(Error::invalid(&service.child("port"), port, detail));
        }
        if insecure && has_bundle {
            let detail = "may not be true if caBundle is present";
            errors.push(Error::invalid(&skips, true, detail));
        }
        errors
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text(
                "Service",
                "The reference to the service that hosts this API endpoint.",
            ),
            text("Available", "Whether this service is available."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let service = match object.part("spec.service") {
            Value::Null => "Local".to_owned(),
            service => format!("{}/{}", service.text("namespace"), service.text("name")),
        };
        let available = object
            .items("status.conditions")
            .iter()
            .find(|c| c.text("type") == "Available")
            .map_or_else(
                || "Unknown".to_owned(),
                |c| match (c.text("status"), c.text("reason")) {
                    (status @ "True", _) | (status, "") => status.to_owned(),
                    (status, reason) => format!("{status} ({reason})"),
                },
            );
        vec![
            print::name(object),
            service.into(),
            available.into(),
            print::age(object, now),
        ]
    }
}

fn check_name(errors: &mut ErrorList, object: &Value) {
    let name = object.text("metadata.name");
    if name.is_empty() {
        return;
    }
    let mut faults = names::path_segment(name);
    let wanted = format!(
        "{}.{}",
        object.text("spec.version"),
        object.text("spec.group")
    );
    if faults.is_empty() && name != wanted {
        faults.push(format!(
            "must be `spec.version+\".\"+spec.group`: {}",
            keelson_api::field::quote(&wanted)
        ));
    }
    let meta = Path::new("metadata");
    for fault in faults {
        errors.push(Error::invalid(&meta.child("name"), name, fault));
    }
}

fn check_group_version(errors: &mut ErrorList, object: &Value, spec: &Path<'_>) {
    let (group, version) = (object.text("spec.group"), object.text("spec.version"));
    if group.is_empty() {
        if version != "v1" {
            let detail = "only v1 may have an empty group and it better be legacy kube";
            errors.push(Error::required(&spec.child("group"), detail));
        }
    } else {
        for fault in names::dns1123_subdomain(group) {
            errors.push(Error::invalid(&spec.child("group"), group, fault));
        }
    }
    for fault in names::dns1035_label(version) {
        errors.push(Error::invalid(&spec.child("version"), version, fault));
    }
    for (key, highest) in [
        ("groupPriorityMinimum", HIGHEST_GROUP),
        ("versionPriority", HIGHEST_VERSION),
    ] {
        let value = object.part("spec").number(key);
        if value <= 0 || value > highest {
            let detail = format!("must be positive and less than {highest}");
            errors.push(Error::invalid(&spec.child(key), value, detail));
        }
    }
}

/// How many bytes a text in base64 stands for.
fn decoded_length(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn check_status(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let status = Path::new("status");
    let list = status.child("conditions");
    for (i, condition) in new.items("status.conditions").iter().enumerate() {
        let value = condition.text("status");
        if !["True", "False", "Unknown"].contains(&value) {
            errors.push(Error::not_supported(
                &list.index(i).child("status"),
                value,
                &["True", "False", "Unknown"],
            ));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(object: &Value) -> Vec<String> {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let errors = Rules.validate(object, &context);
        errors.iter().map(ToString::to_string).collect()
    }

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "v1.a.example"}, "spec": spec})
    }

    #[test]
    fn a_service_gets_the_usual_port_and_no_status() {
        let mut object = service(
            json!({"group": "a.example", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
            "service": {"namespace": "n", "name": "s"}}),
        );
        Rules.default(&mut object);
        assert_eq!(object.number("spec.service.port"), 443);
        object["status"] = json!({"conditions": [{"type": "Available", "status": "True"}]});
        Rules.prepare_for_create(&mut object, &Context::at(Timestamp::UNIX_EPOCH));
        assert!(!object.has("status"));
        assert_eq!(messages(&object), Vec::<String>::new());
    }

    #[test]
    fn what_is_local_is_available_at_once() {
        let mut object = service(
            json!({"group": "a.example", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}),
        );
        Rules.prepare_for_create(&mut object, &Context::at(Timestamp::UNIX_EPOCH));
        assert_eq!(object.items("status.conditions")[0].text("reason"), "Local");
    }

    #[test]
    fn everything_wrong_is_said_in_upstreams_words() {
        let object = json!({"metadata": {"name": "v1.b"}, "spec": {"group": "", "version": "v2", "groupPriorityMinimum": 20001, "versionPriority": 0,
            "caBundle": "AAAA", "insecureSkipTLSVerify": true, "service": {"name": "", "port": 70000}}});
        assert_eq!(
            messages(&object),
            [
                "metadata.name: Invalid value: \"v1.b\": must be `spec.version+\".\"+spec.group`: \"v2.\"",
                "spec.group: Required value: only v1 may have an empty group and it better be legacy kube",
                "spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000",
                "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
                "spec.service.namespace: Required value",
                "spec.service.name: Required value",
                "spec.service.port: Invalid value: 70000: port is not valid: must be between 1 and 65535, inclusive",
                "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
            ]
        );
        let local = service(
            json!({"group": "a.example", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1, "caBundle": "AAA=", "insecureSkipTLSVerify": true}),
        );
        assert_eq!(
            messages(&local),
            [
                "spec.caBundle: Invalid value: \"2 bytes\": local APIServices may not have a caBundle",
                "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
            ]
        );
    }

    #[test]
    fn conditions_are_true_false_or_unknown() {
        let object = json!({"status": {"conditions": [{"type": "A", "status": "Maybe"}]}});
        assert_eq!(
            check_status(&object, &object)[0].to_string(),
            "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"True\", \"False\", \"Unknown\""
        );
    }
}
