//! The roles and bindings that every cluster starts with (`policy.tsv`), and how they are kept whole over restarts and upgrades.
//!
//! What an administrator added stays; what is missing comes back, unless the object's annotation
//! `rbac.authorization.kubernetes.io/autoupdate` says `false`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::GROUP;
use super::index::rules_of;
use super::rule::{Rule, uncovered};

const TABLE: &str = include_str!("policy.tsv");
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const AGGREGATE_PREFIX: &str = "rbac.authorization.k8s.io/";

/// An object of the policy, and the resource it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// `clusterroles`, `clusterrolebindings`, `roles` or `rolebindings`.
    pub resource: &'static str,
    /// The object.
    pub value: Value,
}

/// What has to be written for an object of the policy.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Nothing: it is as it should be, or must be left alone.
    Keep,
    /// It is missing.
    Create(Value),
    /// Something in it is missing; the resourceVersion is the existing object's.
    Update(Value),
    /// Its role reference, which cannot be changed, is another: delete and create.
    Replace(Value),
}

/// The whole policy, roles before bindings. `admin`, `edit` and `view` hold the rules that they aggregate, so that they work
/// before any controller runs.
pub fn policy() -> Vec<Object> {
    let mut objects = parse();
    objects.push(cluster_admins());
    let updates = aggregate(
        objects
            .iter()
            .filter(|o| o.resource == "clusterroles")
            .map(|o| &o.value),
    );
    for role in updates {
        let name = role.pointer("/metadata/name").cloned();
        if let Some(object) = objects.iter_mut().find(|o| {
            o.resource == "clusterroles" && o.value.pointer("/metadata/name") == name.as_ref()
        }) {
            object.value = role;
        }
    }
    objects
}

/// The rules of a ClusterRole of the policy; none if there is no such role.
pub fn cluster_role_rules(name: &str) -> Vec<Rule> {
    let is = |o: &&Object| {
        o.resource == "clusterroles"
            && o.value.pointer("/metadata/name").and_then(Value::as_str) == Some(name)
    };
    parse()
        .iter()
        .find(is)
        .map(|o| rules_of(&o.value))
        .unwrap_or_default()
}

/// kubeadm's group of administrators, which our certificates use.
fn cluster_admins() -> Object {
    Object {
        resource: "clusterrolebindings",
        value: json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "kubeadm:cluster-admins"},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "Group", "apiGroup": GROUP, "name": "kubeadm:cluster-admins"}],
        }),
    }
}

/// The ClusterRoles whose rules differ from what their aggregationRule selects, with their rules set. Roles that aggregate
/// roles that aggregate are settled in one go.
pub fn aggregate<'a>(roles: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let mut roles: BTreeMap<String, Value> = roles
        .filter_map(|r| Some((r.pointer("/metadata/name")?.as_str()?.to_owned(), r.clone())))
        .collect();
    let mut changed = BTreeMap::new();
    // Each round settles one more level; a chain cannot be longer than there are roles.
    for _ in 0..roles.len() {
        let mut settled = true;
        let names: Vec<String> = roles.keys().cloned().collect();
        for name in names {
            let Some(rules) = aggregated_rules(&roles[&name], &roles) else {
                continue;
            };
            if rules == rules_of(&roles[&name]) {
                continue;
            }
            let mut role = roles[&name].clone();
            role["rules"] = rules.iter().map(Rule::to_value).collect();
            changed.insert(name.clone(), role.clone());
            roles.insert(name, role);
            settled = false;
        }
        if settled {
            break;
        }
    }
    changed.into_values().collect()
}

