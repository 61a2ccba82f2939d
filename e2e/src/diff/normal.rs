//! Takes out of an answer what is bound to differ between two servers: uids, times of now, revisions, allocated addresses and ports,
//! random suffixes, tokens. What the request itself named stays as it is.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

macro_rules! pattern {
    ($name:ident, $text:literal) => {
        static $name: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new($text).ok());
    };
}

pattern!(
    UID,
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
);
pattern!(
    TIME,
    r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})"
);
pattern!(TOKEN, r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+");
pattern!(ADDRESS, r"\b10\.(9[6-9]|10[0-9]|11[01])\.[0-9]+\.[0-9]+\b");
pattern!(
    REVISION,
    r"(?i)(resource ?version[^0-9a-z]{0,4}|revision )[0-9]+"
);
pattern!(RECORD, r"(?:precondition|record) \([0-9]+\)");
pattern!(ACCESS, r"\bkube-api-access-[a-z0-9]{5}\b");
pattern!(POINTER, r"0x[0-9a-f]{6,}");

/// The random end of a name that the request's `generateName` begins, wherever it is said.
fn generated(text: &str, sent: &str) -> String {
    const KEY: &str = "\"generateName\":\"";
    let Some(prefix) = sent
        .split_once(KEY)
        .and_then(|(_, rest)| rest.split('"').next())
        .filter(|p| !p.is_empty())
    else {
        return text.into();
    };
    let pattern = Regex::new(&format!("{}[a-z0-9]{{5}}\\b", regex::escape(prefix)));
    replace(&pattern.ok(), text, |_| Some(format!("{prefix}<random>")))
}

/// One day around now.
const DAY: i64 = 86_400;

/// Normalises an answer to a request of which `sent` is the text.
pub fn value(value: &mut Value, sent: &str) {
    walk(value, "", sent);
}

fn walk(value: &mut Value, key: &str, sent: &str) {
    match value {
        Value::Object(map) => {
            generated_name(map);
            for (key, child) in map.iter_mut() {
                walk(child, key, sent);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|child| walk(child, key, sent)),
        Value::String(text) => *text = string(text, key, sent),
        Value::Number(number) => {
            let port = matches!(key, "nodePort" | "healthCheckNodePort");
            if port && !sent.contains(&number.to_string()) && number.as_u64().unwrap_or(0) >= 30_000
            {
                *value = Value::String("<port>".into());
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// `generateName` in the same map says that the end of `name` is random.
fn generated_name(map: &mut serde_json::Map<String, Value>) {
    let prefix = map
        .get("generateName")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let Some(prefix) = prefix.filter(|p| !p.is_empty()) else {
        return;
    };
    if let Some(Value::String(name)) = map.get_mut("name")
        && name.starts_with(&prefix)
        && name.len() == prefix.len() + 5
    {
        *name = format!("{prefix}<random>");
    }
}

fn replace(pattern: &Option<Regex>, text: &str, with: impl Fn(&str) -> Option<String>) -> String {
    let Some(pattern) = pattern else {
        return text.into();
    };
    pattern
        .replace_all(text, |found: &regex::Captures<'_>| {
            with(&found[0]).unwrap_or_else(|| found[0].to_owned())
        })
        .into_owned()
}

/// Normalises a text found under a key.
pub fn string(text: &str, key: &str, sent: &str) -> String {
    match key {
        "resourceVersion" if text.parse::<u64>().is_ok_and(|n| n > 0) && !sent.contains(text) => {
            return "<revision>".into();
        }
        "continue" if !text.is_empty() => return "<continue>".into(),
        _ => {}
    }
    let new =
        |what: &'static str| move |found: &str| (!sent.contains(found)).then(|| what.to_owned());
    let text = replace(&UID, text, new("<uid>"));
    let text = replace(&TOKEN, &text, new("<token>"));
    let text = replace(&ADDRESS, &text, new("<address>"));
    let text = replace(&POINTER, &text, new("<pointer>"));
    let text = replace(&ACCESS, &text, new("kube-api-access-<random>"));
    let text = replace(&RECORD, &text, |found| {
        let words = found.trim_end_matches(|c: char| c.is_ascii_digit() || c == ')');
        Some(format!("{words}<revision>)"))
    });
    let text = generated(&text, sent);
    let text = replace(&REVISION, &text, |found| {
        let words = found.trim_end_matches(|c: char| c.is_ascii_digit());
        (!sent.contains(&found[words.len()..])).then(|| format!("{words}<revision>"))
    });
    replace(&TIME, &text, |found| {
        let time: jiff::Timestamp = found.parse().ok()?;
        let away = time.duration_since(jiff::Timestamp::now()).as_secs().abs();
        let fraction = if found.contains('.') {
            "<now.micro>"
        } else {
            "<now>"
        };
        (away < DAY && !sent.contains(found)).then(|| fraction.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_differs_by_nature_is_taken_out_and_what_was_sent_stays() {
        let now = jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        let mut answer = json!({
            "metadata": {
                "name": "a-x2x4z", "generateName": "a-", "resourceVersion": "17", "creationTimestamp": now,
                "uid": "11111111-2222-3333-4444-555555555555",
            },
            "spec": {"clusterIP": "10.96.3.4", "clusterIPs": ["10.96.0.10"], "ports": [{"nodePort": 31234}]},
            "old": "2020-01-01T00:00:00Z",
        });
        value(&mut answer, r#"{"clusterIPs": ["10.96.0.10"]}"#);
        assert_eq!(
            answer,
            json!({
                "metadata": {
                    "name": "a-<random>", "generateName": "a-", "resourceVersion": "<revision>", "creationTimestamp": "<now>",
                    "uid": "<uid>",
                },
                "spec": {"clusterIP": "<address>", "clusterIPs": ["10.96.0.10"], "ports": [{"nodePort": "<port>"}]},
                "old": "2020-01-01T00:00:00Z",
            })
        );
    }
}
