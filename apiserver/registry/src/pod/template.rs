//! Pod templates: what every workload makes pods of.

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::selector::{Labels, Selector};
use serde::Deserialize as _;
use serde_json::Value;

use super::{Scope, defaults};
use crate::access::{Access, part_mut, same};
use crate::meta::{annotations, labels};

/// Fills in a template.
pub fn default(template: &mut Value) {
    if let Some(spec) = part_mut(template, "spec") {
        defaults::spec(spec);
    }
}

/// Everything wrong with a template.
pub fn validate(errors: &mut ErrorList, template: &Value, path: &Path<'_>) {
    labels(
        errors,
        template.part("metadata.labels"),
        &path.child("labels"),
    );
    annotations(
        errors,
        template.part("metadata.annotations"),
        &path.child("annotations"),
    );
    let spec = path.child("spec");
    super::spec(errors, template.part("spec"), Scope::Template, &spec);
    if !template.is_blank("spec.ephemeralContainers") {
        errors.push(Error::forbidden(
            &spec.child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
}

/// A workload's selector, which must be given, not select everything, and select the template's own pods.
pub fn selector(errors: &mut ErrorList, spec: &Value, what: &str, path: &Path<'_>) {
    let at = path.child("selector");
    let own = spec.part("selector");
    if own.is_null() {
        if what != "daemonset" {
            errors.push(Error::required(&at, ""));
        }
        // No selector selects nothing, so that it can't match the template either.
        mismatch(errors, spec, path);
        return;
    }
    crate::validation::label_selector(errors, own, &at);
    if crate::validation::selects_everything(own) {
        errors.push(Error::invalid(
            &at,
            own,
            format!("empty selector is invalid for {what}"),
        ));
    }
    let parsed = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector::deserialize(own);
    match parsed.map(|s| Selector::from_label_selector(Some(&s))) {
        Ok(Ok(selector)) => matches(errors, &selector, spec, path),
        _ => errors.push(Error::invalid(&at, own, "invalid label selector")),
    }
}

fn matches(errors: &mut ErrorList, selector: &Selector, spec: &Value, path: &Path<'_>) {
    struct Of<'v>(&'v Value);
    impl Labels for Of<'_> {
        fn label(&self, key: &str) -> Option<&str> {
            self.0.label(key)
        }
    }
    let own = spec.part("template.metadata.labels");
    if !selector.is_empty() && !selector.matches(&Of(own)) {
        mismatch(errors, spec, path);
    }
}

fn mismatch(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    errors.push(Error::invalid(
        &path.child("template").child("metadata.labels"),
        spec.part("template.metadata.labels"),
        "`selector` does not match template `labels`",
    ));
}

/// Whether the selector selects the template's own pods; what is wrong with the selector itself is told elsewhere.
pub fn selected(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    let parsed = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector::deserialize(
        spec.part("selector"),
    );
    if let Ok(Ok(selector)) = parsed.map(|s| Selector::from_label_selector(Some(&s))) {
        matches(errors, &selector, spec, path);
    }
}

/// Templates of workloads that keep pods running restart them always, and have no deadline.
pub fn restarts_always(errors: &mut ErrorList, template: &Value, workload: &str, path: &Path<'_>) {
    let spec = path.child("spec");
    let policy = template.text("spec.restartPolicy");
    if policy != "Always" {
        errors.push(Error::not_supported(
            &spec.child("restartPolicy"),
            policy,
            &["Always"],
        ));
    }
    if template.has("spec.activeDeadlineSeconds") {
        let detail = format!("activeDeadlineSeconds in {workload} is not Supported");
        errors.push(Error::forbidden(
            &spec.child("activeDeadlineSeconds"),
            detail,
        ));
    }
}

/// Pods are named after their workload, and hosts after pods.
#[must_use]
pub fn name_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let faults = keelson_api::names::dns1123_label(new.text("metadata.name"));
    if old.is_some() || faults.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
        faults.join(" ")
    )]
}

/// What a client is warned of in a new or changed template.
#[must_use]
pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    const PATH: &str = "spec.template";
    if old.is_some_and(|o| same(o.part(PATH), new.part(PATH))) {
        return Vec::new();
    }
    crate::kinds::core::pod::spec_warnings(new.part("spec.template.spec"), "spec.template.spec")
}
