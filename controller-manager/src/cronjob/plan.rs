//! Whether a CronJob's time has come, what its concurrency policy allows and which old Jobs go. No I/O.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job};
use kube::ResourceExt;

use super::schedule::Schedule;
use crate::job::is_finished;

/// What is to be done about the schedule.
#[derive(Debug, Default, PartialEq)]
pub struct Due {
    /// The time for which a Job is to be created.
    pub at: Option<Timestamp>,
    /// Whether many times were missed.
    pub many_missed: bool,
    /// The time came too late to start anything.
    pub too_late: bool,
    /// How long until the next time.
    pub next: Option<Duration>,
}

/// More missed times than this are worth a warning.
const MANY: usize = 100;

/// Looks at the schedule.
pub fn due(
    cron: &CronJob,
    spec: &CronJobSpec,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
) -> Due {
    let last = cron
        .status
        .as_ref()
        .and_then(|status| status.last_schedule_time.as_ref());
    let created = cron.metadata.creation_timestamp.as_ref();
    let mut from = last.or(created).map_or(now, |time| time.0);
    if let Some(deadline) = spec.starting_deadline_seconds {
        // Times before that could not be started any more.
        let earliest =
            Timestamp::from_second(now.as_second().saturating_sub(deadline)).unwrap_or(now);
        from = from.max(earliest);
    }
    let mut result = Due::default();
    let (mut missed, mut time) = (0, from);
    while let Some(next) = schedule.next(time, zone) {
        if next > now {
            let left = next.duration_since(now);
            // A bit later, so that the time has surely come.
            result.next = Duration::try_from(left)
                .ok()
                .map(|left| left + Duration::from_millis(100));
            break;
        }
        missed += 1;
        result.at = Some(next);
        time = next;
        if missed == MANY + 1 {
            result.many_missed = true;
            // The rest is skipped in one go: only the newest matters.
            if let Some(near) = newest(schedule, zone, next, now) {
                result.at = Some(near);
                time = near;
            }
        }
        if missed > MANY * 20 {
            break;
        }
    }
    if let (Some(at), Some(deadline)) = (result.at, spec.starting_deadline_seconds) {
        result.too_late = at.as_second() + deadline < now.as_second();
    }
    result
}

/// The newest time up to now, found by halving the distance.
fn newest(
    schedule: &Schedule,
    zone: &TimeZone,
    from: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    let (mut low, mut high) = (from.as_second(), now.as_second());
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match schedule.next(Timestamp::from_second(middle).ok()?, zone) {
            Some(next) if next <= now => low = middle,
            _ => high = middle,
        }
    }
    schedule
        .next(Timestamp::from_second(low).ok()?, zone)
        .filter(|next| *next <= now)
}

/// The finished Jobs beyond the limits, the oldest first.
pub fn surplus(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let failed = |job: &Job| {
        job.status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|c| c.type_ == "Failed" && c.status == "True")
    };
    let mut gone = Vec::new();
    for (want_failed, limit) in [
        (false, spec.successful_jobs_history_limit.unwrap_or(3)),
        (true, spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        let mut done: Vec<_> = jobs
            .iter()
            .filter(|job| is_finished(job) && failed(job) == want_failed)
            .cloned()
            .collect();
        done.sort_by_key(|job| {
            (
                job.status
                    .as_ref()
                    .and_then(|status| status.start_time.as_ref().map(|time| time.0)),
                job.name_any(),
            )
        });
        let surplus = done
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        gone.extend(done.into_iter().take(surplus));
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn look(extra: Value, now: &str) -> Due {
        let mut value = json!({"metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": {"schedule": "*/10 * * * *", "jobTemplate": {}}});
        crate::pod::tests::merge(&mut value, &extra);
        let cron: CronJob = serde_json::from_value(value).unwrap();
        let spec = cron.spec.clone();
        let schedule = Schedule::parse(&spec.schedule).unwrap();
        due(
            &cron,
            &spec,
            &schedule,
            &TimeZone::UTC,
            now.parse().unwrap(),
        )
    }

    #[test]
    fn times_come_are_missed_and_too_late() {
        let before = look(json!({}), "2026-01-01T00:05:00Z");
        assert_eq!(
            (before.at, before.next.map(|next| next.as_secs())),
            (None, Some(300))
        );
        let come = look(json!({}), "2026-01-01T00:10:01Z");
        assert_eq!(come.at, Some("2026-01-01T00:10:00Z".parse().unwrap()));
        let done = look(
            json!({"status": {"lastScheduleTime": "2026-01-01T00:10:00Z"}}),
            "2026-01-01T00:10:01Z",
        );
        assert_eq!(done.at, None);
        let several = look(json!({}), "2026-01-01T00:35:00Z");
        assert_eq!(several.at, Some("2026-01-01T00:30:00Z".parse().unwrap()));
        let year = look(json!({}), "2027-01-01T00:05:00Z");
        assert_eq!(
            (year.at, year.many_missed),
            (Some("2027-01-01T00:00:00Z".parse().unwrap()), true)
        );
        let deadline = look(
            json!({"spec": {"startingDeadlineSeconds": 20}}),
            "2026-01-01T00:35:00Z",
        );
        assert_eq!((deadline.at, deadline.too_late), (None, false));
    }
}
