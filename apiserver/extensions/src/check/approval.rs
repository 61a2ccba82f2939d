//! Groups below `k8s.io` and `kubernetes.io` are the community's: definitions in them must say who approved them.

use keelson_api::field::{Error, ErrorList, Path, quote};
use serde_json::{Value, json};

const ANNOTATION: &str = "api-approved.kubernetes.io";
const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Invalid,
    Bypassed,
    Missing,
    Approved,
}

fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|p| {
        group == *p
            || group
                .strip_suffix(p)
                .is_some_and(|rest| rest.ends_with('.'))
    })
}

fn annotation(crd: &Value) -> &str {
    crd["metadata"]["annotations"][ANNOTATION]
        .as_str()
        .unwrap_or_default()
}

fn state(annotation: &str) -> (State, String) {
    let is_url = annotation.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty()
            && scheme.chars().all(|c| c.is_ascii_alphanumeric())
            && !rest.is_empty()
            && !rest.starts_with('/')
    });
    let must = format!(
        "protected groups must have approval annotation {}",
        quote(ANNOTATION)
    );
    match annotation {
        "" => (State::Missing, format!("{must}, {SEE}")),
        a if a.starts_with("unapproved") => {
            (State::Bypassed, format!("not approved: {}", quote(a)))
        }
        a if is_url => (State::Approved, format!("approved in {a}")),
        _ => (
            State::Invalid,
            format!("{must} with either a URL or a reason starting with \"unapproved\", {SEE}"),
        ),
    }
}

/// What is wrong with a definition's approval.
pub(super) fn check(crd: &Value, old: Option<&Value>) -> ErrorList {
    if !is_protected(crd["spec"]["group"].as_str().unwrap_or_default()) {
        return ErrorList::new();
    }
    let (now, reason) = state(annotation(crd));
    if old.is_some_and(|old| state(annotation(old)).0 == now) {
        return ErrorList::new();
    }
    let metadata = Path::new("metadata");
    let annotations = metadata.child("annotations");
    let path = annotations.key(ANNOTATION);
    match now {
        State::Invalid => vec![Error::invalid(&path, annotation(crd), reason)],
        State::Missing => vec![Error::required(&path, reason)],
        State::Approved | State::Bypassed => ErrorList::new(),
    }
}

/// The condition `KubernetesAPIApprovalPolicyConformant`; none for groups that aren't protected.
#[must_use]
pub fn condition(crd: &Value) -> Option<Value> {
    if !is_protected(crd["spec"]["group"].as_str().unwrap_or_default()) {
        return None;
    }
    let (state, message) = state(annotation(crd));
    let (status, reason) = match state {
        State::Invalid => ("False", "InvalidAnnotation"),
        State::Missing => ("False", "MissingAnnotation"),
        State::Approved => ("True", "ApprovedAnnotation"),
        State::Bypassed => ("False", "UnapprovedAnnotation"),
    };
    Some(
        json!({"type": "KubernetesAPIApprovalPolicyConformant", "status": status, "reason": reason, "message": message}),
    )
}
