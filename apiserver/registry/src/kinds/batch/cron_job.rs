//! CronJob: jobs made by the clock.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::{Value, json};

use super::{job, schedule};
use crate::access::{Access, copy, part_mut, set, set_default, set_default_text};
use crate::columns::{AGE, CONTAINERS, Column, IMAGES, NAME, SELECTOR, boolean, integer, text};
use crate::pod::template;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, count_generation, no_check};
use crate::validation::{not_negative, required_one_of};

const NAME_MAX: usize = 52;

/// The rules of CronJob.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Nothing,
    check: no_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn default(&self, cron: &mut Value) {
        let Some(spec) = part_mut(cron, "spec") else {
            return;
        };
        set_default_text(spec, "concurrencyPolicy", "Allow");
        set_default(spec, "suspend", false);
        set_default(spec, "successfulJobsHistoryLimit", 3);
        set_default(spec, "failedJobsHistoryLimit", 1);
        if let Some(found) = part_mut(spec, "jobTemplate.spec.template") {
            template::default(found);
        }
    }

    fn prepare_for_create(&self, cron: &mut Value, _context: &Context<'_>) {
        set(cron, "status", json!({}));
        set(cron, "metadata.generation", 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        count_generation(new, old);
    }

    fn validate(&self, cron: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        spec(&mut errors, cron.part("spec"), None);
        let name = cron.text("metadata.name");
        if name.len() > NAME_MAX {
            let meta = Path::new("metadata");
            errors.push(Error::invalid(
                &meta.child("name"),
                name,
                format!("must be no more than {NAME_MAX} characters"),
            ));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        spec(&mut errors, new.part("spec"), Some(old.part("spec")));
        errors
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let found = names::dns1123_label(new.text("metadata.name"));
        if !found.is_empty() {
            warnings.push(format!(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
                found.join(" ")
            ));
        }
        warnings.extend(crate::kinds::core::pod::spec_warnings(
            new.part("spec.jobTemplate.spec.template.spec"),
            "spec.jobTemplate.spec.template.spec",
        ));
        warnings
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Schedule", "When jobs are made."),
            text("Timezone", "Whose clock counts."),
            boolean("Suspend", "Whether no jobs are made."),
            integer("Active", "Jobs that run."),
            text("Last Schedule", "When the last job was made."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ];
        COLUMNS
    }

    fn row(&self, cron: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] =
            print::containers(cron, "spec.jobTemplate.spec.template.spec.containers");
        let last = if cron.has("status.lastScheduleTime") {
            print::since(cron, "status.lastScheduleTime", now)
        } else {
            "<none>".into()
        };
        vec![
            print::name(cron),
            cron.text("spec.schedule").into(),
            print::or(cron.text("spec.timeZone"), "<none>").into(),
            suspend_word(cron).into(),
            cron.items("status.active").len().into(),
            last.into(),
            print::age(cron, now),
            names,
            images,
            print::selector(cron, "spec.jobTemplate.spec.selector").into(),
        ]
    }
}

fn suspend_word(cron: &Value) -> &'static str {
    match cron.part("spec.suspend").as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    }
}

fn spec(errors: &mut ErrorList, spec: &Value, old: Option<&Value>) {
    let path = Path::new("spec");
    let (at, text) = (path.child("schedule"), spec.text("schedule"));
    if text.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        if let Err(problem) = schedule::check(text) {
            errors.push(Error::invalid(&at, text, problem));
        }
        if text.contains("TZ") {
            if spec.has("timeZone") {
                errors.push(Error::invalid(
                    &at,
                    text,
                    "cannot use both timeZone field and TZ or CRON_TZ in schedule",
                ));
            } else if !old.is_some_and(|o| o.text("schedule").contains("TZ")) {
                errors.push(Error::invalid(
                    &at,
                    text,
                    "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
                ));
            }
        }
    }
    not_negative(errors, spec, "startingDeadlineSeconds", &path);
    if spec.has("timeZone") && old.is_none_or(|o| o.part("timeZone") != spec.part("timeZone")) {
        time_zone(errors, spec.text("timeZone"), &path.child("timeZone"));
    }
    required_one_of(
        errors,
        spec.text("concurrencyPolicy"),
        &["Allow", "Forbid", "Replace"],
        &path.child("concurrencyPolicy"),
    );
    let job = path.child("jobTemplate.spec");
    let job_spec = spec.part("jobTemplate.spec");
    job::validate_spec(errors, job_spec, &job);
    if job_spec.has("selector") {
        errors.push(Error::invalid(
            &job.child("selector"),
            job_spec.part("selector"),
            "`selector` will be auto-generated",
        ));
    }
    if job_spec.flag("manualSelector") {
        errors.push(Error::not_supported(
            &job.child("manualSelector"),
            true,
            &["nil", "false"],
        ));
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(errors, spec, field, &path);
    }
}

fn time_zone(errors: &mut ErrorList, zone: &str, path: &Path<'_>) {
    if zone.is_empty() {
        errors.push(Error::invalid(
            path,
            zone,
            "timeZone must be nil or non-empty string",
        ));
    } else if zone.eq_ignore_ascii_case("local") {
        let detail =
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(Error::invalid(path, zone, detail));
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        errors.push(Error::invalid(
            path,
            zone,
            format!("unknown time zone {zone}"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron() -> Value {
        let mut cron = json!({"metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}});
        Rules.default(&mut cron);
        cron
    }

    #[test]
    fn cron_jobs_are_checked() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        assert_eq!(Rules.validate(&cron(), &context), vec![]);
        let mut bad = cron();
        bad["spec"]["schedule"] = "x".into();
        bad["spec"]["timeZone"] = "Local".into();
        bad["spec"]["concurrencyPolicy"] = "X".into();
        let found: Vec<String> = Rules
            .validate(&bad, &context)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "spec.schedule: Invalid value: \"x\": expected exactly 5 fields, found 1: [x]",
                "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
                "spec.concurrencyPolicy: Unsupported value: \"X\": supported values: \"Allow\", \"Forbid\", \"Replace\""
            ]
        );
    }
}
