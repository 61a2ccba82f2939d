//! Whether the names a definition asks for are free, and the conditions that say so.

use std::collections::BTreeSet;

use keelson_api::field::quote;
use serde_json::{Value, json};

use crate::definition::Names;

/// Names that are taken in a group.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Plurals, singulars and short names.
    pub resources: BTreeSet<String>,
    /// Kinds and kinds of lists.
    pub kinds: BTreeSet<String>,
}

impl Taken {
    /// Adds the accepted names of a definition.
    pub fn add(&mut self, names: &Names) {
        self.resources.insert(names.plural.clone());
        self.resources.insert(names.singular.clone());
        self.resources.extend(names.short_names.iter().cloned());
        self.kinds.insert(names.kind.clone());
        self.kinds.insert(names.list_kind.clone());
    }
}

/// What becomes of the names a definition asks for: those that are accepted, and the condition `NamesAccepted`.
pub fn accept(requested: &Names, accepted: &Names, taken: &Taken) -> (Names, Value) {
    let mut names = accepted.clone();
    let mut conflict: Option<(&str, String)> = None;
    let mut claim = |reason: &'static str, wanted: &str, had: &str, taken: &BTreeSet<String>| {
        if wanted == had || !taken.contains(wanted) {
            return true;
        }
        conflict = Some((reason, format!("{} is already in use", quote(wanted))));
        false
    };
    if claim(
        "PluralConflict",
        &requested.plural,
        &accepted.plural,
        &taken.resources,
    ) {
        names.plural.clone_from(&requested.plural);
    }
    if claim(
        "SingularConflict",
        &requested.singular,
        &accepted.singular,
        &taken.resources,
    ) {
        names.singular.clone_from(&requested.singular);
    }
    let used: Vec<String> = requested
        .short_names
        .iter()
        .filter(|s| !accepted.short_names.contains(s) && taken.resources.contains(*s))
        .map(|s| format!("{} is already in use", quote(s)))
        .collect();
    let short_names_free = used.is_empty();
    if claim(
        "KindConflict",
        &requested.kind,
        &accepted.kind,
        &taken.kinds,
    ) {
        names.kind.clone_from(&requested.kind);
    }
    let kind_conflict = conflict.take_if(|(reason, _)| *reason == "KindConflict");
    if short_names_free {
        names.short_names.clone_from(&requested.short_names);
    } else {
        let message = match &used[..] {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        conflict = Some(("ShortNamesConflict", message));
    }
    if kind_conflict.is_some() {
        conflict = kind_conflict;
    }
    let list_kind = &requested.list_kind;
    if *list_kind == accepted.list_kind || !taken.kinds.contains(list_kind) {
        names.list_kind.clone_from(list_kind);
    } else {
        conflict = Some((
            "ListKindConflict",
            format!("{} is already in use", quote(list_kind)),
        ));
    }
    names.categories.clone_from(&requested.categories);
    let condition = match conflict {
        Some((reason, message)) => {
            json!({"type": "NamesAccepted", "status": "False", "reason": reason, "message": message})
        }
        None => {
            json!({"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "no conflicts found"})
        }
    };
    (names, condition)
}

/// Names as a definition's status has them.
pub fn to_value(names: &Names) -> Value {
    let mut value = json!({"plural": names.plural, "kind": names.kind});
    if !names.singular.is_empty() {
        value["singular"] = names.singular.clone().into();
    }
    if !names.list_kind.is_empty() {
        value["listKind"] = names.list_kind.clone().into();
    }
    if !names.short_names.is_empty() {
        value["shortNames"] = names.short_names.clone().into();
    }
    if !names.categories.is_empty() {
        value["categories"] = names.categories.clone().into();
    }
    value
}

/// The condition of a type in a definition.
pub fn condition<'a>(crd: &'a Value, ty: &str) -> Option<&'a Value> {
    let conditions = crd.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|c| c["type"] == ty)
}

/// Whether a condition is true.
pub fn is_true(crd: &Value, ty: &str) -> bool {
    condition(crd, ty).is_some_and(|c| c["status"] == "True")
}

/// Sets a condition; its time of transition moves with its status.
pub fn set_condition(crd: &mut Value, mut condition: Value, now: &str) {
    if !crd["status"].is_object() {
        crd["status"] = json!({});
    }
    if !crd["status"]["conditions"].is_array() {
        crd["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = crd["status"]["conditions"].as_array_mut() else {
        return;
    };
    let ty = condition["type"].clone();
    match conditions.iter_mut().find(|c| c["type"] == ty) {
        Some(existing) => {
            let same = existing["status"] == condition["status"];
            let since = existing.get("lastTransitionTime").filter(|_| same).cloned();
            condition["lastTransitionTime"] = since.unwrap_or_else(|| now.into());
            *existing = condition;
        }
        None => {
            condition["lastTransitionTime"] = now.into();
            conditions.push(condition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_refused_by_name() {
        let wanted = Names {
            plural: "foos".into(),
            singular: "foo".into(),
            kind: "Foo".into(),
            list_kind: "FooList".into(),
            short_names: vec!["f".into()],
            categories: Vec::new(),
        };
        let (names, condition) = accept(&wanted, &Names::default(), &Taken::default());
        assert_eq!(
            (names, condition["status"].as_str()),
            (wanted.clone(), Some("True"))
        );
        let mut taken = Taken::default();
        taken.add(&Names {
            short_names: vec!["f".into()],
            kind: "Foo".into(),
            ..Names::default()
        });
        let (names, condition) = accept(&wanted, &Names::default(), &taken);
        assert!(names.short_names.is_empty() && names.kind.is_empty());
        assert_eq!(condition["reason"], "KindConflict");
        assert_eq!(condition["message"], "\"Foo\" is already in use");
        let (_, mine) = accept(&wanted, &wanted, &taken);
        assert_eq!(mine["status"], "True");
    }
}
