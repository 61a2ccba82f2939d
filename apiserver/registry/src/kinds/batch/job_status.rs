//! A job's status: what may stand in it, and the word for it.

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::access::{Access, same};
use crate::validation::not_negative;

fn is(job: &Value, kind: &str) -> bool {
    job.items("status.conditions")
        .iter()
        .any(|c| c.text("type") == kind && c.text("status") == "True")
}

/// How a job fares, in a word.
pub(super) fn word(job: &Value) -> &'static str {
    if is(job, "Complete") {
        "Complete"
    } else if is(job, "Failed") {
        "Failed"
    } else if job.has("metadata.deletionTimestamp") {
        "Terminating"
    } else if is(job, "Suspended") {
        "Suspended"
    } else if is(job, "FailureTarget") {
        "FailureTarget"
    } else if is(job, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

/// Ranges such as `1,3-5,7`, in order and below `completions`.
pub(super) fn parse_indexes(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    if text.is_empty() {
        return Ok(ranges);
    }
    for interval in text.split(',') {
        let parse = |n: &str| {
            n.parse::<i64>()
                .map_err(|_| format!("cannot convert string to integer for index: \"{n}\""))
        };
        let (first, last) = match interval.split_once('-') {
            Some((a, b)) => (parse(a)?, parse(b)?),
            None => (parse(interval)?, parse(interval)?),
        };
        if first >= completions {
            return Err(format!("too large index: \"{first}\""));
        }
        if last >= completions {
            return Err(format!("too large index: \"{last}\""));
        }
        if interval.contains('-') && first >= last {
            return Err(format!(
                "non-increasing order, previous: {first}, current: {last}"
            ));
        }
        if let Some((_, before)) = ranges.last().filter(|(_, b)| *b >= first) {
            return Err(format!(
                "non-increasing order, previous: {before}, current: {first}"
            ));
        }
        ranges.push((first, last));
    }
    Ok(ranges)
}

fn conditions_error(detail: impl Into<String>) -> Error {
    let status = Path::new("status");
    let mut error = Error::invalid(&status.child("conditions"), "", detail);
    error.bad_value = None;
    error
}

/// Everything wrong with a changed status.
pub(super) fn check(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, path) = (new.part("status"), Path::new("status"));
    for count in ["active", "succeeded", "failed", "ready", "terminating"] {
        not_negative(&mut errors, status, count, &path);
    }
    conditions(&mut errors, new, old);
    times(&mut errors, new, old);
    counts(&mut errors, new, old);
    indexes(&mut errors, new);
    errors
}

