//! IngressClass: a controller that serves ingresses.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::access::{Access, part_mut, set, set_default};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::{faults, immutable};
use crate::print;
use crate::strategy::{Context, Strategy, count_generation};
use crate::validation::{checked, one_of};

/// The rules of IngressClass.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, class: &mut Value) {
        if let Some(parameters) = part_mut(class, "spec.parameters") {
            set_default(parameters, "scope", "Cluster");
        }
    }

    fn prepare_for_create(&self, class: &mut Value, _context: &Context<'_>) {
        set(class, "metadata.generation", 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        count_generation(new, old);
    }

    fn validate(&self, class: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, controller) = (Path::new("spec"), class.text("spec.controller"));
        let at = path.child("controller");
        if controller.len() > 250 {
            errors.push(Error::too_long(&at, 250));
        }
        domain_path(&mut errors, controller, &at);
        if class.has("spec.parameters") {
            parameters(
                &mut errors,
                class.part("spec.parameters"),
                &path.child("parameters"),
            );
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = Path::new("spec");
        immutable(
            &mut errors,
            new.part("spec.controller"),
            old.part("spec.controller"),
            &spec.child("controller"),
        );
        errors.extend(self.validate(new, context));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Controller", "Who serves the class."),
            text("Parameters", "Where its settings are."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, class: &Value, now: Timestamp) -> Vec<Value> {
        let default = class
            .part("metadata.annotations")
            .get("ingressclass.kubernetes.io/is-default-class");
        let mark = if default == Some(&Value::from("true")) {
            " (default)"
        } else {
            ""
        };
        let parameters = class.part("spec.parameters");
        let shown = if parameters.is_null() {
            "<none>".to_string()
        } else {
            let group = parameters.text("apiGroup");
            let kind = parameters.text("kind");
            let qualified = if parameters.has("apiGroup") {
                format!("{kind}.{group}")
            } else {
                kind.to_string()
            };
            format!("{qualified}/{}", parameters.text("name"))
        };
        vec![
            format!("{}{mark}", class.text("metadata.name")).into(),
            class.text("spec.controller").into(),
            shown.into(),
            print::age(class, now),
        ]
    }
}

/// A path with a domain before it, such as `acme.io/foo`.
fn domain_path(errors: &mut ErrorList, value: &str, path: &Path<'_>) {
    match value.split_once('/') {
        _ if value.is_empty() => errors.push(Error::required(path, "")),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            faults(errors, path, host, names::dns1123_subdomain(host));
            if !rest
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c))
            {
                let detail =
                    names::regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]);
                errors.push(Error::invalid(path, rest, detail));
            }
        }
        _ => errors.push(Error::invalid(
            path,
            value,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        )),
    }
}

fn parameters(errors: &mut ErrorList, parameters: &Value, path: &Path<'_>) {
    checked(
        errors,
        parameters,
        "apiGroup",
        path,
        names::dns1123_subdomain,
    );
    for key in ["kind", "name"] {
        let value = parameters.text(key);
        if value.is_empty() {
            errors.push(Error::required(&path.child(key), ""));
        } else {
            faults(errors, &path.child(key), value, names::path_segment(value));
        }
    }
    if !parameters.has("scope") {
        errors.push(Error::required(&path.child("scope"), ""));
        return;
    }
    let at = path.child("namespace");
    match parameters.text("scope") {
        "Namespace" if !parameters.has("namespace") => errors.push(Error::required(
            &at,
            "`parameters.scope` is set to 'Namespace'",
        )),
        "Namespace" => faults(
            errors,
            &at,
            parameters.text("namespace"),
            names::dns1123_label(parameters.text("namespace")),
        ),
        "Cluster" if parameters.has("namespace") => errors.push(Error::forbidden(
            &at,
            "`parameters.scope` is set to 'Cluster'",
        )),
        scope => one_of(
            errors,
            scope,
            &["Cluster", "Namespace"],
            &path.child("scope"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn controllers_have_a_domain_and_stay() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let of = |controller: &str| {
            Rules.validate(&json!({"spec": {"controller": controller}}), &context)
        };
        assert!(of("acme.io/foo").is_empty());
        assert_eq!(
            of("acme")[0].to_string(),
            "spec.controller: Invalid value: \"acme\": must be a domain-prefixed path (such as \"acme.io/foo\")"
        );
        let errors = Rules.validate_update(
            &json!({"spec": {"controller": "a.io/b"}}),
            &json!({"spec": {"controller": "a.io/c"}}),
            &context,
        );
        assert!(errors[0].to_string().ends_with("field is immutable"));
    }
}
