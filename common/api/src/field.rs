//! Errors about one field of an object: where it is, what is wrong with it, in upstream's words.
//!
//! A [`Path`] borrows its parent, so that building one costs nothing until an error is made from it.
//! Turning a list of errors into an answer is left to [`crate::status`].

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// The place of a field in an object, such as `spec.containers[0].name`.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    element: Element<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Element<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A path that starts at `name`; the empty name stands for the object itself.
    #[must_use]
    pub const fn new(name: &'a str) -> Path<'a> {
        Path {
            parent: None,
            element: Element::Name(name),
        }
    }

    /// The field `name` below this one; several levels may be given at once, separated by dots.
    #[must_use]
    pub const fn child(&'a self, name: &'a str) -> Path<'a> {
        Path {
            parent: Some(self),
            element: Element::Name(name),
        }
    }

    /// The item at `index` of this list.
    #[must_use]
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path {
            parent: Some(self),
            element: Element::Index(index),
        }
    }

    /// The value under `key` of this map.
    #[must_use]
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path {
            parent: Some(self),
            element: Element::Key(key),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut has_before = false;
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            has_before = !matches!(
                parent,
                Path {
                    parent: None,
                    element: Element::Name("")
                }
            );
        }
        match self.element {
            Element::Name(name) if has_before => write!(f, ".{name}"),
            Element::Name(name) => f.write_str(name),
            Element::Index(index) => write!(f, "[{index}]"),
            Element::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// A value that something refers to does not exist.
    NotFound,
    /// A value that must be given is not.
    Required,
    /// A value that must be unique is not.
    Duplicate,
    /// A malformed value.
    Invalid,
    /// A value that is none of those an enumerated field may have.
    NotSupported,
    /// A well-formed value that may not be used here.
    Forbidden,
    /// A value that has too many bytes.
    TooLong,
    /// A list that has too many items.
    TooMany,
    /// A list that has too few items.
    TooFew,
    /// A value that has too few characters.
    TooShort,
    /// A failure that is not the client's.
    Internal,
    /// A value of the wrong type.
    TypeInvalid,
}

impl ErrorType {
    /// The machine-readable reason, as it stands in a Status cause.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::TooFew => "FieldValueTooFew",
            ErrorType::TooShort => "FieldValueTooShort",
            ErrorType::Internal => "InternalError",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            ErrorType::NotFound => "Not found",
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid | ErrorType::TypeInvalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooMany => "Too many",
            ErrorType::TooFew => "Too few",
            ErrorType::TooShort => "Too short",
            ErrorType::Internal => "Internal error",
        }
    }

    /// Whether the message repeats the offending value.
    const fn shows_value(self) -> bool {
        !matches!(
            self,
            ErrorType::Required
                | ErrorType::Forbidden
                | ErrorType::TooLong
                | ErrorType::TooShort
                | ErrorType::Internal
        )
    }
}

/// One thing that is wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// What kind of error it is.
    pub kind: ErrorType,
    /// The field's path, already spelled out.
    pub field: String,
    /// The offending value, where the message shows one.
    pub bad_value: Option<Value>,
    /// What is wrong in words; may be empty.
    pub detail: String,
}

/// Everything that is wrong with an object.
pub type ErrorList = Vec<Error>;

impl Error {
    /// `Invalid value: <value>: <detail>`.
    pub fn invalid(path: &Path<'_>, value: impl Serialize, detail: impl Into<String>) -> Error {
        Error::with_value(ErrorType::Invalid, path, value, detail)
    }

    /// `Invalid value: <value>: <detail>`, for a value of the wrong type.
    pub fn type_invalid(
        path: &Path<'_>,
        value: impl Serialize,
        detail: impl Into<String>,
    ) -> Error {
        Error::with_value(ErrorType::TypeInvalid, path, value, detail)
    }

    /// `Required value`, with a detail where that is not empty.
    pub fn required(path: &Path<'_>, detail: impl Into<String>) -> Error {
        Error::without_value(ErrorType::Required, path, detail)
    }

    /// `Forbidden: <detail>`.
    pub fn forbidden(path: &Path<'_>, detail: impl Into<String>) -> Error {
        Error::without_value(ErrorType::Forbidden, path, detail)
    }

    /// `Not found: <value>`.
    pub fn not_found(path: &Path<'_>, value: impl Serialize) -> Error {
        Error::with_value(ErrorType::NotFound, path, value, "")
    }

    /// `Duplicate value: <value>`.
    pub fn duplicate(path: &Path<'_>, value: impl Serialize) -> Error {
        Error::with_value(ErrorType::Duplicate, path, value, "")
    }

