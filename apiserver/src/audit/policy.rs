//! `audit.k8s.io/v1` Policy: how much is recorded of which request.

use keelson_api::field::{Error, ErrorList, Path, aggregate};
use keelson_auth::Attributes;
use serde::{Deserialize, Serialize};

/// How much is recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who, what, when.
    Metadata,
    /// The request's body too.
    Request,
    /// And the answer's.
    RequestResponse,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Stage {
    /// It is here.
    #[default]
    RequestReceived,
    /// The head of a long answer is sent.
    ResponseStarted,
    /// All is sent.
    ResponseComplete,
    /// The handler fell over.
    Panic,
}

const STAGES: [Stage; 4] = [
    Stage::RequestReceived,
    Stage::ResponseStarted,
    Stage::ResponseComplete,
    Stage::Panic,
];

impl Stage {
    /// The API's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        STAGES.into_iter().find(|s| s.as_str() == text)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What the policy says of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// How much is recorded.
    pub level: Level,
    /// Whether managed fields are left out of bodies.
    pub omit_managed_fields: bool,
    omit_stages: Vec<Stage>,
}

impl Decision {
    /// Whether no event is written at a stage.
    pub fn omits(&self, stage: Stage) -> bool {
        self.omit_stages.contains(&stage)
    }
}

/// A policy: the first rule that matches decides.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<(Rule, Decision)>,
}

impl Policy {
    /// Reads YAML or JSON.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let document: Document =
            serde_norway::from_slice(text).map_err(|e| format!("failed decoding: {e}"))?;
        if document.api_version != "audit.k8s.io/v1" || document.kind != "Policy" {
            return Err(format!(
                "unknown group version field {}, Kind={} in policy",
                document.api_version, document.kind
            ));
        }
        let errors = validate(&document);
        if !errors.is_empty() {
            return Err(aggregate(&errors));
        }
        if document.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        let rules = document
            .rules
            .into_iter()
            .map(|rule| {
                let decision = Decision {
                    level: level(&rule.level).unwrap_or_default(),
                    omit_managed_fields: rule
                        .omit_managed_fields
                        .unwrap_or(document.omit_managed_fields),
                    omit_stages: rule
                        .omit_stages
                        .iter()
                        .chain(&document.omit_stages)
                        .filter_map(|s| Stage::parse(s))
                        .collect(),
                };
                (rule, decision)
            })
            .collect();
        Ok(Policy { rules })
    }

    /// What it says of a request.
    pub fn decide(&self, attributes: &Attributes) -> Decision {
        self.rules
            .iter()
            .find(|(rule, _)| rule.matches(attributes))
            .map(|(_, decision)| decision.clone())
            .unwrap_or_default()
    }
}

fn level(text: &str) -> Option<Level> {
    match text {
        "None" => Some(Level::None),
        "Metadata" => Some(Level::Metadata),
        "Request" => Some(Level::Request),
        "RequestResponse" => Some(Level::RequestResponse),
        _ => None,
    }
}

impl Rule {
    fn matches(&self, a: &Attributes) -> bool {
        let any = |list: &[String], value: &str| list.iter().any(|v| v == value);
        if !self.users.is_empty() && !any(&self.users, &a.user.name) {
            return false;
        }
        if !self.user_groups.is_empty() && !a.user.groups.iter().any(|g| any(&self.user_groups, g))
        {
            return false;
        }
        if !self.verbs.is_empty() && !any(&self.verbs, &a.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return a.resource_request
                && (self.namespaces.is_empty() || any(&self.namespaces, &a.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(a)));
        }
        if !self.non_resource_urls.is_empty() {
            return !a.resource_request
                && self.non_resource_urls.iter().any(|u| is_path(&a.path, u));
        }
        true
    }
}

