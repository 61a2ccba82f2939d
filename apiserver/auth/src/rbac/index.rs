//! Roles and bindings as an index from subject to bindings, kept current object by object.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;

use super::rule::Rule;
use crate::attributes::{Answer, Attributes, Authorizer, Rules};
use crate::user::{User, service_account_user};

/// Which role a binding grants.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RoleRef {
    cluster: bool,
    name: String,
}

/// Whom a binding names: users (service accounts among them, by user name) or groups.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User { name: String, described: String },
    Group { name: String },
}

#[derive(Debug)]
struct Binding {
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// The bindings of one scope: the cluster, or a namespace.
#[derive(Debug, Default)]
struct Scope {
    bindings: HashMap<String, Binding>,
    users: HashMap<String, BTreeSet<String>>,
    groups: HashMap<String, BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct State {
    cluster_roles: HashMap<String, Arc<[Rule]>>,
    roles: HashMap<String, HashMap<String, Arc<[Rule]>>>,
    cluster: Scope,
    namespaces: HashMap<String, Scope>,
}

/// The RBAC authorizer.
#[derive(Debug, Default)]
pub struct Index {
    state: RwLock<State>,
}

impl Index {
    /// An index that grants nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a new or changed object of `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`. Other resources
    /// are ignored, so that a feed may be shared.
    pub fn upsert(&self, resource: &str, object: &Value) {
        let text = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        match resource {
            "clusterroles" => {
                self.state
                    .write()
                    .cluster_roles
                    .insert(name.to_owned(), rules_of(object).into());
            }
            "roles" => {
                let rules = rules_of(object).into();
                self.state
                    .write()
                    .roles
                    .entry(namespace.to_owned())
                    .or_default()
                    .insert(name.to_owned(), rules);
            }
            "clusterrolebindings" => self
                .state
                .write()
                .cluster
                .insert(name, binding_of(object, "")),
            "rolebindings" => {
                let binding = binding_of(object, namespace);
                self.state
                    .write()
                    .namespaces
                    .entry(namespace.to_owned())
                    .or_default()
                    .insert(name, binding);
            }
            _ => {}
        }
    }

    /// Forgets an object.
    pub fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let mut state = self.state.write();
        match resource {
            "clusterroles" => {
                state.cluster_roles.remove(name);
            }
            "roles" => {
                if let Some(roles) = state.roles.get_mut(namespace) {
                    roles.remove(name);
                    if roles.is_empty() {
                        state.roles.remove(namespace);
                    }
                }
            }
            "clusterrolebindings" => state.cluster.remove(name),
            "rolebindings" => {
                if let Some(scope) = state.namespaces.get_mut(namespace) {
                    scope.remove(name);
                    if scope.bindings.is_empty() {
                        state.namespaces.remove(namespace);
                    }
                }
            }
            _ => {}
        }
    }

    /// Every rule that the user has in the namespace, cluster-wide ones included.
    pub fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut all = Vec::new();
        let state = self.state.read();
        state.visit(user, namespace, &mut |_, _, rules| {
            all.extend(rules.iter().cloned());
            false
        });
        all
    }

    /// The rules of the role that a binding in `namespace` (empty for a ClusterRoleBinding) refers to.
    pub fn role_rules(&self, cluster: bool, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        let state = self.state.read();
        let role = RoleRef {
            cluster,
            name: name.to_owned(),
        };
        state.role(&role, namespace).cloned()
    }
}

impl Authorizer for Index {
    fn authorize(&self, attributes: &Attributes) -> Answer {
        let state = self.state.read();
        let mut granted = None;
        let namespace = if attributes.resource_request {
            attributes.namespace.as_str()
        } else {
            ""
        };
        let missing = state.visit(
            &attributes.user,
            namespace,
            &mut |origin, subject, rules| {
                if rules.iter().any(|rule| rule.allows(attributes)) {
                    granted = Some(format!("RBAC: allowed by {}", origin.describe(subject)));
                    return true;
                }
                false
            },
        );
        match granted {
            Some(reason) => Answer::allow(reason),
            None => Answer::no_opinion(match missing.as_slice() {
                [] => String::new(),
                [one] => format!("RBAC: {one}"),
                many => format!("RBAC: [{}]", many.join(", ")),
            }),
        }
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let mut found = Rules::default();
        for rule in self.rules_for(user, namespace) {
            let (resource, path) = rule.review();
            found.resource.extend(resource);
            found.non_resource.extend(path);
        }
        found
    }
}

