//! Job: pods that run until enough of them have succeeded.

use std::borrow::Cow;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::{Value, json};

use super::{job_policies, job_status};
use crate::access::{Access, copy, part_mut, same, set, set_default, set_default_text, slot};
use crate::columns::{AGE, CONTAINERS, Column, IMAGES, NAME, SELECTOR, text};
use crate::meta::immutable;
use crate::pod::template;
use crate::print;
use crate::strategy::{Context, Keep, Propagation, StatusUpdate, Strategy, count_generation};
use crate::validation::{label_selector, not_negative, one_of};

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const MAX_PARALLELISM: i64 = 100_000;
const SOFT_COMPLETIONS: i64 = 100_000;
const HIGH_PARALLELISM: i64 = 10_000;

/// The rules of Job.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Nothing,
    check: job_status::check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn default(&self, job: &mut Value) {
        let Some(spec) = part_mut(job, "spec") else {
            return;
        };
        if !spec.has("completions") && !spec.has("parallelism") {
            set(spec, "completions", 1);
        }
        set_default(spec, "parallelism", 1);
        let limit = if spec.has("backoffLimitPerIndex") {
            i64::from(i32::MAX)
        } else {
            6
        };
        set_default(spec, "backoffLimit", limit);
        set_default_text(spec, "completionMode", "NonIndexed");
        set_default(spec, "suspend", false);
        set_default(spec, "manualSelector", false);
        let replacement = if spec.has("podFailurePolicy") {
            "Failed"
        } else {
            "TerminatingOrFailed"
        };
        set_default_text(spec, "podReplacementPolicy", replacement);
        job_policies::default(spec);
        if let Some(found) = part_mut(spec, "template") {
            template::default(found);
        }
        let labels = job.part("spec.template.metadata.labels").clone();
        if job.is_blank("metadata.labels") && !crate::access::blank(&labels) {
            set(job, "metadata.labels", labels);
        }
    }

    fn prepare_for_create(&self, job: &mut Value, _context: &Context<'_>) {
        if !job.flag("spec.manualSelector") {
            generate_selector(job);
        }
        set(job, "status", json!({}));
        set(job, "metadata.generation", 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
        count_generation(new, old);
    }

    fn validate(&self, job: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        generated_selector(&mut errors, job);
        whole_spec(&mut errors, job);
        let completions = job.number("spec.completions");
        if job.text("spec.completionMode") == "Indexed" && completions > 0 {
            let host = format!("{}-{}", job.text("metadata.name"), completions - 1);
            if !names::dns1123_label(&host).is_empty() {
                let meta = Path::new("metadata");
                let detail = format!("will not able to create pod with invalid DNS label: {host}");
                errors.push(Error::invalid(
                    &meta.child("name"),
                    job.text("metadata.name"),
                    detail,
                ));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        whole_spec(&mut errors, new);
        update(&mut errors, new, old);
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let found = names::dns1123_label(new.text("metadata.name"));
        if old.is_none() && !found.is_empty() {
            let list = found.join(" ");
            warnings.push(format!(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{list}]"
            ));
        }
        warnings.extend(template::warnings(new, old));
        warnings
    }

    fn default_propagation(&self) -> Propagation {
        Propagation::Orphan
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Status", "How it fares."),
            text("Completions", "Pods that succeeded, of those wanted."),
            text("Duration", "How long it took, or takes."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ];
        COLUMNS
    }

    fn row(&self, job: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] = print::containers(job, "spec.template.spec.containers");
        let succeeded = job.number("status.succeeded");
        let completions = match (job.int("spec.completions"), job.number("spec.parallelism")) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let duration = match (
            print::time(job, "status.startTime"),
            print::time(job, "status.completionTime"),
        ) {
            (None, _) => String::new(),
            (Some(start), end) => print::elapsed(start, end.unwrap_or(now)),
        };
        vec![
            print::name(job),
            job_status::word(job).into(),
            completions.into(),
            duration.into(),
            print::age(job, now),
            names,
            images,
            print::selector(job, "spec.selector").into(),
        ]
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["status.successful"]
    }

    fn field<'o>(&self, job: &'o Value, _label: &str) -> Cow<'o, str> {
        Cow::Owned(job.number("status.succeeded").to_string())
    }
}

fn put(object: &mut Value, path: &str, key: &str, value: &str) {
    let map = slot(object, path);
    if !map.is_object() {
        *map = json!({});
    }
    if map.get(key).is_none() {
        map[key] = value.into();
    }
}

/// Labels the template and selects by the job's UID, so that jobs never share pods.
fn generate_selector(job: &mut Value) {
    let (name, uid) = (
        job.text("metadata.name").to_string(),
        job.text("metadata.uid").to_string(),
    );
    for label in NAME_LABELS {
        put(job, "spec.template.metadata.labels", label, &name);
    }
    for label in UID_LABELS {
        put(job, "spec.template.metadata.labels", label, &uid);
    }
    put(job, "spec.selector.matchLabels", UID_LABELS[1], &uid);
}

