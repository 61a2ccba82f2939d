//! URLs.

use std::sync::Arc;

use indexmap::IndexMap;

use super::{Context, Row};
use crate::error::EvalError;
use crate::value::{Evaluated, Key, Map, Special, Value};

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[
    (
        "url",
        url,
        &[("string_to_url", "(string) -> kubernetes.URL")],
    ),
    ("isURL", is_url, &[("is_url_string", "(string) -> bool")]),
    (
        "getScheme",
        scheme,
        &[("url_get_scheme", "kubernetes.URL.() -> string")],
    ),
    (
        "getHost",
        host,
        &[("url_get_host", "kubernetes.URL.() -> string")],
    ),
    (
        "getHostname",
        hostname,
        &[("url_get_hostname", "kubernetes.URL.() -> string")],
    ),
    (
        "getPort",
        port,
        &[("url_get_port", "kubernetes.URL.() -> string")],
    ),
    (
        "getEscapedPath",
        path,
        &[("url_get_escaped_path", "kubernetes.URL.() -> string")],
    ),
    (
        "getQuery",
        query,
        &[(
            "url_get_query",
            "kubernetes.URL.() -> map(string, list(string))",
        )],
    ),
];

/// A URL in its parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Url {
    pub(crate) text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

/// An absolute URL, or an absolute path.
fn parse(text: &str) -> Result<Url, String> {
    let fail = |why: &str| Err(format!("parse {text:?}: {why}"));
    if text.is_empty() {
        return fail("empty url");
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return fail("net/url: invalid control character in URL");
    }
    let (rest, query) = text.split_once('?').unwrap_or((text, ""));
    let mut url = Url {
        text: text.to_owned(),
        scheme: String::new(),
        host: String::new(),
        path: String::new(),
        query: query.to_owned(),
    };
    let rest = match rest.split_once(':') {
        Some((scheme, rest))
            if scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) =>
        {
            url.scheme = scheme.to_ascii_lowercase();
            rest
        }
        Some(("", _)) => return fail("missing protocol scheme"),
        _ => rest,
    };
    if url.scheme.is_empty() && !rest.starts_with('/') {
        return fail("invalid URI for request");
    }
    let path = match rest.strip_prefix("//") {
        Some(rest) if !url.scheme.is_empty() => {
            let end = rest.find('/').unwrap_or(rest.len());
            let authority = &rest[..end];
            url.host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host)
                .to_owned();
            if let Some(why) = bad_host(&url.host) {
                return fail(&why);
            }
            &rest[end..]
        }
        _ => rest,
    };
    if let Some(escape) = bad_escape(path) {
        return fail(&format!("invalid URL escape {escape:?}"));
    }
    url.path = escaped(path);
    Ok(url)
}

fn bad_escape(path: &str) -> Option<String> {
    path.match_indices('%').find_map(|(at, _)| {
        let digits = path.as_bytes().get(at + 1..at + 3);
        let good = digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit));
        (!good).then(|| path[at..].chars().take(3).collect())
    })
}

fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => {
                out.push_str(&format!("%{byte:02X}"));
            }
            _ => out.push(char::from(byte)),
        }
    }
    out
}

fn bad_host(host: &str) -> Option<String> {
    let port = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((_, port)) => port,
            None => return Some("missing ']' in host".into()),
        },
        None => host.rfind(':').map_or("", |at| &host[at..]),
    };
    if let Some(digits) = port.strip_prefix(':')
        && digits.chars().all(|c| c.is_ascii_digit())
    {
        return None;
    }
    if !port.is_empty() {
        return Some(format!("invalid port {port:?} after host"));
    }
    host.chars()
        .find(|c| {
            matches!(
                c,
                ' ' | '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '}' | '|'
            )
        })
        .map(|c| format!("invalid character {:?} in host name", c.to_string()))
}

fn url<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => match parse(text) {
            Ok(url) => Ok(Value::Special(Special::Url(Arc::new(url)))),
            Err(why) => Err(EvalError::failed(format!(
                "URL parse error during conversion from string: {why}"
            ))),
        },
        _ => Err(EvalError::no_overload()),
    }
}

fn is_url<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(parse(text).is_ok())),
        _ => Err(EvalError::no_overload()),
    }
}

fn of<'v>(args: &'v [Value<'_>]) -> Result<&'v Url, EvalError> {
    match args {
        [Value::Special(Special::Url(url))] => Ok(url),
        _ => Err(EvalError::no_overload()),
    }
}

fn scheme<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::string(of(args)?.scheme.as_str()))
}

fn host<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::string(of(args)?.host.as_str()))
}

/// A host's name and port.
fn split_host(host: &str) -> (&str, &str) {
    if let Some((name, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (name, port.trim_start_matches(':'));
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

fn hostname<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::string(split_host(&of(args)?.host).0))
}

fn port<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::string(split_host(&of(args)?.host).1))
}

fn path<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::string(of(args)?.path.as_str()))
}

fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

fn query<'a>(context: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let url = of(args)?;
    context.work(url.query.len())?;
    let mut values: IndexMap<String, Vec<Value<'a>>> = IndexMap::new();
    for pair in url
        .query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
    {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Some(key), Some(value)) = (decoded(key), decoded(value)) {
            values.entry(key).or_default().push(Value::string(value));
        }
    }
    let map = values
        .into_iter()
        .map(|(key, values)| (Key::Text(key.into()), Value::owned(values)))
        .collect();
    Ok(Value::Map(Map::Owned(Arc::new(map), None)))
}

/// What is wrong with a URL.
pub(crate) fn fault(text: &str) -> Option<String> {
    parse(text).err()
}