/// The rules of every role that the aggregation rule selects by `matchLabels`, in the order of the roles' names, each once;
/// `None` if the role has no aggregation rule, or one that needs more than labels.
fn aggregated_rules(role: &Value, roles: &BTreeMap<String, Value>) -> Option<Vec<Rule>> {
    let selectors = role
        .pointer("/aggregationRule/clusterRoleSelectors")?
        .as_array()?;
    let mut rules: Vec<Rule> = Vec::new();
    for selector in selectors {
        if selector
            .get("matchExpressions")
            .is_some_and(|e| !e.is_null())
        {
            return None;
        }
        let wanted = selector.get("matchLabels").and_then(Value::as_object)?;
        for other in roles.values() {
            if other.pointer("/metadata/name") == role.pointer("/metadata/name") {
                continue;
            }
            let labels = other.pointer("/metadata/labels").and_then(Value::as_object);
            if !wanted
                .iter()
                .all(|(k, v)| labels.is_some_and(|l| l.get(k) == Some(v)))
            {
                continue;
            }
            for rule in rules_of(other) {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }
    Some(rules)
}

/// What to write so that `existing` has everything that `wanted` has.
pub fn reconcile(wanted: &Value, existing: Option<&Value>) -> Change {
    let Some(existing) = existing else {
        return Change::Create(wanted.clone());
    };
    let autoupdate = format!("/metadata/annotations/{}", AUTOUPDATE.replace('/', "~1"));
    if existing.pointer(&autoupdate).and_then(Value::as_str) == Some("false") {
        return Change::Keep;
    }
    if wanted.get("roleRef").is_some() {
        return reconcile_binding(wanted, existing);
    }
    let mut merged = existing.clone();
    add_metadata(&mut merged, wanted);
    if let Some(selectors) = wanted
        .pointer("/aggregationRule/clusterRoleSelectors")
        .and_then(Value::as_array)
    {
        // The aggregated rules belong to the aggregation, which sees labels on roles that the policy does not know.
        add_missing(
            &mut merged["aggregationRule"],
            "clusterRoleSelectors",
            selectors,
        );
    } else {
        let missing = uncovered(&rules_of(existing), &rules_of(wanted));
        if !missing.is_empty() {
            let values: Vec<Value> = missing.iter().map(Rule::to_value).collect();
            add_missing(&mut merged, "rules", &values);
        }
    }
    if merged == *existing {
        Change::Keep
    } else {
        Change::Update(merged)
    }
}

fn reconcile_binding(wanted: &Value, existing: &Value) -> Change {
    if wanted.get("roleRef") != existing.get("roleRef") {
        return Change::Replace(wanted.clone());
    }
    let mut merged = existing.clone();
    add_metadata(&mut merged, wanted);
    if let Some(subjects) = wanted.get("subjects").and_then(Value::as_array) {
        add_missing(&mut merged, "subjects", subjects);
    }
    if merged == *existing {
        Change::Keep
    } else {
        Change::Update(merged)
    }
}

/// Adds labels and annotations that are missing; values that are there win.
fn add_metadata(object: &mut Value, wanted: &Value) {
    for key in ["labels", "annotations"] {
        let Some(entries) = wanted
            .pointer(&format!("/metadata/{key}"))
            .and_then(Value::as_object)
        else {
            continue;
        };
        if !object["metadata"][key].is_object() {
            object["metadata"][key] = json!({});
        }
        for (name, value) in entries {
            if object["metadata"][key].get(name).is_none() {
                object["metadata"][key][name] = value.clone();
            }
        }
    }
}

fn add_missing(object: &mut Value, key: &str, wanted: &[Value]) {
    if !object.is_object() {
        *object = json!({});
    }
    if !object[key].is_array() {
        object[key] = json!([]);
    }
    if let Some(list) = object[key].as_array_mut() {
        for item in wanted {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
    }
}

/// Reads the table. It is part of the program, and a test reads it whole; a line that made no sense would be left out.
fn parse() -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    for line in TABLE
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
    {
        let fields: Vec<&str> = line.split('\t').collect();
        match (fields.as_slice(), objects.last_mut()) {
            (["", kind, namespace, name], Some(object))
                if object.resource.ends_with("bindings") =>
            {
                push(
                    &mut object.value["subjects"],
                    subject(kind, namespace, name),
                );
            }
            (["", groups, things, names, verbs], Some(object)) => {
                push(
                    &mut object.value["rules"],
                    rule(groups, things, names, verbs),
                );
            }
            ([kind, namespace, name, rest @ ..], _) => {
                if let Some(object) = header(kind, namespace, name, rest) {
                    objects.push(object);
                }
            }
            _ => {}
        }
    }
    objects
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

fn header(kind: &str, namespace: &str, name: &str, rest: &[&str]) -> Option<Object> {
    let resource = match kind {
        "ClusterRole" => "clusterroles",
        "ClusterRoleBinding" => "clusterrolebindings",
        "Role" => "roles",
        "RoleBinding" => "rolebindings",
        _ => return None,
    };
    let mut metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    });
    if namespace != "-" {
        metadata["namespace"] = json!(namespace);
    }
    let mut value =
        json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata});
    match rest {
        [labels, aggregates] => {
            for label in list(labels.strip_prefix("labels=")?) {
                value["metadata"]["labels"][format!("{AGGREGATE_PREFIX}{label}")] = json!("true");
            }
            let selectors: Vec<Value> = list(aggregates.strip_prefix("aggregate=")?)
                .map(|a| {
                    let labels: Map<String, Value> =
                        [(format!("{AGGREGATE_PREFIX}{a}"), json!("true"))]
                            .into_iter()
                            .collect();
                    json!({"matchLabels": labels})
                })
                .collect();
            if !selectors.is_empty() {
                value["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
            }
            value["rules"] = json!([]);
        }
        [role] => {
            let (kind, name) = role.split_once(':')?;
            value["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": name});
        }
        _ => return None,
    }
    Some(Object { resource, value })
}

fn rule(groups: &str, things: &str, names: &str, verbs: &str) -> Value {
    let owned = |text| list(text).map(str::to_owned).collect::<Vec<_>>();
    let rule = if groups == "url" {
        Rule {
            urls: owned(things),
            verbs: owned(verbs),
            ..Rule::default()
        }
    } else {
        Rule {
            api_groups: owned(groups),
            resources: owned(things),
            names: owned(names),
            verbs: owned(verbs),
            urls: vec![],
        }
    };
    rule.to_value()
}