fn generated_selector(errors: &mut ErrorList, job: &Value) {
    if job.flag("spec.manualSelector") || !job.has("spec.selector") {
        return;
    }
    let spec = Path::new("spec");
    let path = spec.child("template.metadata.labels");
    let labels = job.part("spec.template.metadata.labels");
    let (name, uid) = (job.text("metadata.name"), job.text("metadata.uid"));
    for (label, want) in [
        (UID_LABELS[0], uid),
        (NAME_LABELS[0], name),
        (UID_LABELS[1], uid),
        (NAME_LABELS[1], name),
    ] {
        match labels.get(label).and_then(Value::as_str) {
            None => errors.push(Error::required(
                &path.key(label),
                format!("must be '{want}'"),
            )),
            Some(have) if have != want => errors.push(Error::invalid(
                &path.key(label),
                labels,
                format!("must be '{want}'"),
            )),
            Some(_) => {}
        }
    }
    let own = |key: &str| {
        if UID_LABELS.contains(&key) {
            Some(uid)
        } else {
            NAME_LABELS.contains(&key).then_some(name)
        }
    };
    let selected = job
        .entries("spec.selector.matchLabels")
        .all(|(k, v)| own(k) == v.as_str());
    if !selected || !job.is_blank("spec.selector.matchExpressions") {
        errors.push(Error::invalid(
            &spec.child("selector"),
            job.part("spec.selector"),
            "`selector` not auto-generated",
        ));
    }
}

fn whole_spec(errors: &mut ErrorList, job: &Value) {
    let (spec, path) = (job.part("spec"), Path::new("spec"));
    validate_spec(errors, spec, &path);
    if !spec.has("selector") {
        errors.push(Error::required(&path.child("selector"), ""));
        return;
    }
    label_selector(errors, spec.part("selector"), &path.child("selector"));
    template::selected(errors, spec, &path);
}

/// Everything wrong with a job's specification, its selector aside.
pub(super) fn validate_spec(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(errors, spec, field, path);
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        errors.push(Error::required(
            &path.child("backoffLimitPerIndex"),
            "when maxFailedIndexes is specified",
        ));
    }
    if spec.has("managedBy") {
        managed_by(errors, spec.text("managedBy"), &path.child("managedBy"));
    }
    if spec.has("completionMode") {
        one_of(
            errors,
            spec.text("completionMode"),
            &["NonIndexed", "Indexed"],
            &path.child("completionMode"),
        );
    }
    let indexed = spec.text("completionMode") == "Indexed";
    if indexed {
        validate_indexed(errors, spec, path);
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if spec.has(field) {
                errors.push(Error::invalid(
                    &path.child(field),
                    spec.part(field),
                    "requires indexed completion mode",
                ));
            }
        }
    }
    job_policies::validate(errors, spec, indexed, path);
    template::validate(errors, spec.part("template"), &path.child("template"));
    let restart = path.child("template.spec.restartPolicy");
    match spec.text("template.spec.restartPolicy") {
        "Always" | "" => errors.push(Error::required(
            &restart,
            "valid values: \"OnFailure\", \"Never\"",
        )),
        "OnFailure" if spec.has("podFailurePolicy") => {
            errors.push(Error::invalid(
                &restart,
                "OnFailure",
                "only \"Never\" is supported when podFailurePolicy is specified",
            ));
        }
        policy => one_of(errors, policy, &["OnFailure", "Never"], &restart),
    }
}

fn managed_by(errors: &mut ErrorList, value: &str, path: &Path<'_>) {
    match value.split_once('/') {
        _ if value.is_empty() => errors.push(Error::required(path, "")),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            crate::meta::faults(errors, path, host, names::dns1123_subdomain(host))
        }
        _ => errors.push(Error::invalid(
            path,
            value,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        )),
    }
    if value.len() > 63 {
        errors.push(Error::too_long(path, 63));
    }
}

fn validate_indexed(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    let (parallelism, max_failed) = (spec.int("parallelism"), spec.int("maxFailedIndexes"));
    let Some(completions) = spec.int("completions") else {
        errors.push(Error::required(
            &path.child("completions"),
            "when completion mode is Indexed",
        ));
        return;
    };
    if let Some(n) = parallelism.filter(|n| *n > MAX_PARALLELISM) {
        let detail = format!(
            "must be less than or equal to {MAX_PARALLELISM} when completion mode is Indexed"
        );
        errors.push(Error::invalid(&path.child("parallelism"), n, detail));
    }
    let at = path.child("maxFailedIndexes");
    if let Some(n) = max_failed.filter(|n| *n > completions) {
        errors.push(Error::invalid(
            &at,
            n,
            "must be less than or equal to completions",
        ));
    }
    if let Some(n) = max_failed.filter(|n| *n > SOFT_COMPLETIONS) {
        errors.push(Error::invalid(
            &at,
            n,
            format!("must be less than or equal to {SOFT_COMPLETIONS}"),
        ));
    }
    if completions > SOFT_COMPLETIONS && spec.has("backoffLimitPerIndex") {
        if max_failed.is_none() {
            errors.push(Error::required(
                &at,
                format!("must be specified when completions is above {SOFT_COMPLETIONS}"),
            ));
        }
        let detail = format!(
            "must be less than or equal to {HIGH_PARALLELISM} when completions are above {SOFT_COMPLETIONS} and used with backoff limit per index"
        );
        for (field, value) in [
            ("parallelism", parallelism),
            ("maxFailedIndexes", max_failed),
        ] {
            if let Some(n) = value.filter(|n| *n > HIGH_PARALLELISM) {
                errors.push(Error::invalid(&path.child(field), n, detail.clone()));
            }
        }
    }
}

