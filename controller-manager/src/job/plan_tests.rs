//! The plans of Jobs, by table.

use super::*;
use crate::pod::tests::{merge, pod};
use serde_json::{Value, json};

fn job(extra: Value) -> Job {
    let mut value = json!({"metadata": {"name": "j", "namespace": "default", "uid": "j"}, "spec": {"parallelism": 2, "completions": 3,
        "backoffLimit": 1, "template": {"spec": {"containers": [], "restartPolicy": "Never"}}}});
    merge(&mut value, &extra);
    serde_json::from_value(value).unwrap()
}

/// `a` active, `s` succeeded, `f` failed, `t` told to go; a number after it is its index.
fn pods(words: &str) -> Vec<Arc<Pod>> {
    words
        .split_whitespace()
        .enumerate()
        .map(|(n, word)| {
            let (state, index) = word.split_at(1);
            let mut value = match state {
                "s" => json!({"status": {"phase": "Succeeded"}}),
                "f" => json!({"status": {"phase": "Failed"}}),
                "t" => json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}}),
                _ => json!({"status": {"phase": "Running"}}),
            };
            merge(&mut value, &json!({"metadata": {"finalizers": [FINALIZER]}}));
            if !index.is_empty() {
                merge(&mut value, &json!({"metadata": {"annotations": {INDEX: index}}}));
            }
            Arc::new(pod(&format!("p{n}"), value))
        })
        .collect()
}

fn step(job: &Job, words: &str) -> Plan {
    let pods = pods(words);
    plan(&Snapshot {
        job,
        pods: &pods,
        released: &HashSet::new(),
        now: Timestamp::UNIX_EPOCH,
    })
}

fn told(job: &Job, words: &str) -> String {
    let plan = step(job, words);
    let indexes: Vec<_> = plan
        .create
        .iter()
        .filter_map(|(index, _)| *index)
        .map(|index| index.to_string())
        .collect();
    let conditions: Vec<_> = plan
        .counted
        .conditions
        .iter()
        .flatten()
        .map(|c| format!("{}:{}", c.type_, c.reason.clone().unwrap_or_default()))
        .collect();
    format!(
        "+{}[{}] -{} !{} s{} f{} {}",
        plan.create.len(),
        indexes.join(","),
        plan.delete.len(),
        plan.release.len(),
        plan.counted.succeeded.unwrap_or(0),
        plan.counted.failed.unwrap_or(0),
        conditions.join(" ")
    )
}

#[test]
fn counts_completes_and_fails() {
    let plain = job(json!({}));
    for (words, expected) in [
        ("", "+2[] -0 !0 s0 f0 "),
        ("a a", "+0[] -0 !0 s0 f0 "),
        ("a s s", "+0[] -0 !2 s2 f0 "),
        ("s s", "+1[] -0 !2 s2 f0 "),
        ("a f", "+1[] -0 !1 s0 f1 "),
        (
            "a f f",
            "+0[] -1 !2 s0 f2 FailureTarget:BackoffLimitExceeded",
        ),
        (
            "f f",
            "+0[] -0 !2 s0 f2 FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded",
        ),
        (
            "s s s",
            "+0[] -0 !3 s3 f0 SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached",
        ),
        (
            "s s s a",
            "+0[] -1 !3 s3 f0 SuccessCriteriaMet:CompletionsReached",
        ),
        ("a a a", "+0[] -1 !0 s0 f0 "),
    ] {
        assert_eq!(told(&plain, words), expected, "{words}");
    }
}

#[test]
fn work_queues_end_with_the_first_success() {
    let queue = job(json!({"spec": {"completions": null}}));
    assert_eq!(told(&queue, "a s"), "+0[] -0 !1 s1 f0 ");
    assert_eq!(
        told(&queue, "s s"),
        "+0[] -0 !2 s2 f0 SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached"
    );
}

#[test]
fn indexes_are_filled_retried_and_given_up() {
    let indexed =
        job(json!({"spec": {"completionMode": "Indexed"}, "status": {"completedIndexes": "0"}}));
    assert_eq!(told(&indexed, ""), "+2[1,2] -0 !0 s1 f0 ");
    assert_eq!(told(&indexed, "a1 s2"), "+0[] -0 !1 s2 f0 ");
    assert_eq!(
        step(&indexed, "s2 a1").counted.completed_indexes.as_deref(),
        Some("0,2")
    );
    let limited = job(
        json!({"spec": {"completionMode": "Indexed", "backoffLimit": null, "backoffLimitPerIndex": 0}}),
    );
    assert_eq!(told(&limited, "f0 a1"), "+1[2] -0 !1 s0 f1 ");
    assert_eq!(
        told(&limited, "f0 s1 s2"),
        "+0[] -0 !3 s2 f1 FailureTarget:FailedIndexes Failed:FailedIndexes"
    );
    let policy = job(
        json!({"spec": {"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "1-2", "succeededCount": 1}]}}}),
    );
    assert_eq!(
        told(&policy, "a0 s1"),
        "+0[] -1 !1 s1 f0 SuccessCriteriaMet:SuccessPolicy"
    );
}

#[test]
fn suspended_jobs_have_no_pods_and_resume() {
    let suspended = job(json!({"spec": {"suspend": true}}));
    assert_eq!(
        told(&suspended, "a"),
        "+0[] -1 !0 s0 f0 Suspended:JobSuspended"
    );
    assert!(step(&suspended, "").counted.start_time.is_none());
    let resumed = job(
        json!({"status": {"conditions": [{"type": "Suspended", "status": "True", "reason": "JobSuspended"}]}}),
    );
    assert_eq!(told(&resumed, ""), "+2[] -0 !0 s0 f0 Suspended:JobResumed");
}

#[test]
fn deadlines_pass() {
    let late = job(
        json!({"spec": {"activeDeadlineSeconds": 10}, "status": {"startTime": "1969-12-31T23:59:50Z"}}),
    );
    assert_eq!(
        told(&late, "a"),
        "+0[] -1 !0 s0 f0 FailureTarget:DeadlineExceeded"
    );
    let soon = job(
        json!({"spec": {"activeDeadlineSeconds": 15}, "status": {"startTime": "1969-12-31T23:59:50Z"}}),
    );
    assert_eq!(step(&soon, "a a").again, Some(Duration::from_secs(5)));
}

#[test]
fn a_pod_whose_finalizer_was_taken_off_is_not_counted_again() {
    let job = job(json!({"status": {"succeeded": 1}}));
    let pods = pods("s a");
    let released = HashSet::from(["p0".to_owned()]);
    let plan = plan(&Snapshot {
        job: &job,
        pods: &pods,
        released: &released,
        now: Timestamp::UNIX_EPOCH,
    });
    assert_eq!(
        (
            plan.counted.succeeded,
            plan.release.len(),
            plan.create.len()
        ),
        (Some(1), 0, 1)
    );
}
