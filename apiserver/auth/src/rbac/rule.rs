//! One policy rule: what it matches, and which rules it covers.

use serde_json::{Map, Value, json};

use crate::attributes::{Attributes, NonResourceRule, ResourceRule};

const ALL: &str = "*";

/// A PolicyRule of a Role or ClusterRole.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`.
    pub api_groups: Vec<String>,
    /// Resources, `resource/subresource`, `*/subresource`, or `*`.
    pub resources: Vec<String>,
    /// Names; empty means all.
    pub names: Vec<String>,
    /// URL paths, maybe ending in `*`.
    pub urls: Vec<String>,
}

impl Rule {
    /// Reads the JSON form. What is not a list of strings counts as empty: such a rule grants nothing.
    pub fn from_value(value: &Value) -> Self {
        Self {
            verbs: strings(value.get("verbs")),
            api_groups: strings(value.get("apiGroups")),
            resources: strings(value.get("resources")),
            names: strings(value.get("resourceNames")),
            urls: strings(value.get("nonResourceURLs")),
        }
    }

    /// The JSON form.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, list) in [
            ("apiGroups", &self.api_groups),
            ("nonResourceURLs", &self.urls),
            ("resourceNames", &self.names),
            ("resources", &self.resources),
        ] {
            if !list.is_empty() {
                map.insert(key.into(), json!(list));
            }
        }
        map.insert("verbs".into(), json!(self.verbs));
        Value::Object(map)
    }

    /// Whether the rule allows the request.
    pub fn allows(&self, attributes: &Attributes) -> bool {
        if !matches(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.resource_request {
            return self.urls.iter().any(|u| url_matches(u, &attributes.path));
        }
        matches(&self.api_groups, &attributes.api_group)
            && self
                .resources
                .iter()
                .any(|r| resource_matches(r, &attributes.resource, &attributes.subresource))
            && (self.names.is_empty() || self.names.contains(&attributes.name))
    }

    /// Splits the rule into rules with one verb and one thing each, as covering is decided on those.
    pub fn break_down(&self) -> Vec<Self> {
        let mut parts = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let part = Self {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.names.is_empty() {
                        parts.push(part);
                    } else {
                        parts.extend(self.names.iter().map(|n| Self {
                            names: vec![n.clone()],
                            ..part.clone()
                        }));
                    }
                }
            }
        }
        for url in &self.urls {
            for verb in &self.verbs {
                parts.push(Self {
                    verbs: vec![verb.clone()],
                    urls: vec![url.clone()],
                    ..Self::default()
                });
            }
        }
        parts
    }

    /// Whether this rule grants everything that a broken-down rule grants.
    fn covers(&self, part: &Self) -> bool {
        let has = |mine: &[String], theirs: &[String]| {
            mine.iter().any(|m| m == ALL) || theirs.iter().all(|t| mine.contains(t))
        };
        if !has(&self.verbs, &part.verbs) {
            return false;
        }
        if !part.urls.is_empty() {
            return part
                .urls
                .iter()
                .all(|theirs| self.urls.iter().any(|mine| url_covers(mine, theirs)));
        }
        has(&self.api_groups, &part.api_groups)
            && part
                .resources
                .iter()
                .all(|r| self.resources.iter().any(|mine| resource_covers(mine, r)))
            && (self.names.is_empty()
                || (!part.names.is_empty() && part.names.iter().all(|n| self.names.contains(n))))
    }

    /// Upstream's short form, as its escalation errors show it.
    pub fn compact(&self) -> String {
        let mut parts = Vec::new();
        for (key, list) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                let quoted: Vec<String> = list.iter().map(|s| format!("{s:?}")).collect();
                parts.push(format!("{key}:[{}]", quoted.join(" ")));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }

    /// The form of SelfSubjectRulesReview: a rule may be on resources, on paths, or both.
    pub fn review(&self) -> (Option<ResourceRule>, Option<NonResourceRule>) {
        let resource = (!self.resources.is_empty()).then(|| ResourceRule {
            verbs: self.verbs.clone(),
            api_groups: self.api_groups.clone(),
            resources: self.resources.clone(),
            resource_names: self.names.clone(),
        });
        let paths = (!self.urls.is_empty()).then(|| NonResourceRule {
            verbs: self.verbs.clone(),
            paths: self.urls.clone(),
        });
        (resource, paths)
    }
}