fn update(errors: &mut ErrorList, new: &Value, old: &Value) {
    let (spec, had, path) = (new.part("spec"), old.part("spec"), Path::new("spec"));
    // Elastic indexed jobs change parallelism and completions together.
    let elastic = spec.text("completionMode") == "Indexed"
        && spec.has("completions")
        && spec.int("completions") == spec.int("parallelism")
        && spec.int("completions") != had.int("completions")
        && had.has("completions");
    if !elastic {
        immutable(
            errors,
            spec.part("completions"),
            had.part("completions"),
            &path.child("completions"),
        );
    }
    immutable(
        errors,
        spec.part("selector"),
        had.part("selector"),
        &path.child("selector"),
    );
    template_update(errors, new, old, &path.child("template"));
    for field in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        immutable(
            errors,
            spec.part(field),
            had.part(field),
            &path.child(field),
        );
    }
}

/// The template of a job that is suspended and has no pods may be given other places and resources.
fn template_update(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path<'_>) {
    let suspended_condition = old
        .items("status.conditions")
        .iter()
        .any(|c| c.text("type") == "Suspended" && c.text("status") == "True");
    let movable = old.flag("spec.suspend")
        && (!old.has("status.startTime") || suspended_condition)
        && old.number("status.active") == 0;
    let (template, mut had) = (new.part("spec.template"), old.part("spec.template").clone());
    if movable {
        for field in [
            "metadata.annotations",
            "metadata.labels",
            "spec.nodeSelector",
            "spec.tolerations",
            "spec.schedulingGates",
        ] {
            copy(&mut had, template, field);
        }
        if template.has("spec.affinity") || had.has("spec.affinity") {
            copy(&mut had, template, "spec.affinity.nodeAffinity");
            if had.is_blank("spec.affinity") && !template.has("spec.affinity") {
                crate::access::remove(&mut had, "spec.affinity");
            }
        }
        for list in ["spec.containers", "spec.initContainers"] {
            if template.items(list).len() == had.items(list).len() {
                let sent: Vec<Value> = template.items(list).to_vec();
                for (container, sent) in crate::access::items_mut(&mut had, list).zip(&sent) {
                    if container.text("name") == sent.text("name") {
                        copy(container, sent, "resources");
                    }
                }
            }
        }
    }
    if !same(template, &had) {
        immutable(errors, template, &had, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::find;
    use crate::rest::{before_create, before_update};

    fn job() -> Value {
        let mut job = json!({"metadata": {"name": "j", "namespace": "n", "uid": "u1"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        Rules.default(&mut job);
        job
    }

    #[test]
    fn a_job_selects_its_own_pods() {
        let kind = find("batch", "v1", "jobs").unwrap();
        let mut job = job();
        before_create(kind, &mut job, &Context::at(Timestamp::UNIX_EPOCH)).unwrap();
        assert_eq!(
            job["spec"]["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}})
        );
        assert_eq!(
            job["spec"]["template"]["metadata"]["labels"]["job-name"],
            "j"
        );
        assert_eq!(
            (
                job["spec"]["completions"].as_i64(),
                job["spec"]["backoffLimit"].as_i64()
            ),
            (Some(1), Some(6))
        );
        let mut changed = job.clone();
        changed["spec"]["template"]["spec"]["containers"][0]["image"] = "k".into();
        let error = before_update(
            kind,
            &*kind.strategy,
            &mut changed,
            &job,
            &Context::at(Timestamp::UNIX_EPOCH),
        )
        .unwrap_err();
        assert!(
            error.message.contains("spec.template: Invalid value")
                && error.message.contains("field is immutable")
        );
    }

    #[test]
    fn faults_have_upstreams_sentences() {
        let kind = find("batch", "v1", "jobs").unwrap();
        let of = |change: fn(&mut Value)| {
            let mut job = job();
            change(&mut job);
            before_create(kind, &mut job, &Context::at(Timestamp::UNIX_EPOCH))
                .unwrap_err()
                .details
                .as_ref()
                .unwrap()
                .causes
                .clone()
        };
        let causes = of(|j| j["spec"]["template"]["spec"]["restartPolicy"] = "Always".into());
        assert_eq!(
            (causes[0].field.as_str(), causes[0].message.as_str()),
            (
                "spec.template.spec.restartPolicy",
                "Required value: valid values: \"OnFailure\", \"Never\""
            )
        );
        let causes = of(|j| {
            j["spec"]["completionMode"] = "Indexed".into();
            j["spec"].as_object_mut().unwrap().remove("completions");
        });
        assert_eq!(
            causes[0].message,
            "Required value: when completion mode is Indexed"
        );
    }
}
