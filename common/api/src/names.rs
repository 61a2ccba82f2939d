//! What may be a name: labels and subdomains of the DNS, qualified names, label values, keys and variables.
//!
//! Each check returns what is wrong in upstream's sentences, nothing if the value is good. Which check a kind's
//! name must pass is left to its strategy.

use std::borrow::Cow;

/// What is wrong with a value; empty if nothing is.
pub type Faults = Vec<String>;

/// Longest DNS label, in bytes.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain, in bytes.
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_WORDS: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN_FORMAT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_WORDS: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const QUALIFIED_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_WORDS: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// The sentence that a value must match a pattern, with examples.
#[must_use]
pub fn regex_error(words: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{words} (regex used for validation is '{format}')");
    }
    let mut text = format!("{words} (e.g. ");
    for (i, example) in examples.iter().enumerate() {
        if i > 0 {
            text.push_str(" or ");
        }
        text.push_str(&format!("'{example}', "));
    }
    text.push_str(&format!("regex used for validation is '{format}')"));
    text
}

/// The sentence that a value has too many characters.
#[must_use]
pub fn max_length_error(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// The sentence that a label has too many bytes.
fn max_bytes_error(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// The sentence that a number is out of its range.
#[must_use]
pub fn inclusive_range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn matches_label(value: &str) -> bool {
    let b = value.as_bytes();
    !b.is_empty()
        && lower_alnum(b[0])
        && lower_alnum(b[b.len() - 1])
        && b.iter().all(|&c| lower_alnum(c) || c == b'-')
}

fn matches_subdomain(value: &str) -> bool {
    value.split('.').all(matches_label)
}

/// An RFC 1123 label.
#[must_use]
pub fn dns1123_label(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > LABEL_MAX {
        faults.push(max_length_error(LABEL_MAX));
    }
    if !matches_label(value) {
        if matches_subdomain(value) {
            faults.push("must not contain dots".into());
        } else {
            faults.push(regex_error(
                LABEL_WORDS,
                LABEL_FORMAT,
                &["my-name", "123-abc"],
            ));
        }
    }
    faults
}

/// An RFC 1123 subdomain: labels separated by dots.
#[must_use]
pub fn dns1123_subdomain(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(max_length_error(SUBDOMAIN_MAX));
    }
    if !matches_subdomain(value) {
        faults.push(regex_error(
            SUBDOMAIN_WORDS,
            SUBDOMAIN_FORMAT,
            &["example.com"],
        ));
    }
    faults
}

/// A subdomain whose labels may also begin with and contain underscores, as DNS searches may.
#[must_use]
pub fn dns1123_subdomain_with_underscore(value: &str) -> Faults {
    const FORMAT: &str = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
    const WORDS: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
    let label = |l: &str| {
        let l = l.strip_prefix('_').unwrap_or(l).as_bytes();
        !l.is_empty()
            && lower_alnum(l[0])
            && lower_alnum(l[l.len() - 1])
            && l.iter().all(|&c| lower_alnum(c) || c == b'-' || c == b'_')
    };
    let mut faults = Faults::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(max_length_error(SUBDOMAIN_MAX));
    }
    if !value.split('.').all(label) {
        faults.push(regex_error(WORDS, FORMAT, &["example.com"]));
    }
    faults
}

