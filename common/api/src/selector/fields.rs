//! Field selectors: `metadata.name=x,status.phase!=Running`.

use std::fmt;

use super::SelectorError;

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldTerm {
    /// The field's label, such as `metadata.name`.
    pub field: String,
    /// Whether the value must differ.
    pub negated: bool,
    /// The value.
    pub value: String,
}

/// All of several conditions on fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// A selector from its string, with `\` escaping `\`, `,` and `=` in values.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let Some((field, negated, value)) = split_term(part) else {
                return Err(SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                )));
            };
            terms.push(FieldTerm {
                field: field.into(),
                negated,
                value: unescape(value)?,
            });
        }
        Ok(FieldSelector { terms })
    }

    /// All of these conditions.
    #[must_use]
    pub fn of(terms: Vec<FieldTerm>) -> FieldSelector {
        FieldSelector { terms }
    }

    /// Its conditions.
    #[must_use]
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether it selects an object; `get` gives the value of a field, and a field that has none counts as empty.
    pub fn matches<'v>(&self, get: impl Fn(&str) -> Option<&'v str>) -> bool {
        self.terms
            .iter()
            .all(|t| (get(&t.field).unwrap_or_default() == t.value) != t.negated)
    }

    /// The value that `field` must have.
    #[must_use]
    pub fn requires_exact_match(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| !t.negated && t.field == field)
            .map(|t| t.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let value = term
                .value
                .replace('\\', "\\\\")
                .replace(',', "\\,")
                .replace('=', "\\=");
            write!(
                f,
                "{}{}{value}",
                term.field,
                if term.negated { "!=" } else { "=" }
            )?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
            if let Some(value) = term[i..].strip_prefix(operator) {
                return Some((&term[..i], negated, value));
            }
        }
    }
    None
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            // Upstream prints the rune's number here.
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {}",
                    c as u32
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_selectors_match() {
        let get = |f: &str| match f {
            "metadata.name" => Some("a"),
            "status.phase" => Some("Running"),
            _ => None,
        };
        for (text, want) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a,status.phase!=Failed", true),
            ("metadata.name!=a", false),
            ("spec.nodeName=", true),
            ("spec.nodeName=x", false),
        ] {
            assert_eq!(
                FieldSelector::parse(text).unwrap().matches(get),
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn field_selectors_refuse_nonsense() {
        for (text, want) in [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            (
                "a=b=c",
                "invalid field selector: unescaped character in value: 61",
            ),
            (
                r"a=\x",
                r"invalid field selector: invalid escape sequence: \x",
            ),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap_err().to_string(), want);
        }
        let selector = FieldSelector::parse(r"a=b\,c").unwrap();
        assert_eq!(selector.requires_exact_match("a"), Some("b,c"));
        assert_eq!(selector.to_string(), r"a=b\,c");
    }
}