/// The binding that granted something, for the reason.
struct Origin<'a> {
    namespace: Option<&'a str>,
    name: &'a str,
    role: &'a RoleRef,
}

impl Origin<'_> {
    fn describe(&self, subject: &Subject) -> String {
        let who = match subject {
            Subject::User { described, .. } => described.clone(),
            Subject::Group { name } => format!("Group {name:?}"),
        };
        let role_kind = if self.role.cluster {
            "ClusterRole"
        } else {
            "Role"
        };
        let role = &self.role.name;
        match self.namespace {
            None => format!(
                "ClusterRoleBinding {:?} of {role_kind} {role:?} to {who}",
                self.name
            ),
            Some(ns) => {
                format!(
                    "RoleBinding {:?} of {role_kind} {role:?} to {who}",
                    format!("{}/{ns}", self.name)
                )
            }
        }
    }
}

/// Sees a binding, the subject in it that names the user, and the role's rules; answers whether to stop.
type Visitor<'v> = dyn FnMut(&Origin<'_>, &Subject, &[Rule]) -> bool + 'v;

impl State {
    fn role(&self, role: &RoleRef, namespace: &str) -> Option<&Arc<[Rule]>> {
        if role.cluster {
            self.cluster_roles.get(&role.name)
        } else {
            self.roles.get(namespace)?.get(&role.name)
        }
    }

    /// Shows the visitor every binding of the user; returns the roles that are bound but not there.
    fn visit(&self, user: &User, namespace: &str, visitor: &mut Visitor<'_>) -> Vec<String> {
        let mut missing = BTreeSet::new();
        let scopes = [
            Some((None, &self.cluster)),
            self.namespaces
                .get(namespace)
                .filter(|_| !namespace.is_empty())
                .map(|s| (Some(namespace), s)),
        ];
        for (scope_namespace, scope) in scopes.into_iter().flatten() {
            for name in scope.names(user) {
                let Some(binding) = scope.bindings.get(name) else {
                    continue;
                };
                let Some(subject) = binding.subjects.iter().find(|s| s.is(user)) else {
                    continue;
                };
                let Some(rules) = self.role(&binding.role, namespace) else {
                    let kind = if binding.role.cluster {
                        "clusterrole"
                    } else {
                        "role"
                    };
                    missing.insert(format!(
                        "{kind}.{} {:?} not found",
                        super::GROUP,
                        binding.role.name
                    ));
                    continue;
                };
                let origin = Origin {
                    namespace: scope_namespace,
                    name,
                    role: &binding.role,
                };
                if visitor(&origin, subject, rules) {
                    return Vec::new();
                }
            }
        }
        missing.into_iter().collect()
    }
}

impl Scope {
    fn insert(&mut self, name: &str, binding: Binding) {
        self.remove(name);
        for subject in &binding.subjects {
            let (map, key) = match subject {
                Subject::User { name, .. } => (&mut self.users, name),
                Subject::Group { name } => (&mut self.groups, name),
            };
            map.entry(key.clone()).or_default().insert(name.to_owned());
        }
        self.bindings.insert(name.to_owned(), binding);
    }

    fn remove(&mut self, name: &str) {
        let Some(old) = self.bindings.remove(name) else {
            return;
        };
        for subject in &old.subjects {
            let (map, key) = match subject {
                Subject::User { name, .. } => (&mut self.users, name),
                Subject::Group { name } => (&mut self.groups, name),
            };
            if let Some(names) = map.get_mut(key) {
                names.remove(name);
                if names.is_empty() {
                    map.remove(key);
                }
            }
        }
    }