/// The broken-down parts of `wanted` that `owned` does not cover.
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut missing: Vec<Rule> = Vec::new();
    for part in wanted.iter().flat_map(Rule::break_down) {
        if !owned.iter().any(|rule| rule.covers(&part)) && !missing.contains(&part) {
            missing.push(part);
        }
    }
    missing
}

/// Joins broken-down rules that differ in their verb only.
pub fn merge_verbs(rules: Vec<Rule>) -> Vec<Rule> {
    let mut merged: Vec<Rule> = Vec::new();
    for rule in rules {
        let same = |m: &&mut Rule| {
            (&m.api_groups, &m.resources, &m.names, &m.urls)
                == (&rule.api_groups, &rule.resources, &rule.names, &rule.urls)
        };
        match merged.iter_mut().find(same) {
            Some(found) if rule.urls.is_empty() => found.verbs.extend(rule.verbs),
            _ => merged.push(rule),
        }
    }
    merged
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    items
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn matches(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

fn url_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix(ALL) {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

fn url_covers(mine: &str, theirs: &str) -> bool {
    mine == ALL
        || mine == theirs
        || mine
            .strip_suffix(ALL)
            .is_some_and(|prefix| theirs.starts_with(prefix))
}

fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == ALL {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == resource,
        Some((r, s)) => !subresource.is_empty() && s == subresource && (r == ALL || r == resource),
    }
}

fn resource_covers(mine: &str, theirs: &str) -> bool {
    if mine == ALL || mine == theirs {
        return true;
    }
    match (mine.split_once('/'), theirs.split_once('/')) {
        (Some((ALL, mine)), Some((_, theirs))) => mine == theirs,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let list = |s: &str| {
            s.split_whitespace()
                .map(|x| x.replace("core", ""))
                .collect()
        };
        Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            names: list(names),
            urls: vec![],
        }
    }

    fn asked(verb: &str, resource: &str, subresource: &str, name: &str) -> Attributes {
        Attributes {
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            resource_request: true,
            ..Attributes::default()
        }
    }

    #[test]
    fn subresources_need_a_rule_of_their_own() {
        let pods = rule("get", "core", "pods", "");
        assert!(pods.allows(&asked("get", "pods", "", "a")));
        assert!(!pods.allows(&asked("get", "pods", "log", "a")));
        assert!(rule("get", "core", "*/log", "").allows(&asked("get", "pods", "log", "a")));
        assert!(!rule("get", "core", "*/log", "").allows(&asked("get", "pods", "", "a")));
        assert!(rule("*", "*", "*", "").allows(&asked("x", "y", "z", "")));
    }

    #[test]
    fn named_rules_do_not_grant_collections() {
        let named = rule("get list", "core", "pods", "a");
        assert!(named.allows(&asked("get", "pods", "", "a")));
        assert!(!named.allows(&asked("list", "pods", "", "")));
        assert!(!named.allows(&asked("get", "pods", "", "b")));
    }

    #[test]
    fn paths_match_by_prefix() {
        let healthz = Rule {
            verbs: vec!["get".into()],
            urls: vec!["/healthz/*".into(), "/version".into()],
            ..Rule::default()
        };
        let path = |p: &str| Attributes {
            verb: "get".into(),
            path: p.into(),
            ..Attributes::default()
        };
        assert!(healthz.allows(&path("/healthz/etcd")));
        assert!(!healthz.allows(&path("/healthz")));
        assert!(healthz.allows(&path("/version")));
        assert!(!healthz.allows(&path("/version/x")));
    }

    #[test]
    fn covering_finds_what_is_missing() {
        let owned = [
            rule("get list", "core", "pods", ""),
            rule("*", "apps", "*", ""),
        ];
        assert!(uncovered(&owned, &[rule("get", "core", "pods", "a")]).is_empty());
        assert!(uncovered(&owned, &[rule("delete", "apps", "deployments/scale", "")]).is_empty());
        let missing = merge_verbs(uncovered(
            &owned,
            &[rule("get delete watch", "core", "pods", "")],
        ));
        assert_eq!(missing.len(), 1);
        assert_eq!(
            missing[0].compact(),
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}"#
        );
        let named = [rule("get", "core", "secrets", "a")];
        assert_eq!(
            uncovered(&named, &[rule("get", "core", "secrets", "")]).len(),
            1
        );
    }
}