    /// `Unsupported value: <value>: supported values: "a", "b"`; the supported values come in the order given.
    pub fn not_supported<S: AsRef<str>>(
        path: &Path<'_>,
        value: impl Serialize,
        supported: &[S],
    ) -> Error {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|s| quote(s.as_ref())).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        Error::with_value(ErrorType::NotSupported, path, value, detail)
    }

    /// `Too long: may not be more than <max> bytes`.
    #[must_use]
    pub fn too_long(path: &Path<'_>, max: usize) -> Error {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Error::without_value(
            ErrorType::TooLong,
            path,
            format!("may not be more than {max} {unit}"),
        )
    }

    /// `Too many: <actual>: must have at most <max> items`.
    #[must_use]
    pub fn too_many(path: &Path<'_>, actual: usize, max: usize) -> Error {
        let unit = if max == 1 { "item" } else { "items" };
        Error::with_value(
            ErrorType::TooMany,
            path,
            actual,
            format!("must have at most {max} {unit}"),
        )
    }

    /// `Too few: <actual>: must have at least <min> items`.
    #[must_use]
    pub fn too_few(path: &Path<'_>, actual: usize, min: usize) -> Error {
        let unit = if min == 1 { "item" } else { "items" };
        Error::with_value(
            ErrorType::TooFew,
            path,
            actual,
            format!("must have at least {min} {unit}"),
        )
    }

    /// `Internal error: <detail>`.
    pub fn internal(path: &Path<'_>, detail: impl Into<String>) -> Error {
        Error::without_value(ErrorType::Internal, path, detail)
    }

    fn with_value(
        kind: ErrorType,
        path: &Path<'_>,
        value: impl Serialize,
        detail: impl Into<String>,
    ) -> Error {
        // A value that cannot be serialised still deserves its error: it is shown as null.
        let bad_value = Some(serde_json::to_value(value).unwrap_or(Value::Null));
        Error {
            kind,
            field: path.to_string(),
            bad_value,
            detail: detail.into(),
        }
    }

    fn without_value(kind: ErrorType, path: &Path<'_>, detail: impl Into<String>) -> Error {
        Error {
            kind,
            field: path.to_string(),
            bad_value: None,
            detail: detail.into(),
        }
    }

    /// The message without the field's path, as it stands in a Status cause.
    #[must_use]
    pub fn body(&self) -> String {
        let mut text = String::from(self.kind.words());
        if self.kind.shows_value() {
            match &self.bad_value {
                Some(Value::String(value)) => {
                    text.push_str(": ");
                    text.push_str(&quote(value));
                }
                Some(value) => {
                    text.push_str(": ");
                    text.push_str(&value.to_string());
                }
                None => {}
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for Error {}

/// All errors in one line: one stands alone, several in brackets, equal ones once.
#[must_use]
pub fn aggregate(errors: &[Error]) -> String {
    let mut messages: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let message = error.to_string();
        if !messages.contains(&message) {
            messages.push(message);
        }
    }
    if messages.len() == 1 {
        messages.remove(0)
    } else {
        format!("[{}]", messages.join(", "))
    }
}

/// `text` in double quotes, escaped as Go's `%q` does.
#[must_use]
pub fn quote(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            // Writing to a String cannot fail.
            c if (c as u32) < 0x20 || c as u32 == 0x7f => drop(write!(out, "\\x{:02x}", c as u32)),
            c if c.is_control() => drop(write!(out, "\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_spelled_as_upstream_does() {
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        assert_eq!(first.child("name").to_string(), "spec.containers[0].name");
        assert_eq!(
            spec.child("nodeSelector").key("a/b").to_string(),
            "spec.nodeSelector[a/b]"
        );
        assert_eq!(Path::new("").child("spec").to_string(), "spec");
    }

    #[test]
    fn messages_have_upstreams_form() {
        let path = Path::new("spec");
        let cases = [
            (Error::required(&path, ""), "spec: Required value"),
            (
                Error::required(&path, "must be set"),
                "spec: Required value: must be set",
            ),
            (
                Error::invalid(&path, "a\"b", "bad"),
                "spec: Invalid value: \"a\\\"b\": bad",
            ),
            (
                Error::invalid(&path, -1, "bad"),
                "spec: Invalid value: -1: bad",
            ),
            (Error::forbidden(&path, "no"), "spec: Forbidden: no"),
            (Error::not_found(&path, "x"), "spec: Not found: \"x\""),
            (Error::duplicate(&path, "x"), "spec: Duplicate value: \"x\""),
            (
                Error::not_supported(&path, "x", &["a", "b"]),
                "spec: Unsupported value: \"x\": supported values: \"a\", \"b\"",
            ),
            (
                Error::too_long(&path, 63),
                "spec: Too long: may not be more than 63 bytes",
            ),
            (
                Error::too_many(&path, 3, 1),
                "spec: Too many: 3: must have at most 1 item",
            ),
            (Error::internal(&path, "oops"), "spec: Internal error: oops"),
            (
                Error::invalid(&path, serde_json::json!({"a": [1]}), "bad"),
                "spec: Invalid value: {\"a\":[1]}: bad",
            ),
        ];
        for (error, want) in cases {
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn aggregates_drop_repetitions() {
        let path = Path::new("a");
        let one = Error::required(&path, "");
        let two = Error::forbidden(&path, "no");
        assert_eq!(aggregate(std::slice::from_ref(&one)), "a: Required value");
        assert_eq!(aggregate(&[one.clone(), one.clone()]), "a: Required value");
        assert_eq!(
            aggregate(&[one, two]),
            "[a: Required value, a: Forbidden: no]"
        );
    }
}