fn conditions(errors: &mut ErrorList, new: &Value, old: &Value) {
    let (complete, failed) = (is(new, "Complete"), is(new, "Failed"));
    let (target, met) = (is(new, "FailureTarget"), is(new, "SuccessCriteriaMet"));
    let wrong = [
        (
            complete && failed,
            "cannot set Complete=True and Failed=true conditions",
        ),
        (
            complete && target,
            "cannot set Complete=True and FailureTarget=true conditions",
        ),
        (
            failed && !target,
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            complete && !met,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (
            met && failed,
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            met && target,
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (
            is(old, "SuccessCriteriaMet") && !met,
            "cannot disable the SuccessCriteriaMet=True condition",
        ),
        (
            is(old, "Complete") && !is(old, "SuccessCriteriaMet") && met,
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        ),
    ];
    // What was already so before the rule existed is left alone.
    if !same(new.part("status.conditions"), old.part("status.conditions")) {
        errors.extend(
            wrong
                .iter()
                .filter(|(w, _)| *w)
                .map(|(_, detail)| conditions_error(*detail)),
        );
    }
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is(old, kind) && !is(new, kind) {
            errors.push(conditions_error(format!(
                "cannot disable the terminal {kind}=True condition"
            )));
        }
    }
}

fn times(errors: &mut ErrorList, new: &Value, old: &Value) {
    const START: &str = "status.startTime";
    const END: &str = "status.completionTime";
    let path = Path::new("status");
    let (start, end) = (path.child("startTime"), path.child("completionTime"));
    let complete = is(new, "Complete");
    match (new.has(END), complete) {
        (true, false) => {
            errors.push(Error::invalid(
                &end,
                new.part(END),
                "cannot set completionTime when there is no Complete=True condition",
            ));
        }
        (false, true) => errors.push(Error::required(
            &end,
            "completionTime is required for Complete jobs",
        )),
        _ => {}
    }
    if let (Some(a), Some(b)) = (crate::print::time(new, START), crate::print::time(new, END))
        && b < a
    {
        errors.push(Error::invalid(
            &end,
            new.part(END),
            "must be equal to or after `startTime`",
        ));
    }
    if !new.has(START) && (complete || is(new, "Failed")) {
        errors.push(Error::required(
            &start,
            "startTime is required for finished job",
        ));
    }
    if new.has(END) && old.has(END) && new.part(END) != old.part(END) {
        errors.push(Error::invalid(&end, new.part(END), "field is immutable"));
    }
    if old.has(START) && old.part(START) != new.part(START) && !new.flag("spec.suspend") {
        errors.push(Error::invalid(
            &start,
            new.part(START),
            "field is immutable for unsuspended job once set",
        ));
    }
}

fn counts(errors: &mut ErrorList, new: &Value, old: &Value) {
    let path = Path::new("status");
    let (status, before) = (new.part("status"), old.part("status"));
    let finished = is(new, "Complete") || is(new, "Failed");
    for (count, detail) in [
        ("active", "active>0 is invalid for finished job"),
        ("terminating", "terminating>0 is invalid for finished job"),
    ] {
        if finished && status.number(count) > 0 {
            errors.push(Error::invalid(
                &path.child(count),
                status.number(count),
                detail,
            ));
        }
    }
    let uncounted = "uncountedTerminatedPods";
    if finished
        && ["succeeded", "failed"]
            .iter()
            .any(|k| !status.part(uncounted).is_blank(k))
    {
        errors.push(Error::invalid(
            &path.child(uncounted),
            status.part(uncounted),
            "must be empty for finished job",
        ));
    }
    if status.number("ready") > status.number("active") {
        errors.push(Error::invalid(
            &path.child("ready"),
            status.number("ready"),
            "cannot set more ready pods than active",
        ));
    }
    // Counts of an elastic job may fall when it shrinks.
    for count in ["failed", "succeeded"] {
        if status.number(count) < before.number(count)
            && new.text("spec.completionMode") != "Indexed"
        {
            errors.push(Error::invalid(
                &path.child(count),
                status.number(count),
                format!("cannot decrease the {count} counter"),
            ));
        }
    }
}

fn indexes(errors: &mut ErrorList, new: &Value) {
    let path = Path::new("status");
    let status = new.part("status");
    let completed = status.text("completedIndexes");
    let at = path.child("completedIndexes");
    if !completed.is_empty() && new.text("spec.completionMode") != "Indexed" {
        errors.push(Error::invalid(
            &at,
            completed,
            "cannot set non-empty completedIndexes when non-indexed completion mode",
        ));
    }
    let Some(completions) = new.int("spec.completions") else {
        return;
    };
    let done = parse_indexes(completed, completions);
    if let Err(problem) = &done {
        errors.push(Error::invalid(
            &at,
            completed,
            format!("error parsing completedIndexes: {problem}"),
        ));
    }
    if !status.has("failedIndexes") {
        return;
    }
    let (failed, at) = (status.text("failedIndexes"), path.child("failedIndexes"));
    if !new.has("spec.backoffLimitPerIndex") {
        errors.push(Error::invalid(
            &at,
            failed,
            "cannot set non-null failedIndexes when backoffLimitPerIndex is null",
        ));
    }
    match (parse_indexes(failed, completions), done) {
        (Err(problem), _) => errors.push(Error::invalid(
            &at,
            failed,
            format!("error parsing failedIndexes: {problem}"),
        )),
        (Ok(failures), Ok(done)) => {
            let overlap = failures.iter().find_map(|(a, b)| {
                done.iter()
                    .find(|(c, d)| a <= d && c <= b)
                    .map(|(c, _)| *a.max(c))
            });
            if let Some(index) = overlap {
                let detail =
                    format!("failedIndexes and completedIndexes overlap at index: {index}");
                errors.push(Error::invalid(&at, failed, detail));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn indexes_are_parsed() {
        assert_eq!(
            parse_indexes("1,3-5,7", 8).unwrap(),
            [(1, 1), (3, 5), (7, 7)]
        );
        assert_eq!(
            parse_indexes("3-2", 8).unwrap_err(),
            "non-increasing order, previous: 3, current: 2"
        );
        assert_eq!(parse_indexes("8", 8).unwrap_err(), "too large index: \"8\"");
    }

    #[test]
    fn a_complete_job_is_consistent() {
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        let new = json!({"status": {"conditions": [condition("Complete")], "startTime": "2024-01-01T00:00:00Z", "active": 1}});
        let found: Vec<String> = check(&new, &json!({}))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.active: Invalid value: 1: active>0 is invalid for finished job"
            ]
        );
    }
}
