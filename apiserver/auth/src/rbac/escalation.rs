//! Nobody grants what they do not hold: the checks on writes of roles and bindings.

use keelson_api::status::{Qualified, Status};
use serde_json::Value;

use super::index::{Index, rules_of};
use super::rule::{Rule, merge_verbs, uncovered};
use crate::attributes::{Attributes, Authorizer};
use crate::user::{MASTERS, User};
use std::sync::Arc;

/// A write of `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`.
pub struct Write<'a> {
    /// The caller.
    pub user: &'a Arc<User>,
    /// The resource.
    pub resource: &'a str,
    /// The namespace; empty for the cluster kinds.
    pub namespace: &'a str,
    /// The name in the request's path; empty on create.
    pub request_name: &'a str,
    /// The new object.
    pub object: &'a Value,
    /// The object before; none on create.
    pub old: Option<&'a Value>,
}

/// Answers 403 if the write would grant more than the caller holds, unless the caller may `escalate` or `bind`.
pub fn check(index: &Index, authorizer: &dyn Authorizer, write: &Write<'_>) -> Result<(), Status> {
    if write.user.in_group(MASTERS) {
        return Ok(());
    }
    match write.resource {
        "roles" | "clusterroles" => check_role(index, authorizer, write),
        "rolebindings" | "clusterrolebindings" => check_binding(index, authorizer, write),
        _ => Ok(()),
    }
}

fn check_role(index: &Index, authorizer: &dyn Authorizer, write: &Write<'_>) -> Result<(), Status> {
    let same = |key: &str| {
        write
            .old
            .is_some_and(|old| or_empty(old.get(key)) == or_empty(write.object.get(key)))
    };
    if same("rules") && same("aggregationRule") {
        return Ok(());
    }
    let escalate = Attributes {
        user: write.user.clone(),
        verb: "escalate".into(),
        api_group: super::GROUP.into(),
        api_version: "*".into(),
        resource: write.resource.into(),
        namespace: write.namespace.into(),
        name: write.request_name.into(),
        resource_request: true,
        ..Attributes::default()
    };
    if authorizer.authorize(&escalate).allowed() {
        return Ok(());
    }
    confirm(index, write, &rules_of(write.object))?;
    let selects = |role: &Value| {
        role.pointer("/aggregationRule/clusterRoleSelectors")
            .and_then(Value::as_array)
            .is_some_and(|s| !s.is_empty())
    };
    if selects(write.object) || write.old.is_some_and(selects) {
        confirm(index, write, &everything()).map_err(|_| {
            forbidden(
                write,
                "must have cluster-admin privileges to use the aggregationRule",
            )
        })?;
    }
    Ok(())
}

fn check_binding(
    index: &Index,
    authorizer: &dyn Authorizer,
    write: &Write<'_>,
) -> Result<(), Status> {
    let same = |key: &str| {
        write
            .old
            .is_some_and(|old| or_empty(old.get(key)) == or_empty(write.object.get(key)))
    };
    if same("roleRef") && same("subjects") {
        return Ok(());
    }
    let text = |key: &str| {
        write
            .object
            .pointer(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (kind, name) = (text("/roleRef/kind"), text("/roleRef/name"));
    let resource = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        other => {
            return Err(forbidden(
                write,
                format!("unsupported role reference kind: {other:?}"),
            ));
        }
    };
    let bind = Attributes {
        user: write.user.clone(),
        verb: "bind".into(),
        api_group: text("/roleRef/apiGroup").into(),
        api_version: "*".into(),
        resource: resource.into(),
        namespace: write.namespace.into(),
        name: name.into(),
        resource_request: true,
        ..Attributes::default()
    };
    if authorizer.authorize(&bind).allowed() {
        return Ok(());
    }
    // Upstream's 404 is about the resource that is written, under the name of the role that is missing.
    let rules = index
        .role_rules(kind == "ClusterRole", write.namespace, name)
        .ok_or_else(|| Status::not_found(Qualified::new(super::GROUP, write.resource), name))?;
    confirm(index, write, &rules)
}

fn confirm(index: &Index, write: &Write<'_>, wanted: &[Rule]) -> Result<(), Status> {
    let owned = index.rules_for(write.user, write.namespace);
    let missing = merge_verbs(uncovered(&owned, wanted));
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = missing.iter().map(Rule::compact).collect();
    lines.sort();
    let groups: Vec<String> = write.user.groups.iter().map(|g| format!("{g:?}")).collect();
    Err(forbidden(
        write,
        format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            write.user.name,
            groups.join(" "),
            lines.join("\n")
        ),
    ))
}

fn forbidden(write: &Write<'_>, why: impl std::fmt::Display) -> Status {
    let name = write
        .object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    Status::forbidden(Qualified::new(super::GROUP, write.resource), name, why)
}

/// What cluster-admin holds.
fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule {
            verbs: all(),
            api_groups: all(),
            resources: all(),
            ..Rule::default()
        },
        Rule {
            verbs: all(),
            urls: all(),
            ..Rule::default()
        },
    ]
}

/// Treats null, absent and empty alike.
fn or_empty(value: Option<&Value>) -> Option<&Value> {
    value.filter(|v| match v {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn index() -> Index {
        let index = Index::new();
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["free"], "verbs": ["bind"]}]);
        index.upsert(
            "clusterroles",
            &json!({"metadata": {"name": "mine"}, "rules": rules}),
        );
        let secrets =
            json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}]);
        for name in ["free", "held"] {
            index.upsert(
                "clusterroles",
                &json!({"metadata": {"name": name}, "rules": secrets}),
            );
        }
        index.upsert(
            "clusterrolebindings",
            &json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "mine"},
                "subjects": [{"kind": "User", "name": "u"}]}),
        );
        index
    }

    fn write(
        index: &Index,
        resource: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let user = Arc::new(User::new("u", &["g"]));
        check(
            index,
            index,
            &Write {
                user: &user,
                resource,
                namespace: "ns",
                request_name: "",
                object,
                old,
            },
        )
    }

    #[test]
    fn roles_may_only_grant_what_is_held() {
        let index = index();
        let role = |verbs: Value| json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]});
        assert!(write(&index, "roles", &role(json!(["get"])), None).is_ok());
        let refused = write(&index, "roles", &role(json!(["get", "delete"])), None).unwrap_err();
        assert_eq!(
            refused.message,
            "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"u\" (groups=[\"g\"]) is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
        );
        // What is not changed is not granted anew.
        let old = role(json!(["*"]));
        assert!(write(&index, "roles", &old, Some(&old)).is_ok());
    }

    #[test]
    fn binding_needs_the_rules_or_the_verb() {
        let index = index();
        let binding = |role: &str| {
            json!({"metadata": {"name": "x"}, "subjects": [{"kind": "User", "name": "v"}],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}})
        };
        assert!(write(&index, "rolebindings", &binding("mine"), None).is_ok());
        assert!(write(&index, "rolebindings", &binding("free"), None).is_ok());
        assert_eq!(
            write(&index, "rolebindings", &binding("held"), None)
                .unwrap_err()
                .code,
            403
        );
        assert_eq!(
            write(&index, "rolebindings", &binding("none"), None)
                .unwrap_err()
                .code,
            404
        );
    }
}
