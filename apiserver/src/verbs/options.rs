//! The options that queries carry: for lists and watches, and for writes.

use std::sync::Arc;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::selector::{FieldSelector, FieldTerm, Labels, Selector};
use keelson_api::status::{Qualified, Status};
use keelson_storage::{Entry, Pairs, Predicate};
use serde_json::{Map, Value, json};

use crate::query::Query;
use crate::request::Request;
use crate::resources::Resource;
use crate::response::ApiResult;

/// The kind that the options of a request are, as errors name it.
fn options_kind(request: &Request) -> &'static str {
    match request.info.verb.as_str() {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        "delete" | "deletecollection" => "DeleteOptions",
        _ => "ListOptions",
    }
}

fn invalid(kind: &str, errors: &[Error]) -> Status {
    Status::invalid(Qualified::new("meta.k8s.io", kind), "", errors)
}

/// 422 for an option that has a value it can't have.
pub fn invalid_option(request: &Request, option: &str, value: &str, supported: &[&str]) -> Status {
    let error = Error::not_supported(&Path::new(option), value, supported);
    invalid(options_kind(request), &[error])
}

/// What every write may be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Nothing is to be stored.
    pub dry_run: bool,
    /// Who owns the fields that the write sets.
    pub field_manager: String,
    /// Apply takes fields over from other managers.
    pub force: Option<bool>,
    /// The write is an apply, which records ownership by itself.
    pub applied: bool,
}

impl WriteOptions {
    /// Reads the query of a create, update or patch. `apply` needs a field manager.
    pub fn of(request: &Request, apply: bool) -> ApiResult<Self> {
        let query = &request.query;
        let mut errors = ErrorList::new();
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let given = query.get("fieldManager").unwrap_or_default();
        keelson_registry::meta::field_manager(&mut errors, given, &Path::new("fieldManager"));
        if apply && given.is_empty() {
            errors.push(Error::required(
                &Path::new("fieldManager"),
                "is required for apply patch",
            ));
        }
        let force = query.optional_flag("force");
        if force.is_some() && !apply && request.info.verb == "patch" {
            errors.push(Error::forbidden(
                &Path::new("force"),
                "may not be specified for non-apply patch",
            ));
        }
        if !errors.is_empty() {
            return Err(invalid(options_kind(request), &errors));
        }
        let field_manager = if given.is_empty() {
            from_user_agent(request.user_agent())
        } else {
            given.to_owned()
        };
        Ok(WriteOptions {
            dry_run,
            field_manager,
            force,
            applied: apply,
        })
    }

    /// The options as admission sees them.
    pub fn to_value(&self, kind: &str) -> Value {
        let mut map = Map::new();
        map.insert("kind".into(), kind.into());
        map.insert("apiVersion".into(), "meta.k8s.io/v1".into());
        if self.dry_run {
            map.insert("dryRun".into(), json!(["All"]));
        }
        map.insert("fieldManager".into(), self.field_manager.clone().into());
        Value::Object(map)
    }
}

/// Reads `dryRun`: only `All` is known.
pub fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut ErrorList) -> bool {
    let mut all = false;
    for value in values {
        if value == "All" {
            all = true;
        } else {
            errors.push(Error::not_supported(
                &Path::new("dryRun"),
                vec![value],
                &["All"],
            ));
        }
    }
    all
}

/// The field manager of a client that names none: the program's name in its User-Agent.
fn from_user_agent(agent: &str) -> String {
    agent
        .split('/')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(128)
        .collect()
}

/// What lists and watches may be told.
#[derive(Clone)]
pub struct ListOptions {
    /// Labels that objects must have.
    pub labels: Selector,
    /// Fields that objects must have.
    pub fields: FieldSelector,
    /// `resourceVersion`, empty if not given.
    pub resource_version: String,
    /// `resourceVersionMatch`, empty if not given.
    pub version_match: String,
    /// At most so many; 0 is all.
    pub limit: usize,
    /// Token of the next page.
    pub continue_token: String,
    /// How long a watch may last.
    pub timeout_seconds: Option<u64>,
    /// Whether a watch wants bookmarks.
    pub bookmarks: bool,
    /// Whether a watch begins with the present state.
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads a query for a list or watch of a resource.
    pub fn of(query: &Query, resource: &Resource, watch: bool) -> ApiResult<Self> {
        let bad = |e: keelson_api::selector::SelectorError| Status::bad_request(e.to_string());
        let labels = match query.non_empty("labelSelector") {
            None => Selector::everything(),
            Some(text) => Selector::parse(text).map_err(bad)?,
        };
        let fields = match query.non_empty("fieldSelector") {
            None => FieldSelector::default(),
            Some(text) => known_fields(
                FieldSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?,
                resource,
            )?,
        };
        let options = ListOptions {
            labels,
            fields,
            resource_version: query.get("resourceVersion").unwrap_or_default().to_owned(),
            version_match: query
                .get("resourceVersionMatch")
                .unwrap_or_default()
                .to_owned(),
            limit: query
                .int("limit")?
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(0),
            continue_token: query.get("continue").unwrap_or_default().to_owned(),
            timeout_seconds: query
                .int("timeoutSeconds")?
                .and_then(|n| u64::try_from(n).ok()),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.optional_flag("sendInitialEvents"),
        };
        let errors = options.errors(watch);
        if errors.is_empty() {
            Ok(options)
        } else {
            Err(invalid("ListOptions", &errors))
        }
    }

