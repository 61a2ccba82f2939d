//! `pods/resize`: changing the CPU and memory of a pod that runs.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;
use keelson_api::field::{Error, ErrorList, Path};
use serde::Deserialize as _;
use serde_json::Value;

use super::{MIRROR, keep_all_but, metadata_and_spec};
use crate::access::{Access, copy, same};
use crate::columns::Column;
use crate::strategy::{Context, Strategy, count_generation};

const LISTS: [&str; 2] = ["containers", "initContainers"];

/// The rules of `pods/resize`.
pub(super) struct Rules;

impl Strategy for Rules {
    fn default(&self, pod: &mut Value) {
        super::Rules.default(pod);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        let alike = |list: &str| {
            let names = |pod: &Value| {
                pod.part("spec")
                    .items(list)
                    .iter()
                    .map(|c| c.text("name").to_string())
                    .collect::<Vec<_>>()
            };
            names(new) == names(old)
        };
        // Containers that were added, removed or moved are left for validation to refuse.
        if LISTS.iter().all(|l| alike(l)) {
            let wanted = new.clone();
            keep_all_but(new, old, &["resources"]);
            for list in LISTS {
                let path = format!("spec.{list}");
                for (container, sent) in crate::access::items_mut(new, &path)
                    .zip(wanted.part(&path).as_array().into_iter().flatten())
                {
                    copy(container, sent, "resources");
                    copy(container, sent, "resizePolicy");
                }
            }
        }
        count_generation(new, old);
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = metadata_and_spec(new);
        let path = Path::new("spec");
        if old.part("metadata.annotations").get(MIRROR).is_some() {
            return vec![Error::forbidden(
                &Path::new(""),
                "static pods cannot be resized",
            )];
        }
        if class(new) != class(old) {
            errors.push(Error::invalid(
                &path,
                class(new),
                "Pod QOS Class may not change as a result of resizing",
            ));
        }
        for list in LISTS {
            let (now, before) = (new.part("spec").items(list), old.part("spec").items(list));
            let at = path.child(list);
            if now.len() != before.len() {
                errors.push(Error::forbidden(
                    &at,
                    format!("{list} may not be added or removed on resize"),
                ));
                return errors;
            }
            for (i, (container, had)) in now.iter().zip(before).enumerate() {
                let here = at.index(i);
                if container.text("name") != had.text("name") {
                    errors.push(Error::forbidden(
                        &here.child("name"),
                        "containers may not be renamed or reordered on resize",
                    ));
                    continue;
                }
                let sidecar = list == "containers" || had.text("restartPolicy") == "Always";
                if !sidecar && !same(container, had) {
                    errors.push(Error::forbidden(
                        &path,
                        "resources for non-sidecar init containers are immutable",
                    ));
                }
                container_resize(&mut errors, container, had, &here);
                only_compute(&mut errors, container, had, &path);
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        super::row::COLUMNS
    }

    fn row(&self, pod: &Value, now: Timestamp) -> Vec<Value> {
        super::row::cells(pod, now)
    }
}

fn class(pod: &Value) -> &'static str {
    PodSpec::deserialize(pod.part("spec")).map_or("", |s| keelson_api::pod::qos_class(&s).as_str())
}

/// Requests and limits that are there may be changed, not removed.
fn container_resize(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path<'_>) {
    for (side, what) in [
        ("requests", "resource requests cannot be removed"),
        ("limits", "resource limits cannot be removed"),
    ] {
        let removed = old
            .part("resources")
            .entries(side)
            .any(|(name, _)| new.part("resources").part(side).get(name).is_none());
        if removed {
            let at = path.child("resources");
            errors.push(Error::forbidden(&at.child(side), what));
        }
    }
}

fn only_compute(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path<'_>) {
    let others = |container: &Value, side: &str| -> Vec<(String, Value)> {
        container
            .part("resources")
            .entries(side)
            .filter(|(n, _)| !matches!(*n, "cpu" | "memory"))
            .map(|(n, v)| (n.into(), v.clone()))
            .collect()
    };
    let changed = ["requests", "limits"]
        .iter()
        .any(|side| others(new, side) != others(old, side))
        || !same(new.part("resources.claims"), old.part("resources.claims"))
        || !same(new.part("resizePolicy"), old.part("resizePolicy"));
    if changed {
        errors.push(Error::forbidden(
            path,
            "only cpu and memory resources are mutable",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cpu_and_memory_may_change() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let mut old = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "a",
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}]}});
        Rules.default(&mut old);
        let mut new = old.clone();
        new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "1500m".into();
        new["spec"]["containers"][0]["image"] = "ignored".into();
        Rules.prepare_for_update(&mut new, &old, &context);
        assert_eq!(new["spec"]["containers"][0]["image"], "a");
        assert_eq!(Rules.validate_update(&new, &old, &context), vec![]);
        new["spec"]["containers"][0]["resources"] =
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2", "memory": "1Gi"}});
        assert_eq!(Rules.validate_update(&new, &old, &context), vec![]);
        new["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
        let errors = Rules.validate_update(&new, &old, &context);
        assert_eq!(
            errors[0].to_string(),
            "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"
        );
    }
}