/// A subdomain under a wildcard: `*.example.com`.
#[must_use]
pub fn wildcard_dns1123_subdomain(value: &str) -> Faults {
    const WORDS: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
    let mut faults = Faults::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(max_length_error(SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(matches_subdomain) {
        faults.push(regex_error(
            WORDS,
            &format!(r"\*\.{SUBDOMAIN_FORMAT}"),
            &["*.example.com"],
        ));
    }
    faults
}

/// An RFC 1035 label: begins with a letter.
#[must_use]
pub fn dns1035_label(value: &str) -> Faults {
    const WORDS: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
    let mut faults = Faults::new();
    if value.len() > LABEL_MAX {
        faults.push(max_length_error(LABEL_MAX));
    }
    if !(matches_label(value) && value.as_bytes()[0].is_ascii_lowercase()) {
        faults.push(regex_error(
            WORDS,
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    faults
}

fn matches_qualified(value: &str) -> bool {
    let b = value.as_bytes();
    !b.is_empty()
        && b[0].is_ascii_alphanumeric()
        && b[b.len() - 1].is_ascii_alphanumeric()
        && b.iter()
            .all(|&c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// A qualified name, as label keys, annotation keys and finalizers are: a name with an optional `prefix/`.
#[must_use]
pub fn qualified_name(value: &str) -> Faults {
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut faults = Faults::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".into());
            } else {
                if prefix.len() > SUBDOMAIN_MAX {
                    faults.push(format!("prefix part {}", max_bytes_error(SUBDOMAIN_MAX)));
                }
                if !matches_subdomain(prefix) {
                    faults.push(format!(
                        "prefix part {}",
                        regex_error(SUBDOMAIN_WORDS, SUBDOMAIN_FORMAT, &["example.com"])
                    ));
                }
            }
            *name
        }
        _ => {
            let rule = regex_error(QUALIFIED_WORDS, QUALIFIED_FORMAT, EXAMPLES);
            faults.push(format!("a valid label key {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"));
            return faults;
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".into());
    } else if name.len() > LABEL_MAX {
        faults.push(format!("name part {}", max_bytes_error(LABEL_MAX)));
    }
    if !matches_qualified(name) {
        faults.push(format!(
            "name part {}",
            regex_error(QUALIFIED_WORDS, QUALIFIED_FORMAT, EXAMPLES)
        ));
    }
    faults
}

/// The value of a label; may be empty.
#[must_use]
pub fn label_value(value: &str) -> Faults {
    const WORDS: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let mut faults = Faults::new();
    if value.len() > LABEL_MAX {
        faults.push(max_bytes_error(LABEL_MAX));
    }
    if !value.is_empty() && !matches_qualified(value) {
        faults.push(regex_error(
            WORDS,
            &format!("({QUALIFIED_FORMAT})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    faults
}

/// An identifier of the C language.
#[must_use]
pub fn c_identifier(value: &str) -> Faults {
    const WORDS: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    let b = value.as_bytes();
    let good = !b.is_empty()
        && !b[0].is_ascii_digit()
        && b.iter().all(|&c| c.is_ascii_alphanumeric() || c == b'_');
    if good {
        Faults::new()
    } else {
        vec![regex_error(
            WORDS,
            "[A-Za-z_][A-Za-z0-9_]*",
            &["my_name", "MY_NAME", "MyName"],
        )]
    }
}

/// The name of an environment variable: printable ASCII without `=`.
#[must_use]
pub fn env_var_name(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.is_empty() {
        faults.push("environment variable name must be non-empty".into());
    }
    if value
        .bytes()
        .any(|b| !(0x20..0x7f).contains(&b) || b == b'=')
    {
        faults.push("a valid environment variable name must consist only of printable ASCII characters other than '='".into());
    }
    faults
}

/// A key of a ConfigMap or Secret.
#[must_use]
pub fn config_map_key(value: &str) -> Faults {
    const WORDS: &str =
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
    let mut faults = Faults::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(max_length_error(SUBDOMAIN_MAX));
    }
    if value.is_empty()
        || !value
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
    {
        faults.push(regex_error(
            WORDS,
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    if value == "." {
        faults.push("must not be '.'".into());
    } else if value == ".." {
        faults.push("must not be '..'".into());
    } else if value.starts_with("..") {
        faults.push("must not start with '..'".into());
    }
    faults
}

/// A name that can stand as one segment of a URL's path, as the names of RBAC objects.
#[must_use]
pub fn path_segment(value: &str) -> Faults {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    path_segment_prefix(value)
}

fn path_segment_prefix(value: &str) -> Faults {
    ["/", "%"]
        .iter()
        .filter(|s| value.contains(**s))
        .map(|s| format!("may not contain '{s}'"))
        .collect()
}

/// The name of a port.
#[must_use]
pub fn port_name(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > 15 {
        faults.push(max_length_error(15));
    }
    if value.is_empty() || !value.bytes().all(|c| lower_alnum(c) || c == b'-') {
        faults
            .push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|c| c.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        faults.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        faults.push("must not begin or end with a hyphen".into());
    }
    faults
}

/// The number of a port.
#[must_use]
pub fn port_number(port: i64) -> Faults {
    if (1..=65535).contains(&port) {
        Faults::new()
    } else {
        vec![inclusive_range_error(1, 65535)]
    }
}

/// A percentage: digits and `%`.
#[must_use]
pub fn percent(value: &str) -> Faults {
    let good = value
        .strip_suffix('%')
        .is_some_and(|d| !d.is_empty() && d.bytes().all(|c| c.is_ascii_digit()));
    if good {
        Faults::new()
    } else {
        vec![regex_error(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )]
    }
}

/// The name of an HTTP header.
#[must_use]
pub fn http_header_name(value: &str) -> Faults {
    if !value.is_empty()
        && value
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    {
        Faults::new()
    } else {
        vec![regex_error(
            "a valid HTTP header must consist of alphanumeric characters or '-'",
            "[-A-Za-z0-9]+",
            &["X-Header-Name"],
        )]
    }
}

/// How the name of an object is checked. Every kind has one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain: most kinds.
    Subdomain,
    /// RFC 1123 label: Namespace.
    Label,
    /// RFC 1035 label: what has not been relaxed to RFC 1123.
    Dns1035,
    /// One segment of a path: RBAC.
    PathSegment,
    /// The name is checked by the kind's own validation.
    Own,
}

impl NameRule {
    /// What is wrong with `name`; with `prefix` it is the beginning of a name to be generated.
    #[must_use]
    pub fn check(self, name: &str, prefix: bool) -> Faults {
        // What is generated is never a dash, so a trailing one is allowed in a prefix.
        let masked: Cow<'_, str> =
            if prefix && name.len() > 1 && name.ends_with('-') && self != NameRule::PathSegment {
                // A character cut in half cannot be part of a good name; it is left for the check to find.
                name.get(..name.len() - 2)
                    .map_or(Cow::Borrowed(name), |head| Cow::Owned(format!("{head}a")))
            } else {
                Cow::Borrowed(name)
            };
        match self {
            NameRule::Subdomain => dns1123_subdomain(&masked),
            NameRule::Label => dns1123_label(&masked),
            NameRule::Dns1035 => dns1035_label(&masked),
            NameRule::PathSegment if prefix => path_segment_prefix(&masked),
            NameRule::PathSegment => path_segment(&masked),
            NameRule::Own => Faults::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_upstreams() {
        assert_eq!(
            dns1123_label("A"),
            vec![
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), vec!["must not contain dots"]);
        assert_eq!(
            dns1123_subdomain("a_b"),
            vec![
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            dns1123_label(&"a".repeat(64)),
            vec!["must be no more than 63 characters"]
        );
        assert_eq!(
            label_value(&"a".repeat(64)),
            vec!["must be no more than 63 bytes"]
        );
    }

    #[test]
    fn good_and_bad_values() {
        type Check = fn(&str) -> Faults;
        let cases: &[(Check, &[&str], &[&str])] = &[
            (
                dns1123_label,
                &["a", "a-1", "1a"],
                &["", "-a", "a-", "a_b", "ä"],
            ),
            (
                dns1123_subdomain,
                &["a", "a.b-c.1"],
                &["", ".", "a..b", "a.-b", "A"],
            ),
            (
                dns1123_subdomain_with_underscore,
                &["_sip._tcp.a"],
                &["a_", ""],
            ),
            (wildcard_dns1123_subdomain, &["*.a.b"], &["*", "a.b", "*."]),
            (dns1035_label, &["a", "a1"], &["1a", "", "a-"]),
            (
                qualified_name,
                &["a", "x.y/A_b.c"],
                &["", "/a", "a/", "a/b/c", "A/b", "_a"],
            ),
            (label_value, &["", "A.b_c-1"], &["-", "a-", "a b"]),
            (c_identifier, &["_a1"], &["1a", "a-b", ""]),
            (env_var_name, &["A", "a b", "1"], &["", "a=b", "a\n", "ä"]),
            (
                config_map_key,
                &["a", ".a", "a..b"],
                &["", ".", "..", "..a", "a/b"],
            ),
            (path_segment, &["a:b", "..."], &[".", "..", "a/b", "a%b"]),
            (
                port_name,
                &["http", "a-1"],
                &["", "1", "-a", "a--b", "abcdefghijklmnop", "A"],
            ),
            (percent, &["1%"], &["%", "1", "a%"]),
        ];
        for (check, good, bad) in cases {
            for value in *good {
                assert!(check(value).is_empty(), "{value:?}: {:?}", check(value));
            }
            for value in *bad {
                assert!(!check(value).is_empty(), "{value:?} passed");
            }
        }
    }

    #[test]
    fn a_prefix_may_end_in_a_dash() {
        assert!(NameRule::Subdomain.check("web-", true).is_empty());
        assert!(!NameRule::Subdomain.check("web-", false).is_empty());
        assert!(!NameRule::Label.check("é-", true).is_empty());
    }
}
