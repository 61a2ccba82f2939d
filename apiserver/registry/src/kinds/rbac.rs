//! The kinds of rbac.authorization.k8s.io: what may be done, and by whom.
//!
//! Escalation checks need other objects and stand in the API server.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::{self, NameRule};
use keelson_api::selector::Selector;
use serde::Deserialize as _;
use serde_json::Value;

use crate::access::{Access, items_mut, same, set_default_text};
use crate::columns::{AGE, Column, NAME, text, wide};
use crate::meta::faults;
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::{label_selector, one_of};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The rules of Role and ClusterRole.
pub struct RoleRules {
    /// Whether it is the namespaced one.
    pub namespaced: bool,
}

/// The rules of RoleBinding and ClusterRoleBinding.
pub struct BindingRules {
    /// Whether it is the namespaced one.
    pub namespaced: bool,
}

impl Strategy for RoleRules {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn validate(&self, role: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("rules");
        for (i, rule) in role.items("rules").iter().enumerate() {
            policy_rule(&mut errors, rule, self.namespaced, &path.index(i));
        }
        if !self.namespaced && role.has("aggregationRule") {
            aggregation(
                &mut errors,
                role.items("aggregationRule.clusterRoleSelectors"),
            );
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

fn policy_rule(errors: &mut ErrorList, rule: &Value, namespaced: bool, path: &Path<'_>) {
    if rule.is_blank("verbs") {
        errors.push(Error::required(
            &path.child("verbs"),
            "verbs must contain at least one value",
        ));
    }
    let urls = rule.items("nonResourceURLs");
    if !urls.is_empty() {
        let at = path.child("nonResourceURLs");
        if namespaced {
            errors.push(Error::invalid(
                &at,
                urls,
                "namespaced rules cannot apply to non-resource URLs",
            ));
        }
        if ["apiGroups", "resources", "resourceNames"]
            .iter()
            .any(|k| !rule.is_blank(k))
        {
            errors.push(Error::invalid(
                &at,
                urls,
                "rules cannot apply to both regular resources and non-resource URLs",
            ));
        }
        return;
    }
    if rule.is_blank("apiGroups") {
        errors.push(Error::required(
            &path.child("apiGroups"),
            "resource rules must supply at least one api group",
        ));
    }
    if rule.is_blank("resources") {
        errors.push(Error::required(
            &path.child("resources"),
            "resource rules must supply at least one resource",
        ));
    }
}

fn aggregation(errors: &mut ErrorList, selectors: &[Value]) {
    let rule = Path::new("aggregationRule");
    let path = rule.child("clusterRoleSelectors");
    if selectors.is_empty() {
        errors.push(Error::required(
            &path,
            "at least one clusterRoleSelector required if aggregationRule is non-nil",
        ));
    }
    for (i, selector) in selectors.iter().enumerate() {
        label_selector(errors, selector, &path.index(i));
        let parsed =
            k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector::deserialize(selector);
        if parsed.is_ok_and(|s| Selector::from_label_selector(Some(&s)).is_err()) {
            errors.push(Error::invalid(
                &path.index(i),
                Value::Null,
                "invalid label selector.",
            ));
        }
    }
}

impl Strategy for BindingRules {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn default(&self, binding: &mut Value) {
        if binding.has("roleRef") {
            set_default_text(binding, "roleRef.apiGroup", GROUP);
        }
        for subject in items_mut(binding, "subjects") {
            if matches!(subject.text("kind"), "User" | "Group") {
                set_default_text(subject, "apiGroup", GROUP);
            }
        }
    }

    fn validate(&self, binding: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("roleRef");
        let (group, kind, name) = (
            binding.text("roleRef.apiGroup"),
            binding.text("roleRef.kind"),
            binding.text("roleRef.name"),
        );
        one_of(&mut errors, group, &[GROUP], &path.child("apiGroup"));
        let kinds: &[&str] = if self.namespaced {
            &["Role", "ClusterRole"]
        } else {
            &["ClusterRole"]
        };
        one_of(&mut errors, kind, kinds, &path.child("kind"));
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            faults(
                &mut errors,
                &path.child("name"),
                name,
                names::path_segment(name),
            );
        }
        let subjects = Path::new("subjects");
        for (i, item) in binding.items("subjects").iter().enumerate() {
            subject(&mut errors, item, self.namespaced, &subjects.index(i));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        if !same(new.part("roleRef"), old.part("roleRef")) {
            errors.push(Error::invalid(
                &Path::new("roleRef"),
                new.part("roleRef"),
                "cannot change roleRef",
            ));
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Role", "What is granted."),
            AGE,
            wide("Users", "The users it is granted to."),
            wide("Groups", "The groups it is granted to."),
            wide("ServiceAccounts", "The service accounts it is granted to."),
        ];
        COLUMNS
    }

    fn row(&self, binding: &Value, now: Timestamp) -> Vec<Value> {
        let of = |kind: &str| -> Vec<&Value> {
            binding
                .items("subjects")
                .iter()
                .filter(|s| s.text("kind") == kind)
                .collect()
        };
        let names = |kind: &str| {
            of(kind)
                .iter()
                .map(|s| s.text("name"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let accounts: Vec<String> = of("ServiceAccount")
            .iter()
            .map(|s| format!("{}/{}", s.text("namespace"), s.text("name")))
            .collect();
        vec![
            print::name(binding),
            format!(
                "{}/{}",
                binding.text("roleRef.kind"),
                binding.text("roleRef.name")
            )
            .into(),
            print::age(binding, now),
            names("User").into(),
            names("Group").into(),
            accounts.join(", ").into(),
        ]
    }
}

fn subject(errors: &mut ErrorList, subject: &Value, namespaced: bool, path: &Path<'_>) {
    let (kind, name, group) = (
        subject.text("kind"),
        subject.text("name"),
        subject.text("apiGroup"),
    );
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                faults(
                    errors,
                    &path.child("name"),
                    name,
                    names::dns1123_subdomain(name),
                );
            }
            one_of(errors, group, &[""], &path.child("apiGroup"));
            if !namespaced && subject.text("namespace").is_empty() {
                errors.push(Error::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => one_of(errors, group, &[GROUP], &path.child("apiGroup")),
        other => errors.push(Error::not_supported(
            &path.child("kind"),
            other,
            &["ServiceAccount", "User", "Group"],
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_are_checked() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let role = json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}, {"verbs": []}]});
        assert_eq!(
            texts(RoleRules { namespaced: true }.validate(&role, &context)),
            [
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                "rules[1].verbs: Required value: verbs must contain at least one value",
                "rules[1].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[1].resources: Required value: resource rules must supply at least one resource",
            ]
        );
    }

    #[test]
    fn bindings_are_defaulted_and_checked() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let rules = BindingRules { namespaced: false };
        let mut binding = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]});
        rules.default(&mut binding);
        assert_eq!(binding["roleRef"]["apiGroup"], GROUP);
        assert_eq!(binding["subjects"][0]["apiGroup"], GROUP);
        assert_eq!(
            texts(rules.validate(&binding, &context)),
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[1].namespace: Required value"
            ]
        );
        let mut other = binding.clone();
        other["roleRef"]["name"] = "x".into();
        assert!(
            texts(rules.validate_update(&other, &binding, &context))
                .last()
                .unwrap()
                .ends_with("cannot change roleRef")
        );
    }
}
