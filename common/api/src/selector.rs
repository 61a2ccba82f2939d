//! Selectors: of labels, in kubectl's strings and `metav1.LabelSelector`, and of fields.
//!
//! Parsing accepts and refuses what upstream does, in its words. What fields a kind has is left to its strategy.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serde_json::Value;

use crate::field::{self, Error, Path};
use crate::names;

mod fields;
mod parse;

pub use fields::{FieldSelector, FieldTerm};

/// Why a selector could not be made of what was given; the message is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// Something with labels to look at.
pub trait Labels {
    /// The value of label `key`.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Option<BTreeMap<String, String>> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref()?.label(key)
    }
}

impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl Labels for [(String, String)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `=`
    Equals,
    /// `==`
    DoubleEquals,
    /// `!=`
    NotEquals,
    /// `in (…)`
    In,
    /// `notin (…)`
    NotIn,
    /// The bare key.
    Exists,
    /// `!key`
    DoesNotExist,
    /// `>`
    GreaterThan,
    /// `<`
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    /// A requirement, if it is well-formed. Values are sorted, as upstream's sets are.
    pub fn new(
        key: &str,
        operator: Operator,
        mut values: Vec<String>,
    ) -> Result<Requirement, SelectorError> {
        // Upstream builds these paths from a nil root, which is why they read "key" and "values" alone.
        let mut errors = Vec::new();
        let key_faults = names::qualified_name(key);
        if !key_faults.is_empty() {
            errors.push(Error::invalid(
                &Path::new("key"),
                key,
                key_faults.join("; "),
            ));
        }
        let path = Path::new("values");
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                errors.push(Error::invalid(
                    &path,
                    &values,
                    "for 'in', 'notin' operators, values set can't be empty",
                ));
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals
                if values.len() != 1 =>
            {
                errors.push(Error::invalid(
                    &path,
                    &values,
                    "exact-match compatibility requires one single value",
                ));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                errors.push(Error::invalid(
                    &path,
                    &values,
                    "values set must be empty for exists and does not exist",
                ));
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    errors.push(Error::invalid(
                        &path,
                        &values,
                        "for 'Gt', 'Lt' operators, exactly one value is required",
                    ));
                }
                for (i, value) in values.iter().enumerate() {
                    if value.parse::<i64>().is_err() {
                        errors.push(Error::invalid(
                            &path.index(i),
                            value,
                            "for 'Gt', 'Lt' operators, the value must be an integer",
                        ));
                    }
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let faults = names::label_value(value);
            if !faults.is_empty() {
                errors.push(Error::invalid(
                    &path.index(i).key(key),
                    value,
                    faults.join("; "),
                ));
            }
        }
        if !errors.is_empty() {
            return Err(SelectorError(field::aggregate(&errors)));
        }
        values.sort_unstable();
        values.dedup();
        Ok(Requirement {
            key: key.into(),
            operator,
            values,
        })
    }

    /// The label's key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The comparison.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// What is compared with, sorted.
    #[must_use]
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether `labels` meet the requirement.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let value = labels.label(&self.key);
        let listed = |v: &str| self.values.iter().any(|x| x == v);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let (Some(have), Some(want)) = (
                    value.and_then(|v| v.parse::<i64>().ok()),
                    self.values.first().and_then(|v| v.parse::<i64>().ok()),
                ) else {
                    return false;
                };
                if self.operator == Operator::GreaterThan {
                    have > want
                } else {
                    have < want
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// A selector of labels: all requirements, or nothing at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    /// Matches every object.
    #[must_use]
    pub fn everything() -> Selector {
        Selector::default()
    }

    /// Matches no object.
    #[must_use]
    pub fn nothing() -> Selector {
        Selector {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// A selector in kubectl's syntax: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        Ok(Selector::of(parse::parse(text)?))
    }

    /// All of these requirements.
    #[must_use]
    pub fn of(mut requirements: Vec<Requirement>) -> Selector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Selector {
            requirements,
            nothing: false,
        }
    }

    /// Every key with its value, unchecked, as Services and ReplicationControllers select.
    #[must_use]
    pub fn from_map(map: &BTreeMap<String, String>) -> Selector {
        let equals = |(k, v): (&String, &String)| Requirement {
            key: k.clone(),
            operator: Operator::Equals,
            values: vec![v.clone()],
        };
        Selector {
            requirements: map.iter().map(equals).collect(),
            nothing: false,
        }
    }

    /// What a `LabelSelector` selects: an absent one nothing, an empty one everything.
    pub fn from_label_selector(
        selector: Option<&LabelSelector>,
    ) -> Result<Selector, SelectorError> {
        let Some(selector) = selector else {
            return Ok(Selector::nothing());
        };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(
                key,
                Operator::Equals,
                vec![value.clone()],
            )?);
        }
        for LabelSelectorRequirement {
            key,
            operator,
            values,
        } in selector.match_expressions.iter().flatten()
        {
            let operator = match operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!(
                        "{} is not a valid label selector operator",
                        field::quote(other)
                    )));
                }
            };
            requirements.push(Requirement::new(
                key,
                operator,
                values.clone().unwrap_or_default(),
            )?);
        }
        Ok(Selector::of(requirements))
    }

    /// Whether it matches every object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether it matches no object by construction.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// Its requirements, by key.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it selects an object with these labels.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// The value that `key` must have, if there is only one.
    #[must_use]
    pub fn requires_exact_match(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements.iter().find(|r| r.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// A `LabelSelector` as the columns of a Table show it.
#[must_use]
pub fn format_label_selector(selector: Option<&LabelSelector>) -> String {
    match Selector::from_label_selector(selector) {
        Ok(parsed) => {
            let text = parsed.to_string();
            if text.is_empty() {
                "<none>".into()
            } else {
                text
            }
        }
        Err(_) => "<error>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_string(), (*v).to_string()))
            .collect()
    }

    #[test]
    fn selectors_match() {
        let have = labels(&[("app", "web"), ("tier", "front"), ("n", "5")]);
        for yes in [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "none!=x",
            "app in (web,db)",
            "app notin (db)",
            "none notin (a)",
            "app",
            "!none",
            "n>4",
            "n<6",
        ] {
            assert!(Selector::parse(yes).unwrap().matches(&have), "{yes}");
        }
        for no in [
            "app=db",
            "app!=web",
            "app in (a,b)",
            "app notin (web)",
            "none",
            "!app",
            "n>5",
            "app>1",
            "app=web,tier=back",
            "app=",
        ] {
            assert!(!Selector::parse(no).unwrap().matches(&have), "{no}");
        }
    }

    #[test]
    fn selectors_are_written_canonically() {
        for (text, want) in [
            ("b=1,a=2", "a=2,b=1"),
            ("x in (c,a,b)", "x in (a,b,c)"),
            (" x  notin ( a ) , y", "x notin (a),y"),
            ("!z", "!z"),
            ("in=notin", "in=notin"),
            ("x in ()", "x in ()"),
        ] {
            match Selector::parse(text) {
                Ok(s) => assert_eq!(s.to_string(), want),
                Err(e) => assert_eq!(text, "in=notin", "{e}"),
            }
        }
    }

    #[test]
    fn parse_errors_are_upstreams() {
        for (text, want) in [
            ("a=b,", "found '', expected: identifier after ','"),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            (
                ",",
                "found ',', expected: !, identifier, or 'end of string'",
            ),
            (
                "a in b",
                "unable to parse requirement: found 'b' expected: '('",
            ),
        ] {
            assert_eq!(
                Selector::parse(text).unwrap_err().to_string(),
                want,
                "{text}"
            );
        }
        assert!(Selector::parse("a/b/c=d").is_err());
        assert!(Selector::parse("a=b_").is_err());
    }

    #[test]
    fn label_selectors_convert() {
        let selector = LabelSelector {
            match_labels: Some(labels(&[("a", "b")])),
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "c".into(),
                operator: "Exists".into(),
                values: None,
            }]),
        };
        let parsed = Selector::from_label_selector(Some(&selector)).unwrap();
        assert_eq!(parsed.to_string(), "a=b,c");
        assert!(
            !Selector::from_label_selector(None)
                .unwrap()
                .matches(&labels(&[]))
        );
        assert!(
            Selector::from_label_selector(Some(&LabelSelector::default()))
                .unwrap()
                .matches(&labels(&[]))
        );
    }
}
