//! FlowSchemas, compiled: which requests they take and what tells their flows apart.

use keelson_auth::User;
use keelson_registry::access::Access;
use serde_json::Value;

use crate::request_info::RequestInfo;

const ACCOUNT: &str = "system:serviceaccount:";

/// Whose requests a rule takes.
#[derive(Debug)]
enum Subject {
    Anybody,
    User(String),
    Group(String),
    /// Namespace, and name if it isn't all of them.
    Account(String, Option<String>),
}

/// A list in which `*` stands for everything.
#[derive(Debug)]
struct Words {
    all: bool,
    list: Vec<String>,
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Words,
    groups: Words,
    resources: Words,
    namespaces: Words,
    cluster: bool,
}

#[derive(Debug)]
struct PathRule {
    verbs: Words,
    paths: Words,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

/// What tells the flows of a schema apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distinguisher {
    /// Nothing: it is one flow.
    None,
    /// The user.
    User,
    /// The namespace.
    Namespace,
}

/// Which requests a schema takes.
#[derive(Debug)]
pub struct Matcher(Vec<Rule>);

impl Words {
    fn of(rule: &Value, key: &str) -> Self {
        let list: Vec<String> = rule
            .items(key)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        Words {
            all: list.iter().any(|w| w == "*"),
            list,
        }
    }

    fn has(&self, word: &str) -> bool {
        self.all || self.list.iter().any(|w| w == word)
    }
}

impl Distinguisher {
    /// What a FlowSchema says.
    pub fn of(schema: &Value) -> Self {
        match schema.text("spec.distinguisherMethod.type") {
            "ByUser" => Distinguisher::User,
            "ByNamespace" => Distinguisher::Namespace,
            _ => Distinguisher::None,
        }
    }

    /// What tells a request's flow from others.
    pub fn value<'r>(self, user: &'r User, info: &'r RequestInfo) -> &'r str {
        match self {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
        }
    }
}

impl Matcher {
    /// Reads the rules of a FlowSchema.
    pub fn of(schema: &Value) -> Self {
        let rules = schema.items("spec.rules").iter().map(|rule| Rule {
            subjects: rule.items("subjects").iter().filter_map(subject).collect(),
            resources: rule
                .items("resourceRules")
                .iter()
                .map(|rule| ResourceRule {
                    verbs: Words::of(rule, "verbs"),
                    groups: Words::of(rule, "apiGroups"),
                    resources: Words::of(rule, "resources"),
                    namespaces: Words::of(rule, "namespaces"),
                    cluster: rule.flag("clusterScope"),
                })
                .collect(),
            paths: rule
                .items("nonResourceRules")
                .iter()
                .map(|rule| PathRule {
                    verbs: Words::of(rule, "verbs"),
                    paths: Words::of(rule, "nonResourceURLs"),
                })
                .collect(),
        });
        Matcher(rules.collect())
    }

    /// Whether a request is one of them.
    pub fn takes(&self, user: &User, info: &RequestInfo) -> bool {
        self.0.iter().any(|rule| {
            rule.subjects.iter().any(|s| s.is(user))
                && if info.is_resource {
                    rule.resources.iter().any(|r| r.takes(info))
                } else {
                    rule.paths.iter().any(|r| r.takes(info))
                }
        })
    }
}

fn subject(subject: &Value) -> Option<Subject> {
    let text = |path: &str| subject.text(path).to_owned();
    match subject.text("kind") {
        "User" => match subject.text("user.name") {
            "*" => Some(Subject::Anybody),
            _ => Some(Subject::User(text("user.name"))),
        },
        "Group" => match subject.text("group.name") {
            "*" => Some(Subject::Anybody),
            _ => Some(Subject::Group(text("group.name"))),
        },
        "ServiceAccount" => {
            let name = text("serviceAccount.name");
            let name = (name != "*").then_some(name);
            Some(Subject::Account(text("serviceAccount.namespace"), name))
        }
        _ => None,
    }
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        match self {
            Subject::Anybody => true,
            Subject::User(name) => user.name == *name,
            Subject::Group(name) => user.in_group(name),
            Subject::Account(namespace, name) => user
                .name
                .strip_prefix(ACCOUNT)
                .and_then(|rest| rest.strip_prefix(namespace.as_str())?.strip_prefix(':'))
                .is_some_and(|rest| name.as_ref().is_none_or(|name| name == rest)),
        }
    }
}