    /// The names of the bindings that concern a user; one may come twice, which only costs a look.
    fn names<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a str> {
        let by_group = user.groups.iter().filter_map(|g| self.groups.get(g));
        self.users
            .get(&user.name)
            .into_iter()
            .chain(by_group)
            .flatten()
            .map(String::as_str)
    }
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        match self {
            Self::User { name, .. } => *name == user.name,
            Self::Group { name } => user.in_group(name),
        }
    }
}

/// The rules of a role.
pub(super) fn rules_of(role: &Value) -> Vec<Rule> {
    let rules = role
        .get("rules")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    rules.iter().map(Rule::from_value).collect()
}

fn binding_of(object: &Value, namespace: &str) -> Binding {
    let text = |v: &Value, key: &str| {
        v.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let role = object.get("roleRef").unwrap_or(&Value::Null);
    let subjects = object
        .get("subjects")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let subjects = subjects.iter().filter_map(|subject| {
        let name = text(subject, "name");
        match text(subject, "kind").as_str() {
            "User" => Some(Subject::User {
                described: format!("User {name:?}"),
                name,
            }),
            "Group" => Some(Subject::Group { name }),
            "ServiceAccount" => {
                let own = text(subject, "namespace");
                let home = if own.is_empty() {
                    namespace
                } else {
                    own.as_str()
                };
                let described = format!("ServiceAccount {:?}", format!("{name}/{home}"));
                (!home.is_empty()).then(|| Subject::User {
                    name: service_account_user(home, &name),
                    described,
                })
            }
            _ => None,
        }
    });
    Binding {
        role: RoleRef {
            cluster: text(role, "kind") == "ClusterRole",
            name: text(role, "name"),
        },
        subjects: subjects.collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(index: &Index, user: &str, groups: &[&str], namespace: &str, verb: &str) -> Answer {
        index.authorize(&Attributes {
            user: Arc::new(User::new(user, groups)),
            verb: verb.into(),
            resource: "pods".into(),
            namespace: namespace.into(),
            resource_request: true,
            ..Attributes::default()
        })
    }

    fn sample() -> Index {
        let index = Index::new();
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]);
        index.upsert(
            "clusterroles",
            &json!({"metadata": {"name": "view"}, "rules": rules}),
        );
        index.upsert(
            "rolebindings",
            &json!({"metadata": {"name": "b", "namespace": "a"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
                "subjects": [{"kind": "ServiceAccount", "name": "sa"}, {"kind": "Group", "name": "g"}]}),
        );
        index
    }

    #[test]
    fn a_role_binding_grants_a_cluster_role_in_its_namespace_only() {
        let index = sample();
        let answer = ask(&index, "system:serviceaccount:a:sa", &[], "a", "get");
        assert!(answer.allowed());
        assert_eq!(
            answer.reason,
            r#"RBAC: allowed by RoleBinding "b/a" of ClusterRole "view" to ServiceAccount "sa/a""#
        );
        assert!(!ask(&index, "system:serviceaccount:a:sa", &[], "b", "get").allowed());
        assert!(!ask(&index, "system:serviceaccount:a:sa", &[], "", "list").allowed());
        assert!(!ask(&index, "system:serviceaccount:a:sa", &[], "a", "delete").allowed());
        assert!(ask(&index, "x", &["g"], "a", "list").allowed());
    }

    #[test]
    fn changes_take_effect_and_removals_leave_nothing() {
        let index = sample();
        index.upsert(
            "rolebindings",
            &json!({"metadata": {"name": "b", "namespace": "a"}, "roleRef": {"kind": "ClusterRole", "name": "gone"},
                "subjects": [{"kind": "User", "name": "u"}]}),
        );
        assert!(!ask(&index, "x", &["g"], "a", "list").allowed());
        assert_eq!(
            ask(&index, "u", &[], "a", "get").reason,
            r#"RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#
        );
        index.remove("rolebindings", "a", "b");
        assert!(index.state.read().namespaces.is_empty());
    }
}