    fn errors(&self, watch: bool) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("resourceVersionMatch");
        let matching = self.version_match.as_str();
        if watch {
            match (self.send_initial_events, matching) {
                (None, "") => {}
                (None, _) => errors.push(Error::forbidden(&path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")),
                (Some(_), "NotOlderThan") => {}
                (Some(_), "") => errors.push(Error::forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")),
                (Some(_), _) => errors.push(Error::not_supported(&path, matching, &["NotOlderThan"])),
            }
            return errors;
        }
        if self.send_initial_events.is_some() {
            errors.push(Error::forbidden(
                &Path::new("sendInitialEvents"),
                "sendInitialEvents is forbidden for list",
            ));
        }
        if matching.is_empty() {
            return errors;
        }
        if self.resource_version.is_empty() {
            errors.push(Error::forbidden(
                &path,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if !self.continue_token.is_empty() {
            errors.push(Error::forbidden(
                &path,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if !["Exact", "NotOlderThan"].contains(&matching) {
            errors.push(Error::not_supported(
                &path,
                matching,
                &["Exact", "NotOlderThan", ""],
            ));
        }
        if matching == "Exact" && self.resource_version == "0" {
            errors.push(Error::forbidden(
                &path,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
        errors
    }

    /// Whether an entry is wanted; `None` if every one is.
    pub fn predicate(&self, resource: &Arc<Resource>) -> Option<Predicate> {
        if self.labels.is_empty() && self.fields.is_empty() {
            return None;
        }
        let (labels, fields) = (self.labels.clone(), self.fields.clone());
        let resource = resource.clone();
        Some(Arc::new(move |entry: &Entry| {
            if !labels.matches(&OfPairs(entry.labels())) {
                return false;
            }
            if resource.is_own_form(entry) {
                return fields.matches(|f| entry.fields().get(f));
            }
            // The fields that were taken out are those of the cached version.
            fields.is_empty()
                || resource.object(entry).is_ok_and(|object| {
                    fields.terms().iter().all(|t| {
                        (resource.kind.field(&object, &t.field) == t.value.as_str()) != t.negated
                    })
                })
        }))
    }
}

struct OfPairs<'a>(&'a Pairs);

impl Labels for OfPairs<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        self.0.get(key)
    }
}

/// The selector in the kind's own labels, or 400.
fn known_fields(selector: FieldSelector, resource: &Resource) -> ApiResult<FieldSelector> {
    let terms: Result<Vec<FieldTerm>, String> = selector
        .terms()
        .iter()
        .map(|term| {
            Ok(FieldTerm {
                field: resource.kind.field_label(&term.field)?.to_owned(),
                ..term.clone()
            })
        })
        .collect();
    terms.map(FieldSelector::of).map_err(Status::bad_request)
}

/// Go's words for a text that is no number.
pub fn bad_number(text: &str) -> String {
    format!("strconv.ParseUint: parsing {text:?}: invalid syntax")
}

/// A resourceVersion as a number. Upstream answers 400 for lists only.
pub fn revision(text: &str, list: bool) -> ApiResult<u64> {
    text.parse().map_err(|_| {
        let why = format!(
            "resourceVersion: Invalid value: {text:?}: {}",
            bad_number(text)
        );
        if list {
            Status::bad_request(format!("invalid resource version: {why}"))
        } else {
            Status::failure(500, "", why)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;

    fn options(query: &str, watch: bool) -> Result<ListOptions, Status> {
        let resources = Resources::new("/registry");
        ListOptions::of(
            &Query::parse(query),
            &resources.get("", "v1", "configmaps").unwrap(),
            watch,
        )
    }

    #[test]
    fn combinations_that_make_no_sense_are_refused() {
        for (query, watch) in [
            ("resourceVersionMatch=Exact", false),
            ("resourceVersionMatch=Exact&resourceVersion=0", false),
            ("resourceVersionMatch=Odd&resourceVersion=1", false),
            ("sendInitialEvents=true", false),
            ("sendInitialEvents=true", true),
            ("resourceVersionMatch=NotOlderThan&resourceVersion=1", true),
        ] {
            assert_eq!(
                options(query, watch).err().map(|e| e.code),
                Some(422),
                "{query}"
            );
        }
        assert!(
            options(
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
                true
            )
            .is_ok()
        );
        assert!(
            options(
                "resourceVersionMatch=NotOlderThan&resourceVersion=5&limit=3",
                false
            )
            .is_ok()
        );
    }

    #[test]
    fn unknown_fields_are_400() {
        assert_eq!(
            options("fieldSelector=data.x%3D1", false)
                .err()
                .map(|e| e.code),
            Some(400)
        );
        assert!(options("fieldSelector=metadata.name%3Da", false).is_ok());
    }

    #[test]
    fn managers_come_from_the_user_agent() {
        assert_eq!(from_user_agent("kubectl/v1.36.2 (linux/amd64)"), "kubectl");
        assert_eq!(revision("x", true).unwrap_err().code, 400);
    }
}
