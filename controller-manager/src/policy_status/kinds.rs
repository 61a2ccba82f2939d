//! The kinds that a policy's constraints name.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;

use crate::discovery::Named;

/// How many kinds a rule counts for.
const MOST: usize = 10;

/// A kind: group, version, kind.
pub type Kind = (String, String, String);

/// A resource as a rule names it.
#[derive(Debug, PartialEq, Eq)]
pub struct Name {
    group: String,
    version: String,
    resource: String,
}

impl Name {
    /// Whether it is served. Without a group, every group counts, as with upstream's mapper.
    fn fits(&self, served: &Named) -> bool {
        let resource = self.resource.to_lowercase();
        (self.group.is_empty() || self.group == served.group)
            && self.version == served.version
            && served.names.contains(&resource)
    }

    /// Whether one of these is it.
    pub fn is_in(&self, served: &[Named]) -> bool {
        served.iter().any(|one| self.fits(one))
    }
}

fn sorted(list: Option<&Vec<String>>) -> Vec<&String> {
    let mut list: Vec<&String> = list.into_iter().flatten().collect();
    list.sort();
    list
}

/// What each rule of a policy names. Rules with wildcards in groups or versions name nothing; resources with wildcards and
/// subresources don't count.
pub fn named_by(policy: &ValidatingAdmissionPolicy) -> Vec<Vec<Name>> {
    let constraints = policy
        .spec
        .as_ref()
        .and_then(|s| s.match_constraints.as_ref());
    let rules = constraints.and_then(|c| c.resource_rules.as_ref());
    let rules = rules.into_iter().flatten().map(|rule| {
        let (groups, versions) = (
            sorted(rule.api_groups.as_ref()),
            sorted(rule.api_versions.as_ref()),
        );
        let mut names = Vec::new();
        if groups
            .iter()
            .chain(&versions)
            .any(|word| word.contains('*'))
        {
            return names;
        }
        let resources = sorted(rule.resources.as_ref());
        for group in groups {
            for version in &versions {
                for resource in resources.iter().filter(|r| !r.contains(['*', '/'])) {
                    names.push(Name {
                        group: group.clone(),
                        version: (*version).clone(),
                        resource: (*resource).clone(),
                    });
                }
            }
        }
        names
    });
    rules.collect()
}

/// The kinds behind the names; a rule that reaches the limit is the last that counts.
pub fn resolve(rules: &[Vec<Name>], served: &[Named]) -> BTreeSet<Kind> {
    let mut kinds = BTreeSet::new();
    for names in rules {
        let mut count = 0;
        for name in names {
            for one in served.iter().filter(|one| name.fits(one)) {
                kinds.insert((one.group.clone(), one.version.clone(), one.kind.clone()));
                count += 1;
                if count == MOST {
                    return kinds;
                }
            }
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_name_kinds() {
        let served = |group: &str, plural: &str, kind: &str| Named {
            group: group.into(),
            version: "v1".into(),
            names: [plural.into(), kind.to_lowercase()],
            kind: kind.into(),
        };
        let served = [
            served("", "pods", "Pod"),
            served("", "events", "Event"),
            served("events.k8s.io", "events", "Event"),
            served("apps", "deployments", "Deployment"),
        ];
        let kinds = |groups: &[&str], resources: &[&str]| {
            let policy =
                serde_json::from_value(json!({"spec": {"matchConstraints": {"resourceRules": [
                {"apiGroups": groups, "apiVersions": ["v1"], "resources": resources}]}}}))
                .unwrap();
            let kinds = resolve(&named_by(&policy), &served);
            let shown = kinds
                .iter()
                .map(|(group, _, kind)| format!("{group}/{kind}"));
            shown.collect::<Vec<_>>()
        };
        assert_eq!(
            kinds(&["apps", ""], &["pods", "deployment", "pods/exec", "*"]),
            ["/Pod", "apps/Deployment"]
        );
        assert_eq!(kinds(&[""], &["events"]), ["/Event", "events.k8s.io/Event"]);
        assert_eq!(kinds(&["*"], &["pods"]), [""; 0]);
    }
}
