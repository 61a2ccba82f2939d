//! What a namespace that is being deleted says about how far it is. No I/O.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What one round of deletion found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Group versions that discovery could not tell about.
    pub undiscovered: Vec<String>,
    /// What went wrong while deleting.
    pub errors: Vec<String>,
    /// Objects that are left, by resource.
    pub remaining: BTreeMap<String, usize>,
    /// Objects that are held, by finalizer.
    pub finalizers: BTreeMap<String, usize>,
    /// Seconds after which what is left should be gone.
    pub estimate: i64,
}

impl Progress {
    /// Whether the namespace is empty.
    pub fn is_done(&self) -> bool {
        self.undiscovered.is_empty() && self.errors.is_empty() && self.remaining.is_empty()
    }
}

fn list(counts: &BTreeMap<String, usize>, words: impl Fn(&str, usize) -> String) -> String {
    counts
        .iter()
        .map(|(name, count)| words(name, *count))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Writes the five conditions; says whether any changed.
pub fn report(namespace: &mut Namespace, progress: &Progress, now: &Time) -> bool {
    let problem = |bad: bool,
                   kind: &str,
                   (no, fine): (&str, &str),
                   (yes, message): (&str, String)| NamespaceCondition {
        type_: kind.into(),
        status: if bad { "True" } else { "False" }.into(),
        reason: Some(if bad { yes } else { no }.into()),
        message: Some(if bad { message } else { fine.to_owned() }),
        last_transition_time: Some(now.clone()),
    };
    let wanted = [
        problem(
            !progress.undiscovered.is_empty(),
            "NamespaceDeletionDiscoveryFailure",
            (
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
            ("DiscoveryFailed", {
                let failing = progress.undiscovered.join(", ");
                format!(
                    "Discovery failed for some groups, {} failing: {failing}",
                    progress.undiscovered.len()
                )
            }),
        ),
        problem(
            false,
            "NamespaceDeletionGroupVersionParsingFailure",
            (
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            ("", String::new()),
        ),
        problem(
            !progress.errors.is_empty(),
            "NamespaceDeletionContentFailure",
            (
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            ("ContentDeletionFailed", {
                let errors = progress.errors.join(", ");
                format!(
                    "Failed to delete all resource types, {} remaining: {errors}",
                    progress.errors.len()
                )
            }),
        ),
        problem(
            !progress.remaining.is_empty(),
            "NamespaceContentRemaining",
            ("ContentRemoved", "All content successfully removed"),
            ("SomeResourcesRemain", {
                let left = list(&progress.remaining, |name, count| {
                    format!("{name} has {count} resource instances")
                });
                format!("Some resources are remaining: {left}")
            }),
        ),
        problem(
            !progress.finalizers.is_empty(),
            "NamespaceFinalizersRemaining",
            (
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
            ("SomeFinalizersRemain", {
                let held = list(&progress.finalizers, |name, count| {
                    format!("{name} in {count} resource instances")
                });
                format!("Some content in the namespace has finalizers remaining: {held}")
            }),
        ),
    ];
    let status = namespace.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    let mut changed = false;
    for mut wanted in wanted {
        match conditions
            .iter_mut()
            .find(|condition| condition.type_ == wanted.type_)
        {
            Some(current) => {
                if current.status == wanted.status {
                    wanted
                        .last_transition_time
                        .clone_from(&current.last_transition_time);
                }
                if *current != wanted {
                    *current = wanted;
                    changed = true;
                }
            }
            None => {
                conditions.push(wanted);
                changed = true;
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_is_left_and_then_that_nothing_is() {
        let mut namespace = Namespace::default();
        let progress = Progress {
            remaining: BTreeMap::from([("pods.".to_owned(), 2)]),
            finalizers: BTreeMap::from([("a/b".to_owned(), 1)]),
            ..Progress::default()
        };
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        assert!(report(&mut namespace, &progress, &now));
        assert!(!report(
            &mut namespace,
            &progress,
            &Time(jiff::Timestamp::MAX)
        ));
        let message = |namespace: &Namespace, kind: &str| {
            let conditions = namespace
                .status
                .as_ref()
                .unwrap()
                .conditions
                .as_ref()
                .unwrap();
            let found = conditions.iter().find(|c| c.type_ == kind).unwrap();
            format!("{} {}", found.status, found.message.as_ref().unwrap())
        };
        assert_eq!(
            message(&namespace, "NamespaceContentRemaining"),
            "True Some resources are remaining: pods. has 2 resource instances"
        );
        assert_eq!(
            message(&namespace, "NamespaceFinalizersRemaining"),
            "True Some content in the namespace has finalizers remaining: a/b in 1 resource instances"
        );
        assert!(report(&mut namespace, &Progress::default(), &now));
        assert!(message(&namespace, "NamespaceContentRemaining").starts_with("False"));
    }
}
