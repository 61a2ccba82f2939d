//! The kinds of apps: what keeps pods running.

pub mod controller_revision;
pub mod daemon_set;
pub mod deployment;
pub mod replica_set;
pub mod stateful_set;

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::access::Access;
use crate::validation::not_negative;

/// Counts in a status: none negative, none above the replicas.
pub(crate) fn replica_counts(
    errors: &mut ErrorList,
    status: &Value,
    counts: &[&str],
    bounded: &[&str],
    path: &Path<'_>,
) {
    for count in counts {
        not_negative(errors, status, count, path);
    }
    let replicas = status.number("replicas");
    for count in bounded {
        let value = status.number(count);
        if value > replicas {
            errors.push(Error::invalid(
                &path.child(count),
                value,
                "cannot be greater than status.replicas",
            ));
        }
    }
}

/// More cannot be available than are ready.
pub(crate) fn available_within_ready(
    errors: &mut ErrorList,
    status: &Value,
    detail: &str,
    path: &Path<'_>,
) {
    let (available, ready) = (
        status.number("availableReplicas"),
        status.number("readyReplicas"),
    );
    if available > ready {
        errors.push(Error::invalid(
            &path.child("availableReplicas"),
            available,
            detail,
        ));
    }
}

/// A collision count only grows.
pub(crate) fn collisions(errors: &mut ErrorList, new: &Value, old: &Value) {
    const FIELD: &str = "status.collisionCount";
    let status = Path::new("status");
    let value = new.number(FIELD);
    if let Some(before) = old.int(FIELD)
        && (new.int(FIELD).is_none() || value < before)
    {
        errors.push(Error::invalid(
            &status.child("collisionCount"),
            value,
            "cannot be decremented",
        ));
    }
}

/// What a percentage or number comes to, for telling nought from something.
pub(crate) fn amount(value: &Value) -> i64 {
    crate::validation::percent_of(value)
        .or_else(|| value.as_i64())
        .unwrap_or_default()
}