impl ResourceRule {
    fn takes(&self, info: &RequestInfo) -> bool {
        let resource = || {
            self.resources.all
                || self.resources.list.iter().any(|wanted| {
                    if info.subresource.is_empty() {
                        return *wanted == info.resource;
                    }
                    wanted
                        .strip_prefix(info.resource.as_str())
                        .and_then(|rest| rest.strip_prefix('/'))
                        .is_some_and(|rest| rest == info.subresource)
                })
        };
        self.verbs.has(&info.verb)
            && self.groups.has(&info.group)
            && resource()
            && if info.namespace.is_empty() {
                self.cluster
            } else {
                self.namespaces.has(&info.namespace)
            }
    }
}

impl PathRule {
    fn takes(&self, info: &RequestInfo) -> bool {
        let is = |wanted: &String| {
            *wanted == info.path
                || wanted
                    .strip_suffix("/*")
                    .and_then(|prefix| info.path.strip_prefix(prefix))
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        self.verbs.has(&info.verb) && (self.paths.all || self.paths.list.iter().any(is))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;
    use http::Method;
    use serde_json::json;

    fn takes(rule: Value, user: &User, path: &str) -> bool {
        let info = RequestInfo::parse(&Method::GET, path, &Query::default());
        Matcher::of(&json!({"spec": {"rules": [rule]}})).takes(user, &info)
    }

    #[test]
    fn subjects_are_users_groups_and_accounts() {
        let account = User::new(
            "system:serviceaccount:kube-system:x",
            &["system:authenticated"],
        );
        let of = |subject: Value| {
            let rule = json!({"subjects": [subject], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]});
            takes(rule, &account, "/healthz")
        };
        let sa = |namespace: &str, name: &str| {
            of(
                json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}}),
            )
        };
        assert!(sa("kube-system", "*") && sa("kube-system", "x"));
        assert!(!sa("kube", "*") && !sa("kube-system", "y"));
        assert!(of(json!({"kind": "User", "user": {"name": "*"}})));
        assert!(!of(json!({"kind": "User", "user": {"name": "x"}})));
        assert!(of(
            json!({"kind": "Group", "group": {"name": "system:authenticated"}})
        ));
    }

    #[test]
    fn rules_take_resources_or_paths() {
        let user = User::new("u", &[]);
        let anybody = json!([{"kind": "User", "user": {"name": "u"}}]);
        let resource = |resources: &[&str], cluster: bool, path: &str| {
            let rule = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": resources, "namespaces": ["a"], "clusterScope": cluster});
            takes(
                json!({"subjects": anybody, "resourceRules": [rule]}),
                &user,
                path,
            )
        };
        assert!(resource(&["pods"], false, "/api/v1/namespaces/a/pods"));
        assert!(!resource(&["pods"], false, "/api/v1/namespaces/b/pods"));
        assert!(!resource(&["pods"], false, "/api/v1/pods"));
        assert!(resource(&["pods"], true, "/api/v1/pods"));
        assert!(!resource(
            &["pods"],
            false,
            "/api/v1/namespaces/a/pods/p/status"
        ));
        assert!(resource(
            &["pods/status"],
            false,
            "/api/v1/namespaces/a/pods/p/status"
        ));
        assert!(!resource(&["*"], true, "/apis/apps/v1/deployments"));
        let path = |wanted: &str, path: &str| {
            let rule = json!({"verbs": ["get"], "nonResourceURLs": [wanted]});
            takes(
                json!({"subjects": anybody, "nonResourceRules": [rule]}),
                &user,
                path,
            )
        };
        assert!(path("/apis/*", "/apis/apps") && path("/healthz", "/healthz"));
        assert!(!path("/apis/*", "/apisx") && !path("/healthz", "/healthz/etcd"));
    }
}
