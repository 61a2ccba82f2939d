//! MutatingWebhookConfiguration and ValidatingWebhookConfiguration: which webhooks are asked about which writes.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::{Value, json};

use crate::access::{Access, items_mut, same, set, set_default, set_default_text};
use crate::columns::{AGE, Column, NAME, integer};
use crate::kinds::admissionregistration::matching;
use crate::meta::faults;
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::{label_selector, one_of};

/// The versions of AdmissionReview that the API knows.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// The rules of both kinds.
pub struct Rules {
    mutating: bool,
}

/// The rules of MutatingWebhookConfiguration.
pub const MUTATING: Rules = Rules { mutating: true };
/// The rules of ValidatingWebhookConfiguration.
pub const VALIDATING: Rules = Rules { mutating: false };

impl Strategy for Rules {
    fn default(&self, configuration: &mut Value) {
        for hook in items_mut(configuration, "webhooks") {
            set_default_text(hook, "failurePolicy", "Fail");
            set_default_text(hook, "matchPolicy", "Equivalent");
            set_default(hook, "namespaceSelector", json!({}));
            set_default(hook, "objectSelector", json!({}));
            set_default(hook, "timeoutSeconds", 10);
            if self.mutating {
                set_default_text(hook, "reinvocationPolicy", "Never");
            }
            for rule in items_mut(hook, "rules") {
                set_default_text(rule, "scope", "*");
            }
            if hook.has("clientConfig.service") {
                set_default(hook, "clientConfig.service.port", 443);
            }
        }
    }