fn subject(kind: &str, namespace: &str, name: &str) -> Value {
    let mut subject = json!({"kind": kind, "name": name});
    if kind == "ServiceAccount" {
        subject["namespace"] = json!(namespace);
    } else {
        subject["apiGroup"] = json!(GROUP);
    }
    subject
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .filter(|item| *item != "-")
        .map(|item| if item == "\"\"" { "" } else { item })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::attributes::{Attributes, Authorizer};
    use crate::rbac::Index;
    use crate::user::User;

    fn compiled() -> Index {
        let index = Index::new();
        for object in policy() {
            index.upsert(object.resource, &object.value);
        }
        index
    }

    fn may(
        index: &Index,
        user: User,
        verb: &str,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        index
            .authorize(&Attributes {
                user: Arc::new(user),
                verb: verb.into(),
                api_group: group.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                namespace: namespace.into(),
                resource_request: true,
                ..Attributes::default()
            })
            .allowed()
    }

    #[test]
    fn every_line_is_understood_and_every_binding_has_its_role() {
        let objects = policy();
        let lines = TABLE.lines().filter(|l| !l.starts_with('#'));
        let headers = lines.clone().filter(|l| !l.starts_with('\t')).count();
        assert_eq!(
            objects.len(),
            headers + 1,
            "the table, and kubeadm:cluster-admins"
        );
        let parts: usize = parse()
            .iter()
            .flat_map(|o| ["rules", "subjects"].map(|k| o.value[k].as_array().map_or(0, Vec::len)))
            .sum();
        assert_eq!(parts, lines.filter(|l| l.starts_with('\t')).count());
        for object in objects.iter().filter(|o| o.resource.ends_with("bindings")) {
            let role = &object.value["roleRef"];
            let namespace = &object.value["metadata"]["namespace"];
            let found = objects.iter().any(|o| {
                o.value["kind"] == role["kind"]
                    && o.value["metadata"]["name"] == role["name"]
                    && (role["kind"] == "ClusterRole"
                        || o.value["metadata"]["namespace"] == *namespace)
            });
            assert!(found, "{}", object.value);
        }
    }

    #[test]
    fn the_aggregated_roles_work_from_the_first_start() {
        let objects = policy();
        let rules = |name: &str| {
            objects
                .iter()
                .find(|o| o.value["metadata"]["name"] == name)
                .and_then(|o| o.value["rules"].as_array().cloned())
                .unwrap()
        };
        assert!(rules("view").len() > 5);
        assert!(rules("edit").len() > rules("view").len());
        assert!(rules("admin").len() > rules("edit").len());
    }

    #[test]
    fn the_components_may_do_their_work_and_no_more() {
        let index = compiled();
        let scheduler = || User::new("system:kube-scheduler", &["system:authenticated"]);
        assert!(may(
            &index,
            scheduler(),
            "create",
            "",
            "pods/binding",
            "default"
        ));
        assert!(!may(
            &index,
            scheduler(),
            "get",
            "",
            "secrets",
            "kube-system"
        ));
        let deployment = || {
            User::new(
                "system:serviceaccount:kube-system:deployment-controller",
                &[],
            )
        };
        assert!(may(
            &index,
            deployment(),
            "create",
            "apps",
            "replicasets",
            "default"
        ));
        assert!(!may(
            &index,
            deployment(),
            "create",
            "apps",
            "deployments",
            "default"
        ));
        assert!(may(
            &index,
            User::new("root", &["kubeadm:cluster-admins"]),
            "delete",
            "",
            "nodes",
            ""
        ));
        assert!(!may(
            &index,
            User::new("nobody", &["system:authenticated"]),
            "get",
            "",
            "pods",
            "default"
        ));
        assert!(may(
            &index,
            User::new("x", &["system:authenticated"]),
            "create",
            "authorization.k8s.io",
            "selfsubjectaccessreviews",
            ""
        ));
    }

    #[test]
    fn reconciling_adds_what_is_missing_and_leaves_the_rest() {
        let wanted = policy()
            .into_iter()
            .find(|o| o.value["metadata"]["name"] == "system:basic-user")
            .unwrap()
            .value;
        assert!(matches!(reconcile(&wanted, None), Change::Create(_)));
        assert_eq!(reconcile(&wanted, Some(&wanted)), Change::Keep);
        let mut existing = wanted.clone();
        let own = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        existing["rules"] = json!([own]);
        existing["metadata"]["resourceVersion"] = json!("7");
        let Change::Update(updated) = reconcile(&wanted, Some(&existing)) else {
            panic!("not updated")
        };
        assert_eq!(updated["metadata"]["resourceVersion"], "7");
        assert!(updated["rules"].as_array().unwrap().contains(&own));
        assert!(uncovered(&rules_of(&updated), &rules_of(&wanted)).is_empty());
        existing["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(reconcile(&wanted, Some(&existing)), Change::Keep);
    }

    #[test]
    fn a_binding_to_another_role_is_replaced() {
        let wanted = policy()
            .into_iter()
            .find(|o| o.value["kind"] == "ClusterRoleBinding")
            .unwrap()
            .value;
        let mut existing = wanted.clone();
        existing["roleRef"]["name"] = json!("other");
        assert!(matches!(
            reconcile(&wanted, Some(&existing)),
            Change::Replace(_)
        ));
    }
}
