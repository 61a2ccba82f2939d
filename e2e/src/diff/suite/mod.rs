//! The scenarios that follow by rule from a kind's objects: the course of a life, every patch, encodings, selectors, paging, watches,
//! preconditions, finalizers, dry runs, field validation, subresources, and every mutation of the full objects.

mod ends;
mod patches;
mod reads;
mod writes;

use serde_json::{Value, json};

use super::corpus::KindFile;
use super::mutate;
use super::resources::Resource;
use super::scenario::{Scenario, Step};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

/// A kind with its file, ready to make scenarios.
struct Kind<'a> {
    file: &'a KindFile,
    resource: &'a Resource,
    /// The collection.
    path: String,
    /// The minimal object's name.
    name: String,
}

/// Every scenario of a kind's file.
pub fn scenarios(file: &KindFile, resource: &Resource) -> Vec<Scenario> {
    let name = file.minimal["metadata"]["name"].as_str();
    let kind = Kind {
        file,
        resource,
        path: resource.path(),
        name: name.unwrap_or_default().into(),
    };
    let mut all = Vec::new();
    // Names that follow from what the object says can't be made anew for each scenario.
    if file.stored && resource.can("create") && !kind.name.is_empty() && !kind.fixed_name() {
        all.extend([
            kind.life(),
            kind.patches(),
            kind.apply(),
            kind.encodings(),
            kind.reads(),
            kind.field_validation(),
            kind.deletion(),
            kind.odd_writes(),
        ]);
        all.extend(kind.status());
        all.extend(kind.scale());
        all.extend(kind.full_objects());
    }
    all.extend(kind.variants());
    all.extend(kind.created_mutations());
    all.extend(kind.updated_mutations());
    all
}