impl GroupResources {
    fn matches(&self, a: &Attributes) -> bool {
        if self.group != a.api_group && self.group != "*" {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.contains(&a.name) {
            return false;
        }
        self.resources.iter().any(|wanted| {
            if wanted == "*" {
                return true;
            }
            match wanted.split_once('/') {
                None => a.subresource.is_empty() && *wanted == a.resource,
                Some(("*", sub)) => !a.subresource.is_empty() && sub == a.subresource,
                Some((resource, "*")) => resource == a.resource,
                Some((resource, sub)) => resource == a.resource && sub == a.subresource,
            }
        })
    }
}

fn is_path(path: &str, wanted: &str) -> bool {
    wanted == "*"
        || wanted == path
        || wanted
            .strip_suffix('*')
            .is_some_and(|start| path.starts_with(start.trim_end_matches('*')))
}

fn validate(policy: &Document) -> ErrorList {
    let mut errors = ErrorList::new();
    stages(&policy.omit_stages, &Path::new("omitStages"), &mut errors);
    let rules = Path::new("rules");
    for (i, rule) in policy.rules.iter().enumerate() {
        let path = rules.index(i);
        let at = path.child("level");
        match rule.level.as_str() {
            "" => errors.push(Error::required(&at, "")),
            other if level(other).is_none() => errors.push(Error::not_supported(
                &at,
                other,
                &["None", "Metadata", "Request", "RequestResponse"],
            )),
            _ => {}
        }
        let at = path.child("nonResourceURLs");
        for (j, url) in rule.non_resource_urls.iter().enumerate() {
            let at = at.index(j);
            if url == "*" {
                continue;
            }
            if !url.starts_with('/') {
                let detail = "non-resource URL rules must begin with a '/' character";
                errors.push(Error::invalid(&at, url, detail));
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                let detail =
                    "non-resource URL wildcards '*' must be the final character of the rule";
                errors.push(Error::invalid(&at, url, detail));
            }
        }
        let resources = path.child("resources");
        for group in &rule.resources {
            let is_name = keelson_api::names::dns1123_subdomain(&group.group).is_empty();
            if !["", "*"].contains(&group.group.as_str()) && !is_name {
                let detail = keelson_api::names::dns1123_subdomain(&group.group).join(",");
                errors.push(Error::invalid(
                    &resources.child("group"),
                    &group.group,
                    detail,
                ));
            }
            if !group.resource_names.is_empty() && group.resources.is_empty() {
                let detail = "using resourceNames requires at least one resource";
                errors.push(Error::invalid(
                    &resources.child("resourceNames"),
                    &group.resource_names,
                    detail,
                ));
            }
        }
        stages(&rule.omit_stages, &path.child("omitStages"), &mut errors);
        if !rule.non_resource_urls.is_empty()
            && !(rule.resources.is_empty() && rule.namespaces.is_empty())
        {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(Error::invalid(&at, &rule.non_resource_urls, detail));
        }
    }
    errors
}

fn stages(given: &[String], path: &Path<'_>, errors: &mut ErrorList) {
    for (i, stage) in given.iter().enumerate() {
        if Stage::parse(stage).is_none() {
            let known: Vec<&str> = STAGES.iter().map(|s| s.as_str()).collect();
            let detail = format!("allowed stages are {}", known.join(","));
            errors.push(Error::invalid(&path.index(i), stage, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_auth::User;
    use std::sync::Arc;

    fn policy(rules: &str) -> Result<Policy, String> {
        Policy::parse(
            format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n{rules}")
                .as_bytes(),
        )
    }

    fn read(resource: &str, subresource: &str, name: &str) -> Attributes {
        Attributes {
            user: Arc::new(User {
                name: "jane".into(),
                groups: vec!["dev".into()],
                ..User::default()
            }),
            verb: "get".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: "ns".into(),
            name: name.into(),
            path: format!("/api/v1/namespaces/ns/{resource}"),
            resource_request: true,
            ..Attributes::default()
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = policy(
            "- {level: None, users: [bot]}\n- {level: Metadata, resources: [{group: '', resources: [secrets, pods/log]}]}\n- {level: Request, resources: [{group: '', resources: ['*/status', 'nodes/*'], resourceNames: [a]}], omitManagedFields: true}\n- {level: None, nonResourceURLs: ['/healthz*']}\n- {level: RequestResponse, userGroups: [dev], omitStages: [Panic]}\n",
        )
        .unwrap();
        let level = |a: &Attributes| policy.decide(a).level;
        assert_eq!(level(&read("secrets", "", "a")), Level::Metadata);
        assert_eq!(level(&read("pods", "log", "a")), Level::Metadata);
        assert_eq!(level(&read("pods", "", "a")), Level::RequestResponse);
        assert_eq!(level(&read("pods", "status", "a")), Level::Request);
        assert_eq!(level(&read("nodes", "", "a")), Level::Request);
        assert_eq!(level(&read("nodes", "", "b")), Level::RequestResponse);
        assert!(policy.decide(&read("nodes", "", "a")).omit_managed_fields);
        let all = policy.decide(&read("pods", "", "a"));
        assert!(all.omits(Stage::Panic) && all.omits(Stage::RequestReceived));
        assert!(!all.omits(Stage::ResponseComplete));
        let health = Attributes {
            path: "/healthz/etcd".into(),
            resource_request: false,
            ..read("", "", "")
        };
        assert_eq!(level(&health), Level::None);
        let other = Attributes {
            user: Arc::default(),
            ..read("pods", "", "a")
        };
        assert_eq!(level(&other), Level::None);
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        for (rules, why) in [
            (" []", "loaded illegal policy with 0 rules"),
            ("- {}", "rules[0].level: Required value"),
            (
                "- {level: All}",
                "rules[0].level: Unsupported value: \"All\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\"",
            ),
            (
                "- {level: None, nonResourceURLs: [x], namespaces: [a]}",
                "[rules[0].nonResourceURLs[0]: Invalid value: \"x\": non-resource URL rules must begin with a '/' character, rules[0].nonResourceURLs: Invalid value: [\"x\"]: rules cannot apply to both regular resources and non-resource URLs]",
            ),
        ] {
            assert_eq!(policy(rules).unwrap_err(), why);
        }
    }
}
