//! What is asked of an authorizer and what it answers. How requests become attributes is the API server's business.

use std::sync::Arc;

use crate::user::{MASTERS, User};

/// Everything that an authorization decision may depend on.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// The caller.
    pub user: Arc<User>,
    /// The verb, in lower case: `get`, `list`, `create`, … or an HTTP method for paths that are no resources.
    pub verb: String,
    /// The API group; empty for the core group.
    pub api_group: String,
    /// The API version.
    pub api_version: String,
    /// The resource, plural.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The object's name, or empty for collections.
    pub name: String,
    /// The URL path, for requests that are not about resources.
    pub path: String,
    /// Whether this is about a resource rather than about a path.
    pub resource_request: bool,
    /// The field selector's equality requirements, as (field, value): the Node authorizer looks at `spec.nodeName`.
    pub field_requirements: Vec<(String, String)>,
}

impl Attributes {
    /// Whether the verb changes nothing.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    /// The sentence that follows the user in upstream's 403.
    pub fn describe(&self) -> String {
        if !self.resource_request {
            return format!("cannot {} path \"{}\"", self.verb, self.path);
        }
        let resource = if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        };
        let group = &self.api_group;
        if self.namespace.is_empty() {
            format!(
                "cannot {} resource \"{resource}\" in API group \"{group}\" at the cluster scope",
                self.verb
            )
        } else {
            format!(
                "cannot {} resource \"{resource}\" in API group \"{group}\" in the namespace \"{}\"",
                self.verb, self.namespace
            )
        }
    }

    /// Upstream's whole sentence for a refusal, as it follows `<resource> "<name>" is forbidden: `.
    pub fn forbidden_sentence(&self, reason: &str) -> String {
        let mut sentence = format!("User \"{}\" {}", self.user.name, self.describe());
        if !reason.is_empty() {
            sentence.push_str(": ");
            sentence.push_str(reason);
        }
        sentence
    }
}

/// An authorizer's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The request may go on; no further authorizer is asked.
    Allow,
    /// The request is refused; no further authorizer is asked.
    Deny,
    /// The next authorizer decides; if there is none, the request is refused.
    NoOpinion,
}

/// A verdict with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The verdict.
    pub decision: Decision,
    /// Why, in upstream's words; may be empty.
    pub reason: String,
}

impl Answer {
    /// An allowing answer.
    pub fn allow(reason: impl Into<String>) -> Self {
        Self {
            decision: Decision::Allow,
            reason: reason.into(),
        }
    }

    /// An answer that leaves the decision to the next authorizer.
    pub fn no_opinion(reason: impl Into<String>) -> Self {
        Self {
            decision: Decision::NoOpinion,
            reason: reason.into(),
        }
    }

    /// Whether the request may go on.
    pub fn allowed(&self) -> bool {
        self.decision == Decision::Allow
    }
}

/// One rule on resources, as SelfSubjectRulesReview shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceRule {
    /// The verbs.
    pub verbs: Vec<String>,
    /// The API groups.
    pub api_groups: Vec<String>,
    /// The resources, with subresources after a slash.
    pub resources: Vec<String>,
    /// The names; empty means all.
    pub resource_names: Vec<String>,
}

/// One rule on paths, as SelfSubjectRulesReview shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NonResourceRule {
    /// The verbs.
    pub verbs: Vec<String>,
    /// The paths, maybe ending in `*`.
    pub paths: Vec<String>,
}

/// What a user may do in a namespace.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Rules on resources.
    pub resource: Vec<ResourceRule>,
    /// Rules on paths.
    pub non_resource: Vec<NonResourceRule>,
    /// Set where some authorizer cannot list its rules.
    pub incomplete: Option<String>,
}

/// Decides whether a request may go on.
pub trait Authorizer: Send + Sync {
    /// The verdict on one request.
    fn authorize(&self, attributes: &Attributes) -> Answer;

    /// What the user may do in the namespace, as far as this authorizer can tell.
    fn rules(&self, user: &User, namespace: &str) -> Rules;
}

/// Asks authorizers in order until one has an opinion. The group `system:masters` passes before any is asked.
pub struct Union(Vec<Arc<dyn Authorizer>>);

impl Union {
    /// A chain in the order of the flag `--authorization-mode`.
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self(authorizers)
    }
}

impl Authorizer for Union {
    fn authorize(&self, attributes: &Attributes) -> Answer {
        if attributes.user.in_group(MASTERS) {
            return Answer::allow("");
        }
        let mut reasons: Vec<String> = Vec::new();
        for authorizer in &self.0 {
            let answer = authorizer.authorize(attributes);
            if answer.decision == Decision::NoOpinion {
                if !answer.reason.is_empty() {
                    reasons.push(answer.reason);
                }
                continue;
            }
            return answer;
        }
        Answer::no_opinion(reasons.join("\n"))
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let mut all = Rules::default();
        if user.in_group(MASTERS) {
            let star = || vec!["*".to_owned()];
            all.resource.push(ResourceRule {
                verbs: star(),
                api_groups: star(),
                resources: star(),
                resource_names: vec![],
            });
            all.non_resource.push(NonResourceRule {
                verbs: star(),
                paths: star(),
            });
        }
        let mut incomplete = Vec::new();
        for authorizer in &self.0 {
            let rules = authorizer.rules(user, namespace);
            all.resource.extend(rules.resource);
            all.non_resource.extend(rules.non_resource);
            incomplete.extend(rules.incomplete);
        }
        if !incomplete.is_empty() {
            all.incomplete = Some(incomplete.join(", "));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Decision, &'static str);
    impl Authorizer for Fixed {
        fn authorize(&self, _: &Attributes) -> Answer {
            Answer {
                decision: self.0,
                reason: self.1.into(),
            }
        }
        fn rules(&self, _: &User, _: &str) -> Rules {
            Rules::default()
        }
    }

    #[test]
    fn the_first_opinion_wins_and_reasons_add_up() {
        let union = Union::new(vec![
            Arc::new(Fixed(Decision::NoOpinion, "a")),
            Arc::new(Fixed(Decision::NoOpinion, "b")),
        ]);
        let answer = union.authorize(&Attributes::default());
        assert_eq!(
            (answer.decision, answer.reason.as_str()),
            (Decision::NoOpinion, "a\nb")
        );
        let union = Union::new(vec![
            Arc::new(Fixed(Decision::Deny, "no")),
            Arc::new(Fixed(Decision::Allow, "yes")),
        ]);
        assert_eq!(
            union.authorize(&Attributes::default()).decision,
            Decision::Deny
        );
        let masters = Attributes {
            user: Arc::new(User::new("root", &[MASTERS])),
            ..Attributes::default()
        };
        assert!(union.authorize(&masters).allowed());
    }

    #[test]
    fn refusals_read_as_upstreams() {
        let attributes = Attributes {
            user: Arc::new(User::new("jane", &[])),
            verb: "list".into(),
            resource: "pods".into(),
            subresource: "log".into(),
            namespace: "default".into(),
            resource_request: true,
            ..Attributes::default()
        };
        assert_eq!(
            attributes.forbidden_sentence(""),
            r#"User "jane" cannot list resource "pods/log" in API group "" in the namespace "default""#
        );
    }
}
