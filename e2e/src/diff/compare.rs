//! Finds what differs between two answers to the same request.

use http::HeaderMap;
use keelson_schema::Schema;
use serde_json::Value;

use super::client::Answer;
use super::normal;

/// Headers that clients read and whose values must be the same.
const HEADERS: &[&str] = &[
    "content-type",
    "warning",
    "retry-after",
    "location",
    "allow",
    "www-authenticate",
    "cache-control",
    "x-content-type-options",
    "content-encoding",
    "vary",
    "deprecation",
];
/// Headers that only have to be there or not.
const PRESENT: &[&str] = &[
    "audit-id",
    "date",
    "etag",
    "last-modified",
    "x-kubernetes-pf-flowschema-uid",
    "x-kubernetes-pf-prioritylevel-uid",
];
/// How many differences of one request are told.
const MOST: usize = 12;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where: `code`, `header warning`, `body .spec.x`.
    pub at: String,
    /// What upstream says.
    pub upstream: String,
    /// What ours says.
    pub ours: String,
}

/// Compares two answers to a request whose text was `sent`.
pub fn answers(upstream: &Answer, ours: &Answer, sent: &str) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut tell = |at: &str, theirs: String, ours: String| {
        if theirs != ours {
            found.push(Difference {
                at: at.into(),
                upstream: theirs,
                ours,
            });
        }
    };
    tell("code", upstream.code.to_string(), ours.code.to_string());
    for name in HEADERS {
        tell(
            &format!("header {name}"),
            header(&upstream.headers, name, sent),
            header(&ours.headers, name, sent),
        );
    }
    for name in PRESENT {
        // Every answer or none has these: one request shows it.
        if name.starts_with("x-kubernetes-pf-") && !sent.starts_with("/version ") {
            continue;
        }
        let there = |headers: &HeaderMap| {
            let there = headers.contains_key(*name);
            String::from(if there { "present" } else { "absent" })
        };
        tell(
            &format!("header {name}"),
            there(&upstream.headers),
            there(&ours.headers),
        );
    }
    let (mut theirs, mut our) = (read(upstream), read(ours));
    normal::value(&mut theirs, sent);
    normal::value(&mut our, sent);
    order_causes(&mut theirs);
    order_causes(&mut our);
    walk("body ", &theirs, &our, &mut found);
    found
}

/// Faults of the keys of one map come in Go's random order: causes of one field are sorted, and a message of several is left to them.
fn order_causes(body: &mut Value) {
    let Some(Value::Array(causes)) = body.pointer_mut("/details/causes") else {
        return;
    };
    let field = |cause: &Value| cause["field"].as_str().unwrap_or_default().to_owned();
    let map = |cause: &Value| {
        let field = field(cause);
        field.split('[').next().unwrap_or_default().to_owned()
    };
    causes
        .chunk_by_mut(|a, b| map(a) == map(b))
        .for_each(|run| run.sort_by_key(|cause| (field(cause), cause["message"].to_string())));
    if causes.len() > 1
        && let Some(Value::String(text)) = body.get_mut("message")
        && let Some((head, _)) = text.split_once(" is invalid: ")
    {
        *text = format!("{head} is invalid: <causes>");
    }
}

/// Whether two texts say the same but for compound values shown in them: objects, lists, and JSON in quotes.
pub fn same_but_values(upstream: &str, ours: &str) -> bool {
    let (theirs, our) = (without_values(upstream), without_values(ours));
    theirs == our && theirs.contains("<value>")
}

fn without_values(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(" value: ") {
        let (head, tail) = rest.split_at(at + " value: ".len());
        out.push_str(head);
        let mut stream = serde_json::Deserializer::from_str(tail).into_iter::<Value>();
        let compound = match stream.next() {
            Some(Ok(Value::Object(_) | Value::Array(_))) => true,
            Some(Ok(Value::String(text))) => text.starts_with('{'),
            _ => false,
        };
        rest = if compound {
            out.push_str("<value>");
            &tail[stream.byte_offset()..]
        } else {
            tail
        };
    }
    out + rest
}

fn header(headers: &HeaderMap, name: &str, sent: &str) -> String {
    let all: Vec<String> = headers
        .get_all(name)
        .iter()
        .map(|v| normal::string(&String::from_utf8_lossy(v.as_bytes()), name, sent))
        .collect();
    all.join(" | ")
}

/// The body as a value: JSON, lines of JSON, YAML or protobuf by its Content-Type; anything else as text.
pub fn read(answer: &Answer) -> Value {
    let media = answer
        .headers
        .get("content-type")
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    if media.starts_with("application/vnd.kubernetes.protobuf") {
        return protobuf(&answer.body);
    }
    let text = || Value::String(String::from_utf8_lossy(&answer.body).into_owned());
    if media.starts_with("application/yaml") {
        return serde_norway::from_slice(&answer.body).unwrap_or_else(|_| text());
    }
    if let Ok(value) = serde_json::from_slice(&answer.body) {
        return value;
    }
    let lines: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(&answer.body)
        .into_iter()
        .collect();
    match lines {
        Ok(lines) if !lines.is_empty() => Value::Array(lines),
        _ => text(),
    }
}

/// A protobuf message read by the schema of its kind, so that normalising knows its fields.
fn protobuf(bytes: &[u8]) -> Value {
    let opaque = || Value::String(format!("{} bytes of protobuf", bytes.len()));
    let Ok(meta) = keelson_schema::protobuf::type_meta(bytes) else {
        return opaque();
    };
    let (group, version) = meta
        .api_version
        .split_once('/')
        .unwrap_or(("", &meta.api_version));
    let Some(ty) = Schema::builtin().kind(group, version, &meta.kind) else {
        return opaque();
    };
    keelson_schema::protobuf::decode(bytes, ty).unwrap_or_else(|_| opaque())
}

fn walk(at: &str, upstream: &Value, ours: &Value, found: &mut Vec<Difference>) {
    if upstream == ours || found.len() >= MOST {
        return;
    }
    match (upstream, ours) {
        (Value::Object(theirs), Value::Object(our)) => {
            for (key, value) in theirs {
                let at = format!("{at}.{key}");
                walk(&at, value, our.get(key).unwrap_or(&Value::Null), found);
            }
            for (key, value) in our.iter().filter(|(key, _)| !theirs.contains_key(*key)) {
                walk(&format!("{at}.{key}"), &Value::Null, value, found);
            }
        }
        (Value::Array(theirs), Value::Array(our)) if theirs.len() == our.len() => {
            for (index, (theirs, our)) in theirs.iter().zip(our).enumerate() {
                walk(&format!("{at}[{index}]"), theirs, our, found);
            }
        }
        _ => found.push(Difference {
            at: at.into(),
            upstream: shown(upstream),
            ours: shown(ours),
        }),
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "(nothing)".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() > 1500 {
        let start: String = text.chars().take(1500).collect();
        return format!("{start}… ({} bytes)", text.len());
    }
    text
}
