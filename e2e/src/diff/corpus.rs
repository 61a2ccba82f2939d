//! Reads the corpus: a YAML file a kind under `e2e/diff/corpus/<group>/`.
//!
//! A file has `minimal` (what a user must at least write), `full` (objects that together set every field), `updates` (merge patches on
//! `full[from]`, sent by PUT), `variants` (merge patches on `minimal`, or whole objects, sent by POST), `status` (a status to be written) and
//! `scenarios` (requests written out). What follows from the objects by rule is made by `suite` and `mutate`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::resources::Resource;
use super::scenario::{Body, Scenario, Step};

/// One file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindFile {
    /// The least object.
    #[serde(default)]
    pub minimal: Value,
    /// Objects that set everything.
    #[serde(default)]
    pub full: Vec<Value>,
    /// Changes to a full object.
    #[serde(default)]
    pub updates: Vec<Named>,
    /// Other objects to create.
    #[serde(default)]
    pub variants: Vec<Named>,
    /// A status.
    #[serde(default)]
    pub status: Value,
    /// Paths that mutations leave alone (prefixes like `spec.template.spec`).
    #[serde(default)]
    pub leave: Vec<String>,
    /// Whether `minimal` is stored when created; false for reviews.
    #[serde(default = "yes")]
    pub stored: bool,
    /// Requests written out.
    #[serde(default)]
    pub scenarios: Vec<Written>,
}

fn yes() -> bool {
    true
}

/// A change or an object by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// What it tries.
    pub name: String,
    /// Which of `full` it changes.
    #[serde(default)]
    pub from: usize,
    /// A merge patch.
    #[serde(default)]
    pub patch: Value,
    /// Or a whole object.
    #[serde(default)]
    pub object: Value,
}

/// A scenario written out.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// What it tries.
    pub name: String,
    /// The requests.
    pub steps: Vec<WrittenStep>,
}

/// A request written out: `do: GET /api/v1/namespaces/{ns}/pods`; `{r}` is the kind's collection.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenStep {
    /// Method and path.
    pub r#do: String,
    /// A JSON body; the strings `minimal` and `full` stand for these objects.
    #[serde(default)]
    pub body: Option<Value>,
    /// A body as text.
    #[serde(default)]
    pub text: Option<String>,
    /// Content-Type; by default JSON. `json`, `merge`, `strategic` and `apply` stand for the patches'.
    #[serde(default)]
    pub r#type: Option<String>,
    /// Other headers.
    #[serde(default)]
    pub headers: std::collections::BTreeMap<String, String>,
    /// Values to keep: name → JSON pointer.
    #[serde(default)]
    pub save: std::collections::BTreeMap<String, String>,
    /// Milliseconds to wait before.
    #[serde(default)]
    pub pause: u64,
    /// Not compared.
    #[serde(default)]
    pub quiet: bool,
}

/// All files with their names, in order.
pub fn read() -> Result<Vec<(String, KindFile)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("diff/corpus");
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path)?;
            let file = serde_norway::from_str(&text).with_context(|| path.display().to_string())?;
            let name = path.strip_prefix(&root).unwrap_or(&path).with_extension("");
            Ok((name.display().to_string(), file))
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "yaml") {
            files.push(path);
        }
    }
    Ok(())
}

impl KindFile {
    /// The resource that the file's objects belong to.
    pub fn resource<'r>(&self, all: &'r [Resource]) -> Option<&'r Resource> {
        let object = if self.minimal.is_object() {
            &self.minimal
        } else {
            self.full.first()?
        };
        all.iter().find(|r| {
            object["apiVersion"] == r.group_version.as_str() && object["kind"] == r.kind.as_str()
        })
    }

    /// The scenarios that are written out.
    pub fn written(&self, name: &str, resource: Option<&Resource>) -> Vec<Scenario> {
        let path = resource.map(Resource::path).unwrap_or_default();
        self.scenarios
            .iter()
            .map(|written| Scenario {
                name: format!("{name} {}", written.name),
                namespaced: true,
                steps: written.steps.iter().map(|s| self.step(s, &path)).collect(),
            })
            .collect()
    }

    fn step(&self, written: &WrittenStep, path: &str) -> Step {
        let line = written.r#do.replace("{r}", path);
        let (method, path) = line.split_once(' ').unwrap_or((&line, "/"));
        let mut step = match written.r#type.as_deref() {
            Some(kind @ ("json" | "merge" | "strategic" | "apply")) => {
                Step::patch("", kind, path, Value::Null)
            }
            other => Step {
                content_type: other.map(str::to_owned),
                ..Step::new("", method, path)
            },
        };
        step.method = method.into();
        step.body = match (&written.body, &written.text) {
            (Some(Value::String(name)), _) if name == "minimal" => Body::Json(self.minimal.clone()),
            (Some(Value::String(name)), _) if name == "full" => {
                Body::Json(self.full.first().cloned().unwrap_or_default())
            }
            (Some(object), _) => Body::Json(object.clone()),
            (None, Some(text)) => Body::Text(text.clone()),
            (None, None) => Body::None,
        };
        if step.content_type.is_none() && !matches!(step.body, Body::None) {
            step.content_type = Some("application/json".into());
        }
        let pairs = |map: &std::collections::BTreeMap<String, String>| {
            map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        step.headers = pairs(&written.headers);
        step.save = pairs(&written.save);
        step.pause = written.pause;
        step.quiet = written.quiet;
        step
    }
}