impl Kind<'_> {
    fn scenario(&self, what: &str, steps: Vec<Step>) -> Scenario {
        Scenario {
            name: format!("{} {what}", self.resource.title()),
            namespaced: self.resource.namespaced,
            steps,
        }
    }

    /// The minimal object under a name of the scenario's own, since cluster-scoped objects share one room.
    fn own(&self, suffix: &str) -> (Value, String) {
        let mut object = self.file.minimal.clone();
        let mut name = self.name.clone();
        if !self.resource.namespaced && !self.fixed_name() {
            name = rename(&name, suffix);
            object["metadata"]["name"] = json!(name);
        }
        object["metadata"]["labels"]["diff"] = json!(suffix);
        let at = format!("{}/{name}", self.path);
        (object, at)
    }

    /// Whether the name follows from what the object says.
    fn fixed_name(&self) -> bool {
        matches!(
            self.resource.plural.as_str(),
            "apiservices" | "customresourcedefinitions"
        )
    }

    fn full_objects(&self) -> Vec<Scenario> {
        let one = |(index, object): (usize, &Value)| {
            let at = format!(
                "{}/{}",
                self.path,
                object["metadata"]["name"].as_str().unwrap_or_default()
            );
            let mut steps = vec![
                Step::json("create full", "POST", &self.path, object.clone()),
                Step::new("get", "GET", &at),
                Step::new("get as Table", "GET", &at).header("accept", TABLE),
                Step::new("get as protobuf", "GET", &at).header("accept", PROTOBUF),
                Step::json("update full", "PUT", &at, object.clone()),
                Step::patch(
                    "apply full",
                    "apply",
                    &format!("{at}?fieldManager=full&force=true"),
                    object.clone(),
                ),
                Step::patch(
                    "strategic patch of full with itself",
                    "strategic",
                    &at,
                    object.clone(),
                ),
                Step::patch(
                    "merge patch of full with itself",
                    "merge",
                    &at,
                    object.clone(),
                ),
                Step::json(
                    "strict dry run",
                    "POST",
                    &format!("{}?dryRun=All&fieldValidation=Strict", self.path),
                    object.clone(),
                ),
                Step::new("delete", "DELETE", &at),
            ];
            if self.fixed_name() {
                steps.clear();
            }
            self.scenario(&format!("full {index}"), steps)
        };
        self.file.full.iter().enumerate().map(one).collect()
    }

    fn variants(&self) -> Option<Scenario> {
        let query = if self.file.stored { "?dryRun=All" } else { "" };
        let path = format!("{}{query}", self.path);
        let steps: Vec<Step> = self
            .file
            .variants
            .iter()
            .map(|variant| {
                let mut object = if variant.object.is_object() {
                    variant.object.clone()
                } else {
                    self.file.minimal.clone()
                };
                merge(&mut object, &variant.patch);
                Step::json(&variant.name, "POST", &path, object)
            })
            .collect();
        (!steps.is_empty()).then(|| self.scenario("variants", steps))
    }

    fn created_mutations(&self) -> Vec<Scenario> {
        let query = if self.file.stored { "?dryRun=All" } else { "" };
        let path = format!("{}{query}", self.path);
        let mut all = Vec::new();
        for (index, object) in self
            .file
            .full
            .iter()
            .chain(std::iter::once(&self.file.minimal))
            .enumerate()
        {
            if !object.is_object() || !self.resource.can("create") {
                continue;
            }
            let mutations = mutate::all(object, &self.file.leave);
            for (part, chunk) in mutations.chunks(100).enumerate() {
                let steps = chunk
                    .iter()
                    .map(|m| Step::json(&m.name, "POST", &path, m.object.clone()))
                    .collect();
                all.push(self.scenario(&format!("create {index}.{part}"), steps));
            }
        }
        all
    }

    fn updated_mutations(&self) -> Vec<Scenario> {
        if !self.file.stored || !self.resource.can("update") {
            return Vec::new();
        }
        let one = |(index, full): (usize, &Value)| {
            let mut object = full.clone();
            let mut name = object["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if !self.resource.namespaced && !self.fixed_name() {
                name = rename(&name, "upd");
                object["metadata"]["name"] = json!(name);
            }
            let at = format!("{}/{name}", self.path);
            let dry = format!("{at}?dryRun=All");
            let mut steps = vec![Step::json("create", "POST", &self.path, object.clone())];
            for update in self.file.updates.iter().filter(|u| u.from == index) {
                let mut changed = if update.object.is_object() {
                    update.object.clone()
                } else {
                    object.clone()
                };
                merge(&mut changed, &update.patch);
                steps.push(Step::json(&update.name, "PUT", &dry, changed));
            }
            for m in mutate::updates(&object, &self.file.leave) {
                steps.push(Step::json(&m.name, "PUT", &dry, m.object));
            }
            steps.push(Step::new("get after", "GET", &at));
            steps.push(Step::new("delete", "DELETE", &at));
            self.scenario(&format!("update {index}"), steps)
        };
        self.file.full.iter().enumerate().map(one).collect()
    }
}

/// Another name of the same form: names that are addresses or DNS names keep theirs.
fn rename(name: &str, suffix: &str) -> String {
    if let Ok(address) = name.parse::<std::net::Ipv4Addr>() {
        let [a, b, c, d] = address.octets();
        let more = suffix.bytes().fold(0_u8, u8::wrapping_add);
        return std::net::Ipv4Addr::new(a, b, c.wrapping_add(more), d).to_string();
    }
    match name.split_once('.') {
        Some((first, rest)) => format!("{first}-{suffix}.{rest}"),
        None => format!("{name}-{suffix}"),
    }
}

fn name_of(at: &str) -> &str {
    at.rsplit('/').next().unwrap_or_default()
}

fn with_annotation(object: &Value, bytes: usize) -> String {
    let mut object = object.clone();
    object["metadata"]["annotations"] = json!({"big": "x".repeat(bytes)});
    object.to_string()
}

/// RFC 7386, for changes written in the corpus.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        if !patch.is_null() {
            *target = patch.clone();
        }
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, change) in changes {
        if change.is_null() {
            if let Value::Object(map) = target {
                map.remove(key);
            }
        } else {
            merge(&mut target[key], change);
        }
    }
}