    fn prepare_for_create(&self, configuration: &mut Value, _context: &Context<'_>) {
        set(configuration, "metadata.generation", 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        let generation = old.number("metadata.generation");
        let changed = !same(new.part("webhooks"), old.part("webhooks"));
        set(new, "metadata.generation", generation + i64::from(changed));
    }

    fn validate(&self, configuration: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let webhooks = Path::new("webhooks");
        let hooks = configuration.items("webhooks");
        for (i, hook) in hooks.iter().enumerate() {
            let path = webhooks.index(i);
            self.hook(&mut errors, hook, &path);
            review_versions(&mut errors, hook, &path.child("admissionReviewVersions"));
            let name = hook.text("name");
            if !name.is_empty() && hooks[..i].iter().any(|h| h.text("name") == name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            integer("Webhooks", "How many webhooks the configuration names."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, configuration: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(configuration),
            configuration.items("webhooks").len().into(),
            print::age(configuration, now),
        ]
    }
}

impl Rules {
    fn hook(&self, errors: &mut ErrorList, hook: &Value, path: &Path<'_>) {
        qualified(errors, hook.text("name"), &path.child("name"));
        let rules = path.child("rules");
        for (i, rule) in hook.items("rules").iter().enumerate() {
            matching::rule(errors, rule, &rules.index(i));
        }
        let policies = ["Fail", "Ignore"];
        one_of(
            errors,
            hook.text("failurePolicy"),
            &policies,
            &path.child("failurePolicy"),
        );
        let policies = ["Equivalent", "Exact"];
        one_of(
            errors,
            hook.text("matchPolicy"),
            &policies,
            &path.child("matchPolicy"),
        );
        let (effects, at) = (["None", "NoneOnDryRun"], path.child("sideEffects"));
        if hook.is_blank("sideEffects") {
            errors.push(Error::required(
                &at,
                "must specify one of None, NoneOnDryRun",
            ));
        } else {
            one_of(errors, hook.text("sideEffects"), &effects, &at);
        }
        if let Some(seconds) = hook.int("timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
            let sentence = "the timeout value must be between 1 and 30 seconds";
            errors.push(Error::invalid(
                &path.child("timeoutSeconds"),
                seconds,
                sentence,
            ));
        }
        for selector in ["namespaceSelector", "objectSelector"] {
            if hook.has(selector) {
                label_selector(errors, hook.part(selector), &path.child(selector));
            }
        }
        if self.mutating {
            let (policies, at) = (["IfNeeded", "Never"], path.child("reinvocationPolicy"));
            one_of(errors, hook.text("reinvocationPolicy"), &policies, &at);
        }
        client(
            errors,
            hook.part("clientConfig"),
            &path.child("clientConfig"),
        );
        matching::conditions(
            errors,
            hook.items("matchConditions"),
            &path.child("matchConditions"),
            &|expression| keelson_cel::conditions::compile(expression).map(drop),
        );
    }
}

fn qualified(errors: &mut ErrorList, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let found = names::dns1123_subdomain(name);
    if !found.is_empty() {
        faults(errors, path, name, found);
    } else if name.split('.').count() < 3 {
        let sentence = "should be a domain with at least three segments separated by dots";
        errors.push(Error::invalid(path, name, sentence));
    }
}

fn review_versions(errors: &mut ErrorList, hook: &Value, path: &Path<'_>) {
    let versions: Vec<&str> = hook
        .items("admissionReviewVersions")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if versions.is_empty() {
        errors.push(Error::required(path, "must specify one of v1, v1beta1"));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errors.push(Error::invalid(
                &path.index(i),
                *version,
                "duplicate version",
            ));
            continue;
        }
        faults(
            errors,
            &path.index(i),
            version,
            names::dns1035_label(version),
        );
    }
    if !versions.iter().any(|v| REVIEW_VERSIONS.contains(v)) {
        errors.push(Error::invalid(
            path,
            &versions,
            "must include at least one of v1, v1beta1",
        ));
    }
}

fn client(errors: &mut ErrorList, config: &Value, path: &Path<'_>) {
    match (config.has("url"), config.has("service")) {
        (true, false) => url(errors, config.text("url"), &path.child("url")),
        (false, true) => service(errors, config.part("service"), &path.child("service")),
        _ => errors.push(Error::required(
            path,
            "exactly one of url or service is required",
        )),
    }
}

fn url(errors: &mut ErrorList, url: &str, path: &Path<'_>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        let sentence = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(Error::invalid(path, scheme, sentence));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() || scheme.is_empty() {
        errors.push(Error::invalid(
            path,
            "",
            format!("host must be specified{FORM}"),
        ));
    }
    if !user.is_empty() {
        errors.push(Error::invalid(
            path,
            user,
            "user information is not permitted in the URL",
        ));
    }
    let (tail, fragment) = tail.split_once('#').unwrap_or((tail, ""));
    if !fragment.is_empty() {
        errors.push(Error::invalid(
            path,
            fragment,
            "fragments are not permitted in the URL",
        ));
    }
    let query = tail.split_once('?').map_or("", |(_, query)| query);
    if !query.is_empty() {
        errors.push(Error::invalid(
            path,
            query,
            "query parameters are not permitted in the URL",
        ));
    }
}

fn service(errors: &mut ErrorList, service: &Value, path: &Path<'_>) {
    for key in ["name", "namespace"] {
        if service.is_blank(key) {
            errors.push(Error::required(&path.child(key), ""));
        }
    }
    let port = service.number("port");
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let sentence = format!("port is not valid: {}", wrong.join(", "));
        errors.push(Error::invalid(&path.child("port"), port, sentence));
    }
    let (given, at) = (service.text("path"), path.child("path"));
    if matches!(given, "" | "/") {
        return;
    }
    if given == "//" {
        errors.push(Error::invalid(&at, given, "segment[0] may not be empty"));
        return;
    }
    if !given.starts_with('/') {
        errors.push(Error::invalid(&at, given, "must start with a '/'"));
    }
    let steps = given.strip_prefix('/').unwrap_or(given);
    let steps = steps.strip_suffix('/').unwrap_or(steps);
    for (i, step) in steps.split('/').enumerate() {
        if step.is_empty() {
            errors.push(Error::invalid(
                &at,
                given,
                format!("segment[{i}] may not be empty"),
            ));
            continue;
        }
        for fault in names::dns1123_subdomain(step) {
            errors.push(Error::invalid(&at, given, format!("segment[{i}]: {fault}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        let mut configuration = json!({"webhooks": [{"name": "a.example.com", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"service": {"namespace": "ns", "name": "s"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
        MUTATING.default(&mut configuration);
        configuration
    }

    fn errors(configuration: &Value) -> Vec<String> {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        MUTATING
            .validate(configuration, &context)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn defaults_make_a_valid_webhook() {
        let configuration = sample();
        let hook = &configuration["webhooks"][0];
        assert_eq!(
            (
                &hook["failurePolicy"],
                &hook["reinvocationPolicy"],
                &hook["timeoutSeconds"]
            ),
            (&json!("Fail"), &json!("Never"), &json!(10))
        );
        assert_eq!(hook["clientConfig"]["service"]["port"], 443);
        assert!(errors(&configuration).is_empty());
    }

    #[test]
    fn faults_are_named() {
        for (pointer, value, sentence) in [
            (
                "/webhooks/0/name",
                json!("short"),
                "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments separated by dots",
            ),
            (
                "/webhooks/0/timeoutSeconds",
                json!(31),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ),
            (
                "/webhooks/0/sideEffects",
                json!("Some"),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                "/webhooks/0/clientConfig",
                json!({"url": "http://x/y"}),
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            ),
            (
                "/webhooks/0/rules/0/resources",
                json!(["*/*", "pods"]),
                "webhooks[0].rules[0].resources: Invalid value: [\"*/*\",\"pods\"]: if '*/*' is present, must not specify other resources",
            ),
            (
                "/webhooks/0/admissionReviewVersions",
                json!(["v2"]),
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
            ),
        ] {
            let mut configuration = sample();
            *configuration.pointer_mut(pointer).unwrap() = value;
            assert_eq!(errors(&configuration), [sentence]);
        }
    }

    #[test]
    fn only_a_changed_webhook_counts() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let mut old = sample();
        MUTATING.prepare_for_create(&mut old, &context);
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "b"});
        MUTATING.prepare_for_update(&mut new, &old, &context);
        assert_eq!(new["metadata"]["generation"], 1);
        new["webhooks"][0]["timeoutSeconds"] = json!(5);
        MUTATING.prepare_for_update(&mut new, &old, &context);
        assert_eq!(new["metadata"]["generation"], 2);
    }
}
